"""HiCo against the numbers of its reference."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.clips.config import ClipConfig, CropConfig
from video_ssl.clips.crops import crop_frames, inner_square
from video_ssl.clips.sampling import seconds as time_sampling
from video_ssl.datasets.public.segments import segment_file, segment_names
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.networks.r2plus1d_config import R2PLUS1D_PRESETS, R2Plus1DConfig
from video_ssl.models.networks.s3dg import S3DG
from video_ssl.models.networks.s3dg import from_hico as s3dg_from_hico
from video_ssl.models.networks.s3dg import to_hico as s3dg_to_hico
from video_ssl.models.networks.s3dg_config import S3DGConfig
from video_ssl.objectives.hico.config import Config
from video_ssl.objectives.hico.heads import Projection
from video_ssl.objectives.hico.losses import simclr_loss, topical_loss, visual_loss
from video_ssl.objectives.hico.objective import Objective
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
    videos = segment_names(str(line) for line in golden_case.file["lines"])
    golden_case.check("samples", list(videos))
    files = [segment_file(name, *s) for name, parts in videos.items() for s in parts]
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


# S3D-G --------------------------------------------------------------------------------------------

#: Last layer of each block of the reference.
BLOCK_ENDS = {
    f"block{number}": name
    for number, name in enumerate(("conv_1a", "conv_2c", "mixed_3c", "mixed_4f", "mixed_5c"), 1)
}


def s3dg_of(settings, state):
    encoder = S3DG(
        S3DGConfig(
            width_divisor=settings.get("width_divisor", 1),
            norm_eps=settings["bn_eps"]["separable"],
            pointwise_norm_eps=settings["bn_eps"]["base"],
        )
    )
    encoder.load_state_dict(s3dg_from_hico(state), strict=True)
    return encoder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.golden("hico/s3dg")
def test_s3dg(golden, dtype):
    settings, params = golden.settings, golden.tensors()
    encoder = s3dg_of(settings, params).to(dtype).eval()
    head = [params[f"head.out.{name}"].to(dtype) for name in ("weight", "bias")]
    video = hico_input(golden.tensor("video_uint8").permute(0, 4, 1, 2, 3), settings, dtype)
    with torch.no_grad():
        stages = encoder.stages(video)
        for block in ("block3", "block4", "block5"):
            golden.check(f"eval_{block}", stages[BLOCK_ENDS[block]])
        pooled = encoder.clip_features(video)
        golden.check("eval_pooled", pooled)
        golden.check("eval_probs", F.linear(pooled, *head).softmax(-1))
        encoder.train()
        assert settings["bn_momentum"] == encoder.layers["conv_2b"].norm.momentum
        pooled = encoder.clip_features(video)
    golden.check("train_pooled", pooled)
    golden.check("train_logits", F.linear(pooled, *head))
    after = s3dg_to_hico(encoder.state_dict())
    for name in golden.settings["given"]:
        if name.startswith("after_train/"):
            golden.check(name, after[name.removeprefix("after_train/")])


def hico_input(pixels, settings, dtype):
    numbers = settings["input"]
    assert numbers["order"] == "(x / 255 - mean) / std"
    return ((pixels.double() / 255 - numbers["mean"]) / numbers["std"]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.golden("hico/s3dg_recipe")
def test_s3dg_of_full_width(golden, dtype):
    settings = golden.settings
    with (golden.path.parent / settings["files"]["keys"]).open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    shapes = {
        row["key"]: [] if row["shape"] == "scalar" else [int(n) for n in row["shape"].split("x")]
        for row in rows
        if row["key"].startswith("backbone.") and not row["key"].startswith("backbone.block")
    }
    shapes |= {
        "head.out.weight": [settings["num_classes"], settings["feature_dim"]],
        "head.out.bias": [settings["num_classes"]],
    }
    state = {
        key: torch.from_numpy(drawn(key, shape, settings["seed"] + i))
        for i, (key, shape) in enumerate(sorted(shapes.items()))
    }
    encoder = s3dg_of(settings, state).to(dtype).eval()
    # The published count has the classifier's 101 classes in neither.
    assert sum(p.numel() for p in encoder.parameters()) == 9_098_000
    draw = np.random.RandomState(settings["seed"] - 1).uniform(-2, 2, settings["input_shape"])
    video = torch.from_numpy(draw.astype(np.float32)).to(dtype)
    with torch.no_grad():
        stages = encoder.stages(video)
        for block, layer in BLOCK_ENDS.items():
            golden.check(f"{block}_shape", list(stages[layer].shape))
            golden.check(f"{block}_channel_mean", stages[layer].mean((0, 2, 3, 4)))
            golden.check(f"{block}_std", stages[layer].std())
        pooled = encoder.clip_features(video)
        golden.check("pooled", pooled)
        head = [state[f"head.out.{name}"].to(dtype) for name in ("weight", "bias")]
        golden.check("probs", F.linear(pooled, *head).softmax(-1))


def drawn(key, shape, seed):
    """The weights of the recipe of these numbers, which are too many to be stored."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    r = np.random.RandomState(seed).uniform(-1, 1, shape)
    if key.endswith(("running_mean", "bias")):
        r = 0.1 * r
    elif key.endswith("running_var"):
        r = 1 + 0.3 * r
    elif len(shape) == 1:
        r = 1 + 0.2 * r
    else:
        r = r * np.sqrt(6 / np.prod(shape[1:]))
    return r.astype(np.float32)


