"""BEVT against the numbers of its reference."""

import json
import random

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.clips import crops
from video_ssl.clips.bevt_masks import per_frame, sample_tubes
from video_ssl.clips.mask_blocks import sample_rectangles
from video_ssl.clips.sampling import one_clip
from video_ssl.models.classifier_folder import load_classifier
from video_ssl.models.encoder_folder import DECODER
from video_ssl.models.encoders import load_encoder, read_beside
from video_ssl.models.exchange.convert import convert
from video_ssl.models.networks import windows
from video_ssl.models.networks.swin import NORM_EPS, VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.swin_tables import fitted_tables, inflated
from video_ssl.models.tokenizers.config import DalleConfig
from video_ssl.models.tokenizers.dvae import GROUPS, DalleEncoder, squeezed
from video_ssl.models.weights import WeightsError
from video_ssl.objectives.bevt.loss import masked_token_loss
from video_ssl.objectives.bevt.model import MaskedSwin
from video_ssl.objectives.bevt.objective import start_from
from video_ssl.pretrain.optimizers import ParameterGroup
from video_ssl.pretrain.schedules import SCHEDULES
from video_ssl.pretrain.torch_loop.optimizers import parameter_groups


@pytest.mark.golden("bevt/lr_schedule")
def test_learning_rates(golden_case):
    settings = golden_case.settings
    per_epoch = settings["iters_per_epoch"]
    name = {"iteration": "cosine_damped", "epoch": "cosine_damped_epochs"}[settings["by"]]
    found = SCHEDULES[name].rates(
        settings["epochs"] * per_epoch,
        base_lr=settings["base_lr"],
        min_lr=settings["min_lr"],
        warmup_lr=settings["warmup_ratio"] * settings["base_lr"],
        warmup_steps=int(settings["warmup_epochs"] * per_epoch),
        steps_per_epoch=per_epoch,
    )
    golden_case.check("lr", found)


def swin_of_depths(depths):
    config = SwinConfig(preset=None, embed_dim=4, depths=tuple(depths), num_heads=(1, 1, 1, 1))
    with torch.device("meta"):
        return VideoSwin(config)


def groups_by_name(golden_case, **options):
    """name in the reference -> its group; the backbone is our encoder."""
    names = [str(name) for name in golden_case["name"]]
    ours = [name.replace("backbone.", "encoder.", 1) for name in names]
    parameters = [(name, nn.Parameter(torch.zeros(2))) for name in ours]
    groups = parameter_groups(
        parameters, weight_decay=golden_case.settings["weight_decay"], decay_all=True, **options
    )
    of = {name: group for group in groups for name in group["names"]}
    golden_case.check("lr_mult", [of[name]["lr_scale"] for name in ours])
    golden_case.check("weight_decay", [of[name]["weight_decay"] for name in ours])
    assert len({len(set(names)), len(of)}) == 1


@pytest.mark.golden("bevt/param_groups", cases=lambda settings: "not_decayed" in settings)
def test_norms_and_tables_are_not_decayed(golden_case):
    spared = golden_case.settings["not_decayed"]
    names = [str(name) for name in golden_case["name"]]
    present = [word for word in spared if any(word in name for name in names)]
    groups = [ParameterGroup(match=f"*{word}*", weight_decay=0.0) for word in present]
    assert np.any(groups)
    groups_by_name(golden_case, groups=groups)


@pytest.mark.golden("bevt/param_groups", cases=lambda settings: "layer_decay" in settings)
def test_layers_of_a_swin(golden_case):
    spared = ("*relative_position_bias_table", "encoder.norm.*")
    groups_by_name(
        golden_case,
        layer_decay=golden_case.settings["layer_decay"],
        groups=[ParameterGroup(match=pattern, weight_decay=0.0) for pattern in spared],
        encoder=swin_of_depths(golden_case.file.settings["depths"]),
    )


# The network --------------------------------------------------------------------------------------


