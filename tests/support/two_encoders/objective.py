from __future__ import annotations

import copy
from typing import Any

import torch

from video_ssl.objectives.shared.torch_objective import StepOutput, TrainedEncoder
from video_ssl.objectives.videomae.objective import Objective as VideoMAE

CLIPS = 3


class Objective(VideoMAE):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.average = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, batch: Any) -> StepOutput:
        return super().forward(batch)._replace(clips=CLIPS)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        pairs = zip(self.average.parameters(), self.encoder.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 0.5)

    def encoders(self) -> dict[str, TrainedEncoder]:
        trained = super().encoders()["encoder"]
        return {"student": trained, "teacher": TrainedEncoder(self.average, trained.preprocess)}
