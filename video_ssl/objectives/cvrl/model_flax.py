"""CVRL's model: a 3-D ResNet, its global mean, and a projection head.

Source: papers/cvrl.md section 3.3.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.networks.maps_flax import clip_features
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.r3d_flax import R3D, ProjectionHead


class CvrlModel(nn.Module):
    """Encoder (parameters below "encoder", which is what leaves the training) and head (below "head").

    Attributes:
        encoder_config: of the network.
        hidden_dims, out_dim: of the head.
        dtype, remat: as in `R3D`.
    """

    encoder_config: R3DConfig
    hidden_dims: tuple[int, ...] = (2048, 2048, 2048)
    out_dim: int = 128
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, video: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Returns embeddings (N, out_dim), not normalised, and features (N, D), of normalised (N, T, H, W, 3).

        Both views of a batch go through together: batch norm is over all of them, as in the reference.
        """
        encoder = R3D(self.encoder_config, dtype=self.dtype, remat=self.remat, name="encoder")
        head = ProjectionHead(self.hidden_dims, self.out_dim, dtype=self.dtype, name="head")
        features = clip_features(encoder(video, train=train)[self.encoder_config.endpoint])
        return head(features, train=train), features