def swin_config(settings, **changes):
    encoder = settings["encoder"]
    assert encoder["qkv_bias"]
    assert encoder["patch_norm"]
    assert (encoder["in_channels"], encoder["activation"]) == (3, "gelu_erf")
    assert encoder["norm_eps"] == NORM_EPS
    return SwinConfig(
        preset=None,
        embed_dim=encoder["embed_dim"],
        depths=tuple(encoder["depths"]),
        num_heads=tuple(encoder["num_heads"]),
        window=tuple(encoder["window"]),
        patch=tuple(encoder["patch_size"]),
        mlp_ratio=encoder["mlp_ratio"],
        drop_path=encoder["drop_path"],
        images=True,
        **changes,
    )


def load_masked_swin(golden, weights, **changes):
    """The network of a file with the weights of its companion; every tensor has its place."""
    model = MaskedSwin(VideoSwin(swin_config(golden.settings, **changes)))
    own = {name.removeprefix("encoder."): name for name in model.state_dict()}
    params = {k: v for k, v in weights.tensors().items() if not k.endswith("position_index")}
    assert params.keys() == own.keys()
    model.load_state_dict({own[k]: v for k, v in params.items()}, strict=True)
    return model.eval()


def pixels_of(golden, name, *, of="network"):
    """Pictures (N, 3, [T,] H, W) as the file says that a network sees them."""
    x = golden.tensor(name).float()
    rule = golden.settings["pixels"][of] if "pixels" in golden.settings else of
    if rule == "(x.astype(float32) - 127.5) / 64":
        return (x - 127.5) / 64
    assert rule == "0.8 * x / 255 + 0.1"
    return 0.8 * x / 255 + 0.1


@pytest.mark.golden("bevt/forward")
def test_the_masked_swin(golden):
    model = load_masked_swin(golden, golden.companion("weights"))
    for case, settings in golden.cases.items():
        with torch.no_grad():
            if settings["stream"] == "video":
                pixels = pixels_of(golden, "frames_u8")[:, :, : settings["frames"]]
                embed, stages, forward = model.encoder.embed, model.video_stages, model
                mask = golden.tensor(f"{case}/mask")
            else:
                pixels = pixels_of(golden, f"{case}/img_u8")
                embed, stages, forward = (
                    model.encoder.embed_images,
                    model.image_stages,
                    model.images,
                )
                mask = golden.tensor(f"{case}/mask")
            golden.check(f"{case}/unmasked/out", forward(pixels))
            golden.check(f"{case}/masked/out", forward(pixels, mask))
            cells = mask if settings["stream"] == "video" else mask[:, None]
            maps = [model.covered(embed(pixels), cells), *stages(pixels, mask)]
        for number, found in enumerate(maps):
            found = found.movedim(-1, 1)
            found = found[..., ::3, ::3] if number < 2 else found
            found = found[:, :, 0] if settings["stream"] == "image" else found
            golden.check(f"{case}/masked/{f'stage{number}' if number else 'embed'}", found)


@pytest.mark.golden("bevt/forward")
def test_windows_of_pictures_can_be_cut_where_one_would_expect(golden):
    """The reference cuts them in every block; the other way is what its file calls NEGATIVE."""
    name = "image/unmasked_NEGATIVE_mask_only_in_shifted_blocks/out"
    if name not in golden:
        pytest.skip("the file has no such array")
    model = load_masked_swin(golden, golden.companion("weights"), image_shift_mask="shifted_blocks")
    with torch.no_grad():
        found = model.images(pixels_of(golden, "image/img_u8"))
    torch.testing.assert_close(found, golden.tensor(name), atol=1e-4, rtol=0)
    assert (found - golden.tensor("image/unmasked/out")).abs().max() > 1e-2


@pytest.mark.golden("bevt/swin3d")
def test_video_swin(golden):
    weights = golden.companion("weights")
    encoder = load_masked_swin(golden, weights).encoder
    for case, settings in golden.cases.items():
        video = pixels_of(golden, f"{case}/frames_u8")
        assert video.shape[2:] == (settings["frames"], settings["height"], settings["width"])
        with torch.no_grad():
            golden.check(f"{case}/out", encoder(video))
            golden.check(f"{case}/pooled", encoder.clip_features(video))
            for number in range(4):
                moments = encoder.outputs(video, ("moments",), layer=number)["moments"]
                golden.check(f"{case}/stage{number + 1}_mean_over_space", moments.transpose(1, 2))
            assert encoder.grid(video) == tuple(encoder(video).shape[2:])


