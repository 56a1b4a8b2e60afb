"""MVD against the numbers of its reference.  Tolerances are those of the files' README."""

from dataclasses import replace

import pytest
import torch

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.exchange.published import encoder_part
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.mvd.config import Config, ImageTeacherConfig, TeacherConfig
from video_ssl.objectives.mvd.objective import PUBLISHED_KEYS, Objective
from video_ssl.objectives.mvd.teacher import Teacher
from video_ssl.objectives.sources import EncoderSource

NOWHERE = EncoderSource(run="nowhere")


def config_of(golden, g, video, mask, image=None, video_teacher=None):
    params = g.params()
    width = params["mask_token_img"].shape[-1]
    return Config(
        image=image or ImageTeacherConfig(source=NOWHERE),
        video=video_teacher or TeacherConfig(source=NOWHERE),
        clip=ClipConfig(num_frames=video.shape[-3]),
        crop=CropConfig(size=video.shape[-1]),
        mask=MaskConfig(kind="random", ratio=(int(mask[0].sum()) + 0.5) / mask.shape[-1]),
        encoder=golden.vit_config(g, encoder_part(params), video, positions="sincos_3d"),
        decoder=DecoderConfig(
            embed_dim=width,
            depth=golden.depth_of(params, "decoder_img.blocks."),
            num_heads=golden.heads_of(g, width, "decoder"),
        ),
    )


def stand_ins(params, config):
    """Teachers of the right widths, where a file holds the student alone."""
    image, video = (params[f"decoder_{k}.head.weight"].shape[0] for k in ("img", "vid"))
    common = {
        "preset": None,
        "depth": 1,
        "num_heads": 1,
        "patch_size": config.encoder.patch_size,
        "image_size": config.crop.size,
    }
    clip = {
        "num_frames": config.clip.num_frames,
        "tubelet_size": config.encoder.tubelet_size,
        "positions": "sincos_1d",
    }
    return {
        "image": ImageViT(ImageViTConfig(embed_dim=image, **common)),
        "video": VideoViT(ViTConfig(embed_dim=video, **common, **clip)),
    }


def teacher_of(golden, g, video):
    """The encoder in a teacher's file."""
    own = encoder_part(g.params())
    config = golden.vit_config(g, own, video)
    module = VideoViT(config) if isinstance(config, ViTConfig) else ImageViT(config)
    report = load_weights(module, own)
    assert not report.missing
    assert not report.unused
    return module


def student_of(params, config, teachers):
    objective = Objective(config, teachers=teachers)
    report = load_weights(objective, params, rename=PUBLISHED_KEYS)
    assert not report.missing
    assert {key for key in report.unused if "pos_embed" not in key} == set()
    return objective


def test_student(golden, mvd_student):
    g = mvd_student
    params = g.params()
    config = config_of(golden, g, g["video"], g["mask"])
    objective = student_of(params, config, stand_ins(params, config))
    predictions, _, encoded = objective.predict(g["video"], g["mask"])
    golden.close(encoded, g["encoder_out"], 2e-5)
    golden.close(predictions["image"], g["pred_img"], 2e-5)
    golden.close(predictions["video"], g["pred_vid"], 2e-5)
    golden.close(objective.encoder.positions()[None], params["pos_embed"], 1e-6)
    for name, key in (("image", "pos_embed_img"), ("video", "pos_embed_vid")):
        golden.close(objective.decoders[name].positions()[None], params[key], 1e-6)
    if "f64/pred_img" in g:
        predictions, _, encoded = objective.double().predict(g["video"].double(), g["mask"])
        golden.close(encoded, g["f64/encoder_out"], 1e-10)
        golden.close(predictions["image"], g["f64/pred_img"], 1e-10)
        golden.close(predictions["video"], g["f64/pred_vid"], 1e-10)


