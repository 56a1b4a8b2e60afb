"""Fixtures of the tests that train: tiny real videos, and recipes small enough to train in a second."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 videos, 32 x 32 px and 12 frames, each with a moving square of its own color."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(12):
        write_video(folder / f"{i:02}.mp4", seed=i)
    return folder


def write_video(path: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    background, color = rng.integers(0, 256, (2, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for t in range(12):
            frame = np.tile(background.astype(np.uint8), (32, 32, 1))
            frame[4 + t : 12 + t, seed : seed + 10] = color
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def tiny(videos: Path, run: Path, **changes: Any) -> dict[str, Any]:
    """The content of a recipe: VideoMAE with one block, 4 frames of 32 px; `changes` are dotted with __."""
    content: dict[str, Any] = {
        "name": "tiny",
        "run": str(run),
        "seed": 3,
        "objective": {
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
        },
        "data": {"table": str(videos)},
        "loader": {"num_workers": 0},
        "training": {
            "duration": "12 steps",
            "global_batch_size": 4,
            "log_every": 4,
            "checkpoint_every": "4 steps",
            "device": "cpu",
        },
        "optimizer": {"base_lr": 1e-2, "lr_scaling": "none", "warmup": "2 steps"},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = content
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return content


def tiny_recipe(videos: Path, run: Path, **changes: Any) -> PretrainRecipe:
    return recipe_from_dict(tiny(videos, run, **changes))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    """Tiny tensors on shared cores: more threads only wait for each other.  Of a whole module, as sums over several
    threads have other last bits: runs that a fixture of the module trains are compared with those of its tests."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Helpers:
    tiny = staticmethod(tiny)
    recipe = staticmethod(tiny_recipe)
    write_video = staticmethod(write_video)

    @staticmethod
    def weights(run: Path) -> dict[str, Any]:
        """Objective weights of the newest checkpoint of a run."""
        from video_ssl.pretrain.checkpoint_folders import newest_checkpoint
        from video_ssl.pretrain.torch_loop.checkpoints import load_state

        checkpoint = newest_checkpoint(run / "checkpoints")
        assert checkpoint is not None
        return load_state(checkpoint)["objective"]

    @staticmethod
    def start(recipe_file: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
        """Starts `pretrain` in a process of its own."""
        code = (
            "import logging, sys; logging.basicConfig(level='INFO', format='%(message)s')\n"
            "from video_ssl.pretrain.recipe import load_pretrain_recipe\n"
            "from video_ssl.pretrain.torch_loop.run import run_torch\n"
            "run_torch(load_pretrain_recipe(sys.argv[1], sys.argv[2:]))\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, str(recipe_file), *overrides],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    return Helpers