@pytest.mark.golden("bevt/window_tables")
def test_windows(golden):
    for case, settings in golden.cases.items():
        window = tuple(settings["window"])
        if case.startswith("index/"):
            name = case.removeprefix("index/")
            index = windows.relative_index(window)
            golden.check(case, index)
            golden.check(f"table_rows/{name}", windows.table_rows(window))
            area = window[1] * window[2]
            golden.check(f"image_index/{name}", index[:area, :area])
        elif case.startswith("shift_mask3d/"):
            found = windows.may_attend(tuple(settings["size"]), window, tuple(settings["shift"]))
            golden.check(case, found)
        else:
            size, shift = (1, *settings["size"]), (0, *settings["shift"])
            golden.check(case, windows.may_attend(size, (1, *window), shift))


# The loss -----------------------------------------------------------------------------------------


@pytest.mark.golden("bevt/masked_token_loss")
def test_the_loss(golden):
    weights, found, leaves = {}, {}, {}
    for stream in ("3d", "2d"):
        leaves[stream] = golden.tensor(f"cls_score_{stream}").requires_grad_()
        found[stream] = masked_token_loss(
            leaves[stream], golden.tensor(f"tokens_{stream}"), golden.tensor(f"mask_{stream}")
        )
        weights[stream] = golden.settings[f"loss_weight_{stream}"]
        golden.check(f"loss_cls_{stream}", weights[stream] * found[stream].loss)
        golden.check(f"mask_acc_{stream}", found[stream].accuracy)
    total = sum(weights[stream] * found[stream].loss for stream in found)
    golden.check("loss", total)
    total.backward()
    for stream, leaf in leaves.items():
        golden.check(f"grad_score_{stream}", leaf.grad)


# Tokens -------------------------------------------------------------------------------------------


def dvae_of(golden):
    settings = golden.settings
    config = DalleConfig(
        width=settings["n_hid"],
        vocab_size=settings["vocab_size"],
        blocks_per_group=settings["n_blk_per_group"],
    )
    network = DalleEncoder(config)
    network.load_state_dict(golden.tensors(), strict=True)
    return network.eval()


@pytest.mark.golden("bevt/dvae")
def test_the_tokenizer_of_dalle(golden):
    assert golden.settings["groups"] == GROUPS
    network, pixels = dvae_of(golden), golden.tensor("img_u8").float() / 255
    golden.check("x", squeezed(pixels))
    with torch.no_grad():
        golden.check("logits", network.logits(pixels))
    golden.check("tokens", network.encode(pixels))


# Weights of pictures for clips --------------------------------------------------------------------


@pytest.mark.golden("bevt/inflate")
def test_weights_for_clips_and_other_windows(golden):
    cases = golden.cases
    source = {k: golden.tensor(f"src2d/{k}") for k in golden.below("src2d/")}
    to = cases["inflated"]
    found = inflated(source, window=tuple(to["to_window"]), frames=to["patch_frames"])
    assert found.keys() == set(golden.given_below("inflated/"))
    for name in golden.given_below("inflated/"):
        golden.check(f"inflated/{name}", found[name])
    source = {k: golden.tensor(f"src3d/{k}") for k in golden.below("src3d/")}
    to = cases["trilinear"]
    found = fitted_tables(source, of=tuple(to["from_window"]), window=tuple(to["to_window"]))
    for name in golden.given_below("trilinear/"):
        golden.check(f"trilinear/{name}", found[name])


# A step -------------------------------------------------------------------------------------------


