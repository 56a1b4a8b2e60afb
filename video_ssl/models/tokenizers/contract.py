"""What every tokenizer is, whatever it is made of.

A tokenizer divides a picture of S x S pixels, S a multiple of `stride`, into cells of `stride` pixels and gives each
one of `vocab_size` words:

    tokens = tokenizer.encode(pictures)    pictures float (N, 3, S, S) in [0, 1]  ->  int64 (N, S / stride, S / stride)

It is frozen, in evaluation mode, and scales pixels as it needs them.  Source: papers/bevt.md section 11.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Tokenizer(nn.Module, ABC):
    """Base of all tokenizers.

    Attributes:
        vocab_size: how many words there are.
        stride: side of a cell in pixels.
    """

    vocab_size: int
    stride: int = 8

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Returns the words, int64 (N, S / stride, S / stride).

        Args:
            pictures: float (N, 3, S, S) in [0, 1].

        Raises:
            ValueError: a size that does not divide into cells.
        """
        h, w = pictures.shape[-2:]
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"pictures of {h} x {w} pixels do not divide into cells of {self.stride} pixels: give multiples."
            )
        return self.words(pictures)

    @abstractmethod
    def words(self, pictures: Tensor) -> Tensor:
        """Returns what `encode` does, of pictures whose size fits."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Returns pictures, float (N, 3, S, S) in [0, 1], for words int64 (N, S / stride, S / stride).

        Raises:
            NotImplementedError: a tokenizer that only encodes.
        """
        raise NotImplementedError(
            f"{type(self).__name__} only encodes: it cannot show what its words stand for."
        )