# Losses -------------------------------------------------------------------------------------------

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def given_inputs(case, dtype):
    """Embeddings (N, S, D) and judgements (2, n, n) as leaves, and whose clip each judged thing is."""
    settings = case.settings
    z = case.tensor("z").to(dtype).requires_grad_()
    logits = case.tensor("preds").to(dtype).requires_grad_()
    owner = torch.arange(settings["batch"]).repeat_interleave(len(logits) // settings["batch"])
    return z, logits, owner


def check_terms(case, z, logits, owner, visual, factor=1.0):
    settings = case.settings
    topical = topical_loss(logits.permute(2, 0, 1), owner, focus=settings["gamma"])
    vcl = factor * visual.loss
    total = settings["vcl_weight"] * vcl + settings["tcl_weight"] * topical
    total.backward()
    case.check("vcl", vcl)
    case.check("tcl", topical)
    case.check("total", total)
    case.check("pos_mean", visual.positive)
    case.check("neg_mean", visual.negative)
    case.check("grad_z", z.grad)
    case.check("grad_preds", logits.grad)


@DTYPES
@pytest.mark.golden("hico/loss_hico")
def test_the_loss(golden_case, dtype):
    settings = golden_case.settings
    z, logits, owner = given_inputs(golden_case, dtype)
    visual = visual_loss(
        z.unflatten(0, (settings["batch"], settings["samples"])),
        temperature=settings["temperature"],
    )
    check_terms(golden_case, z, logits, owner, visual)


@DTYPES
@pytest.mark.golden("hico/hicopp_loss")
def test_the_loss_of_hicopp(golden_case, dtype):
    settings = golden_case.settings
    z, logits, owner = given_inputs(golden_case, dtype)
    visual = visual_loss(
        z.unflatten(0, (settings["batch"], settings["samples"])),
        temperature=settings["temperature"],
        all_pairs=True,
    )
    factor = {True: 2 * settings["temperature"], False: 1.0}[settings["vit_variant"]]
    check_terms(golden_case, z, logits, owner, visual, factor)


@DTYPES
@pytest.mark.golden("hico/loss_simclr")
def test_the_loss_of_simclr(golden_case, dtype):
    settings = golden_case.settings
    z = golden_case.tensor("z").to(dtype).requires_grad_()
    found = simclr_loss(
        z.unflatten(0, (settings["batch"], settings["samples"])),
        temperature=settings["temperature"],
    )
    found.loss.backward()
    golden_case.check("loss", found.loss)
    golden_case.check("pos_mean", found.positive)
    golden_case.check("neg_mean", found.negative)
    golden_case.check("grad_z", z.grad)


@DTYPES
@pytest.mark.golden("hico/loss_hico_ddp")
def test_the_loss_of_several_processes(golden, dtype):
    settings = golden.settings
    world, batch = settings["world"], settings["batch_per_rank"]
    owner = torch.arange(batch).repeat_interleave(settings["samples"])
    z = golden.tensor("z").to(dtype).requires_grad_()
    logits = golden.tensor("preds").to(dtype).requires_grad_()
    rows = z.flatten(0, 1).unflatten(0, (world * batch, settings["samples"]))
    vcl = visual_loss(rows, temperature=settings["temperature"]).loss
    tcl = torch.stack([
        topical_loss(row.permute(2, 0, 1), owner, focus=settings["gamma"]) for row in logits
    ])  # fmt: skip
    golden.check("vcl_single_process", vcl)
    golden.check("vcl_per_rank", vcl.expand(world))
    golden.check("tcl_per_rank", tcl)
    golden.check("total_per_rank", world * vcl + tcl)
    # What a process gets of `gather_with_grad`: the sum of the gradients of all of them.
    (world * vcl + tcl.sum()).backward()
    golden.check("grad_z_per_rank", z.grad)
    golden.check("grad_preds_per_rank", logits.grad)


# Heads and a step ---------------------------------------------------------------------------------

_HEAD_KEYS = {
    **{f"linear_{a}.": f"linear{i}." for i, a in enumerate("ab")},
    **{f"linear_{a}_bn.": f"norm{i}." for i, a in enumerate("ab")},
    "logits_out_b2.": "linear_out.",
    "mlp_vcl.": "visual.",
    "mlp_tcl.mlp.": "topical.",
    "mlp_tcl.topical_predictor.0.": "judge.hidden.",
    "mlp_tcl.topical_predictor.2.": "judge.out.",
}


def our_head_key(key):
    for theirs, ours in _HEAD_KEYS.items():
        key = key.replace(theirs, ours)
    return key


def heads_of(golden, settings, *, prefix="", **more):
    """An objective with the heads of a golden file, on an encoder that is not used."""
    objective = Objective(
        Config(
            encoder=S3DGConfig(width_divisor=16),
            hidden_dims=tuple(settings["hidden_dims"]),
            out_dim=settings["out_dim"],
            topic_hidden=settings["predictor_hidden"],
            **more,
        )
    )
    for name in ("visual", "topical"):
        head = Projection(settings["in_dim"], tuple(settings["hidden_dims"]), settings["out_dim"])
        assert {m.eps for m in head if isinstance(m, torch.nn.BatchNorm1d)} == {settings["bn_eps"]}
        setattr(objective, name, head)
    params = golden.tensors("param/" + prefix)
    state = {our_head_key(k): v for k, v in params.items() if not k.startswith("backbone.")}
    heads = torch.nn.ModuleDict({n: getattr(objective, n) for n in ("visual", "topical", "judge")})
    heads.load_state_dict(state, strict=True)
    return objective


@DTYPES
@pytest.mark.golden("hico/topic_head")
def test_the_heads(golden, dtype):
    objective = heads_of(golden, golden.settings).to(dtype)
    features = golden.tensor("features").to(dtype)[:, None]
    for mode in ("eval", "train"):
        objective.train(mode == "train")
        with torch.no_grad():
            logits, _ = objective.topic_logits(features)
            golden.check(f"{mode}_visual", objective.visual_embeddings(features)[:, 0])
        golden.check(f"{mode}_topic_logits", torch.stack([logits, logits.T], -1))
    state = objective.state_dict()
    for name in golden.given_below("after_train/"):
        golden.check(f"after_train/{name}", state[our_head_key(name)])


@DTYPES
@pytest.mark.golden("hico/hicopp_topic_head")
def test_the_heads_of_hicopp(golden, dtype):
    clip = ClipConfig(num_frames=16, frame_stride=4, fps=30.0, sampling="seconds", num_clips=2)
    objective = heads_of(golden, golden.settings, method="hicopp", clip=clip).to(dtype).eval()
    features = golden.tensor("features").to(dtype).unflatten(0, (-1, 2))
    with torch.no_grad():
        logits, _ = objective.topic_logits(features)
        golden.check("eval_visual", objective.visual_embeddings(features).flatten(0, 1))
    golden.check("eval_topic_logits", torch.stack([logits, logits.T], -1))


@DTYPES
@pytest.mark.golden("hico/pretrain_step")
def test_a_step(golden, dtype):
    settings = golden.settings
    batch, samples, frames, size = settings["video_shape"][:4]
    assert samples == settings["samples"]
    clip = ClipConfig(
        num_frames=frames, frame_stride=4, fps=30.0, sampling="seconds", num_clips=samples
    )
    objective = heads_of(
        golden,
        settings["head"],
        prefix="head.",
        clip=clip,
        crop=CropConfig(kind="random_resized", size=size),
        color=None,
        temperature=settings["temperature"],
        focus=settings["gamma"],
        visual_weight=settings["vcl_weight"],
        topical_weight=settings["tcl_weight"],
    )
    objective.encoder = s3dg_of(settings, golden.tensors())
    objective.to(dtype).train()
    video = np.random.RandomState(settings["video_seed"]).randint(
        0, 256, size=settings["video_shape"]
    )
    raw = torch.from_numpy(video.astype(np.uint8))
    pixels = hico_input(raw.flatten(0, 1).permute(0, 4, 1, 2, 3), settings, dtype)
    features = objective.encoder.clip_features(pixels).unflatten(0, (batch, samples))
    # Running statistics do not count in train mode, so the heads may be asked again.
    logits, _ = objective.topic_logits(features)
    golden.check("topic_logits", torch.stack([logits, logits.T], -1))
    golden.check("visual", objective.visual_embeddings(features).flatten(0, 1))
    output = objective.step_output(features)
    if dtype == torch.float32:
        output = objective({"video": raw})
    golden.check("total", output.loss)
    golden.check("vcl", output.figures["loss_visual"])
    golden.check("tcl", output.figures["loss_topical"])
    if dtype == torch.float64:
        output.loss.backward()
        norms = [p.grad.norm() for p in objective.parameters()]
        golden.check("grad_global_norm", torch.stack(norms).norm())
        encoder = {n: p.grad for n, p in objective.encoder.named_parameters()}
        grads = s3dg_to_hico(encoder) | {
            f"head.{name}": objective.get_parameter(our_head_key(name)).grad
            for name in golden.given_below("grad/head.")
        }
        for name in golden.given_below("grad/"):
            golden.check(f"grad/{name}", grads[name])
