from collections.abc import Mapping

import torch
from torch import Tensor

from video_ssl.objectives.shared.torch_objective import StepOutput
from video_ssl.objectives.videomae.objective import Objective as VideoMAE


class Objective(VideoMAE):
    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        names = ("video", "mask")
        return super().forward({n: torch.cat([batch[n], batch[f"extra/{n}"]]) for n in names})
