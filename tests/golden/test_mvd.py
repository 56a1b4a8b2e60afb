"""MVD against the numbers of its reference."""

from dataclasses import replace

import pytest
import torch
from golden_files import GoldenFile
from golden_models import (
    adamw_of,
    check_mask_count,
    decoder_config,
    encoder_config,
    gradient_norm,
    mask_config,
)
from reference_keys import MVD_KEYS

from video_ssl.clips.config import ClipConfig, CropConfig
from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.exchange.published import encoder_part
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.mvd.config import Config, ImageTeacherConfig, TeacherConfig
from video_ssl.objectives.mvd.objective import Objective
from video_ssl.objectives.mvd.teacher import Teacher
from video_ssl.objectives.shared.sources import EncoderSource

NOWHERE = EncoderSource(run="nowhere")
LOSSES = {"smooth_l1": "smooth_l1", "l1": "l1", "mse": "l2"}


def config_of(g: GoldenFile, image=None, video=None) -> Config:
    """The student's config; both decoders have one shape in every published run, and so here."""
    encoder, decoders = (
        encoder_config(g),
        [decoder_config(g, f"decoder_{k}") for k in ("img", "vid")],
    )
    assert decoders[0] == decoders[1], "decoders of two shapes: ours have one"
    return Config(
        image=image or ImageTeacherConfig(source=NOWHERE),
        video=video or TeacherConfig(source=NOWHERE),
        clip=ClipConfig(num_frames=encoder.num_frames),
        crop=CropConfig(size=encoder.image_size),
        mask=mask_config(g["mask"]),
        encoder=encoder,
        decoder=decoders[0],
    )


def stand_ins(g: GoldenFile, config: Config) -> dict[str, torch.nn.Module]:
    """Teachers of the right widths, where a file holds the student alone."""
    common = {
        "preset": None,
        "depth": 1,
        "num_heads": 1,
        "patch_size": config.encoder.patch_size,
        "image_size": config.crop.size,
    }
    image, video = (g.setting(f"decoder_{k}.out_dim") for k in ("img", "vid"))
    clip = {
        "num_frames": config.clip.num_frames,
        "tubelet_size": config.encoder.tubelet_size,
        "positions": "learned",
    }
    return {
        "image": ImageViT(ImageViTConfig(embed_dim=image, positions="learned", **common)),
        "video": VideoViT(ViTConfig(embed_dim=video, **common, **clip)),
    }


def teacher_of(g: GoldenFile) -> torch.nn.Module:
    """The encoder in a teacher's file."""
    config = encoder_config(g)
    module = VideoViT(config) if isinstance(config, ViTConfig) else ImageViT(config)
    report = load_weights(module, encoder_part(g.tensors()))
    assert not report.missing
    assert not report.unused
    return module


def student_of(g: GoldenFile, config: Config, teachers) -> Objective:
    objective = Objective(config, teachers=teachers)
    report = load_weights(objective, g.tensors(), rename=MVD_KEYS)
    assert not report.missing
    assert {key for key in report.unused if "pos_embed" not in key} == set()
    return objective


def tables(objective: Objective) -> dict[str, torch.Tensor]:
    """Our tables under the names that they have in the reference's state dict, without prefix rows."""
    decoders = {"img": objective.decoders["image"], "vid": objective.decoders["video"]}
    return {
        "pos_embed": objective.encoder.positions(),
        **{f"pos_embed_{name}": decoder.positions() for name, decoder in decoders.items()},
    }


@pytest.mark.golden("mvd/student")
def test_student(golden):
    config = config_of(golden)
    objective = student_of(golden, config, stand_ins(golden, config))
    check_mask_count(golden.settings["mask"], config.encoder.grid)
    video, mask = golden.tensor("video"), golden.tensor("mask")
    for prefix, dtype in (("", torch.float32), ("f64/", torch.float64)):
        predictions, _, encoded = objective.to(dtype).predict(video.to(dtype), mask)
        golden.check(f"{prefix}encoder_out", encoded)
        golden.check(f"{prefix}pred_img", predictions["image"])
        golden.check(f"{prefix}pred_vid", predictions["video"])


@pytest.mark.golden("mvd/student")
def test_tables_of_the_student(golden):
    """The reference's state dict carries its tables; ours are computed."""
    config = config_of(golden)
    params = golden.tensors()
    for name, ours in tables(Objective(config, teachers=stand_ins(golden, config))).items():
        if name in params:
            torch.testing.assert_close(params[name][0, -len(ours) :], ours, atol=1e-6, rtol=0)


@pytest.mark.golden("mvd/student")
def test_mask_tokens_are_decayed(golden):
    config = config_of(golden)
    teachers = stand_ins(golden, config)
    for with_class, names in ((False, set()), (True, {"encoder.cls_token"})):
        changed = replace(config, encoder=replace(config.encoder, cls_token=with_class))
        assert Objective(changed, teachers=teachers).no_weight_decay() == names


# Teachers -----------------------------------------------------------------------------------------


def frozen_teacher(module, *, num_frames, tubelet_size, frames=None, **settings) -> Teacher:
    """A teacher in an objective whose student only has to have the same tokens."""
    config = module.config
    student = ViTConfig(
        preset=None,
        embed_dim=16,
        depth=1,
        num_heads=1,
        patch_size=config.patch_size,
        tubelet_size=tubelet_size,
    )
    name = "image" if frames else "video"
    own = (
        ImageTeacherConfig(source=NOWHERE, frames=frames, **settings)
        if frames
        else TeacherConfig(source=NOWHERE, **settings)
    )
    objective = Config(
        **{name: own},
        clip=ClipConfig(num_frames=num_frames),
        crop=CropConfig(size=config.image_size),
        encoder=student,
        decoder=DecoderConfig(embed_dim=16, num_heads=1),
    )
    return Teacher(module, own, objective, name)


