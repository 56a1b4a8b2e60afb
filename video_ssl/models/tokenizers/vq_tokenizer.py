"""A tokenizer of pictures that is trained here: an autoencoder whose middle is a word of a vocabulary for every cell.

Source: papers/bevt.md section 11 A (our own specification).  Scaled vectors of the encoder are compared with the words
by their angle; words are running means of the vectors that chose them, and those that nobody chooses start anew.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.tokenizers.gathering import gathered, same_everywhere
from video_ssl.models.tokenizers.pictures import PictureTokenizer, Trial
from video_ssl.models.tokenizers.vq_config import VQConfig

log = logging.getLogger(__name__)

_SMOOTHING = 1e-5
_KMEANS_ROUNDS = 10
# Below so many cells a word, restart_below = 1 is more than half of what a word is chosen for on average.
_FEW_CELLS = 2


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, width // 2, 3, padding=1)
        self.point = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(F.relu(self.space(F.relu(x))))


class Conv32(nn.Conv2d):
    """A convolution in float32, whatever autocast says: what it gives is told by words, which lie near each other."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def picture_encoder(w: int, out_dim: int) -> nn.Sequential:
    """Returns what makes (N, out_dim, S / 8, S / 8) of pictures in [-1, 1]; w channels."""
    return nn.Sequential(
        nn.Conv2d(3, w // 2, 4, 2, 1), nn.ReLU(), nn.Conv2d(w // 2, w, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(w, w, 4, 2, 1), Residual(w), Residual(w), nn.ReLU(), Conv32(w, out_dim, 1),
    )  # fmt: skip


def picture_decoder(w: int, in_dim: int) -> nn.Sequential:
    """Returns what makes pictures of (N, in_dim, S / 8, S / 8), the encoder the other way round."""
    return nn.Sequential(
        nn.Conv2d(in_dim, w, 1), Residual(w), Residual(w), nn.ReLU(),
        nn.ConvTranspose2d(w, w, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(w, w // 2, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(w // 2, 3, 4, 2, 1),
    )  # fmt: skip


class Codebook(nn.Module):
    """Words as vectors of unit length, running means of what was taken for them.

    Attributes:
        words: (K, d) of unit length.
        counts, sums: (K,) and (K, d), running; the words are the sums, divided by the counts and scaled.
        filled: whether the words were taken from a batch yet.
    """

    words: Tensor
    counts: Tensor
    sums: Tensor
    filled: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self._told = False
        start = F.normalize(torch.randn(config.vocab_size, config.dim), dim=-1)
        self.register_buffer("words", start)
        self.register_buffer("counts", torch.ones(config.vocab_size))
        self.register_buffer("sums", start.clone())
        self.register_buffer("filled", torch.tensor(False))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Returns the word of each vector, int64 (N,), for vectors (N, d) of unit length, compared in float32: in
        bfloat16 the cosines of neighbours are the same number."""
        with torch.autocast(vectors.device.type, enabled=False):
            return (vectors.float() @ self.words.float().T).argmax(1)

    @torch.no_grad()
    def learn(self, vectors: Tensor) -> None:
        """Moves the words by a batch of vectors (N, d) of unit length, in float32; all processes must call it."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = gathered(vectors.float())
            if not self._told and len(vectors) < _FEW_CELLS * len(self.words):
                self._told = True
                log.warning(_few_cells(len(vectors), len(self.words)))
            self._learn(vectors)

    def _learn(self, vectors: Tensor) -> None:
        if not self.filled:
            self._fill(vectors)
        chosen = F.one_hot(self.nearest(vectors), self.config.vocab_size).to(vectors.dtype)
        keep = self.config.decay
        self.counts.mul_(keep).add_(chosen.sum(0), alpha=1 - keep)
        self.sums.mul_(keep).add_(chosen.T @ vectors, alpha=1 - keep)
        total = self.counts.sum()
        smoothed = (self.counts + _SMOOTHING) / (total + len(self.counts) * _SMOOTHING) * total
        self.words.copy_(F.normalize(self.sums / smoothed[:, None], dim=-1))
        self._restart(vectors)

    def _fill(self, vectors: Tensor) -> None:
        """Words of k-means over the first batch."""
        size = self.config.vocab_size
        picked = torch.randint(len(vectors), (size,), device=vectors.device)
        self.words.copy_(same_everywhere(vectors[picked]))
        for _ in range(_KMEANS_ROUNDS):
            chosen = F.one_hot(self.nearest(vectors), size).to(vectors.dtype)
            counts = chosen.sum(0)
            means = F.normalize(chosen.T @ vectors, dim=-1)
            self.words.copy_(torch.where(counts[:, None] > 0, means, self.words))
        self.counts.fill_(len(vectors) / size)
        self.sums.copy_(self.words * self.counts[:, None])
        self.filled.fill_(True)

    def _restart(self, vectors: Tensor) -> None:
        """Gives words that hardly anything was taken for the place of a vector of the batch.

        At half of the mean count at most, or a batch of fewer cells than words would begin every word anew.
        """
        mean = self.counts.mean()
        dead = self.counts < (mean / 2).clamp(max=self.config.restart_below)
        picked = torch.randint(len(vectors), (len(dead),), device=vectors.device)
        new = same_everywhere(vectors[picked])
        self.words.copy_(torch.where(dead[:, None], new, self.words))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead[:, None], new * mean, self.sums))


def _few_cells(cells: int, words: int) -> str:
    return (
        f"{words} words learn from {cells} cells at a time, {cells / words:.2g} for each: they will learn slowly. Give "
        f"at least {_FEW_CELLS} for each: more training.global_batch_size, less training.accumulation, more "
        f"objective.frames_per_video, or objective.encoder.vocab_size={max(2, cells // _FEW_CELLS)} or fewer."
    )


class Quantized(NamedTuple):
    """What a picture becomes: vectors (N, d, h, w), those of the words in their place, and the words (N, h, w)."""

    vectors: Tensor
    quantized: Tensor
    words: Tensor


class VQTokenizer(PictureTokenizer):
    """See `VQConfig` for its settings."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim, self.vocab_size, self.num_frames = config.dim, config.vocab_size, 1
        self.encoder = picture_encoder(config.width, config.dim)
        self.norm = nn.BatchNorm2d(config.dim, affine=False)
        self.codebook = Codebook(config)
        self.decoder = picture_decoder(config.width, config.dim)

    def latents(self, pictures: Tensor) -> Tensor:
        """Returns vectors of unit length, (N, d, S / 8, S / 8), for pictures in [0, 1]."""
        return F.normalize(self.norm(self.encoder(2 * pictures - 1)), dim=1)

    def quantize(self, pictures: Tensor, *, learn: bool = False) -> Quantized:
        """Returns what pictures become; `learn` moves the words first."""
        vectors = self.latents(pictures)
        rows = vectors.movedim(1, -1).flatten(0, 2)
        if learn:
            self.codebook.learn(rows.detach())
        chosen = self.codebook.nearest(rows.detach())
        words = chosen.view(len(vectors), *vectors.shape[2:])
        return Quantized(vectors, self._vectors_of(words).to(vectors.dtype), words)

    def trial(self, pictures: Tensor, *, learn: bool) -> Trial:
        """Returns what pictures become; `learn` moves the words first.  Gradients pass the words straight by."""
        found = self.quantize(pictures, learn=learn)
        straight = found.vectors + (found.quantized - found.vectors).detach()
        with torch.autocast(pictures.device.type, enabled=False):
            again = self.reconstruct(straight.float())
            distance = F.mse_loss(found.vectors.float(), found.quantized.detach().float())
        rows = found.vectors.detach().movedim(1, -1).flatten(0, 2).float()
        return Trial(again, distance, found.words, rows)

    def reconstruct(self, quantized: Tensor) -> Tensor:
        """Returns pictures, float (N, 3, S, S), not bounded, for vectors (N, d, S / 8, S / 8)."""
        found: Tensor = self.decoder(quantized)
        return found

    def words(self, pictures: Tensor) -> Tensor:
        return self.quantize(pictures).words

    def decode(self, tokens: Tensor) -> Tensor:
        return self.reconstruct(self._vectors_of(tokens)).clamp(0, 1)

    def _vectors_of(self, words: Tensor) -> Tensor:
        return self.codebook.words[words].movedim(-1, 1)
