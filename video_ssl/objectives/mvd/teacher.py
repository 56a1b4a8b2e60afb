"""A frozen teacher: an encoder that gives features at every token."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.config import ImageViTConfig, Normalization, ViTConfig
from video_ssl.models.exchange.published import load_teacher
from video_ssl.models.hub.config import HubConfig
from video_ssl.models.networks.layers import LAYER_NORM_EPS
from video_ssl.models.networks.positions import Grid
from video_ssl.models.preprocess import normalize
from video_ssl.objectives.mvd.config import Config, ImageTeacherConfig, TeacherConfig
from video_ssl.objectives.shared.frozen import FrozenNetwork

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Teacher(FrozenNetwork):
    """Features of a frozen encoder, in the student's token order."""

    def __init__(
        self, module: nn.Module, config: TeacherConfig, objective: Config, name: str
    ) -> None:
        """Wraps an encoder.

        Args:
            module: a `VideoViT`, an `ImageViT`, or a tower of transformers that was converted.
            config: the teacher's settings.
            objective: those of the objective, which give the student's tokens.
            name: for the text of errors.

        Raises:
            TypeError: not an encoder that can teach.
            ValueError: its tokens are not the student's.
        """
        super().__init__(module)
        self.config = config
        self.size = config.size or objective.crop.size
        self.tubelet_size = objective.encoder.tubelet_size
        self.frames = config.frames if isinstance(config, ImageTeacherConfig) else "clip"
        self.normalization = _normalization(module, objective.normalization)
        _check_grid(module, self, objective.encoder.grid, objective.clip.num_frames, name)
        if config.dtype != "ambient":
            # Vectors (norms, biases) stay in float32; autocast takes care of the products.
            for parameter in self.module.parameters():
                if parameter.dim() > 1:
                    parameter.data = parameter.data.to(DTYPES[config.dtype])

    @property
    def width(self) -> int:
        """Channels of a target."""
        width = int(self.module.embed_dim)  # type: ignore[arg-type]
        return width * self.tubelet_size if self.frames == "all" else width

    def compute(self, inputs: Tensor) -> Tensor:
        """Returns float32 (N, L, width) for pixels (N, C, T, H, W) in [0, 1]."""
        return self.features(normalize(inputs, self.normalization))

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """Returns float32 (N, L, width) for a normalised video (N, C, T, H, W).

        L is in the order time, row, column.  Features are those behind the last block, before the
        final norm; with `normalize_features` a LayerNorm without parameters follows, per frame.
        """
        parts = video.split(self.config.micro_batch or len(video))
        tokens = [self._pass(part) for part in parts]
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens)

    def _pass(self, video: Tensor) -> Tensor:
        if self.frames == "first":
            video = video[:, :, :: self.tubelet_size]
        with self._precision(video.device.type):
            x = self.module.taps(video)  # type: ignore[operator]
        x = x.float()
        if self.config.normalize_features:
            x = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
        if self.frames == "all":
            # (N, T, hw, D) -> (N, t, hw, d D): the frames of a tubelet one after the other.
            x = x.unflatten(1, (-1, self.tubelet_size)).transpose(2, 3).flatten(3)
        return x.flatten(1, 2)

    def _precision(self, device: str) -> Any:
        if self.config.dtype == "ambient":
            return nullcontext()
        enabled = self.config.dtype != "float32"
        return torch.autocast(
            device, dtype=DTYPES[self.config.dtype] if enabled else None, enabled=enabled
        )


def build_teacher(path: Path, config: TeacherConfig, objective: Config, name: str) -> Teacher:
    """Returns the teacher whose encoder folder, run or published file is at `path`."""
    module = load_teacher(
        path,
        image_size=config.size or objective.crop.size,
        num_frames=objective.clip.num_frames,
        num_heads=config.num_heads,
        family=config.family,
    )
    return Teacher(module, config, objective, name)


def _normalization(module: nn.Module, default: Normalization) -> Normalization:
    """A teacher is shown pixels normalised as it was trained; a file does not say how."""
    preprocess: Any = getattr(module, "preprocess", None)
    if preprocess is None:
        return default
    return Normalization(mean=preprocess.mean, std=preprocess.std)


def _check_grid(
    module: nn.Module, teacher: Teacher, grid: Grid, num_frames: int, name: str
) -> None:
    config = getattr(module, "config", None)
    if isinstance(config, HubConfig):
        _check_hub_grid(module, config, teacher, grid, num_frames, name)
        return
    wanted = ViTConfig if teacher.frames == "clip" else ImageViTConfig
    if not isinstance(config, wanted):
        needs = "clips (VideoViT)" if teacher.frames == "clip" else "single frames (ImageViT)"
        raise TypeError(
            f"the {name} teacher must be an encoder of {needs}, but is a {type(module).__name__}: "
            f"set objective.{name}.source to another encoder."
        )
    t, h, w = grid
    p, size = config.patch_size, teacher.size
    own_t = num_frames // config.tubelet_size if isinstance(config, ViTConfig) else t
    if size % p or (own_t, size // p, size // p) != grid:
        raise ValueError(
            f"the {name} teacher cuts {num_frames} frames of {size} px into tokens of {own_t} x "
            f"{size / p:g} x {size / p:g}, but the student's grid is {t}x{h}x{w}: set "
            f"objective.{name}.size={h * p}, or use a teacher whose tokens are the student's."
        )
    if config.grid[1:] != (h, w) or (isinstance(config, ViTConfig) and config.grid[0] != t):
        log.warning(
            "the %s teacher was made for a grid of %s tokens and is used on %s: its position table "
            "is interpolated.",
            name,
            "x".join(map(str, config.grid)),
            "x".join(map(str, grid)),
        )


def _check_hub_grid(
    module: nn.Module, config: HubConfig, teacher: Teacher, grid: Grid, num_frames: int, name: str
) -> None:
    """The same of a tower of transformers, which says itself what it takes."""
    clips = teacher.frames == "clip"
    if clips != (config.num_frames is not None):
        needs, sees = ("clips", "frames") if clips else ("single frames", "clips")
        raise TypeError(
            f"the {name} teacher must be an encoder of {needs}, but {config.family.title} sees {sees}: set "
            f"objective.{name}.source to another encoder."
        )
    shape = (num_frames if clips else grid[0], teacher.size, teacher.size, 3)
    try:
        own = module.token_grid(shape)  # type: ignore[operator]
    except ValueError as err:
        raise ValueError(f"the {name} teacher: {err} Its side is objective.{name}.size.") from err
    if own != grid:
        raise ValueError(
            f"the {name} teacher cuts {num_frames} frames of {teacher.size} px into tokens of "
            f"{' x '.join(map(str, own))}, but the student's grid is {'x'.join(map(str, grid))}: set "
            f"objective.{name}.size={grid[1] * config.patch_px}, or use a teacher whose tokens are the student's."
        )
