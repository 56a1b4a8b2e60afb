"""MVD (arXiv:2212.04500)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.layers import split_mask, take
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.models.preprocess_config import Preprocess
from video_ssl.objectives.mvd.config import Config
from video_ssl.objectives.mvd.teacher import Teacher, build_teacher
from video_ssl.objectives.shared.export import preprocess_of

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
    "l2": F.mse_loss,
}


class Objective(nn.Module):
    """Regresses the features of frozen teachers at hidden tokens from the visible ones.

    Loss = sum over teachers of weight * distance(prediction, feature), the distance a mean over
    clips, hidden tokens and channels.  Every teacher has a decoder of its own; teachers are not
    part of the module tree (see `Teacher`) but follow it from device to device.
    """

    def __init__(
        self,
        config: Config,
        *,
        encoders: Mapping[str, Path] | None = None,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Builds the student, then its teachers.

        Args:
            config: the settings.
            encoders: for every name of `config.stages()` an encoder folder, a run, or a file.
            teachers: ready-made encoders in place of `encoders`.

        Raises:
            ValueError: a teacher is absent, or its tokens are not the student's.
        """
        super().__init__()
        self.config = config
        self.encoder = VideoViT(config.encoder)
        t, h, w = config.encoder.grid
        self.num_visible = t * h * w - config.mask.num_masked(config.encoder.grid)
        self._teachers = self._gather_teachers(encoders or {}, teachers or {})
        self.decoders = nn.ModuleDict(
            {name: self._decoder(teacher.width) for name, teacher in self._teachers.items()}
        )

    def _gather_teachers(
        self, encoders: Mapping[str, Path], ready: Mapping[str, nn.Module]
    ) -> dict[str, Teacher]:
        # Weights of a teacher are drawn before they are filled: the student's must not depend on it.
        state = torch.get_rng_state()
        found = {}
        for name, settings in self.config.teachers.items():
            if name in ready:
                found[name] = Teacher(ready[name], settings, self.config, name)
            elif name in encoders:
                found[name] = build_teacher(Path(encoders[name]), settings, self.config, name)
            else:
                raise ValueError(
                    f"the {name} teacher is set, but no encoder was given for it; given are "
                    f"{sorted({*encoders, *ready})}."
                )
        torch.set_rng_state(state)
        return found

    def _decoder(self, out_dim: int) -> MaskedDecoder:
        encoder = self.config.encoder
        return MaskedDecoder(
            self.config.decoder,
            in_dim=encoder.width,
            out_dim=out_dim,
            table=encoder.positions,
            grid=encoder.grid,
            qkv_bias=encoder.qkv_bias,
        )

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and figures for a batch as `Config` describes it."""
        pixels = to_pixels(batch["video"])
        by_size = {self.config.crop.size: pixels}
        if self.config.teacher_size is not None:
            by_size[self.config.teacher_size] = to_pixels(batch["teacher_video"])
        features = {
            name: teacher(by_size[teacher.size]) for name, teacher in self._teachers.items()
        }
        video = normalize(pixels, self.config.normalization)
        return self.distill(video, batch["mask"].flatten(0, 1), features)

    def distill(
        self, video: Tensor, mask: Tensor, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and figures.

        Args:
            video: float (N, C, T, H, W), normalised.
            mask: bool (N, L), True = hidden.
            features: by teacher, float32 (N, L, width).
        """
        predictions, hidden, encoded = self.predict(video, mask)
        figures: dict[str, Tensor] = {}
        total = torch.zeros((), device=video.device)
        with torch.autocast(video.device.type, enabled=False):
            for name, settings in self.config.teachers.items():
                target = take(features[name], hidden)
                loss = LOSSES[settings.loss](predictions[name].float(), target)
                figures[f"loss_{name}"] = loss.detach()
                total = total + settings.weight * loss
        figures["loss"] = total.detach()
        figures["features"] = encoded[:, self.encoder.num_prefix :].detach().float().mean(1)
        return total, figures

    def predict(self, video: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Returns predictions (N, M, width) by teacher, the hidden tokens' indices (N, M), and the
        encoder's output (N, P+K, D)."""
        visible, hidden = split_mask(mask, self.num_visible)
        encoded = self.encoder(video, visible)
        decoded = {
            name: decoder(encoded, visible, hidden) for name, decoder in self.decoders.items()
        }
        return decoded, hidden, encoded

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Takes the teachers along when the student moves to a device."""
        super()._apply(fn, recurse)
        for teacher in self._teachers.values():
            teacher.module._apply(fn)
        return self

    def frozen_networks(self) -> dict[str, nn.Module]:
        """Returns the teachers' networks by name: what `video-ssl bench step` times apart."""
        return {name: teacher.module for name, teacher in self._teachers.items()}

    def after_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def no_weight_decay(self) -> set[str]:
        """Mask tokens ARE decayed: the reference's list names a tensor that no longer exists."""
        return {"encoder.cls_token"} if self.encoder.cls_token is not None else set()

    def preprocess(self) -> Preprocess:
        """Returns what the exported encoder expects of a clip."""
        config = self.config
        return preprocess_of(config.clip, config.crop.size, config.normalization)
