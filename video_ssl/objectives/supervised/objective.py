"""Supervised classification with the encoder of the other objectives: their upper bound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.color_changes import augmented_input
from video_ssl.models.encoders import build_encoder, load_encoder
from video_ssl.models.weights import load_weights
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.supervised.config import Config
from video_ssl.recipes import to_plain


class Objective(TorchObjective):
    """Cross-entropy of a linear head on the mean of all tokens: of a ViT after its final norm, of a
    convolutional network of the last feature map."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        if config.init is not None:
            _start_from(self.encoder, (stages or {}).get("init"))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.encoder.width, config.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """See `TorchObjective`; every clip of a record counts as a sample."""
        video = augmented_input(batch, self.config.normalization, self.config.color)
        label = batch["label"].repeat_interleave(batch["video"].shape[1])
        features = self.encoder.clip_features(video)
        logits = self.head(self.dropout(features))
        with torch.autocast(video.device.type, enabled=False):
            loss = F.cross_entropy(
                logits.float(), label, label_smoothing=self.config.label_smoothing
            )
        accuracy = (logits.detach().argmax(1) == label).float().mean()
        return StepOutput(loss, {"accuracy": accuracy}, features.detach().float())

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name == "encoder.cls_token"}

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


#: Settings of encoders that leave the meaning of weights alone, or follow from the shapes.
_MAY_DIFFER = ("preset", "drop_path", "image_size", "num_frames", "table_size")


def _start_from(encoder: nn.Module, path: Path | None) -> None:
    """Fills an encoder with the weights of another one of the same shape, whose settings give them the same meaning.

    Raises:
        ValueError: no encoder was given, or it does not fit.
    """
    if path is None:
        raise ValueError("init is set, but no encoder was given for it.")
    source = load_encoder(path)
    assert isinstance(source, nn.Module)
    load_weights(encoder, source.state_dict(), min_share=1.0)
    before, now = (to_plain(e.config) for e in (source, encoder))
    differ = [k for k in now if k not in _MAY_DIFFER and k in before and before[k] != now[k]]
    if differ:
        wanted = ", ".join(f"{k}={before[k]!r} (not {now[k]!r})" for k in differ)
        raise ValueError(
            f"the encoder of {path} was trained with other settings than this one: {wanted}. Set them so in "
            "objective.encoder."
        )
