"""HiCo against the numbers of its reference."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.clips.crops import crop_frames, inner_square
from video_ssl.clips.sampling import seconds as time_sampling
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.networks.r2plus1d_config import R2PLUS1D_PRESETS, R2Plus1DConfig
from video_ssl.pretrain.optimizers import OptimizerConfig, ParameterGroup
from video_ssl.pretrain.schedules import SCHEDULES

STEMS = {"R2Plus1DStem": "r2plus1d", "DownSampleStem": "r2d3d"}


def network_of(g):
    settings, params = g.settings, g.tensors()
    kind = next(
        preset for preset in R2PLUS1D_PRESETS if preset.startswith(settings["network"] + "_")
    )
    blocks = {10: 1, 18: 2}[settings["depth"]]
    assert settings["blocks"] == [blocks] * 4
    config = R2Plus1DConfig(
        preset=kind,
        depth=settings["depth"],
        stem=STEMS[settings["stem"]],
        widths=tuple(settings["num_filters"]),
        norm_eps=settings["bn_eps"],
        num_frames=g["video_uint8"].shape[1],
    )
    encoder = R2Plus1D(config)
    backbone = from_hico(params)
    assert len(backbone) == sum(key.startswith("backbone.") for key in params)
    encoder.load_state_dict(backbone, strict=True)
    return encoder.eval(), params


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.golden("hico/resnet3d")
def test_resnets(golden, dtype):
    encoder, params = network_of(golden)
    encoder.to(dtype)
    pixels = golden.tensor("video_uint8").permute(0, 4, 1, 2, 3).double()
    numbers = golden.settings["input"]
    assert numbers["order"] == "(x / 255 - mean) / std"
    video = ((pixels / 255 - numbers["mean"]) / numbers["std"]).to(dtype)
    with torch.no_grad():
        x = encoder.stem(video)
        for number, stage in enumerate([None, *encoder.stages], 1):
            x = x if stage is None else stage(x)
            golden.check(f"eval_conv{number}_shape", list(x.shape))
            golden.check(f"eval_conv{number}_mean", x.mean((0, 2, 3, 4)))
        golden.check("eval_map", x)
        clip, frames = encoder.features(video)
        golden.check("eval_pooled", clip)
        torch.testing.assert_close(frames, x.mean((3, 4)).transpose(1, 2))
        head = clip @ params["head.out.weight"].to(dtype).T + params["head.out.bias"].to(dtype)
        golden.check("eval_probs", head.softmax(-1))


# The test crop ------------------------------------------------------------------------------------


@pytest.mark.golden("hico/eval_crop")
def test_the_test_crop(golden_case):
    settings = golden_case.file.settings
    size, share = settings["size"], settings["test_scale"] / 256
    frames = golden_case["clip_uint8"].copy()
    for name, place in settings["places"].items():
        region = inner_square(frames.shape[1], frames.shape[2], share, place)
        cut = torch.from_numpy(crop_frames(frames, region)).permute(3, 0, 1, 2).float() / 255
        # The reference scales floats without averaging; ours averages, so only the region is compared.
        found = F.interpolate(cut, size=(size, size), mode="bilinear", align_corners=False)
        golden_case.check(name, found)


# Sampling in seconds ------------------------------------------------------------------------------


def rows_of(case, *names):
    return zip(*(case[name] for name in names), strict=True)


def clip_length(settings) -> float:
    return time_sampling.clip_seconds(settings["frames"], settings["rate"], settings["target_fps"])


@pytest.mark.golden("hico/gradual_sampling")
def test_chained_intervals(golden_case):
    settings = golden_case.settings
    found = []
    for duration, progress, uniforms in rows_of(golden_case, "duration", "progress", "uniforms"):
        reach = settings["max_distance"]
        if settings["gradual"]:
            reach = time_sampling.gradual_distance(progress, tuple(settings["bounds"]))
        found.append(
            time_sampling.chained_intervals(
                duration,
                uniforms,
                clip_sec=clip_length(settings),
                max_distance_sec=reach,
                topical=settings["topical"],
            )
        )
    golden_case.check("intervals", found)


@pytest.mark.golden("hico/gradual_sampling")
def test_the_reach_of_gradual_sampling(golden):
    for name, table in golden.settings["tables"].items():
        bounds = tuple(table["bounds"])
        progress = golden["table/progress"].tolist()
        golden.check(name, [time_sampling.gradual_distance(p, bounds) for p in progress])


@pytest.mark.golden("hico/hicopp_sampling")
def test_paired_intervals(golden_case):
    settings = golden_case.settings
    found = []
    for duration, progress, uniforms in rows_of(golden_case, "duration", "progress", "uniforms"):
        reach = (
            time_sampling.gradual_distance(progress, tuple(settings["bounds"]))
            if settings["gradual"]
            else settings["max_distance"]
        )
        found.append(
            time_sampling.paired_intervals(
                duration,
                uniforms,
                clip_sec=clip_length(settings),
                max_distance_sec=reach,
                topic_distance_sec=settings["topic_max_distance"],
            )
        )
    golden_case.check("intervals", found)


@pytest.mark.golden("hico/frame_indices")
def test_frames_of_intervals_and_views(golden_case):
    settings = golden_case.settings
    rule = {"interval": frames_of_intervals, "view": frames_of_views}[settings["rule"]]
    golden_case.check("index", rule(golden_case, settings))


def frames_of_intervals(case, settings):
    return [
        time_sampling.interval_clip(
            int(length), float(fps), tuple(interval), num_frames=settings["frames"]
        ).indices
        for length, fps, interval in rows_of(case, "vid_length", "fps", "interval")
    ]


def frames_of_views(case, settings):
    found = []
    for length, fps, num, view in rows_of(case, "vid_length", "fps", "num_clips", "clip_idx"):
        views = time_sampling.seconds_views(
            int(length),
            float(fps),
            num_clips=int(num),
            num_frames=settings["frames"],
            frame_stride=settings["rate"],
            target_fps=settings["target_fps"],
        )
        found.append(views[int(view)].indices)
    return found


# Videos cut into segments -------------------------------------------------------------------------


@pytest.mark.golden("hico/longvideo_segments", cases=lambda settings: "folder" in settings)
def test_names_and_files_of_segments(golden_case):
    settings = golden_case.settings
    videos = time_sampling.segment_names(str(line) for line in golden_case.file["lines"])
    golden_case.check("samples", list(videos))
    files = [time_sampling.segment_file(name, *s) for name, parts in videos.items() for s in parts]
    golden_case.check("paths", [settings["folder"] + file for file in files])


@pytest.mark.golden("hico/longvideo_segments", cases=lambda settings: "fps" in settings)
def test_frames_of_segments(golden_case):
    settings = golden_case.settings
    counts, seconds = settings["frames_per_segment"], settings["segment_seconds"]
    found = [
        time_sampling.segment_clip(
            counts,
            settings["fps"],
            tuple(interval),
            num_frames=settings["frames"],
            segment_sec=seconds,
        )
        for interval in golden_case["clips"]
    ]
    golden_case.check("segment", [segment for segment, _ in found])
    golden_case.check("frame", [frame for _, frame in found])
    # The time that the reference tells of a clip is the start that was asked for.
    golden_case.check("sec", golden_case["clips"][:, 0])


# Optimisation -------------------------------------------------------------------------------------


@pytest.mark.golden("hico/lr_schedule")
def test_learning_rates(golden_case):
    settings, epochs = golden_case.settings, golden_case["epoch"]
    per_epoch = 10
    steps = np.rint(epochs * per_epoch).astype(int)
    np.testing.assert_array_equal(steps / per_epoch, epochs)
    rates = SCHEDULES["cosine_ramped"].rates(
        settings["max_epoch"] * per_epoch,
        base_lr=settings["base_lr"],
        min_lr=0.0,
        warmup_lr=settings["warmup_start_lr"],
        warmup_steps=int(settings["warmup_epochs"] * per_epoch),
        steps_per_epoch=per_epoch,
    )
    # The reference is asked for its end too, which no step has.
    golden_case.check("lr", np.append(rates, 0.0)[steps])


def lars_config(settings) -> OptimizerConfig:
    spared = [n for n, rule in settings["groups"].items() if rule.startswith("weight_decay 0")]
    return OptimizerConfig(
        name="lars",
        momentum=settings["momentum"],
        nesterov=settings["nesterov"],
        trust_coefficient=settings["eta"],
        adapt_all=not settings["exclude"],
        weight_decay=settings["weight_decay"],
        decay_all=True,
        groups=tuple(
            ParameterGroup(match=name, weight_decay=0.0)
            for names in spared
            for name in names.split(", ")
        ),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.golden("hico/lars")
def test_lars(golden_case, dtype):
    from video_ssl.pretrain.torch_loop.optimizers import build_optimizer, set_lr

    settings, names = golden_case.settings, lars_names(golden_case)
    module = torch.nn.ParameterDict(
        {n: torch.nn.Parameter(golden_case.tensor(f"init/{n}").to(dtype)) for n in names}
    )
    optimizer = build_optimizer(module, lars_config(settings))
    set_lr(optimizer, settings["lr"])
    for step in range(settings["steps"]):
        for name in names:
            module[name].grad = golden_case.tensor(f"grad{step}/{name}").to(dtype)
        optimizer.step()
        for name in names:
            golden_case.check(f"after{step}/{name}", module[name])


@pytest.mark.golden("hico/lars")
def test_lars_of_flax(golden_case):
    import optax

    from video_ssl.pretrain.flax_loop.optimizers import build_optimizer

    settings, names = golden_case.settings, lars_names(golden_case)
    rates = np.full(settings["steps"], settings["lr"])
    optimizer = build_optimizer(lars_config(settings), rates)
    params = {n: golden_case[f"init/{n}"].astype(np.float32) for n in names}
    state = optimizer.init(params)
    for step in range(settings["steps"]):
        gradients = {n: golden_case[f"grad{step}/{n}"].astype(np.float32) for n in names}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for name in names:
            golden_case.check(f"after{step}/{name}", np.asarray(params[name]))


def lars_names(golden_case) -> list[str]:
    return [name for names in golden_case.settings["groups"] for name in names.split(", ")]
