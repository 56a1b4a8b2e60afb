"""TeG without its fine-grained part, on the clips of CVRL, is CVRL (papers/teg.md section 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from video_ssl.objectives.cvrl.config import Config as CvrlConfig
from video_ssl.objectives.cvrl.plan import Plan as CvrlPlan
from video_ssl.objectives.teg import plan as teg_plan
from video_ssl.pretrain.recipe import recipe_from_dict
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run_flax import pretrain

SHARED = {
    "crop": {"kind": "random_resized", "size": 16, "flip_probability": 0.5},
    "color": {"law": "cvrl", "blur_probability": 0.0},
    "second_color": {"law": "cvrl_second", "blur_probability": 0.0},
    "encoder": {
        "architecture": "r3d",
        "preset": None,
        "blocks": [1, 1, 1, 1],
        "filters": [2, 2, 3, 3],
        "stem_width": 4,
    },
}
CVRL = {"name": "cvrl", "num_frames": 4, "frame_stride": 1, "hidden_dims": [5], "out_dim": 4}
TEG = {
    "name": "teg",
    **{f"{clip}_frames": 4 for clip in ("long", "short")},
    **{f"{clip}_stride": 1 for clip in ("long", "short")},
    "heads": {"hidden_dims": [5], "out_dim": 4},
}


class ClipsOfCvrl:
    """The plan of TeG with the sampler of CVRL: its first view is the short clip."""

    def __init__(self, config: Any) -> None:
        self.positions = config.positions[0]
        content = {name: getattr(config, name) for name in ("crop", "color", "second_color")}
        self.plan = CvrlPlan(CvrlConfig(**content, num_frames=4, frame_stride=1))

    def __call__(self, *sample: Any) -> dict[str, np.ndarray]:
        made = self.plan(*sample)
        short, long = made.pop("video")
        position = np.zeros(self.positions, np.float32)
        return {"short": short, "long": long, "position": position, **made}


def run(videos: Path, folder: Path, objective: dict[str, Any]) -> Path:
    recipe = recipe_from_dict(
        {
            "name": objective["name"],
            "run": str(folder),
            "seed": 3,
            "objective": {**objective, **SHARED},
            "data": {"table": str(videos)},
            "loader": {"num_workers": 0},
            "training": {
                "duration": "4 steps",
                "global_batch_size": 8,
                "log_every": 1,
                "checkpoint_every": "4 steps",
                "device": "cpu",
            },
            "optimizer": {
                "name": "sgd",
                "base_lr": 0.01,
                "lr_scaling": "none",
                "weight_decay": 0.0,
                "schedule": "constant",
            },
        }
    )
    pretrain(recipe, devices=jax.devices()[:1])
    return folder


@pytest.mark.slow
def test_without_omega_and_on_its_clips_a_run_is_that_of_cvrl_to_the_bit(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cvrl = run(videos, tmp_path / "cvrl", CVRL)
    monkeypatch.setattr(teg_plan, "Plan", ClipsOfCvrl)
    teg = run(videos, tmp_path / "teg", {**TEG, "loss": {"omega": 0.0}})
    ours, theirs = (load_file(folder / "encoder" / "model.safetensors") for folder in (teg, cvrl))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []
    rows, wanted = (read_metrics(folder / "metrics.jsonl") for folder in (teg, cvrl))
    assert [row["persistent"] for row in rows] == [row["contrastive"] for row in wanted]
    assert len({row["persistent"] for row in rows}) == 4
    monkeypatch.undo()
    nested = run(videos, tmp_path / "nested", {**TEG, "loss": {"omega": 0.0}})
    assert read_metrics(nested / "metrics.jsonl")[0]["persistent"] != rows[0]["persistent"]
