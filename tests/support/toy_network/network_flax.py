"""The toy in flax."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from toy_network.config import ToyConfig


class Toy(nn.Module):
    config: ToyConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Array, *, train: bool = False) -> Array:
        b, t, h, w, c = video.shape
        small = video.reshape(b, t, 2, h // 2, 2, w // 2, c).mean((3, 5))
        return nn.Dense(self.config.width, dtype=self.dtype, name="linear")(small)

    def feature_map(self, video: Array, *, train: bool = False) -> Array:
        return self(video, train=train)

    @staticmethod
    def smallest_input() -> Array:
        return jnp.zeros((1, 1, 2, 2, 3))