@pytest.mark.golden("bevt/pretrain_step")
def test_a_step(golden):
    settings = golden.settings
    model = load_masked_swin(golden, golden.companion("weights"))
    head = nn.Linear(*reversed(golden["lm_head.weight"].shape))
    head.load_state_dict({n: golden.tensor(f"lm_head.{n}") for n in ("weight", "bias")})
    tokenizer = dvae_of(golden.companion("tokenizer"))
    masks = {name: golden.tensor(name) for name in ("input_mask_3d", "output_mask_3d", "mask_2d")}
    np.testing.assert_array_equal(
        per_frame(masks["input_mask_3d"].numpy()[0], settings["encoder"]["patch_size"][0]),
        masks["output_mask_3d"].numpy()[0],
    )
    tokens = {}
    for stream in ("3d", "2d"):
        picture = "video" if stream == "3d" else "image"
        words = tokenizer.encode(golden.tensor(f"{picture}_tok_u8").float() / 255)
        tokens[stream] = words.view(golden[f"tokens_{stream}"].shape)
        golden.check(f"tokens_{stream}", tokens[stream])
    video = model(pixels_of(golden, "video_u8"), masks["input_mask_3d"])
    images = model.images(pixels_of(golden, "image_u8"), masks["mask_2d"])
    found = {
        "3d": masked_token_loss(head(video), tokens["3d"], masks["output_mask_3d"]),
        "2d": masked_token_loss(head(images), tokens["2d"], masks["mask_2d"]),
    }
    for stream, result in found.items():
        golden.check(f"loss_cls_{stream}", result.loss)
        golden.check(f"mask_acc_{stream}", result.accuracy)
    total = sum(settings[f"loss_weight_{s}"] * result.loss for s, result in found.items())
    golden.check("loss", total)
    total.backward()
    grads = {n.removeprefix("encoder."): p.grad for n, p in model.named_parameters()}
    assert all(grad is not None for grad in grads.values())
    golden.check("grad_norm_all_backbone", torch.stack([g.norm() for g in grads.values()]).norm())
    grads |= {f"lm_head.{n}": p.grad for n, p in head.named_parameters()}
    for name in golden.given_below("grad/"):
        golden.check(f"grad/{name}", grads[name])


# Pictures, masks and clips ------------------------------------------------------------------------

KERNELS = {"INTER_LANCZOS4": "lanczos4", "INTER_CUBIC": "cubic"}


@pytest.mark.golden("bevt/cv2_resize")
def test_pictures_in_another_size(golden):
    for case, settings in golden.cases.items():
        size, frames = tuple(settings["size_hw"]), golden["img"][None]
        kernel = KERNELS.get(settings["interpolation"])
        if kernel is None:
            assert settings["interpolation"] == "INTER_LINEAR"
            # It rounds where TensorFlow cuts.
            found = crops.resize_sampled(frames, size)[0]
        else:
            found = crops.resize_opencv(frames, size, kernel=kernel)[0]
        golden.check(case, found)


class PythonDraws:
    """Python's generator, by the names of numpy's."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.random = self.rng.random

    def integers(self, low, high):
        return self.rng.randint(low, high - 1)


def drawn_masks(settings, rng, draws):
    """(moments or pictures of masks, frames of a token): what the reference's generators make."""
    assert settings.get("max_per_block") is None
    grid, least, count = settings["grid"], settings["min_per_block"], settings["num_masking"]
    if "frames" not in settings:
        return [sample_rectangles((grid, grid), count, rng, least=least) for _ in range(draws)]
    moments = settings["frames"] // settings["temporal_scale"]
    return [
        sample_tubes(
            (moments, grid, grid),
            count,
            rng,
            least=least,
            share=tuple(settings["masked_tube_range"]),
        )
        for _ in range(draws)
    ]


@pytest.mark.golden("bevt/mask_generators")
def test_masks_with_the_generator_of_the_reference(golden_case):
    settings, seeds = golden_case.settings, golden_case.file.settings["python_random_seed"]
    kind = golden_case.name.partition("/")[0]
    masks = np.stack(drawn_masks(settings, PythonDraws(seeds[kind]), 16))
    if kind == "block":
        golden_case.check("first16", masks.astype(np.uint8))
    else:
        golden_case.check("first8_input", masks[:8].astype(np.uint8))
        frames = np.stack([per_frame(mask, settings["temporal_scale"]) for mask in masks[:8]])
        golden_case.check("first8_output", frames)


