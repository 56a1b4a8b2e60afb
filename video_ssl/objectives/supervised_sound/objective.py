"""Classification of sounds: a linear layer behind the clip feature of an encoder of sound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.clips.audio import SILENCE
from video_ssl.models.contract import CLIP
from video_ssl.models.encoder_folder import read_config
from video_ssl.models.encoders import build_encoder
from video_ssl.models.mixing import mix_partners
from video_ssl.models.multilabel_loss import multilabel_loss
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.supervised.objective import start_from
from video_ssl.objectives.supervised_sound.config import FROM_SOUNDS, Config, refuse_other_sense


class SoundHead(nn.Linear):
    """Dropout and a linear layer.

    Of several classes the bias is -log(K - 1), so that each begins with a share of 1 / K in place of a half: the loss
    is a sum over them (papers/vatt.md section 5).
    """

    def __init__(self, width: int, num_classes: int, *, dropout: float, multilabel: bool) -> None:
        super().__init__(width, num_classes)
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.weight, std=0.02)  # as the head of video here
        nn.init.constant_(self.bias, -math.log(num_classes - 1) if multilabel else 0.0)

    def forward(self, features: Tensor) -> Tensor:
        """Returns (N, K) of (N, D)."""
        return super().forward(self.dropout(features))


class Objective(TorchObjective):
    """Cross-entropy of one class each, or the weighted sigmoid loss of several, on the clip feature."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        assert config.is_settled, "the settings are settled"
        assert config.encoder is not None
        assert config.num_classes is not None
        self.config = config
        self.encoder: Any = build_encoder(config.encoder)
        if config.init is not None:
            place = (stages or {}).get("init")
            if place is not None:
                refuse_other_sense(read_config(place)["modality"], place)
            start_from(self.encoder, place, free=FROM_SOUNDS)
        self.head = SoundHead(
            config.encoder.width,
            config.num_classes,
            dropout=config.dropout,
            multilabel=bool(config.multilabel),
        )
        if config.learns == "head":
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode; an encoder that stays as it is never takes part in it."""
        super().train(mode)
        if self.config.learns == "head":
            self.encoder.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """See `TorchObjective`."""
        config = self.config
        sound, own = batch["sound"], self._shares(batch)
        targets = own
        if config.mix is not None:
            sound, targets = (mix_partners(x, batch["mix"]) for x in (sound, own))
        features = self._features(sound)
        logits = self.head(features)
        with torch.autocast(sound.device.type, enabled=False):
            logits = logits.float()
            loss = (
                multilabel_loss(logits, targets)
                if config.multilabel
                else F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
            )
        surest = logits.detach().argmax(1, keepdim=True)
        figures = {
            "accuracy": own.gather(1, surest).mean(),
            # A stretch of silence is learned as its class, as a recording of silence must be; many of them are told.
            "silent": (batch["sound"].abs().amax(1) <= SILENCE).float().mean(),
        }
        return StepOutput(loss, figures, features.detach().float())

    def _shares(self, batch: Mapping[str, Tensor]) -> Tensor:
        """float32 (B, K): 1 for the own classes of a sample."""
        if self.config.multilabel:
            return batch["labels"].float()
        assert self.config.num_classes is not None
        return F.one_hot(batch["label"], self.config.num_classes).float()

    def _features(self, sound: Tensor) -> Tensor:
        """What the head reads of sounds (N, samples), (N, D)."""
        found: Tensor = self.encoder.outputs(sound, (CLIP,))[CLIP]
        return found

    def scores(self, clips: Tensor) -> Tensor:
        """Returns (N, K) of sounds float32 (N, samples)."""
        return self.head(self._features(clips))

    def classifier(self) -> nn.Linear:
        return self.head

    def is_multilabel(self) -> bool:
        return bool(self.config.multilabel)

    def encoders(self) -> dict[str, TrainedEncoder]:
        return {"encoder": TrainedEncoder(self.encoder, self.config.preprocess)}
