"""CARL (arXiv:2203.14957): every frame of a view is drawn to the frames of the other view that are near in time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.models.networks.frame_transformer import ProjectionHead
from video_ssl.objectives.carl.config import Config
from video_ssl.objectives.carl.scl import scl_loss
from video_ssl.objectives.carl.weak import weak_loss
from video_ssl.objectives.shared.frame_objective import FrameObjective, time_error, view_features
from video_ssl.objectives.shared.frame_pairs import Views
from video_ssl.objectives.shared.torch_objective import StepOutput


class Objective(FrameObjective):
    """SCL on projected frame features, plus the weakly supervised term where it is set.

    Loss and target are symmetric in the views; there is no momentum network, no stop-gradient, and no gather across
    processes: negatives are those of the process.
    """

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__(config, stages=stages)
        self.config = config
        self.projection = ProjectionHead(config.encoder.embed_dim, config.projection_dim)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        config = self.config
        frames = self.frames_of(batch)
        z = F.normalize(self.projection(frames.flatten(0, 1)).float(), dim=-1).view(frames.shape)
        scl = scl_loss(
            z,
            batch["steps"],
            batch["num_source_frames"],
            batch["frame_valid"],
            negatives=config.negatives,
            temperature=config.temperature,
            variance=config.variance,
        ).loss
        loss = scl
        figures = {"time_error": time_error(z, batch)}
        if config.weak is not None:
            weak, pairs = self._weak(z, batch)
            loss = scl + weak
            figures |= {"loss_scl": scl.detach(), "loss_weak": weak.detach(), "weak_pairs": pairs}
        return StepOutput(loss, figures, view_features(frames, batch))

    def _weak(self, z: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted weak term and the number of pairs of views in it; 0 during the warm-up.

        Alignments are computed on the host, so this term waits for the device.
        """
        config = self.config.weak
        assert config is not None
        nothing = z.new_zeros(())
        if config.weight == 0 or float(batch["progress"].min()) < config.warmup:
            return nothing, nothing
        views = Views.of(
            z, batch["steps"], batch["num_source_frames"], batch["frame_valid"], batch["label"]
        )
        loss, pairs = weak_loss(
            views,
            temperature=self.config.temperature,
            variance=self.config.variance,
            warp=config.warp,
            close_pairs_only=config.close_pairs_only,
        )
        return config.weight * loss, pairs.to(torch.float32)
