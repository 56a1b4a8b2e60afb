"""Supervised classification with the encoder of the other objectives: their upper bound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.color_changes import augmented_input
from video_ssl.models.encoders import build_encoder, load_encoder
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


class Objective(TorchObjective):
    """Cross-entropy of a linear head on the mean of all tokens: of a ViT after its final norm, of a
    convolutional network of the last feature map."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        assert config.encoder is not None, "the settings are settled"
        assert config.num_classes is not None, "the settings are settled"
        self.config = config
        self.encoder = build_encoder(config.encoder)
        if config.init is not None:
            _start_from(self.encoder, (stages or {}).get("init"))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.encoder.width, config.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
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
            video = without_rectangles(video, batch["erased"].flatten(0, 1))
        label = batch["label"].repeat_interleave(batch["video"].shape[1])
        features = self.encoder.clip_features(video)
        logits = self.head(self.dropout(features))
        with torch.autocast(video.device.type, enabled=False):
            loss = F.cross_entropy(
                logits.float(), label, label_smoothing=self.config.label_smoothing
            )
        accuracy = (logits.detach().argmax(1) == label).float().mean()
        return StepOutput(loss, {"accuracy": accuracy}, features.detach().float())

    def scores(self, video: Tensor) -> Tensor:
        return self.head(
            self.encoder.clip_features(to_model_input(video, self.config.normalization))
        )

    def classifier(self) -> nn.Linear:
        return self.head

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name == "encoder.cls_token"}

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def _start_from(encoder: Any, path: Path | None) -> None:
    """Fills an encoder with the weights of another one of the same shape, whose settings give them the same meaning.

    Raises:
        ValueError: no encoder was given, or it does not fit.
    """
    if path is None:
        raise ValueError("init is set, but no encoder was given for it.")
    source = load_encoder(path)
    assert isinstance(source, nn.Module)
    refuse_other_settings(encoder.config, to_plain(source.config), path)
    load_weights(encoder, encoder.weights_from(source), min_share=1.0)
