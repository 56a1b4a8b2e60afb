"""Models of transformers, converted, as teachers of MVD: DINOv2 of single frames, V-JEPA 2 of clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hub_maker import library, make_model

from video_ssl.models.exchange.convert import convert
from video_ssl.objectives import OBJECTIVES
from video_ssl.recipes import build_config

library()
STUDENT = {
    "clip": {"num_frames": 4, "frame_stride": 2},
    "crop": {"size": 16},
    "mask": {"ratio": 0.75},
    "encoder": {"preset": None, "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 4},
    "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    root, models = tmp_path_factory.mktemp("teachers"), {}
    for sense, name in (("image", "dinov2"), ("video", "vjepa2")):
        models[sense] = make_model(name, root / name)
        convert(root / name, root / sense)
    return root, models


def objective(root, *, size=32, swap=False):
    folders = {sense: root / sense for sense in ("image", "video")}
    if swap:
        folders = {"image": root / "video", "video": root / "image"}
    sources = {k: {"source": {"run": str(v)}, "size": size} for k, v in folders.items()}
    mvd = OBJECTIVES["mvd"]
    config = build_config(mvd.config(), {**STUDENT, **sources})
    return mvd.objective()(config, stages=folders)


@torch.no_grad()
def test_targets_are_what_the_librarys_last_block_gives(teachers):
    """Behind the last block, before the norm, without class tokens; the first frame of each tubelet for DINOv2.
    Catches a norm that was applied, and tokens in another order than the student's."""
    root, models = teachers
    made = objective(root)
    x = torch.randn(2, 3, 4, 32, 32)
    seen = {}
    for sense, blocks in (
        ("image", models["image"].encoder.layer),
        ("video", models["video"].encoder.layer),
    ):
        blocks[-1].register_forward_hook(lambda _, __, out, sense=sense: seen.update({sense: out}))
    models["image"](pixel_values=x[:, :, ::2].transpose(1, 2).flatten(0, 1))
    models["video"](pixel_values_videos=x.transpose(1, 2), skip_predictor=True)
    first = seen["image"][0] if isinstance(seen["image"], tuple) else seen["image"]
    expected = first[:, 1:].reshape(2, 2 * 16, 32)
    found = {sense: made.frozen[sense].features(x) for sense in ("image", "video")}
    torch.testing.assert_close(found["image"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["video"], seen["video"][0], atol=1e-4, rtol=1e-4)


def test_a_student_learns_from_them(teachers):
    """A step of each teacher's loss reaches the student, and nothing reaches the teachers."""
    made = objective(teachers[0]).train()
    rng = np.random.default_rng(0)
    hidden = rng.random((2, 1, 32)).argsort(-1) < made.config.mask.num_masked((2, 4, 4))
    batch = {
        "video": torch.from_numpy(rng.integers(0, 256, (2, 1, 4, 16, 16, 3), np.uint8)),
        "teacher_video": torch.from_numpy(rng.integers(0, 256, (2, 1, 4, 32, 32, 3), np.uint8)),
        "mask": torch.from_numpy(hidden),
    }
    out = made(batch)
    out.loss.backward()
    assert out.loss > 0
    assert all(p.grad is not None for p in made.encoder.parameters())
    assert not any("teacher" in name or "model." in name for name in made.state_dict())


def test_teachers_that_do_not_fit(teachers):
    root, _ = teachers
    with pytest.raises(
        TypeError, match="must be an encoder of single frames, but V-JEPA 2 sees clips"
    ):
        objective(root, swap=True)
    with pytest.raises(ValueError, match=r"student's grid is 2x4x4: set objective.image.size=32"):
        objective(root, size=16)
