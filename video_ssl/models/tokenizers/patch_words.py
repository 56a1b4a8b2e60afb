"""A vocabulary of squares of pixels: k-means of what pictures are made of, without a network.

The first batch gives the words (k-means++ and ten rounds of k-means); after it the gradient of the squared error moves
each towards the mean of the squares that it stands for.

Source: papers/bevt.md section 11 B (our own specification).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.tokenizers.config import PatchWordsConfig
from video_ssl.models.tokenizers.gathering import gathered, same_everywhere
from video_ssl.models.tokenizers.pictures import PictureTokenizer, Trial

_ROUNDS = 10


class PatchWords(PictureTokenizer):
    """See `PatchWordsConfig` for its settings.

    Attributes:
        squares: (K, 192), the words, in [0, 1].
        filled: whether they were taken from a batch yet.
    """

    filled: Tensor

    def __init__(self, config: PatchWordsConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim, self.vocab_size, self.num_frames = config.width, config.vocab_size, 1
        self.squares = nn.Parameter(torch.rand(config.vocab_size, config.width))
        self.register_buffer("filled", torch.tensor(False))

    def latents(self, pictures: Tensor) -> Tensor:
        return F.pixel_unshuffle(pictures, self.stride)

    def words(self, pictures: Tensor) -> Tensor:
        vectors = self.latents(pictures).movedim(1, -1)
        return nearest(vectors.flatten(0, 2), self.squares).view(vectors.shape[:3])

    def decode(self, tokens: Tensor) -> Tensor:
        return self._pictures(tokens).clamp(0, 1)

    def trial(self, pictures: Tensor, *, learn: bool) -> Trial:
        """Returns what pictures become; `learn` takes the words from the first batch."""
        rows = self.latents(pictures).movedim(1, -1).flatten(0, 2).detach()
        if learn and not self.filled:
            self._fill(gathered(rows.float()))
        words = self.words(pictures)
        return Trial(self._pictures(words), rows.new_zeros(()), words, rows)

    def _pictures(self, words: Tensor) -> Tensor:
        return F.pixel_shuffle(self.squares[words].movedim(-1, 1), self.stride)

    @torch.no_grad()
    def _fill(self, rows: Tensor) -> None:
        words = _spread(rows, self.vocab_size)
        for _ in range(_ROUNDS):
            chosen = nearest(rows, words)
            counts = torch.bincount(chosen, minlength=len(words))[:, None]
            sums = torch.zeros_like(words).index_add_(0, chosen, rows)
            words = torch.where(counts > 0, sums / counts.clamp(min=1), words)
        self.squares.copy_(same_everywhere(words))
        self.filled.fill_(True)


def nearest(rows: Tensor, words: Tensor) -> Tensor:
    """Returns the nearest word of each row, int64 (N,), for (N, d) and (K, d), compared in float32: the squared
    distances of neighbours differ by less than bfloat16 tells apart."""
    with torch.autocast(rows.device.type, enabled=False):
        rows, words = rows.float(), words.detach().float()
        return (words.square().sum(1) - 2 * rows @ words.T).argmin(1)


def _spread(rows: Tensor, count: int) -> Tensor:
    """k-means++: each further row is drawn with a chance that grows with its squared distance to those drawn."""
    picked = [rows[torch.randint(len(rows), (1,), device=rows.device)][0]]
    far = (rows - picked[0]).square().sum(1)
    for _ in range(count - 1):
        picked.append(rows[torch.multinomial(far + 1e-12, 1)][0])
        far = torch.minimum(far, (rows - picked[-1]).square().sum(1))
    return torch.stack(picked)
