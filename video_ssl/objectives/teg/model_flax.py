"""TeG's model: a 3-D ResNet, its dense temporal features, and heads for moments and for the whole clip.

Source: papers/teg.md section 3; all but the family of the network is our specification.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.networks.maps_flax import temporal_features
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.r3d_flax import R3D, ProjectionHead
from video_ssl.objectives.teg.loss_config import TegHeadsConfig


class TegOutput(NamedTuple):
    """What becomes of N clips; embeddings are not normalised.

    Attributes:
        z: dense embeddings (N, T', out_dim).
        g: embeddings of the whole (N, out_dim).
        features: dense features (N, T', D), float32.
    """

    z: Array
    g: Array
    features: Array


class TegModel(nn.Module):
    """Encoder (parameters below "encoder", which is what leaves the training) and heads.

    Encoder and "head", that of the whole clip, have the names that they have in `CvrlModel`, and so the same weights at
    the start; "fine_head" is that of the moments.

    Attributes:
        encoder_config: of the network.
        heads: see `TegHeadsConfig`.
        dtype, remat: as in `R3D`.
    """

    encoder_config: R3DConfig
    heads: TegHeadsConfig
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        self.encoder = R3D(self.encoder_config, dtype=self.dtype, remat=self.remat)
        self.fine_head = self._head()
        if not (self.heads.share_heads or self.heads.global_from_dense):
            self.head = self._head()

    def __call__(self, video: Array, *, train: bool = False) -> TegOutput:
        """Returns the embeddings of normalised clips (N, T, H, W, 3); clips of one length, of either kind."""
        maps = self.encoder(video, train=train)
        dense = temporal_features(maps[self.encoder_config.endpoint])
        z = self.fine_head(dense, train=train)
        if self.heads.global_from_dense:
            g = z.mean(1)
        else:
            head = self.fine_head if self.heads.share_heads else self.head
            g = head(dense.mean(1), train=train)
        return TegOutput(z, g, dense)

    def both(
        self, short: Array, long: Array, *, train: bool = False
    ) -> tuple[TegOutput, TegOutput]:
        """Returns the outputs of short and long clips, (B, T, H, W, 3) each.

        Clips of one shape go through together, short ones first, so that batch statistics mix both; others one after
        the other.
        """
        if short.shape != long.shape:
            return self(short, train=train), self(long, train=train)
        out = self(jnp.concatenate([short, long]), train=train)
        halves = [
            jnp.split(x, 2) for x in out
        ]  # as CVRL does: gradients are added in the same order
        return TegOutput(*(half[0] for half in halves)), TegOutput(*(half[1] for half in halves))

    def _head(self) -> ProjectionHead:
        return ProjectionHead(self.heads.hidden_dims, self.heads.out_dim, dtype=self.dtype)
