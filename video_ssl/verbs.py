"""The verbs of `video-ssl` that take a recipe or a table, as functions: the keys and the code of the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from video_ssl.embed.command import embed as embed_features
from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate as evaluate_recipe
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.run import RunResult
from video_ssl.pretrain.start import run_recipe

#: A recipe, by name or as a file.
Recipe = str | os.PathLike[str]
#: Settings by dotted key, as on the command line.
Settings = Mapping[str, Any]


def pretrain(
    recipe: Recipe,
    settings: Settings | None = None,
    *,
    allow_changes: bool = False,
    **keys: Any,
) -> RunResult:
    """Returns what a run has left, trained to its end: from the start, or from where it was stopped.

    Args:
        recipe: "videomae/demo", or a file.
        settings: dotted key -> value, {"optimizer.base_lr": 1e-3}; `video-ssl recipes` and `video-ssl pretrain --help`
            list recipes and keys.
        allow_changes: resume although the recipe of the run has changed.
        keys: settings whose keys have no dots: run="runs/mine", or a section, data={"table": "/my/videos"}.

    Raises:
        ConfigError: a recipe or key that does not exist, or a value that does not fit; and as `start.run_recipe`.

    >>> pretrain("videomae/demo", {"optimizer.schedule": "cosin"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    video_ssl.recipe_text.ConfigError: optimizer: schedule='cosin': allowed are ['cosine', ... Did you mean 'cosine'?
    """
    loaded = load_pretrain_recipe(os.fspath(recipe), overrides_of(settings, keys))
    return run_recipe(loaded, allow_changes=allow_changes)


def evaluate(
    recipe: Recipe, settings: Settings | None = None, *, quiet: bool = False, **keys: Any
) -> dict[str, Any]:
    """Returns the results of an evaluation, as they are in its results.json, and prints a table.

    Args:
        recipe: "probe", "knn", ..., or a file.
        settings, keys: as `pretrain` takes them: encoder="runs/mine", train="train.csv", test="val.csv".
        quiet: print nothing.

    Raises:
        ConfigError: a recipe or key that does not exist, or a value that does not fit; and as `evaluate.run`.

    >>> found = evaluate(
    ...     "probe",
    ...     {"embed.num_workers": 0},
    ...     encoder="runs/mine",
    ...     train="train.csv",
    ...     test="val.csv",
    ...     out="evaluation",
    ...     quiet=True,
    ... )
    >>> list(found["encoders"]["encoder"]["results"])
    ['probe', 'knn']
    """
    return evaluate_recipe(
        load_evaluate_recipe(os.fspath(recipe), overrides_of(settings, keys)), quiet=quiet
    )


def embed(
    encoder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    restart: bool = False,
    shard: str | None = None,
    senses: str | Sequence[str] | None = None,
    **settings: Any,
) -> FeatureFile | None:
    """Returns the features of videos, written to `out`; None where only a shard of them was embedded.

    Args:
        encoder: a run, an encoder folder, untrained:RUN, pixels:RUN, flax:RUN.
        source: a video, folder, list, table or data set.
        out: ends in .arrow.
        device: auto, cpu, cuda.
        restart: throw away what is there, complete or not.
        shard: "k/n", only part k of n; then `video-ssl merge`.
        senses: "sound", "text" or both, embedded into the same file by the encoders of the same run; "all" that it has.
        settings: of `EmbedConfig`, the flags of `video-ssl embed`: per_frame=True, num_clips=4, ...

    Raises:
        EmbeddingError, OutputError, FeatureError: as `video_ssl.embed_table`.

    >>> features = embed("runs/mine", "videos", "all.arrow", num_clips=2, num_workers=0, device="cpu")
    >>> features.features.shape
    (6, 32)
    """
    return embed_features(
        encoder,
        source,
        out,
        device=device,
        restart=restart,
        shard=shard,
        senses=senses,
        **settings,
    )


def overrides_of(settings: Settings | None, keys: Settings) -> list[str]:
    """Returns settings as they are typed on a command line.

    >>> overrides_of({"optimizer.base_lr": 1e-3}, {"run": "runs/a b", "evaluate": None, "data": {"mix": {"b": 1}}})
    ['optimizer.base_lr=0.001', 'run=runs/a b', 'evaluate=null', 'data={"mix": {"b": 1}}']
    """
    return [f"{key}={_typed(value)}" for key, value in {**(settings or {}), **keys}.items()]


def _typed(value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return json.dumps(value, ensure_ascii=False, default=os.fspath)
