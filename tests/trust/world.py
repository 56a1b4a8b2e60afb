"""Tiny inputs for the tests of trust: videos of 32 pixels, recipes that train in a second, an encoder, features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml

NUM_VIDEOS = 6


def write_videos(folder: Path, count: int = NUM_VIDEOS, *, seed: int = 0) -> Path:
    """Returns the folder, with videos of 12 frames in class folders, each with a square of its own."""
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_video(path, seed=seed + i)
    return folder


def _write_video(path: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    background, color = rng.integers(0, 256, (2, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        left = seed % 20
        for t in range(12):
            frame = np.tile(background.astype(np.uint8), (32, 32, 1))
            frame[4 + t : 12 + t, left : left + 10] = color
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


TORCH_OBJECTIVE = {
    "name": "videomae",
    "clip": {"num_frames": 4, "frame_stride": 1},
    "crop": {"size": 32},
    "mask": {"kind": "tube", "ratio": 0.75},
    "encoder": {
        "preset": None,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 8,
        "positions": "sincos_1d",
        "drop_path": 0.2,
    },
    "decoder": {"embed_dim": 24, "depth": 1, "num_heads": 2},
}
FLAX_OBJECTIVE = {
    "name": "cvrl",
    "num_frames": 4,
    "frame_stride": 1,
    "crop": {"kind": "random_resized", "size": 16, "flip_probability": 0.5},
    "color": None,
    "encoder": {
        "architecture": "r3d",
        "preset": None,
        "blocks": [1, 1, 1, 1],
        "filters": [2, 2, 3, 3],
        "stem_width": 4,
    },
    "hidden_dims": [5],
    "out_dim": 4,
}
_OPTIMIZERS = {
    "torch": {"base_lr": 1e-2, "lr_scaling": "none", "warmup": "2 steps"},
    "flax": {
        "name": "sgd",
        "base_lr": 1e-6,
        "lr_scaling": "none",
        "warmup": "2 steps",
        "schedule": "cosine_ramped",
        "weight_decay": 0.0,
    },
}


def recipe(videos: Path, run: Path, framework: str, *, steps: int = 6) -> dict[str, Any]:
    """The content of a recipe that saves every second step and keeps all checkpoints."""
    return {
        "name": "tiny",
        "run": str(run),
        "seed": 3,
        "objective": TORCH_OBJECTIVE if framework == "torch" else FLAX_OBJECTIVE,
        "data": {"table": str(videos)},
        "loader": {"num_workers": 0},
        "training": {
            "duration": f"{steps} steps",
            "global_batch_size": 2,
            "log_every": 2,
            "checkpoint_every": "2 steps",
            "keep": 3,
            "device": "cpu",
        },
        "optimizer": _OPTIMIZERS[framework],
    }


def write_recipe(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def plain(value: Any) -> Any:
    """What is compared of two readings: arrays as type, shape and bytes, the rest as it is."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return [plain(v) for v in value]
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