def neighbour_agreement(masks):
    rows = (masks[:, 1:] == masks[:, :-1]).mean((1, 2))
    columns = (masks[:, :, 1:] == masks[:, :, :-1]).mean((1, 2))
    return ((rows + columns) / 2).mean()


@pytest.mark.golden("bevt/mask_generators", cases=lambda settings: "frames" not in settings)
def test_rectangles_have_the_statistics_of_the_reference(golden_case):
    settings, file, name = golden_case.settings, golden_case.file, golden_case.name
    masks = np.stack(drawn_masks(settings, np.random.default_rng(0), file.settings["draws"]))
    counts = masks.sum((1, 2))
    assert counts.max() <= settings["num_masking"]
    off = abs(counts.mean() - golden_case["counts"].mean())
    file.check_statistic(f"{name}/counts", float(off), 0.15)
    off = np.abs(masks.mean(0) - golden_case["cell_freq"])
    file.check_statistic(f"{name}/cell_freq", float(max(off.max() / 0.1, off.mean() / 0.03)), 1.0)
    off = abs(neighbour_agreement(masks) - float(golden_case["neighbour_agreement"]))
    file.check_statistic(f"{name}/neighbour_agreement", float(off), 0.01)


@pytest.mark.golden("bevt/mask_generators", cases=lambda settings: "frames" in settings)
def test_tubes_have_the_statistics_of_the_reference(golden_case):
    settings, file, name = golden_case.settings, golden_case.file, golden_case.name
    masks = np.stack(drawn_masks(settings, np.random.default_rng(0), file.settings["draws"]))
    active = masks.any((2, 3))
    moments, lengths = active.shape[1], active.sum(1)
    low, high = (int(moments * share) for share in settings["masked_tube_range"])
    wanted = range(low, high + 1)
    given = golden_case["length"]
    assert set(np.unique(given)) == set(np.unique(lengths)) == set(wanted)
    p = chisquare([np.sum(lengths == n) for n in wanted]).pvalue
    file.check_statistic(f"{name}/length", float(1e-4 / max(p, 1e-9)), 1.0)
    part = active[lengths < moments]
    starts = (part & ~np.roll(part, 1, axis=1)).argmax(1)
    p = chisquare(np.bincount(starts, minlength=moments)).pvalue
    file.check_statistic(f"{name}/start", float(1e-4 / max(p, 1e-9)), 1.0)
    off = abs(masks.mean() - golden_case["ratio"].mean())
    file.check_statistic(f"{name}/ratio", float(off), 0.015)
    off = np.abs(active.mean(0) - golden_case["active_frames"].mean(0)).max()
    file.check_statistic(f"{name}/active_frames", float(off), 0.07)


HIGHEST = np.nextafter(1.0, 0.0)


@pytest.mark.golden("bevt/sample_frames", cases=lambda settings: "uniform" not in settings["mode"])
def test_clips_and_views(golden_case):
    settings, lengths = golden_case.settings, golden_case.file["num_frames"].tolist()
    shape = {"num_frames": settings["frames"], "frame_stride": settings["interval"]}
    if settings["mode"] == "train":
        found = [
            [one_clip.looped_clip(n, u, **shape).indices[0] for u in (0.0, HIGHEST)]
            for n in lengths
        ]
        golden_case.check("first_index_min_max", found)
        for n, row in zip(lengths, golden_case["one_draw"], strict=True):
            room = max(n - settings["frames"] * settings["interval"], 0) + 1
            clip = one_clip.looped_clip(n, (row[0] + 0.5) / room, **shape)
            np.testing.assert_array_equal(clip.indices, row)
        return
    views = [one_clip.looped_views(n, num_clips=settings["clips"], **shape) for n in lengths]
    golden_case.file.check(
        golden_case.name, [np.concatenate([v.indices for v in row]) for row in views]
    )


