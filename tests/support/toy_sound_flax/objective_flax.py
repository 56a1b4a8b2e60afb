"""The toy in flax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from toy_network.network_flax import Toy
from toy_sound.config import Config

from video_ssl.models.encoders_flax import normalize_pixels
from video_ssl.models.networks.maps_flax import clip_features
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.flax_objective import (
    FlaxObjective,
    StepOutput,
    TrainedEncoder,
    part_of,
)


class Model(nn.Module):
    config: Config
    dtype: Any

    @nn.compact
    def __call__(self, video: Array, sound: Array, pictures: Array) -> tuple[Array, Array, Array]:
        network, dtype = self.config.encoder, self.dtype
        seen = clip_features(Toy(network, dtype, name="clips")(video))
        heard = nn.Dense(network.width, dtype=dtype, name="ear")(sound)
        looked = clip_features(Toy(network, dtype, name="stills")(pictures))
        return seen, heard, nn.Dense(1, dtype=dtype, name="brightness")(looked)[:, 0]


class Objective(FlaxObjective):
    def __init__(
        self,
        config: Config,
        *,
        stages: Mapping[str, Path] | None = None,
        dtype: Any = jnp.float32,
        remat: bool = False,
    ) -> None:
        self.config, self.model = config, Model(config, dtype)

    def init(self, seed: int) -> dict[str, Any]:
        size = self.config.size
        video = jnp.zeros((1, 1, size, size, 3))
        sound = jnp.zeros((1, self.config.num_samples))
        return dict(jax.jit(self.model.init)(jax.random.key(seed), video, sound, video))

    def forward(
        self, variables: Mapping[str, Any], batch: Mapping[str, Array], key: Array
    ) -> tuple[StepOutput, Mapping[str, Any]]:
        expects = self.encoders()["clips"].preprocess
        pictures = normalize_pixels(batch["stills/picture"][:, None], expects)
        seen, heard, told = self.model.apply(
            variables, normalize_pixels(batch["video"], expects), batch["sound"], pictures
        )
        unit = [x / jnp.sqrt(jnp.square(x).sum(1, keepdims=True) + 1e-12) for x in (seen, heard)]
        chances = jax.nn.log_softmax(unit[0] @ unit[1].T / 0.1)
        pairs = -jnp.diagonal(chances).mean()
        stills = jnp.square(told - pictures.mean((1, 2, 3, 4))).mean()
        figures = {"pairs": pairs, "stills": stills}
        return StepOutput(pairs + stills, figures, seen), {}

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config

        def expects(num_frames: int) -> VideoPreprocess:
            return VideoPreprocess(num_frames=num_frames, frame_stride=1, size=config.size)

        network = Toy(config.encoder)
        return {
            "clips": TrainedEncoder(network, part_of("clips"), expects(config.num_frames)),
            "stills": TrainedEncoder(network, part_of("stills"), expects(1)),
        }