def gather(tokens, mask):
    """The hidden tokens in token order, by boolean indexing, as the reference takes them."""
    return tokens[mask].reshape(len(tokens), -1, tokens.shape[-1])


def check_features(golden, teacher, video, suffix) -> None:
    features = teacher.features(video)
    assert teacher.width == features.shape[-1]
    golden.check(f"tokens{suffix}", features)
    golden.check(f"target{suffix}", gather(features, golden.tensor("mask")))


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.golden("mvd/image_teacher")
def test_image_teacher(golden, micro_batch):
    video, module = golden.tensor("video_for_teacher"), teacher_of(golden)
    clip = {k: golden.settings[k] for k in ("num_frames", "tubelet_size")}
    assert golden.settings["teacher_image_size"] == module.config.image_size
    for frames, end in (("first", ""), ("all", "_all_frames")):
        for normalize, suffix in ((False, end), (True, f"{end}_layernorm")):
            teacher = frozen_teacher(
                module,
                frames=frames,
                normalize_features=normalize,
                micro_batch=micro_batch,
                **clip,
            )
            check_features(golden, teacher, video, suffix)
    double = module.double()
    first = video[:, :, :: clip["tubelet_size"]].double()
    golden.check("f64/tokens", double.taps(first).flatten(1, 2))
    if "pos_embed" in (params := golden.tensors()):
        ours = teacher_of(golden).positions()
        torch.testing.assert_close(params["pos_embed"][0, -len(ours) :], ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.golden("mvd/video_teacher")
def test_video_teacher(golden, micro_batch):
    video, module = golden.tensor("video"), teacher_of(golden)
    config = module.config
    for normalize, suffix in ((False, ""), (True, "_layernorm")):
        teacher = frozen_teacher(
            module,
            num_frames=config.num_frames,
            tubelet_size=config.tubelet_size,
            normalize_features=normalize,
            micro_batch=micro_batch,
        )
        check_features(golden, teacher, video, suffix)
    golden.check("f64/tokens", module.double().taps(video.double()).flatten(1, 2))


# Distillation -------------------------------------------------------------------------------------


def distillation(golden, settings):
    """The objective of a file's companions with the options of a case, and its inputs."""
    student, image, video = (
        golden.companion(role) for role in ("student", "image_teacher", "video_teacher")
    )
    both = {"normalize_features": settings["normalize_features"]}
    size = image.settings["teacher_image_size"]
    config = config_of(
        student,
        image=ImageTeacherConfig(
            source=NOWHERE,
            loss=LOSSES[settings["image_loss"]],
            weight=settings["image_weight"],
            size=size if size != student.setting("encoder.image_size") else None,
            **both,
        ),
        video=TeacherConfig(
            source=NOWHERE,
            loss=LOSSES[settings["video_loss"]],
            weight=settings["video_weight"],
            **both,
        ),
    )
    teachers = {"image": teacher_of(image), "video": teacher_of(video)}
    objective = student_of(student, config, teachers)
    inputs = (student.tensor("video"), student.tensor("mask"), image.tensor("video_for_teacher"))
    return objective, inputs


def distill(objective, video, mask, for_image):
    features = {
        "image": objective.frozen["image"].features(for_image),
        "video": objective.frozen["video"].features(video),
    }
    return objective.distill(video, mask, features)


@pytest.mark.golden("mvd/distill")
def test_all_combinations_of_losses(golden):
    columns = golden.settings["columns_of_combo_losses"]
    table = torch.full((len(golden.cases), len(columns)), torch.nan)
    for case in golden.cases.values():
        objective, inputs = distillation(golden, case)
        loss, figures, *_ = distill(objective, *inputs)
        loss.backward()
        found = {
            "image_loss": figures["loss_image"],
            "video_loss": figures["loss_video"],
            "weighted_total": loss.detach(),
            "total_gradient_norm": gradient_norm(objective),
        }
        table[case["row"]] = torch.stack([found[name] for name in columns])
    golden.check("combo_losses_img_vid_total_gradnorm", table)


@pytest.mark.golden("mvd/distill")
def test_gradients(golden):
    objective, inputs = distillation(golden, golden.settings["gradients_of"])
    distill(objective, *inputs)[0].backward()
    named = dict(objective.named_parameters())
    places = renamed_keys([str(n) for n in golden["grad_names"]], MVD_KEYS)
    assert set(places.values()) == set(named)
    found = {name: named[place].grad for name, place in places.items()}
    golden.check("grad_norms", torch.stack([grad.norm() for grad in found.values()]))
    golden.check_all({f"grad/{name}": grad for name, grad in found.items()})


@pytest.mark.golden("mvd/distill")
def test_three_steps(golden):
    settings = golden.settings["steps"]
    objective, _ = distillation(golden, settings)
    optimizer, decayed = adamw_of(objective, settings)
    places = renamed_keys([str(n) for n in golden["steps/final_param_names"]], MVD_KEYS)
    golden.check("steps/decayed", [place in decayed for place in places.values()])
    names = ("steps/video", "steps/mask", settings["teacher_input"])
    found = {name: [] for name in ("loss", "loss_img", "loss_vid", "grad_norm")}
    for lr, *inputs in zip(settings["lr"], *map(golden.tensor, names), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss, figures, *_ = distill(objective, *inputs)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            objective.parameters(), settings["clip_grad"] or float("inf")
        )
        optimizer.step()
        values = (loss.detach(), figures["loss_image"], figures["loss_video"], norm)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    golden.check_all({f"steps/{name}": values for name, values in found.items()})
    named = dict(objective.named_parameters())
    norms = [named[place].detach().norm() for place in places.values()]
    golden.check("steps/final_param_norms", norms)