def teacher_config(golden, g, module, frames=None, **settings):
    """An objective around one teacher; its student only has to have the same tokens."""
    video = g["video_for_teacher"] if frames else g["video"]
    tubelet = video.shape[-3] * (video.shape[-1] // module.config.patch_size) ** 2
    tubelet //= g["mask"].shape[-1]
    teacher = (
        ImageTeacherConfig(source=NOWHERE, frames=frames, **settings)
        if frames
        else TeacherConfig(source=NOWHERE, **settings)
    )
    student = ViTConfig(
        preset=None,
        embed_dim=16,
        depth=1,
        num_heads=1,
        patch_size=module.config.patch_size,
        tubelet_size=tubelet,
    )
    config = Config(
        **{"image" if frames else "video": teacher},
        clip=ClipConfig(num_frames=video.shape[-3]),
        crop=CropConfig(size=video.shape[-1]),
        encoder=student,
    )
    return Teacher(module, teacher, config, "image" if frames else "video"), video


def gather(tokens, mask):
    """The hidden tokens in token order, by boolean indexing, as the reference takes them."""
    return tokens[mask].reshape(len(tokens), -1, tokens.shape[-1])


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_image_teacher(golden, mvd_image_teacher, micro_batch):
    g = mvd_image_teacher
    module = teacher_of(golden, g, g["video_for_teacher"])
    for settings, tokens, target in (
        ({"frames": "first"}, "tokens", "target"),
        ({"frames": "first", "normalize_features": True}, "tokens_layernorm", "target_layernorm"),
        ({"frames": "all"}, "tokens_all_frames", "target_all_frames"),
    ):
        if tokens not in g:
            continue
        teacher, video = teacher_config(golden, g, module, micro_batch=micro_batch, **settings)
        features = teacher.features(video)
        golden.close(features, g[tokens], 2e-5)
        assert teacher.width == features.shape[-1]
        if target in g:
            golden.close(gather(features, g["mask"]), g[target], 2e-5)
    table = torch.cat([torch.zeros(1, module.embed_dim), module.positions()])
    golden.close(table[None], g.params()["pos_embed"], 1e-6)
    if "f64/tokens" in g:
        taps = module.double().taps(video[:, :, :: teacher.tubelet_size].double()).flatten(1, 2)
        golden.close(taps, g["f64/tokens"], 1e-10)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_video_teacher(golden, mvd_video_teacher, micro_batch):
    g = mvd_video_teacher
    module = teacher_of(golden, g, g["video"])
    for normalize, suffix in ((False, ""), (True, "_layernorm")):
        if f"tokens{suffix}" not in g:
            continue
        teacher, video = teacher_config(
            golden, g, module, normalize_features=normalize, micro_batch=micro_batch
        )
        features = teacher.features(video)
        golden.close(features, g[f"tokens{suffix}"], 2e-5)
        golden.close(gather(features, g["mask"]), g[f"target{suffix}"], 2e-5)
    if "f64/tokens" in g:
        golden.close(module.double().taps(video.double()).flatten(1, 2), g["f64/tokens"], 1e-10)


def distillation(golden, g, **settings):
    """The objective of the files beside `g`, with its inputs; settings are those of both teachers."""
    student, image, video = (
        g.beside(kind) for kind in ("mvd_student", "mvd_image_teacher", "mvd_video_teacher")
    )
    params = student.params()
    config = config_of(
        golden,
        student,
        student["video"],
        student["mask"],
        image=ImageTeacherConfig(source=NOWHERE, **settings.get("image", {})),
        video_teacher=TeacherConfig(source=NOWHERE, **settings.get("video", {})),
    )
    teachers = {
        "image": teacher_of(golden, image, image["video_for_teacher"]),
        "video": teacher_of(golden, video, video["video"]),
    }
    objective = student_of(params, config, teachers)
    return objective, student["video"], student["mask"], image["video_for_teacher"]


def distill(objective, video, mask, for_image):
    features = {
        "image": objective._teachers["image"].features(for_image),
        "video": objective._teachers["video"].features(video),
    }
    return objective.distill(video, mask, features)


def total_norm(objective):
    return torch.stack([p.grad.norm() for p in objective.parameters()]).norm()


def test_all_combinations_of_losses(golden, mvd_distill):
    g = mvd_distill
    for row, expected in enumerate(g["combo_losses_img_vid_total_gradnorm"]):
        norm = {"normalize_features": bool(g["combo_norm_feature"][row])}
        weights = g["combo_weights"][row].tolist()
        loss_names = [_loss_name(g[f"combo_{k}_loss"][row]) for k in ("img", "vid")]
        objective, *inputs = distillation(
            golden,
            g,
            image={**norm, "loss": loss_names[0], "weight": weights[0]},
            video={**norm, "loss": loss_names[1], "weight": weights[1]},
        )
        loss, figures = distill(objective, *inputs)
        loss.backward()
        golden.close(figures["loss_image"], expected[0], 0, 1e-5)
        golden.close(figures["loss_video"], expected[1], 0, 1e-5)
        golden.close(loss, expected[2], 0, 1e-5)
        golden.close(total_norm(objective), expected[3], 0, 1e-4)


def _loss_name(name):
    plain = str(name).lower().replace("_", "")
    return {"smoothl1": "smooth_l1", "l1": "l1", "l2": "l2", "mse": "l2"}[plain]


def test_gradients(golden, mvd_distill):
    g = mvd_distill
    objective, *inputs = distillation(golden, g)
    distill(objective, *inputs)[0].backward()
    named = dict(objective.named_parameters())
    places = renamed_keys([str(n) for n in g["grad_names"]], PUBLISHED_KEYS)
    assert set(places.values()) == set(named)
    norms = torch.stack([named[place].grad.norm() for place in places.values()])
    golden.close(norms, g["grad_norms"], 1e-6, 1e-4)
    for name in (n.removeprefix("grad/") for n in g.names if n.startswith("grad/")):
        golden.close(named[places[name]].grad, g[f"grad/{name}"], 1e-5)


def test_three_steps(golden, mvd_distill):
    g = mvd_distill
    objective, _, _, _ = distillation(golden, g)
    optimizer, decayed = golden.adamw_of(objective)
    places = renamed_keys([str(n) for n in g["steps/final_param_names"]], PUBLISHED_KEYS)
    assert [place in decayed for place in places.values()] == g["steps/decayed"].tolist()
    for_image = g["steps/video_for_teacher" if "steps/video_for_teacher" in g else "steps/video"]
    for step, lr in enumerate(g["steps/lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = lr
        video, mask = g["steps/video"][step], g["steps/mask"][step]
        loss, figures = distill(objective, video, mask, for_image[step])
        optimizer.zero_grad()
        loss.backward()
        golden.close(loss, g["steps/loss"][step], 0, 1e-4)
        golden.close(figures["loss_image"], g["steps/loss_img"][step], 0, 1e-4)
        golden.close(figures["loss_video"], g["steps/loss_vid"][step], 0, 1e-4)
        golden.close(total_norm(objective), g["steps/grad_norm"][step], 0, 1e-4)
        optimizer.step()
    named = dict(objective.named_parameters())
    norms = torch.stack([named[place].norm() for place in places.values()])
    golden.close(norms, g["steps/final_param_norms"], 0, 1e-4)


def test_mask_tokens_are_decayed(golden, mvd_student):
    g = mvd_student
    params = g.params()
    config = config_of(golden, g, g["video"], g["mask"])
    objective = Objective(config, teachers=stand_ins(params, config))
    assert objective.no_weight_decay() == set()
    cls = replace(config, encoder=replace(config.encoder, cls_token=True))
    assert Objective(cls, teachers=stand_ins(params, config)).no_weight_decay() == {
        "encoder.cls_token"
    }
