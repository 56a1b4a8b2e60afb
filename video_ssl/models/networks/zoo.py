"""The video networks of pytorchvideo's model zoo as encoders: SLOW, C2D, I3D, SlowFast, R(2+1)D, CSN and X3D.

Parameters keep their names there (`blocks.0.conv.weight`), so published weights fit after their head is left out.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.token_features import MapFeatures
from video_ssl.models.networks.zoo_config import SLOWFAST_ALPHA, ZOO, ZooConfig

Triple = tuple[int, int, int]


class ZooEncoder(MapFeatures, nn.Module):
    """A network of pytorchvideo without its head; see `ZooConfig`.

    Videos are float (B, C, T, H, W), normalised; clips of any length and size are welcome that are large enough for its
    strides (SlowFast: of a multiple of four frames).  Its tokens are the cells of the last feature map; of SlowFast the
    fast pathway is averaged over the frames of each slow one and stands behind it.

    Raises:
        ImportError: pytorchvideo is not installed.
    """

    def __init__(self, config: ZooConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.blocks = trunk(config.model)

    @property
    def _two_pathways(self) -> bool:
        return self.config.model.startswith("slowfast")

    def forward(self, video: Tensor) -> Tensor:
        """Returns the last feature map, (B, D, T', h, w)."""
        x: Any = video
        if self._two_pathways:
            if video.shape[2] % SLOWFAST_ALPHA:
                raise ValueError(
                    f"{self.config.model} takes a multiple of {SLOWFAST_ALPHA} frames, not {video.shape[2]}."
                )
            x = [video[:, :, slow_frames(video.shape[2]).tolist()], video]
        for block in self.blocks:
            x = block(x)
        if self._two_pathways:
            slow, fast = x
            x = torch.cat([slow, F.adaptive_avg_pool3d(fast, slow.shape[2:])], dim=1)
        assert isinstance(x, Tensor)
        return x

    def grid(self, video: Tensor) -> Triple:
        """Returns (T', h, w) of the last feature map of a video (B, C, T, H, W)."""
        t, h, w = video.shape[2:]
        return _grid(self.config.model, t, h, w)

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): the centres of what the features see, in units of sampled frames."""
        if self._two_pathways:
            return slow_frames(num_frames).astype(np.float64)
        known = ZOO[self.config.model]
        pooled = known.time_offset > 0  # which leaves out a last frame without a partner
        count = num_frames // known.time_stride if pooled else -(-num_frames // known.time_stride)
        return np.arange(count, dtype=np.float64) * known.time_stride + known.time_offset


def slow_frames(num_frames: int) -> np.ndarray:
    """Returns int64 (num_frames // 4,): the frames of SlowFast's slow pathway, from the first to the last.

    >>> slow_frames(32).tolist()
    [0, 4, 8, 13, 17, 22, 26, 31]
    """
    # In torch's float32, as pytorchvideo's transform: rounding decides where a place is a whole number.
    count = num_frames // SLOWFAST_ALPHA
    return torch.linspace(0, num_frames - 1, count, device="cpu").long().numpy()


def trunk(name: str) -> nn.ModuleList:
    """Returns the blocks of a network before its head."""
    hub = import_pytorchvideo("pytorchvideo.models.hub")
    blocks = list(getattr(hub, name)(pretrained=False).blocks)
    # SlowFast pools and joins its pathways in a block of their own before the head.
    return nn.ModuleList(blocks[:-2] if name.startswith("slowfast") else blocks[:-1])


@functools.lru_cache(maxsize=256)
def _grid(name: str, t: int, h: int, w: int) -> Triple:
    """The shape of the feature map, found on a network that computes nothing."""
    with torch.device("meta"), torch.no_grad():
        encoder = ZooEncoder(ZooConfig(model=name)).eval()  # type: ignore[arg-type]
        shape = encoder(torch.empty(1, 3, t, h, w)).shape
    return shape[2], shape[3], shape[4]


def import_pytorchvideo(module: str) -> Any:
    """Returns a module of pytorchvideo.

    It imports torchvision for two names that nothing here needs (RoIAlign, make_dataset).  Where torchvision is absent
    or does not fit torch, it finds empty ones, which are gone again afterwards.

    Raises:
        ImportError: pytorchvideo is not installed.
    """
    if module in sys.modules:
        return sys.modules[module]
    try:
        importlib.import_module("pytorchvideo")
    except ImportError as err:
        raise ImportError("pytorchvideo is not installed: pip install 'video_ssl[zoo]'.") from err
    try:
        importlib.import_module("torchvision")
        stubs: dict[str, types.ModuleType] = {}
    except (ImportError, OSError, RuntimeError):
        stubs = _stubs()
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        return importlib.import_module(module)
    finally:
        for name, was in before.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was


def _stubs() -> dict[str, types.ModuleType]:
    names = (
        "torchvision",
        "torchvision.ops",
        "torchvision.datasets",
        "torchvision.datasets.folder",
    )
    stubs: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    stubs["torchvision.ops"].RoIAlign = type("RoIAlign", (), {})
    stubs["torchvision.datasets.folder"].make_dataset = None
    return stubs