@pytest.mark.golden("bevt/sample_frames", cases=lambda settings: "uniform" in settings["mode"])
def test_clips_of_segments(golden_case):
    settings, lengths = golden_case.settings, golden_case.file["num_frames"].tolist()
    count = settings["frames"]
    if settings["mode"].endswith("test"):
        views = [
            one_clip.segment_views(n, num_frames=count, rule="mvd", num_clips=1) for n in lengths
        ]
        golden_case.file.check(golden_case.name, [view[0].indices for view in views])
        return
    for name, uniform in (("min_over_3000", 0.0), ("max_over_3000", HIGHEST)):
        clips = [one_clip.sample_segment_clip(n, [uniform] * count, rule="mvd") for n in lengths]
        golden_case.check(name, [clip.indices for clip in clips])


# Files of others ----------------------------------------------------------------------------------


def mmcv_file(path, golden, *, averages=False, **more):
    """A checkpoint as mmcv writes it, of the whole model of a golden file; of averages the raw weights are others."""
    params = {f"backbone.{k}": v for k, v in golden.companion("weights").tensors().items()}
    state = {**params, **more}
    if averages:
        floats = {k: v for k, v in params.items() if v.is_floating_point()}
        state |= {f"ema_{k.replace('.', '_')}": v for k, v in floats.items()}
        state |= {k: v + 1 for k, v in floats.items()}
    meta = {"mmcv_version": "1.4.8", "epoch": 150}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"state": {}}}, path)
    return state


def converted(path, out, *options):
    done = CliRunner().invoke(app, ["convert", str(path), str(out), *options])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.golden("bevt/swin3d")
@pytest.mark.parametrize("kind", ["raw", "averages"])
def test_a_file_of_mmcv_gives_the_features_of_the_reference(golden, tmp_path, kind):
    averages = kind == "averages"
    width = golden.settings["encoder"]["embed_dim"] * 8
    layer = {"cls_head.fc_cls.weight": torch.randn(5, width), "cls_head.fc_cls.bias": torch.ones(5)}
    mmcv_file(tmp_path / "latest.pth", golden, averages=averages, **layer)
    options = ["--family", "bevt_ema"] if averages else []
    if averages:  # mmcv averages everything; a layer without an average would be half of two models
        with pytest.raises(
            WeightsError, match=r"averages of some weights only: none of cls_head\.fc_cls"
        ):
            convert(tmp_path / "latest.pth", tmp_path / "half", family="bevt_ema")
        both = {f"ema_{k.replace('.', '_')}": v for k, v in layer.items()}
        mmcv_file(tmp_path / "latest.pth", golden, averages=True, **layer, **both)
    converted(tmp_path / "latest.pth", tmp_path / "e", *options)
    encoder = load_encoder(tmp_path / "e")
    for case in golden.cases:
        video = pixels_of(golden, f"{case}/frames_u8")
        with torch.no_grad():
            golden.check(f"{case}/out", encoder(video))
    layers = load_classifier(tmp_path / "e")
    np.testing.assert_array_equal(layers.weight, layer["cls_head.fc_cls.weight"])
    preprocess = encoder.preprocess
    assert (preprocess.num_frames, preprocess.frame_stride) == (32, 2)
    report = json.loads((tmp_path / "e" / "conversion.json").read_text())
    assert (report["share"], report["missing"], report["container"]) == (1.0, [], "state_dict")
    assert report["unused"] == []
    if averages:
        told = converted(tmp_path / "latest.pth", tmp_path / "raw")
        assert "--family bevt_ema takes" in " ".join(told.split())
        raw, mean = (load_encoder(tmp_path / n).norm.weight for n in ("raw", "e"))
        torch.testing.assert_close(raw, mean + 1)


