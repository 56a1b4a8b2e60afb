from typing import Any

import torch
from torch import Tensor

from video_ssl.objectives.videomae.objective import Objective as VideoMAE


class Objective(VideoMAE):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        names = ("video", "mask")
        return super().forward({n: torch.cat([batch[n], batch[f"extra/{n}"]]) for n in names})
