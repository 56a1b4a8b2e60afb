"""The toy in torch."""

from torch import Tensor, nn
from torch.nn import functional as F

from toy_network.config import ToyConfig
from video_ssl.models.networks.token_features import MapFeatures


class Toy(MapFeatures, nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.linear = nn.Linear(3, config.width)

    def forward(self, video: Tensor) -> Tensor:
        """Returns (B, D, T, 2, 2) of (B, 3, T, H, W)."""
        small = F.adaptive_avg_pool3d(video, (video.shape[2], 2, 2))
        return self.linear(small.movedim(1, -1)).movedim(-1, 1)

    def grid(self, video: Tensor) -> tuple[int, int, int]:
        return self.config.grid(*video.shape[2:])

    def frame_positions(self, num_frames: int):
        return self.config.frame_positions(num_frames)
