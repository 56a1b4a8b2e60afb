"""TeG without its fine-grained part, on the clips of CVRL, is CVRL (papers/teg.md section 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax_runs import assert_same_bits, tiny, weights

from video_ssl.objectives.cvrl.config import Config as CvrlConfig
from video_ssl.objectives.cvrl.plan import Plan as CvrlPlan
from video_ssl.objectives.teg import plan as teg_plan
from video_ssl.pretrain.flax_loop.run import run_flax
from video_ssl.pretrain.reporting import read_metrics

COLORS = {
    "color": {"law": "cvrl", "blur_probability": 0.0},
    "second_color": {"law": "cvrl_second", "blur_probability": 0.0},
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


def run(videos: Path, folder: Path, name: str, **changes: Any) -> Path:
    colors = {f"objective__{key}": value for key, value in COLORS.items()}
    recipe = tiny(videos, folder, name, training__duration=4, **colors, **changes)
    run_flax(recipe, devices=jax.devices()[:1])
    return folder


@pytest.mark.slow
def test_without_omega_and_on_its_clips_a_run_is_that_of_cvrl_to_the_bit(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cvrl = run(videos, tmp_path / "cvrl", "cvrl")
    monkeypatch.setattr(teg_plan, "Plan", ClipsOfCvrl)
    without: dict[str, Any] = {
        "objective__loss": {"omega": 0.0},
        "objective__long_stride": 1,
        "objective__short_stride": 1,
    }
    teg = run(videos, tmp_path / "teg", "teg", **without)
    assert_same_bits(weights(teg), weights(cvrl))
    rows, wanted = (read_metrics(folder / "metrics.jsonl") for folder in (teg, cvrl))
    assert [row["persistent"] for row in rows] == [row["contrastive"] for row in wanted]
    assert len({row["persistent"] for row in rows}) == 4
    monkeypatch.undo()
    nested = run(videos, tmp_path / "nested", "teg", **without)
    assert read_metrics(nested / "metrics.jsonl")[0]["persistent"] != rows[0]["persistent"]
