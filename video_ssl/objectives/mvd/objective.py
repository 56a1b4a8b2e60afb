"""MVD (arXiv:2212.04500)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.layers import split_mask, take
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.objectives.mvd.config import Config
from video_ssl.objectives.mvd.teacher import Teacher, build_teacher
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.shared.visible_loss import make_visible_loss

LOSSES: dict[str, Callable[..., Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
    "l2": F.mse_loss,
}


class Objective(TorchObjective):
    """Regresses the features of frozen teachers at hidden tokens from the visible ones.

    Loss = sum over teachers of weight * distance(prediction, feature), the distance a mean over
    clips, hidden tokens and channels.  Every teacher has a decoder of its own.  With `visible_weight`,
    the distance at visible tokens is added to that of every teacher (`VisibleLoss`), and told beside it.
    """

    def __init__(
        self,
        config: Config,
        *,
        stages: Mapping[str, Path] | None = None,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Builds the student, then its teachers.

        Args:
            config: the settings.
            stages: for every name of `config.stages()` an encoder folder, a run, or a file.
            teachers: ready-made encoders in place of `stages`.

        Raises:
            ValueError: a teacher is absent, or its tokens are not the student's.
        """
        super().__init__()
        self.config = config
        self.encoder = VideoViT(config.encoder)
        t, h, w = config.encoder.grid
        self.num_visible = t * h * w - config.mask.num_masked(config.encoder.grid)
        self.visible_loss = make_visible_loss(config, config.encoder.grid)
        found = self._gather_teachers(stages or {}, teachers or {})
        self.frozen.update(found)
        self._sizes = {name: teacher.size for name, teacher in found.items()}
        self.decoders = nn.ModuleDict(
            {name: self._decoder(teacher.width) for name, teacher in found.items()}
        )

    def _gather_teachers(
        self, stages: Mapping[str, Path], ready: Mapping[str, nn.Module]
    ) -> dict[str, Teacher]:
        found = {}
        # Weights of a teacher are drawn before they are filled: the student's must not depend on it.
        with torch.random.fork_rng(devices=[]):
            for name, settings in self.config.teachers.items():
                if name in ready:
                    found[name] = Teacher(ready[name], settings, self.config, name)
                elif name in stages:
                    found[name] = build_teacher(Path(stages[name]), settings, self.config, name)
                else:
                    raise ValueError(
                        f"the {name} teacher is set, but no encoder was given for it; given are "
                        f"{sorted({*stages, *ready})}."
                    )
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

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        pixels = to_pixels(batch["video"])
        by_size = {self.config.crop.size: pixels}
        if self.config.teacher_size is not None:
            by_size[self.config.teacher_size] = to_pixels(batch["teacher_video"])
        features = {name: self.frozen[name](by_size[size]) for name, size in self._sizes.items()}
        video = normalize(pixels, self.config.normalization)
        return self.distill(video, batch["mask"].flatten(0, 1), features)

    def distill(self, video: Tensor, mask: Tensor, features: Mapping[str, Tensor]) -> StepOutput:
        """Returns the loss and what else is told.

        Args:
            video: float (N, C, T, H, W), normalised.
            mask: bool (N, L), True = hidden.
            features: by teacher, float32 (N, L, width).
        """
        predictions, wanted, encoded = self.predict(video, mask)
        figures: dict[str, Tensor] = {}
        total = torch.zeros((), device=video.device)
        with torch.autocast(video.device.type, enabled=False):
            for name, settings in self.config.teachers.items():
                target, prediction = take(features[name], wanted), predictions[name].float()
                loss, parts = self._distance(prediction, target, mask, wanted, settings.loss)
                figures |= {f"loss_{name}{part}": value for part, value in parts.items()}
                total = total + settings.weight * loss
        told = encoded[:, self.encoder.num_prefix :].detach().float().mean(1)
        return StepOutput(total, figures, told)

    def _distance(
        self, prediction: Tensor, target: Tensor, mask: Tensor, wanted: Tensor, kind: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the 0-d distance from a teacher, and what is told of it: "" at hidden tokens, "_visible" at visible
        ones."""
        distance = LOSSES[kind]
        if self.visible_loss is None:
            loss = distance(prediction, target)
            return loss, {"": loss.detach()}
        k = self.num_visible
        hidden = distance(prediction[:, k:], target[:, k:])
        errors = distance(prediction[:, :k], target[:, :k], reduction="none").mean(-1)
        visible = self.visible_loss(errors, wanted[:, :k], mask)
        parts = {"": hidden.detach(), "_visible": visible.detach()}
        return self.visible_loss.add(hidden, visible), parts

    def predict(self, video: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Returns predictions (N, M, width) by teacher, the hidden tokens' indices (N, M), and the
        encoder's output (N, P+K, D); with `visible_weight`, the K visible tokens come before the hidden ones."""
        visible, hidden = split_mask(mask, self.num_visible)
        encoded = self.encoder(video, visible)
        at_visible = self.visible_loss is not None
        decoded = {
            name: decoder(encoded, visible, hidden, at_visible=at_visible)
            for name, decoder in self.decoders.items()
        }
        return decoded, torch.cat([visible, hidden], 1) if at_visible else hidden, encoded

    def after_step(self, progress: float) -> None:
        if self.visible_loss is not None:
            self.visible_loss.after_step(progress)

    def no_weight_decay(self) -> set[str]:
        """Mask tokens ARE decayed: the reference's list names a tensor that no longer exists."""
        return {"encoder.cls_token"} if self.encoder.cls_token is not None else set()

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}
