"""Pictures of what masked objectives predict: with true predictions, they are the clips themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from video_ssl.models.networks.layers import cut, joined
from video_ssl.objectives.mae.config import Config as MAEConfig
from video_ssl.objectives.mae.objective import Objective as MAE
from video_ssl.objectives.videomae.config import Config as VideoMAEConfig
from video_ssl.objectives.videomae.objective import Objective as VideoMAE
from video_ssl.recipes import build_config

SIZE = {"preset": None, "embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4}
SHARED: dict[str, Any] = {
    "crop": {"kind": "whole", "size": 16},
    "mask": {"ratio": 0.5},
    "encoder": SIZE,
    "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
}
CLIPS = {"clip": {"num_frames": 4, "frame_stride": 1, "num_clips": 2}}


def test_cubes_become_the_video_again() -> None:
    video = torch.randn(2, 3, 4, 8, 12)
    cubes = cut(video, 2, 4, "channels_last")
    torch.testing.assert_close(joined(cubes, (2, 2, 3), 2, 4), video)


@pytest.mark.parametrize("target", ["normalized", "raw"])
@pytest.mark.parametrize("visible_weight", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["videomae", "mae"])
def test_true_predictions_give_the_clip(
    kind: str, target: str, visible_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    more = {"target": target, "visible_weight": visible_weight}
    objective: Any
    if kind == "videomae":
        objective = VideoMAE(build_config(VideoMAEConfig, {**SHARED, **CLIPS, **more}))
        shape, length = (2, 2, 4, 16, 16, 3), 32
    else:
        objective = MAE(build_config(MAEConfig, {**SHARED, "frames_per_video": 3, **more}))
        shape, length = (2, 3, 1, 16, 16, 3), 16
    objective.eval()
    video = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    masks = [rng.permutation(length) < length // 2 for _ in range(shape[0] * shape[1])]
    mask = torch.from_numpy(np.stack(masks)).unflatten(0, shape[:2])

    def truth(encoded: torch.Tensor, visible: Any, hidden: Any, *, at_visible: bool = False) -> Any:
        """What the decoder should say, as the loss has it."""
        wanted = torch.cat([visible, hidden], 1) if at_visible else hidden
        pixels = video.flatten(0, 1).movedim(-1, 1).float() / 255
        if kind == "mae":
            mean, std = (
                torch.tensor(getattr(objective.config.normalization, n)).view(3, 1, 1, 1)
                for n in ("mean", "std")
            )
            pixels = (pixels - mean) / std
        return objective.targets(pixels, wanted)

    monkeypatch.setattr(objective.decoder, "forward", truth)
    with torch.no_grad():
        found = objective.reconstructed({"video": video, "mask": mask})
    true = video.float() / 255
    wanted = true.flatten(0, 1) if kind == "videomae" else true[:, :, 0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_only_what_is_hidden_is_predicted() -> None:
    torch.manual_seed(0)
    objective = VideoMAE(build_config(VideoMAEConfig, {**SHARED, **CLIPS})).eval()
    video = torch.randint(0, 256, (1, 2, 4, 16, 16, 3), dtype=torch.uint8)
    mask = torch.zeros(1, 2, 32, dtype=torch.bool)
    mask[:, :, :16] = True  # the first two frames
    with torch.no_grad():
        found = objective.reconstructed({"video": video, "mask": mask})
    true = video[0].float() / 255
    torch.testing.assert_close(found[:, 2:], true[:, 2:])
    assert (found[:, :2] - true[:, :2]).abs().mean() > 0.05


def test_histograms_are_no_pictures() -> None:
    hog = {"target": "hog", "hog": {"cell_px": 4}}
    objective = VideoMAE(build_config(VideoMAEConfig, {**SHARED, **CLIPS, **hog}))
    assert objective.reconstructed({}) is None
