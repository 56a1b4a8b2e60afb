"""What frame-wise objectives (CARL, TCC, TCN) share on the device: the encoder over a batch of frame sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.models.color_changes import augmented_input
from video_ssl.models.networks.frame_transformer import FrameTransformer, masked_mean
from video_ssl.models.networks.resnet import init_backbone
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.frame_pairs import per_view
from video_ssl.objectives.shared.frame_plan import FrameSetSettings
from video_ssl.objectives.shared.torch_objective import TorchObjective, TrainedEncoder


class FrameObjective(TorchObjective):
    """The encoder of a frame-wise objective with its first weights, and what leaves the training."""

    def __init__(
        self, config: FrameSetSettings, *, stages: Mapping[str, Path] | None = None
    ) -> None:
        super().__init__()
        self.settings = config
        self.encoder = FrameTransformer(config.encoder)
        if config.init.kind != "random":
            path = (stages or {}).get("backbone", config.init.file)
            assert path is not None
            init_backbone(self.encoder.backbone, config.init, path)

    def frames_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns float (B, V, T, D), the encoder's output, not normalised."""
        num_videos, num_views = batch["steps"].shape[:2]
        config = self.settings
        video = augmented_input(
            batch["video"], batch.get("color"), config.normalization, config.color
        )
        frames = self.encoder(video, batch["frame_valid"].flatten(0, 1))
        return frames.unflatten(0, (num_videos, num_views))

    def encoders(self) -> dict[str, TrainedEncoder]:
        """The encoder expects every frame of a video, at the size of the crop."""
        config = self.settings
        preprocess = VideoPreprocess(
            num_frames=config.frames.num_frames,
            frame_stride=1,
            size=config.crop.size,
            mean=config.normalization.mean,
            std=config.normalization.std,
        )
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def view_features(frames: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns float32 (B * V, D): the mean of the unit-length features of the valid frames, for the health figures."""
    z = F.normalize(frames.detach().float(), dim=-1)
    return masked_mean(z.flatten(0, 1), batch["frame_valid"].flatten(0, 1))


@torch.no_grad()
def time_error(z: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the mean distance in time between a valid frame of view 0 and the frame of view 1 most similar to it.

    0-d float32 in shares of the video; about 1/3 for features that know nothing.  With one view it is 0.

    Args:
        z: (B, V, T, D) of unit length.
        batch: with `steps`, `frame_valid` and `num_source_frames`.
    """
    if z.shape[1] < 2:
        return z.new_zeros((), dtype=torch.float32)
    steps, valid = batch["steps"], batch["frame_valid"]
    scores = (z[:, 0].float() @ z[:, 1].float().transpose(1, 2)).masked_fill(
        ~valid[:, None, 1], -torch.inf
    )
    lengths = per_view(batch["num_source_frames"], steps)[:, :, None]
    matched = steps[:, 1].gather(1, scores.argmax(-1)) / lengths[:, 1]
    error = (steps[:, 0] / lengths[:, 0] - matched).abs().float()
    return (error * valid[:, 0]).sum() / valid[:, 0].sum().clamp(min=1)
