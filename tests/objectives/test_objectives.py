"""What every objective promises, and what is special to each: on tiny sizes, on a CPU."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from video_ssl.models import architecture_of
from video_ssl.models.config import IMAGENET_MEAN, IMAGENET_STD, ImageViTConfig, ViTConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess import to_model_input
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.mae.objective import patch_targets
from video_ssl.objectives.videomae.objective import tubelet_targets
from video_ssl.recipes import build_config

SIZE = {"preset": None, "embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
CLIP = {"num_frames": 4, "frame_stride": 2}
MASKED = {
    "clip": CLIP,
    "crop": {"size": 16},
    "mask": {"ratio": 0.75},
    "encoder": SIZE,
    "decoder": DECODER,
}
TEACHERS = {"image": {"source": {"run": "image"}}, "video": {"source": {"run": "video"}}}
RECIPES = {
    "mae": {**MASKED, "clip": None},
    "videomae": MASKED,
    "mvd": {**MASKED, **TEACHERS},
    "supervised": {"num_classes": 5, "clip": CLIP, "crop": {"size": 16}, "encoder": SIZE},
}
del RECIPES["mae"]["clip"]


@pytest.fixture(autouse=True)
def _seed():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


def image_teacher(**changes):
    config = {**SIZE, "embed_dim": 24, "depth": 1, "image_size": 16, **changes}
    return ImageViT(ImageViTConfig(**config))


def video_teacher(**changes):
    config = {**SIZE, "embed_dim": 16, "depth": 1, "image_size": 16, "num_frames": 4, **changes}
    return VideoViT(ViTConfig(positions="sincos_1d", **config))


def build(name, **changes):
    config = build_config(OBJECTIVES[name].config(), {**RECIPES[name], **changes})
    ready = {}
    if name == "mvd":
        ready = {"teachers": {"image": image_teacher(), "video": video_teacher()}}
    return OBJECTIVES[name].objective()(config, **ready)


def batch_for(objective, n=3, views=2, seed=0):
    rng = np.random.default_rng(seed)
    config = objective.config
    t = 1 if isinstance(config.encoder, ImageViTConfig) else config.clip.num_frames
    size = config.crop.size
    video = rng.integers(0, 256, (n, views, t, size, size, 3), dtype=np.uint8)
    tokens = int(np.prod(config.encoder.grid))
    hidden = config.mask.num_masked(config.encoder.grid)
    batch = {"video": video, "mask": rng.random((n, views, tokens)).argsort(-1) < hidden}
    return {key: torch.from_numpy(value) for key, value in batch.items()}


# Masked objectives --------------------------------------------------------------------------------


def paint(batch, objective, where, seed=1):
    """The batch with other pixels at the tokens where `where` (B, V, L) is True."""
    config = objective.config.encoder
    d = getattr(config, "tubelet_size", 1)
    b, v, t, h, w, _ = batch["video"].shape
    cells = where.view(b, v, t // d, h // 4, w // 4)
    cells = cells.repeat_interleave(d, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    noise = torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, batch["video"].shape, dtype=np.uint8)
    )
    return {**batch, "video": torch.where(cells[..., None], noise, batch["video"])}


@pytest.mark.parametrize("name", ["mae", "videomae", "mvd"])
@torch.no_grad()
def test_hidden_pixels_reach_only_the_target(name):
    objective = build(name).eval()
    batch = batch_for(objective)
    loss, _, features, _ = objective(batch)
    other_loss, _, other, _ = objective(paint(batch, objective, batch["mask"]))
    assert torch.equal(features, other)
    assert loss != other_loss
    seen = objective(paint(batch, objective, ~batch["mask"])).features
    assert not torch.equal(features, seen)


@pytest.mark.parametrize("name", ["mae", "videomae"])
@torch.no_grad()
def test_pixel_loss_equals_a_slow_one(name):
    """Every hidden token, pixel by pixel, from the definition: MAE standardises the normalised image, all colors of a
    patch together, VideoMAE the pixels, each color of a tubelet by itself."""
    objective = build(name).eval()
    batch = batch_for(objective, n=2, views=1)
    d = getattr(objective.config.encoder, "tubelet_size", 1)
    predictions = []
    objective.decoder.register_forward_hook(lambda *args: predictions.append(args[-1]))
    loss = objective(batch).loss
    errors = []
    for i in range(2):
        video = batch["video"][i, 0].numpy() / 255.0
        if name == "mae":
            video = (video - IMAGENET_MEAN) / IMAGENET_STD
        for j, token in enumerate(np.flatnonzero(batch["mask"][i, 0])):
            t, y, x = token // 16, token // 4 % 4, token % 4
            cube = video[t * d : t * d + d, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            if name == "videomae":
                mean = cube.mean((0, 1, 2))
                std = cube.reshape(-1, 3).std(axis=0, ddof=1) + 1e-6
            else:
                mean, std = cube.mean(), np.sqrt(cube.reshape(-1).var(ddof=1) + 1e-6)
            target = ((cube - mean) / std).reshape(-1)
            errors.append((predictions[0][i, j].numpy() - target) ** 2)
    np.testing.assert_allclose(float(loss), np.mean(errors), rtol=1e-5)


def test_targets_of_nearly_constant_cubes():
    """Where eps is added shows only when the variance is as small as eps."""
    rng = np.random.default_rng(0)
    cubes = (0.5 + 1e-6 * rng.normal(size=(1, 4, 24))).astype(np.float64)
    cubes[0, 0] = 0.5
    cubes[0, 1] = rng.random(24)
    x = cubes.astype(np.float32).astype(np.float64)
    grouped = x.reshape(1, 4, 8, 3)
    centred = grouped - grouped.mean(2, keepdims=True)
    per_color = centred / (grouped.std(2, ddof=1, keepdims=True) + 1e-6)
    centred = x - x.mean(2, keepdims=True)
    together = centred / np.sqrt(x.var(2, ddof=1, keepdims=True) + 1e-6)
    given = torch.from_numpy(cubes.astype(np.float32))
    found = tubelet_targets(given, "normalized")
    assert found[0, 0].abs().max() == 0
    # The mean of values near 0.5 is known to 3e-8, a few per cent of these deviations.
    np.testing.assert_allclose(found, per_color.reshape(1, 4, 24), atol=0.06)
    found = patch_targets(given, "normalized")
    np.testing.assert_allclose(found, together, atol=1e-4)
    assert torch.equal(tubelet_targets(given, "raw"), given)
    assert torch.equal(patch_targets(given, "raw"), given)


@torch.no_grad()
def test_a_grey_patch_of_mae_keeps_the_offset_of_its_colors():
    """Was wrong: the target was made of pixels in [0, 1], where a flat grey patch is 0 everywhere."""
    objective = build("mae")
    grey = torch.full((1, 1, 1, 16, 16, 3), 128, dtype=torch.uint8)
    target = objective.targets(
        to_model_input(grey, objective.config.normalization), torch.tensor([[0]])
    )
    colors = (128 / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    spread = np.repeat(colors, 16).var(ddof=1)
    expected = np.tile((colors - colors.mean()) / np.sqrt(spread + 1e-6), 16)
    np.testing.assert_allclose(target[0, 0], expected, rtol=1e-5)
    raw = build("mae", target="raw")
    target = raw.targets(to_model_input(grey, raw.config.normalization), torch.tensor([[0]]))
    np.testing.assert_allclose(target[0, 0], np.tile(colors, 16), rtol=1e-5)


def test_dual_masking_decodes_only_some():
    objective = build("videomae", decoder_mask={"kind": "running_cell", "ratio": 0.5})
    batch = batch_for(objective, n=2, views=1)
    skipped = torch.rand(2, 1, 32).argsort(-1) < 16
    batch["decoder_mask"] = skipped
    sizes = []
    objective.decoder.register_forward_hook(lambda *args: sizes.append(args[-1].shape[1]))
    loss = objective.eval()(batch).loss
    assert sizes == [16]
    # Pixels at hidden tokens that are not decoded do not matter.
    painted = paint(batch, objective, skipped & batch["mask"])
    torch.testing.assert_close(objective(painted).loss, loss)
    painted = paint(batch, objective, ~skipped & batch["mask"])
    assert not torch.isclose(objective(painted).loss, loss)


# MVD ----------------------------------------------------------------------------------------------


def test_teachers_are_nowhere_but_in_the_loss():
    objective = build("mvd")
    names = [*objective.state_dict(), *dict(objective.named_modules())]
    assert not [n for n in names if "teacher" in n]
    owned = {id(p) for p in objective.parameters()}
    teachers = [t.module for t in objective.frozen.values()]
    assert len(teachers) == 2
    before = [p.clone() for t in teachers for p in t.parameters()]
    objective.train()
    objective(batch_for(objective)).loss.backward()
    for teacher in teachers:
        assert not teacher.training
        for parameter in teacher.parameters():
            assert id(parameter) not in owned
            assert parameter.grad is None
            assert not parameter.requires_grad
    after = [p for t in teachers for p in t.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_teachers_follow_the_student_to_a_device():
    objective = build("mvd").to("meta")
    for teacher in objective.frozen.values():
        assert {p.device.type for p in teacher.module.parameters()} == {"meta"}
        assert teacher.module.positions.table.device.type == "meta"


def test_the_student_does_not_depend_on_the_source_of_its_teachers(tmp_path):
    config = build_config(OBJECTIVES["mvd"].config(), RECIPES["mvd"])
    preprocess = VideoPreprocess(num_frames=4, size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    paths = {}
    for name, module in (("image", image_teacher()), ("video", video_teacher())):
        paths[name] = save_encoder(
            tmp_path / name,
            module,
            architecture=architecture_of(module),
            preprocess=preprocess,
            source={"objective": "test"},
        )
    files = {}
    for name, module in (("image", image_teacher()), ("video", video_teacher())):
        prefix = "encoder." if name == "video" else ""
        state = {prefix + k: v for k, v in module.state_dict().items()}
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        files[name] = tmp_path / f"{name}.pth"
    settings = replace(
        config,
        image=replace(config.image, num_heads=2),
        video=replace(config.video, num_heads=2),
    )
    build_it = OBJECTIVES["mvd"].objective()
    states = []
    for chosen, sources in ((config, paths), (settings, files)):
        torch.manual_seed(5)
        objective = build_it(chosen, stages=sources)
        states.append(objective.state_dict())
        objective(batch_for(objective))
    assert all(torch.equal(a, states[1][k]) for k, a in states[0].items())
    objective = build_it(config, stages=paths)
    assert objective.frozen["image"].normalization.mean == (0.5, 0.4, 0.3)
    with pytest.raises(ValueError, match="the video teacher is set, but no encoder was given"):
        build_it(config, stages={"image": paths["image"]})


def test_a_finetuned_teacher_that_tells_no_family_is_asked_for_it(tmp_path):
    """VideoMAE's and MVD's classifiers have the same keys and other positions."""
    state = video_teacher(final_norm=False).state_dict()
    norm = {"fc_norm.weight": torch.ones(16), "fc_norm.bias": torch.zeros(16)}
    torch.save({"model": {**state, **norm}}, tmp_path / "a.pth")
    for family, positions in (("videomae", "sincos_1d"), ("mvd", "sincos_3d"), ("auto", None)):
        teacher = {"source": {"file": str(tmp_path / "a.pth")}, "num_heads": 2, "family": family}
        config = build_config(
            OBJECTIVES["mvd"].config(), {**RECIPES["mvd"], "image": None, "video": teacher}
        )
        build_it = OBJECTIVES["mvd"].objective()
        if positions is None:
            with pytest.raises(ValueError, match=r"of a teacher: objective.video.family"):
                build_it(config, stages={"video": tmp_path / "a.pth"})
        else:
            objective = build_it(config, stages={"video": tmp_path / "a.pth"})
            assert objective.frozen["video"].module.config.positions == positions


def test_a_teacher_may_see_another_size():
    config = build_config(
        OBJECTIVES["mvd"].config(),
        {**RECIPES["mvd"], "image": {**TEACHERS["image"], "size": 12}},
    )
    assert config.teacher_size == 12
    small = image_teacher(patch_size=3, image_size=12)
    objective = OBJECTIVES["mvd"].objective()(
        config, teachers={"image": small, "video": video_teacher()}
    )
    batch = batch_for(objective)
    batch["teacher_video"] = torch.randint(0, 256, (3, 2, 4, 12, 12, 3), dtype=torch.uint8)
    figures = objective.eval()(batch).figures
    batch["teacher_video"] = torch.randint(0, 256, (3, 2, 4, 12, 12, 3), dtype=torch.uint8)
    other = objective(batch).figures
    assert figures["loss_image"] != other["loss_image"]
    assert figures["loss_video"] == other["loss_video"]


def test_micro_batches_and_precision_of_teachers():
    video = torch.randn(5, 3, 4, 16, 16)
    config = build("mvd").config
    from video_ssl.objectives.mvd.teacher import Teacher

    module = video_teacher()
    exact = Teacher(module, config.video, config, "video").features(video)
    assert (
        not Teacher(module, config.video, config, "video").features(video.requires_grad_()).grad_fn
    )
    parts = Teacher(module, replace(config.video, micro_batch=2), config, "video")
    torch.testing.assert_close(parts.features(video), exact)
    rough = Teacher(module, replace(config.video, dtype="bfloat16"), config, "video")
    features = rough.features(video)
    assert features.dtype == torch.float32
    assert module.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert module.blocks[0].norm1.weight.dtype == torch.float32
    assert 1e-5 < (features - exact).norm() / exact.norm() < 0.02


def test_float32_teachers_stay_exact_inside_autocast():
    config = build("mvd").config
    from video_ssl.objectives.mvd.teacher import Teacher

    teacher = Teacher(video_teacher(), replace(config.video, dtype="float32"), config, "video")
    video = torch.randn(2, 3, 4, 16, 16)
    exact = teacher.module.taps(video).flatten(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher.features(video), exact)


@pytest.mark.parametrize(
    ("teacher", "module", "error", "text"),
    [
        (
            "image",
            image_teacher(patch_size=8),
            ValueError,
            r"2 x 2, but the student's grid is 2x4x4",
        ),
        ("video", video_teacher(tubelet_size=4), ValueError, r"tokens of 1 x 4 x 4"),
        ("image", video_teacher(), TypeError, "must be an encoder of single frames"),
        ("video", image_teacher(), TypeError, "must be an encoder of clips"),
    ],
)
def test_teachers_with_other_tokens_are_refused(teacher, module, error, text):
    config = build_config(OBJECTIVES["mvd"].config(), RECIPES["mvd"])
    teachers = {"image": image_teacher(), "video": video_teacher(), teacher: module}
    with pytest.raises(error, match=text):
        OBJECTIVES["mvd"].objective()(config, teachers=teachers)


def test_a_teacher_of_another_length_is_used_with_a_warning(caplog):
    config = build_config(OBJECTIVES["mvd"].config(), RECIPES["mvd"])
    teachers = {"image": image_teacher(), "video": video_teacher(num_frames=8)}
    with caplog.at_level(logging.WARNING):
        objective = OBJECTIVES["mvd"].objective()(config, teachers=teachers)
    assert "made for a grid of 4x4x4 tokens and is used on 2x4x4" in caplog.text
    objective(batch_for(objective))


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("mvd", {"image": None, "video": None}, "MVD has no teacher"),
        (
            "mvd",
            {
                "image": {**TEACHERS["image"], "size": 12},
                "video": {**TEACHERS["video"], "size": 20},
            },
            r"\[12, 20\] pixels beside crop.size=16",
        ),
        (
            "mvd",
            {"image": {"source": {}}},
            "exactly one of run, file, recipe and stage, but has none",
        ),
        ("videomae", {"clip": {"num_frames": 5}}, "num_frames=5 must be a positive multiple"),
        ("videomae", {"crop": {"size": 18}}, "image_size=18 is not divisible by patch_size=4"),
        ("videomae", {"mask": {"ratio": 0.01}}, "hides 0 of 32 tokens"),
        (
            "videomae",
            {"decoder": {"embed_dim": 24, "num_heads": 5}},
            "not divisible by num_heads=5",
        ),
        (
            "videomae",
            {"encoder": {**SIZE, "num_frames": 8}},
            "encoder.num_frames=8, but clip.num_frames=4",
        ),
        (
            "videomae",
            {"crop": {"size": 12}, "decoder_mask": {"kind": "running_cell", "ratio": 0.5}},
            "tiles 2x2 cells, but the grid is 3x3",
        ),
        ("mae", {"mask": {"kind": "running_cell"}}, "is for clips: use 'random' for MAE"),
        ("supervised", {"num_classes": 1}, "num_classes=1 must be at least 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, changes, text):
    with pytest.raises(ValueError, match=text):
        build_config(OBJECTIVES[name].config(), {**RECIPES[name], **changes})


def test_supervised_starts_from_an_encoder_when_told(tmp_path):
    settings = {
        "num_classes": 3,
        "clip": {"num_frames": 4, "frame_stride": 1},
        "crop": {"size": 16},
        "encoder": {"preset": None, "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8},
    }
    package = OBJECTIVES["supervised"]
    first = package.objective()(build_config(package.config(), settings))
    folder = save_encoder(
        tmp_path / "encoder",
        first.encoder,
        architecture="vit",
        preprocess=first.encoders()["encoder"].preprocess,
        source={},
    )
    config = build_config(package.config(), {**settings, "init": {"run": str(folder)}})
    assert set(config.stages()) == {"init"}
    second = package.objective()(config, stages={"init": folder})
    for name, value in second.encoder.state_dict().items():
        assert torch.equal(value, first.encoder.state_dict()[name]), name
    assert not torch.equal(second.head.weight, first.head.weight)
    with pytest.raises(ValueError, match="init is set, but no encoder was given"):
        package.objective()(config)
    wider = {**settings, "encoder": {**settings["encoder"], "embed_dim": 64}}
    with pytest.raises(ValueError, match=r"embed_dim=32 \(not 64\)\. Set them so"):
        package.objective()(
            build_config(package.config(), {**wider, "init": {"run": str(folder)}}),
            stages={"init": folder},
        )
    other = {**settings, "encoder": {**settings["encoder"], "positions": "sincos_1d"}}
    with pytest.raises(
        ValueError, match=r"positions='sincos_3d' \(not 'sincos_1d'\)\. Set them so"
    ):
        package.objective()(  # the shapes are the same
            build_config(package.config(), {**other, "init": {"run": str(folder)}}),
            stages={"init": folder},
        )


def test_a_teacher_with_other_tokens_is_refused():
    size = {"preset": None, "embed_dim": 32, "depth": 1, "num_heads": 2}
    package = OBJECTIVES["mvd"]
    config = build_config(
        package.config(),
        {
            "video": {"source": {"run": "x"}},
            "clip": {"num_frames": 4, "frame_stride": 1},
            "crop": {"size": 16},
            "mask": {"ratio": 0.5},
            "encoder": {**size, "patch_size": 4},
        },
    )
    teacher = VideoViT(ViTConfig(**size, patch_size=8, image_size=16, num_frames=4))
    with pytest.raises(ValueError, match=r"the video teacher cuts 4 frames of 16 px into tokens"):
        package.objective()(config, teachers={"video": teacher})
