"""ConST-CL's model: a 3-D ResNet with two last groups of blocks, a head for clips and one for their regions.

Source: papers/const_cl.md section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from video_ssl.models.networks.maps_flax import clip_features
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.r3d_flax import DENSE_INIT, R3D, ProjectionHead, l2_normalize
from video_ssl.models.networks.region_config import memory_frames
from video_ssl.models.networks.regions_flax import PositionChannels, RegionDecoder, roi_mean
from video_ssl.objectives.const_cl.config import LocalHeadConfig
from video_ssl.objectives.const_cl.loss_flax import Regions


class ConstClOutput(NamedTuple):
    """What becomes of both clips of B videos.

    Attributes:
        z: embeddings (2B, out_dim), not normalised, first clips first.
        features: float32 (2B, D), what they are made of.
        regions: see `Regions`.
    """

    z: Array
    features: Array
    regions: Regions


class InstanceReconstructor(nn.Module):
    """Foretells the regions of one clip from its regions and the other clip.

    Attributes:
        config: of the head.
        dtype: of the decoder's products.
    """

    config: LocalHeadConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array, boxes: Array, mask: Array) -> Regions:
        """Returns the regions.

        Args:
            features: (2B, T', h, w, D), first clips first.
            boxes: of the middle frames, (2B, N, 4).
            mask: bool (2B, N).
        """
        config, moments = self.config, features.shape[1]
        features = l2_normalize(features)
        pooled = roi_mean(features[:, moments // 2], boxes, config.crop_size)
        frames = jnp.array(memory_frames(moments, config.context_level))
        memory = PositionChannels(name="positions")(features[:, frames])
        memory = memory.reshape(len(memory), -1, memory.shape[-1])
        others = jnp.concatenate(jnp.split(memory, 2)[::-1])
        decoded, _ = RegionDecoder(config.decoder, self.dtype, name="decoder")(pooled, others)
        width = features.shape[-1]
        project = nn.Dense(width, dtype=self.dtype, kernel_init=DENSE_INIT, name="project")
        a, b = jnp.split(pooled, 2)
        a2b, b2a = jnp.split(project(decoded), 2)
        mask_a, mask_b = jnp.split(mask, 2)
        return Regions(a, b, a2b, b2a, mask_a, mask_b)


class ConstClModel(nn.Module):
    """Both branches (parameters below "encoder") and both heads ("head", as in `CvrlModel`, and "local_head").

    Attributes:
        encoder_config: of the network, with its second branch.
        local: of the head of regions.
        hidden_dims, out_dim: of the head of clips.
        dtype, remat: as in `R3D`.
    """

    encoder_config: R3DConfig
    local: LocalHeadConfig
    hidden_dims: tuple[int, ...] = (2048, 2048, 2048)
    out_dim: int = 128
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, video: Array, boxes: Array, mask: Array, *, train: bool = False
    ) -> ConstClOutput:
        """Returns what becomes of normalised clips (2B, T, H, W, 3), first clips first.

        Both go through together: batch norm is over all of them, and over all devices.

        Args:
            video: the clips.
            boxes, mask: regions of their middle frames, (2B, N, 4) and bool (2B, N).
        """
        encoder = R3D(self.encoder_config, dtype=self.dtype, remat=self.remat, name="encoder")
        maps = encoder(video, train=train)
        features = clip_features(maps["5"])
        head = ProjectionHead(
            self.hidden_dims,
            self.out_dim,
            hidden_bias=False,
            norm_momentum=0.9,
            dtype=self.dtype,
            name="head",
        )
        reconstruct = InstanceReconstructor(self.local, self.dtype, name="local_head")
        regions = reconstruct(maps["5_1"], boxes, mask)
        return ConstClOutput(head(features, train=train), features, regions)
