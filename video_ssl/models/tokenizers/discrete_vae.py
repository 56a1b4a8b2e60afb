"""A discrete VAE of pictures: every cell has a distribution over the words, drawn from by Gumbel noise while it learns.

Source: papers/bevt.md sections 10 (DALL-E's way of training, arXiv:2102.12092 appendix A) and 11 C (the network, that
of `vq_tokenizer`, and the lengths are our own).  The squared error stands in for DALL-E's logit-Laplace likelihood.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from video_ssl.models.tokenizers.pictures import PictureTokenizer, Trial
from video_ssl.models.tokenizers.vq_config import DiscreteVAEConfig
from video_ssl.models.tokenizers.vq_tokenizer import picture_decoder, picture_encoder


class DiscreteVAE(PictureTokenizer):
    """See `DiscreteVAEConfig` for its settings.  As an encoder its vectors are the logits of the words.

    Attributes:
        progress: share of the training that is over, 0-d; what is drawn cools with it.
    """

    progress: Tensor

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = self.vocab_size = config.vocab_size
        self.num_frames = 1
        self.encoder = picture_encoder(config.width, config.vocab_size)
        self.decoder = picture_decoder(config.width, config.vocab_size)
        self.register_buffer("progress", torch.zeros(()))

    def after_step(self, progress: float) -> None:
        self.progress.fill_(progress)

    @property
    def temperature(self) -> Tensor:
        """Half a wave of the cosine from the first temperature to the last one, which stays, 0-d."""
        first, last = self.config.temperatures
        done = (self.progress / self.config.cooling).clamp(max=1)
        return last + (first - last) * (1 + torch.cos(math.pi * done)) / 2

    def latents(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.encoder(2 * pictures - 1)
        return logits

    def words(self, pictures: Tensor) -> Tensor:
        return self.latents(pictures).argmax(1)

    def decode(self, tokens: Tensor) -> Tensor:
        return self._pictures(self._chosen(tokens)).clamp(0, 1)

    def trial(self, pictures: Tensor, *, learn: bool) -> Trial:
        """Returns what pictures become: of soft draws if it learns, else of the likeliest words.

        The distance is the divergence of the words of a cell from all words alike, in nats, the mean over cells.
        """
        logits = self.latents(pictures)
        with torch.autocast(pictures.device.type, enabled=False):
            logits = logits.float()
            words = logits.argmax(1)
            drawn = self._drawn(logits) if learn else self._chosen(words)
            likely = F.log_softmax(logits, dim=1)
            uniform = math.log(self.vocab_size)
            divergence = (likely.exp() * (likely + uniform)).sum(1).mean()
            again = self._pictures(drawn)
        rows = logits.detach().movedim(1, -1).flatten(0, 2)
        return Trial(again, divergence, words, rows)

    def _drawn(self, logits: Tensor) -> Tensor:
        noise = -torch.empty_like(logits).exponential_().log()
        return ((logits + noise) / self.temperature).softmax(1)

    def _chosen(self, words: Tensor) -> Tensor:
        return F.one_hot(words, self.vocab_size).movedim(-1, 1).float()

    def _pictures(self, shares: Tensor) -> Tensor:
        found: Tensor = self.decoder(shares)
        return found
