"""Whole runs of frame-wise objectives on tiny videos: resumed to the bit, exported, with a table's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import video_ssl
from video_ssl.datasets.table import Table
from video_ssl.objectives.shared.frame_objective import FrameObjective
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.run import run_torch

ENCODER = {
    "head": "transformer",
    "backbone": "small",
    "small_width": 4,
    "fc_dims": [16],
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 16,
    "embed_dim": 8,
}


class Killed(BaseException):
    """Stands for the end of the process."""


def recipe_of(table: Path, run: Path, name: str = "carl", **objective: Any) -> PretrainRecipe:
    return recipe_from_dict(
        {
            "run": str(run),
            "seed": 3,
            "objective": {
                "name": name,
                "frames": {"num_frames": 6, "num_views": 2},
                "crop": {"kind": "random_resized", "size": 16, "area": [0.8, 1.0]},
                "encoder": ENCODER,
                **objective,
            },
            "data": {"table": str(table)},
            "loader": {"num_workers": 0},
            "training": {
                "duration": "6 steps",
                "global_batch_size": 4,
                "log_every": 1,
                "checkpoint_every": "2 steps",
                "device": "cpu",
            },
            "optimizer": {
                "name": "adam",
                "base_lr": 1e-3,
                "lr_scaling": "none",
                "schedule": "cosine_epochs",
                "decay_all": True,
                "weight_decay": 1e-5,
            },
        }
    )


@pytest.fixture
def labelled(videos: Path, tmp_path: Path) -> Path:
    """The tiny videos with two labels."""
    files = sorted(videos.glob("*.mp4"))
    rows = [{"id": f.stem, "source": str(f), "label": i % 2} for i, f in enumerate(files)]
    path = tmp_path / "labelled.arrow"
    Table.from_rows(rows, class_names=["a", "b"]).save(path)
    return path


@pytest.mark.parametrize("weak", [None, {"warmup": 0.5}])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(
    labelled: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch, weak: Any
) -> None:
    """Batch statistics and the warm-up of the weak term go on where they were."""
    run_torch(recipe_of(labelled, tmp_path / "straight", weak=weak))
    recipe = recipe_of(labelled, tmp_path / "resumed", weak=weak)

    def after_step(self: Any, progress: float) -> None:
        if round(progress * 6) == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FrameObjective, "after_step", after_step)
        with pytest.raises(Killed):
            run_torch(recipe)
    run_torch(recipe)
    one, two = (helpers.weights(tmp_path / name) for name in ("straight", "resumed"))
    assert one.keys() == two.keys()
    assert any("running_mean" in key for key in one)
    assert not [key for key in one if not torch.equal(one[key], two[key])]
    rows = read_metrics(tmp_path / "straight" / "metrics.jsonl")
    if weak is not None:
        pairs = [row["weak_pairs"] for row in rows]
        assert pairs[:3] == [0, 0, 0]
        assert min(pairs[4:]) > 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("carl", {}),
        ("tcc", {}),
        ("tcn", {"frames": {"kind": "anchor_positive", "num_frames": 6, "num_views": 1}}),
    ],
)
def test_the_encoder_gives_a_feature_for_every_frame(
    labelled: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    result = run_torch(recipe_of(labelled, tmp_path / "run", name, **changes))
    encoder = video_ssl.load_encoder(result.encoder)
    assert encoder.preprocess.frame_stride == 1
    assert encoder.preprocess.size == 16
    with torch.no_grad():
        features = encoder.frame_features(torch.randn(1, 3, 11, 16, 16))
    assert features.shape == (1, 11, 8)
    # TCC compares features as they come, so they are exported like that.
    lengths = features.norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(1, 11)) is (name != "tcc")
    fresh = video_ssl.load_encoder(f"untrained:{result.encoder}")
    changed = [
        k for k, v in encoder.state_dict().items() if not torch.equal(v, fresh.state_dict()[k])
    ]
    assert any("backbone.layers.0" in key for key in changed)
