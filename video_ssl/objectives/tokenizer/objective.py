"""Trains a tokenizer: pictures through a vocabulary and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.models.encoders import build_encoder
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.tokenizer.config import Config
from video_ssl.objectives.tokenizer.perceptual import PerceptualNetwork, load_perceptual


class Objective(TorchObjective):
    """Reconstruction, and nearness of the encoder's vectors to their words; with `perceptual` also nearness of the
    pictures made again in the eyes of a frozen network."""

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        self._perceptual: PerceptualNetwork | None = None
        if config.perceptual is not None:
            # After the tokenizer, whose first weights must not depend on what is drawn for it.
            place = (stages or {}).get("perceptual")
            self._perceptual = load_perceptual(place, config.perceptual)
            self.frozen["perceptual"] = self._perceptual

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        config = self.config
        pictures = _pictures(batch)
        found = self.encoder.trial(pictures, learn=self.training)
        with torch.autocast(pictures.device.type, enabled=False):
            error = F.mse_loss(found.pictures.float(), pictures)
            loss = config.reconstruction_weight * error + config.commitment_weight * found.distance
        told: dict[str, Tensor] = {}
        if self._perceptual is not None:
            distance = self._perceptual.distance(pictures, found.pictures.float())
            loss = loss + self._perceptual.weight * distance
            told["loss_perceptual"] = distance.detach()
        figures = {
            "psnr_db": -10 * error.detach().log10(),
            **told,
            **use_of_words(found.words, config.encoder.vocab_size),
        }
        return StepOutput(loss, figures, found.rows)

    def after_step(self, progress: float) -> None:
        self.encoder.after_step(progress)

    def reconstructed(self, batch: Mapping[str, Tensor]) -> Tensor:
        found = self.encoder.trial(_pictures(batch), learn=False).pictures
        return found.clamp(0, 1).movedim(1, -1).unflatten(0, batch["video"].shape[:2])

    def counted_words(self, batch: Mapping[str, Tensor]) -> Tensor:
        words = self.encoder.encode(_pictures(batch))
        return torch.bincount(words.flatten(), minlength=self.encoder.vocab_size)

    def encoders(self) -> dict[str, TrainedEncoder]:
        preprocess = VideoPreprocess(
            num_frames=1,
            frame_stride=1,
            size=self.config.crop.size,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
        )
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def _pictures(batch: Mapping[str, Tensor]) -> Tensor:
    """(B * F, 3, S, S) in [0, 1]."""
    return batch["video"].flatten(0, 1).movedim(-1, 1).float() / 255


def use_of_words(words: Tensor, vocab_size: int) -> dict[str, Tensor]:
    """Returns how much of a vocabulary a batch of words uses, 0-d: the share of the words that occur, the perplexity of
    their frequencies as a share of the vocabulary, and the share of the most frequent one."""
    share = torch.bincount(words.flatten(), minlength=vocab_size).float() / words.numel()
    perplexity = (-torch.special.xlogy(share, share).sum()).exp()
    return {
        "words_used": (share > 0).float().mean(),
        "perplexity": perplexity / vocab_size,
        "most_frequent": share.max(),
    }
