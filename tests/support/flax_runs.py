"""Recipes of tiny runs of flax objectives, and what is compared of two runs; shared by the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict
from video_ssl.pretrain.reporting import read_metrics

ENCODER = {
    "architecture": "r3d",
    "preset": None,
    "blocks": [1, 1, 1, 1],
    "filters": [2, 2, 3, 3],
    "stem_width": 4,
}
CROP = {"kind": "random_resized", "size": 16, "flip_probability": 0.5}
OBJECTIVES = {
    "teg": {
        "name": "teg",
        "long_frames": 4,
        "long_stride": 2,
        "short_frames": 4,
        "short_stride": 1,
        "crop": CROP,
        "color": None,
        "encoder": ENCODER,
        "heads": {"hidden_dims": [5], "out_dim": 4},
    },
    "cvrl": {
        "name": "cvrl",
        "num_frames": 4,
        "frame_stride": 1,
        "crop": CROP,
        "color": None,
        "encoder": ENCODER,
        "hidden_dims": [5],
        "out_dim": 4,
    },
    "const_cl": {
        "name": "const_cl",
        "num_frames": 4,
        "frame_stride": 1,
        "crop": CROP,
        "color": None,
        "encoder": ENCODER,
        "hidden_dims": [5],
        "out_dim": 4,
        "regions": {"count": 3},
        "local": {
            "context_level": 1,
            "decoder": {"num_layers": 1, "num_heads": 2, "num_channels": 4},
        },
        "local_loss": {"weight": 1.0},
    },
}


def content(videos: Path, run: Path, name: str = "teg", **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "tiny",
        "run": str(run),
        "seed": 3,
        "objective": json.loads(json.dumps(OBJECTIVES[name])),
        "data": {"table": str(videos)},
        "loader": {"num_workers": 0},
        "training": {
            "duration": "6 steps",
            "global_batch_size": 8,
            "log_every": 1,
            "checkpoint_every": "2 steps",
            "device": "cpu",
        },
        "optimizer": {
            "name": "sgd",
            "base_lr": 1e-6,  # gradients are in the hundreds: larger steps are chaos
            "lr_scaling": "none",
            "warmup": "2 steps",
            "schedule": "cosine_ramped",
            "weight_decay": 0.0,
        },
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = made
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return made


def tiny(videos: Path, run: Path, name: str = "teg", **changes: Any) -> PretrainRecipe:
    return recipe_from_dict(content(videos, run, name, **changes))


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl")]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "encoder" / "model.safetensors")


def assert_same_bits(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    assert [k for k in one if not np.array_equal(one[k], two[k])] == []


def assert_same_losses(one: Path, two: Path) -> None:
    """Equal to rounding: exactly so before the weights move, and with what grows out of it afterwards."""
    np.testing.assert_allclose(losses(one)[:2], losses(two)[:2], rtol=1e-5)
    np.testing.assert_allclose(losses(one), losses(two), rtol=2e-4)
