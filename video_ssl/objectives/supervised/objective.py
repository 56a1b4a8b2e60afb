"""Supervised classification with the encoder of the other objectives: their upper bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.color_changes import augmented_input
from video_ssl.models.encoders import build_encoder, load_encoder
from video_ssl.models.mixing import mix_labels, mix_videos
from video_ssl.models.networks.layers import LAYER_NORM_EPS
from video_ssl.models.preprocess import to_model_input, without_rectangles
from video_ssl.models.weights import load_weights
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.supervised.config import Config, refuse_other_settings
from video_ssl.recipes import to_plain


class ClassHead(nn.Linear):
    """Dropout and a linear layer; `normalized`: a LayerNorm before both; `unit_length`: of features of length 1."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        normalized: bool,
        unit_length: bool,
        dropout: float,
        scale: float,
    ) -> None:
        super().__init__(width, num_classes)
        self.unit_length = unit_length
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if normalized else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight.mul_(scale)

    def forward(self, features: Tensor) -> Tensor:
        """Returns (N, K) of (N, D)."""
        if self.unit_length:
            features = F.normalize(features, dim=-1)
        return super().forward(self.dropout(self.norm(features)))


class Objective(TorchObjective):
    """Cross-entropy of a linear head on the mean of all tokens: of a ViT after its final norm, of a
    convolutional network of the last feature map; `Config.readout` has other ways."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        assert config.encoder is not None, "the settings are settled"
        assert config.num_classes is not None, "the settings are settled"
        self.config = config
        mean = config.readout == "patch_mean"
        encoder: Any = config.encoder
        self.encoder = build_encoder(replace(encoder, final_norm=False) if mean else encoder)
        if config.init is not None:
            start_from(self.encoder, (stages or {}).get("init"), free=config.not_compared)
        self.head = ClassHead(
            config.encoder.width,
            config.num_classes,
            normalized=mean,
            unit_length=config.readout == "clip_unit",
            dropout=config.dropout,
            scale=config.head_scale,
        )
        if config.learns != "all":
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode; an encoder that stays as it is never takes part in it."""
        super().train(mode)
        if self.config.learns == "head":
            self.encoder.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """See `TorchObjective`; every clip of a record counts as a sample."""
        config = self.config
        video = augmented_input(
            batch["video"], batch.get("color"), config.normalization, config.color
        )
        if config.erase is not None:
            rectangles = batch["erased"].flatten(0, 1)
            video = without_rectangles(video, rectangles, fill=config.erase.fill)
        if config.mix is not None:
            video = mix_videos(video, batch["mix"][0], cut=config.mix.cut)
        label = batch["label"].repeat_interleave(batch["video"].shape[1])
        features = self._features(video)
        logits = self.head(features)
        with torch.autocast(video.device.type, enabled=False):
            loss = self._loss(logits.float(), label, batch)
        accuracy = (logits.detach().argmax(1) == label).float().mean()
        return StepOutput(loss, {"accuracy": accuracy}, features.detach().float())

    def _loss(self, logits: Tensor, label: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        smoothing = self.config.label_smoothing
        if self.config.mix is None:
            return F.cross_entropy(logits, label, label_smoothing=smoothing)
        row = batch["mix"][0]
        targets = mix_labels(label, logits.shape[1], row, label_smoothing=smoothing)
        return F.cross_entropy(logits, targets)

    def _features(self, video: Tensor) -> Tensor:
        """What the head reads of normalised clips, (N, D)."""
        if self.config.readout != "class_token":
            return self.encoder.clip_features(video)
        self.encoder.check_input(video)
        return self.encoder.layer_outputs(video)[0].mean(1)

    def scores(self, video: Tensor) -> Tensor:
        return self.head(self._features(to_model_input(video, self.config.normalization)))

    def classifier(self) -> nn.Linear:
        return self.head

    def classifier_pooling(self) -> str:
        return "cls" if self.config.readout == "class_token" else "mean"

    def classifier_unit_length(self) -> bool:
        return self.config.readout == "clip_unit"

    def no_weight_decay(self) -> set[str]:
        """Class token and learned positions: papers/videomae.md section 5."""
        kept = ("encoder.cls_token", "encoder.positions.table")
        return {name for name, _ in self.named_parameters() if name in kept}

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def start_from(encoder: Any, path: Path | None, *, free: Sequence[str]) -> None:
    """Fills an encoder with the weights of another one of the same shape, whose settings give them the same meaning;
    `free` are settings that may differ.

    Raises:
        ValueError: no encoder was given, or it does not fit.
    """
    if path is None:
        raise ValueError("init is set, but no encoder was given for it.")
    source = load_encoder(path)
    assert isinstance(source, nn.Module)
    refuse_other_settings(encoder.config, to_plain(source.config), path, free=free)
    load_weights(encoder, encoder.weights_from(source), min_share=1.0)
