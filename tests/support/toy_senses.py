"""Two small networks that see no video: one of sound, one of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from video_ssl.models import Network
from video_ssl.models.torch_encoder import TorchEncoder


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    architecture: Literal["toy_sound"] = "toy_sound"
    width: int = 4
    patch: int = 8


class Sound(TorchEncoder, nn.Module):
    """A vector for every `patch` samples, which are its moments and its tokens."""

    modality = "sound"
    output_names = ("clip", "moments", "tokens")

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.linear = nn.Linear(config.patch, config.width)

    def outputs(self, inputs, names, *, cells=1, layer=None, pooling="mean") -> dict[str, Tensor]:
        self.check_outputs(names, layer=layer, pooling=pooling)
        tokens = self.linear(inputs.unflatten(1, (-1, self.config.patch)))
        found = {"clip": tokens.mean(1), "moments": tokens, "tokens": tokens}
        return {name: found[name] for name in names}

    def token_grid(self, shape, *, layer=None) -> tuple[int, int, int]:
        return shape[0] // self.config.patch, 1, 1

    def frame_positions(self, num_frames: int) -> np.ndarray:
        patch = self.config.patch
        return np.arange(num_frames // patch) * patch + (patch - 1) / 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    architecture: Literal["toy_text"] = "toy_text"
    num_words: int = 5
    width: int = 4


class Text(TorchEncoder, nn.Module):
    """A vector for every word."""

    modality = "text"

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.words = nn.Embedding(config.num_words, config.width)

    def outputs(self, inputs, names, *, cells=1, layer=None, pooling="mean") -> dict[str, Tensor]:
        self.check_outputs(names, layer=layer, pooling=pooling)
        moments = self.words(inputs)
        found = {"clip": moments.mean(1), "moments": moments}
        return {name: found[name] for name in names}

    def frame_positions(self, num_frames: int) -> np.ndarray:
        return np.arange(num_frames, dtype=np.float64)


NETWORKS = {
    "toy_sound": Network(
        config="toy_senses:SoundConfig", torch="toy_senses:Sound", modality="sound"
    ),
    "toy_text": Network(config="toy_senses:TextConfig", torch="toy_senses:Text", modality="text"),
}
