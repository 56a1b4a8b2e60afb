"""The toy in torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy_network.network import Toy

from toy_sound.config import Config
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.torch_objective import StepOutput, TorchObjective, TrainedEncoder


class Objective(TorchObjective):
    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        self.clips, self.stills = Toy(config.encoder), Toy(config.encoder)
        self.ear = nn.Linear(config.num_samples, config.encoder.width)
        self.brightness = nn.Linear(config.encoder.width, 1)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        seen = self.clips.clip_features(self._pixels(batch["video"]))
        heard = self.ear(batch["sound"])
        logits = F.normalize(seen, dim=1) @ F.normalize(heard, dim=1).T / 0.1
        pairs = F.cross_entropy(logits.float(), torch.arange(len(logits), device=logits.device))
        pictures = self._pixels(batch["stills/picture"][:, None])
        told = self.brightness(self.stills.clip_features(pictures))[:, 0]
        stills = (told - pictures.mean((1, 2, 3, 4))).square().mean()
        figures = {"pairs": pairs.detach(), "stills": stills.detach()}
        return StepOutput(pairs + stills, figures, seen.detach().float())

    def _pixels(self, video: Tensor) -> Tensor:
        preprocess = self.encoders()["clips"].preprocess
        return normalize(to_pixels(video[:, None]), preprocess)

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config

        def expects(num_frames: int) -> VideoPreprocess:
            return VideoPreprocess(num_frames=num_frames, frame_stride=1, size=config.size)

        return {
            "clips": TrainedEncoder(self.clips, expects(config.num_frames)),
            "stills": TrainedEncoder(self.stills, expects(1)),
        }