@pytest.mark.golden("bevt/forward")
def test_a_joint_file_there_and_back(golden, tmp_path):
    """Mask token and decoders come along: the masked network of the file has the outputs of the reference."""
    heads = {"cls_head.lm_head.weight": torch.randn(4, 64), "cls_head.lm_head.bias": torch.ones(4)}
    tokenizer = {"cls_head.vae_encoder.blocks.input.b": torch.ones(2)}
    state = mmcv_file(tmp_path / "joint.pth", golden, **heads, **tokenizer)
    told = converted(tmp_path / "joint.pth", tmp_path / "e")
    assert "--family dalle reads it" in " ".join(told.split())
    model = MaskedSwin(VideoSwin(swin_config(golden.settings))).eval()
    start_from(model, tmp_path / "e")
    for case, settings in golden.cases.items():
        mask = golden.tensor(f"{case}/mask")
        with torch.no_grad():
            if settings["stream"] == "video":
                pixels = pixels_of(golden, "frames_u8")[:, :, : settings["frames"]]
                golden.check(f"{case}/masked/out", model(pixels, mask))
            else:
                pixels = pixels_of(golden, f"{case}/img_u8")
                golden.check(f"{case}/masked/out", model.images(pixels, mask))
    converted(tmp_path / "e", tmp_path / "back.pth", "--to", "original")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    wanted = {k: v for k, v in state.items() if k not in tokenizer}
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[k], v) for k, v in wanted.items())


@pytest.mark.golden("bevt/inflate")
def test_a_file_of_pictures_there_and_back(golden, tmp_path):
    """Whole networks only: what the golden file lacks of one is drawn; its tables of two windows are made one."""
    to = golden.cases["inflated"]
    window, encoder = tuple(to["to_window"]), golden.settings["encoder"]
    config = swin_config(golden.settings)
    shapes = {k: v.shape for k, v in VideoSwin(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    given = {k: golden.tensor(f"src2d/{k}") for k in golden.below("src2d/")}
    rows = (2 * window[1] - 1) ** 2
    state = {}
    for key, shape in shapes.items():
        if key.startswith("patch_embed_2d."):
            continue
        shape = (rows, shape[1]) if key.endswith("bias_table") else shape
        shape = given[key].shape if key.startswith("patch_embed.") else shape
        own = given.get(key)
        state[key] = (
            own
            if own is not None and own.shape == shape
            else torch.randn(shape, generator=generator)
        )
    state |= {k: given[k] for k in ("mask_token", "lm_down.bias")}
    index = torch.from_numpy(windows.relative_index((1, *window[1:])).copy())
    tables = [k for k in state if k.endswith("bias_table")]
    state |= {k.replace("bias_table", "index"): index for k in tables}
    state["fc_norm.weight"], state["fc_norm.bias"] = (
        state.pop("norm.weight"),
        state.pop("norm.bias"),
    )
    file = {f"module.encoder.{k}": v for k, v in state.items()}
    torch.save({"model": file, "epoch": 800}, tmp_path / "image.pth")
    converted(tmp_path / "image.pth", tmp_path / "e")
    found = load_encoder(tmp_path / "e").state_dict() | read_beside(tmp_path / "e", DECODER)
    compared = set()
    for name in golden.given_below("inflated/"):
        if name.endswith("bias_table"):
            # Of the window that all were given here; `inflated` itself is compared with the rest.
            if given[name].shape != state[name].shape:
                continue
            value = found[name].view(-1, *given[name].shape)
            golden_value = golden.tensor(f"inflated/{name}")
            assert torch.equal(value[0], golden_value[: len(given[name])])
            assert torch.equal(value, value[:1].expand_as(value))
        else:
            golden.check(f"inflated/{name}", found[name])
        compared.add(name)
    assert {"patch_embed.proj.weight", "patch_embed_2d.proj.weight", "mask_token"} <= compared
    assert encoder["window"] == list(window)
    converted(tmp_path / "e", tmp_path / "back.pth", "--to", "original")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    wanted = {k.replace("fc_norm.", "norm."): v for k, v in state.items()}
    assert back.keys() == {f"backbone.{k}" for k in wanted}
    assert all(torch.equal(back[f"backbone.{k}"], v) for k, v in wanted.items())
