"""VATT's model: an encoder for each modality, or one transformer for all, and their heads.

Source: papers/vatt.md section 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.networks.vatt_flax import (
    Outputs,
    VattAudio,
    VattText,
    VattVideo,
    VattWords,
    transformer_of,
)

Configs = tuple[VattVideoConfig, VattAudioConfig, VattTextConfig | VattWordsConfig]


class VattModel(nn.Module):
    """The encoders under "video", "sound" and "text", and a shared transformer under "transformer".

    Attributes:
        configs: of the encoders of video, sound and words.
        is_shared: they have one transformer.
        dtype: of the products.
        remat: recompute the blocks in the backward pass.
    """

    configs: Configs
    is_shared: bool = False
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        video: Array,
        sound: Array,
        words: Array,
        *,
        keep_video: Array | None = None,
        keep_sound: Array | None = None,
        train: bool = False,
    ) -> dict[str, Outputs]:
        """Returns the outputs of each encoder; those of words have a row for each caption, by video.

        Args:
            video: (B, T, S, S, 3), normalised.
            sound: (B, N).
            words: int (B, L, W).
            keep_video, keep_sound: int (R, K), the tokens that stay, see `kept_rows`; None = all.
            train: with dropout, and batch norms of the batch.
        """
        for_video, for_sound, for_text = self.configs
        options: dict[str, Any] = {"dtype": self.dtype, "remat": self.remat}
        if self.is_shared:
            options["shared"] = transformer_of(for_video, dtype=self.dtype, remat=self.remat)
        text = VattWords if isinstance(for_text, VattWordsConfig) else VattText
        see = VattVideo(for_video, name="video", **options)
        hear = VattAudio(for_sound, name="sound", **options)
        read = text(for_text, name="text", **options)
        return {
            "video": see(video, train=train, keep=keep_video),
            "sound": hear(sound, train=train, keep=keep_sound),
            "text": read(words.reshape(-1, words.shape[-1]), train=train),
        }


def drawn_tokens(key: Array, *, num_tokens: int, num_kept: int, replicas: int) -> Array | None:
    """Returns int32 (replicas, num_kept): the first of a permutation of the tokens of each replica, in its order; None
    where all stay.  All samples of a replica have the same.

    Source: papers/vatt.md section 3, "DropToken".
    """
    if num_kept == num_tokens:
        return None
    keys = jax.random.split(key, replicas)
    return jax.vmap(lambda k: jax.random.permutation(k, num_tokens)[:num_kept])(keys)
