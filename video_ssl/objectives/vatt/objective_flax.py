"""VATT as the loop of flax takes it; see `FlaxObjective`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from video_ssl.datasets.paths import at_home
from video_ssl.models.color_changes_flax import augmented_input
from video_ssl.models.contract import CLIP, COMMON_SOUND, COMMON_TEXT
from video_ssl.models.encoders_flax import build_flax_module, init_variables
from video_ssl.models.networks.vatt_flax import Outputs
from video_ssl.models.preprocess_config import Preprocess
from video_ssl.objectives.shared.flax_objective import (
    FlaxObjective,
    StepOutput,
    TrainedEncoder,
    Tree,
    part_of,
)
from video_ssl.objectives.vatt.config import Config
from video_ssl.objectives.vatt.loss_flax import found_share, pair_losses, total_loss
from video_ssl.objectives.vatt.model_flax import VattModel, drawn_tokens
from video_ssl.objectives.vatt.word_vectors import read_word_vectors

logger = logging.getLogger(__name__)


class Objective(FlaxObjective):
    """The contrastive losses of video with sound and of video with captions.

    Args:
        config: see there; its vocabulary is known.
        stages: none is needed.
        dtype: of activations.
        remat: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        config: Config,
        *,
        stages: Mapping[str, Path] | None = None,
        dtype: Any = jnp.float32,
        remat: bool = False,
    ) -> None:
        self.config = config
        self.configs = (config.video_encoder, config.audio_encoder, config.text_encoder)
        self.model = VattModel(
            self.configs, is_shared=config.shared is not None, dtype=dtype, remat=remat
        )

    def init(self, seed: int) -> dict[str, Any]:
        video, sound = (build_flax_module(config) for config in self.configs[:2])
        words = jnp.zeros((1, 1, self.config.num_words), jnp.int32)
        inputs = (video.smallest_input(), sound.smallest_input(), words)
        variables = init_variables(self.model, seed, inputs)
        return variables if self.config.word_vectors is None else self._with_vectors(variables)

    def _with_vectors(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The same with the vectors of words from their file."""
        text = self.configs[2]
        assert self.config.word_vectors is not None
        file = at_home(self.config.word_vectors)
        table = jnp.asarray(read_word_vectors(file, (text.places, text.word_dim)))
        kind, name = ("frozen", "frozen_table") if text.freeze_words else ("params", "table")
        own = {**variables[kind]["text"], "words": {name: table}}
        return {**variables, kind: {**variables[kind], "text": own}}

    def forward(
        self, variables: Tree, batch: Mapping[str, Array], key: Array
    ) -> tuple[StepOutput, Tree]:
        config, count = self.config, len(batch["video"])
        if count % config.loss.replicas:
            raise ValueError(
                f"objective.loss.replicas={config.loss.replicas} does not divide the {count} videos of the batch: set "
                "another number, or 1."
            )
        if count == 1:
            logger.warning(
                "a batch of one video has no others to be told from: nothing is learned. Set "
                "training.global_batch_size to 2 or more."
            )
        if config.zero_nan_gradients:
            variables = {**variables, "params": without_nan_gradients(variables["params"])}
        dropout, tokens = jax.random.split(key)
        out, changed = self.model.apply(
            variables,
            self._seen(batch),
            batch["sound"],
            batch["words"],
            **self._kept(tokens),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout},
        )
        loss, figures = self._losses(out, batch)
        features = out["video"][CLIP].astype(jnp.float32)
        return StepOutput(loss, figures, features), changed

    def _seen(self, batch: Mapping[str, Array]) -> Array:
        """The clips, normalised, with their colors changed."""
        config, color = self.config, batch.get("color")
        rows = None if color is None else color[:, None]
        return augmented_input(batch["video"][:, None], rows, config.normalization, config.color)[
            :, 0
        ]

    def _kept(self, key: Array) -> dict[str, Array | None]:
        """The tokens of video and of sound that this step sees."""
        there, kept = self.config.num_tokens(), self.config.num_kept()
        keys = dict(zip(there, jax.random.split(key), strict=True))
        return {
            f"keep_{name}": drawn_tokens(
                keys[name],
                num_tokens=there[name],
                num_kept=kept[name],
                replicas=self.config.loss.replicas,
            )
            for name in there
        }

    def _losses(
        self, out: Mapping[str, Outputs], batch: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and what to log beside it."""
        config, video = self.config, out["video"]
        sounds = out["sound"][COMMON_SOUND][:, None]
        texts = out["text"][COMMON_TEXT].reshape(*batch["words"].shape[:2], -1)
        heard, read = batch["has_sound"].astype(bool), batch["has_words"].astype(bool)
        spaces = {
            "sound": (video[COMMON_SOUND], sounds, heard),
            "text": (video[COMMON_TEXT], texts, read),
        }
        captions = None if config.loss.padded_captions else (batch["words"] != 0).any(-1)
        losses = {
            "sound": pair_losses(*spaces["sound"], config.loss).mean(),
            "text": pair_losses(*spaces["text"], config.loss, captions).mean(),
        }
        figures = {
            **{f"video_{name}": value for name, value in losses.items()},
            **{f"found_{name}": found_share(*pair) for name, pair in spaces.items()},
            "has_sound": heard.mean(dtype=jnp.float32),
            "has_words": read.mean(dtype=jnp.float32),
        }
        return total_loss(losses["sound"], losses["text"], config.loss), figures

    def encoders(self) -> dict[str, TrainedEncoder]:
        """Those of video, sound and words; where they have one transformer each of them has it."""
        config = self.config
        expects: tuple[Preprocess, ...] = (
            config.video_preprocess,
            config.sound_preprocess,
            config.text_preprocess,
        )
        return {
            name: TrainedEncoder(
                build_flax_module(own),
                part_of(name) if config.shared is None else _WithShared(name),
                preprocess,
            )
            for name, own, preprocess in zip(
                ("video", "sound", "text"), self.configs, expects, strict=True
            )
        }


class _WithShared:
    """Picks the variables of an encoder, and the transformer that all have, out of those of the model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, variables: Tree) -> dict[str, Any]:
        found = part_of(self.name)(variables)
        transformer = variables["params"]["transformer"]
        return {**found, "params": {**found["params"], "transformer": transformer}}


@jax.custom_vjp
def without_nan_gradients(params: Any) -> Any:
    """Returns the parameters as they are; entries of their gradients that are NaN become 0."""
    return params


def _forward(params: Any) -> tuple[Any, None]:
    return params, None


def _backward(_: None, gradients: Any) -> tuple[Any]:
    return (jax.tree.map(lambda x: jnp.where(jnp.isnan(x), 0, x), gradients),)


without_nan_gradients.defvjp(_forward, _backward)
