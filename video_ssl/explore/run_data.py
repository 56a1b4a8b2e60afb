"""What the report of a run is made of, read from its folder; anything may be missing."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_ssl.datasets import open_table
from video_ssl.datasets.opening import means_recipe, resolve_recipe
from video_ssl.datasets.table import Table, TableError
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.explore.whereabouts import whereabouts
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run_folder import ENVIRONMENT, FINISHED, METRICS, RECIPE
from video_ssl.recipes import ConfigError, load_yaml

logger = logging.getLogger(__name__)


class RunNotFound(ValueError):
    """A folder that is not that of a run; the text says what was expected."""


@dataclass(kw_only=True)
class RunData:
    """A run: what its files say, None or empty where they are missing.

    Attributes:
        root: the folder that its videos lie in now, where they were moved.
        recipe: resolved, as plain dictionaries.
        metrics: rows of metrics.jsonl; `stages`: those of the runs that came before it.
        finished, encoder: contents of finished.json and encoder/config.json.
        other_encoders: contents of the config.json of further encoders, by folder: "encoders/NAME".
        starts: of environment.json.
        evaluations: contents of evaluate/*/results.json, each with its `folder`.
        skipped: (where, entry) of training and evaluations.
    """

    folder: Path
    root: Path | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    encoder: dict[str, Any] | None = None
    other_encoders: dict[str, dict[str, Any]] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def objective(self) -> str | None:
        found = self.setting("objective.name")
        return None if found is None else str(found)

    @property
    def state(self) -> tuple[str, str]:
        """In words, and the kind: done or open."""
        if self.finished is not None:
            return "finished", "done"
        if self.metrics:
            return f"unfinished, at {100 * self.metrics[-1].get('progress', 0):.0f} %", "open"
        return "just begun", "open"

    def setting(self, key: str) -> Any:
        """Returns a setting of the recipe by its dotted name, None where it is missing."""
        value: Any = self.recipe
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @functools.cached_property
    def recipe_object(self) -> PretrainRecipe | None:
        """The recipe with its objective, None where this version does not understand it.

        Its run is this folder, which may have been moved or copied since it was written down.
        """
        try:
            found = recipe_from_dict(self.recipe) if self.recipe else None
            return None if found is None else found.replace(run=str(self.folder))
        except ConfigError as err:
            logger.warning("the recipe of %s is of another version: %s", self.folder, err)
            return None

    def table(self, spec: str) -> Table | None:
        """Returns the table of a text as `open_table` takes it, if its videos are here; nothing is made or fetched."""
        bases = [Path.cwd(), *(Path(start["folder"]) for start in self.starts if "folder" in start)]
        moved = whereabouts(os.path.abspath(spec), root=self.root) if self.root else None
        if moved is not None:
            return _try_table(moved)
        name, _, split = spec.rpartition(":")
        for base in () if means_recipe(name) else bases:
            for candidate in (base / spec, base / name if name else base / spec):
                if candidate.exists():
                    text = str(candidate) if candidate == base / spec else f"{candidate}:{split}"
                    return _try_table(text)
        if not name or any(part in name for part in ("/", "://")):
            return None
        try:
            root = resolve_recipe(name)[1]
        except (TableError, ConfigError):
            return None
        for base in bases:
            own = (
                root if not root.is_relative_to(Path.cwd()) else base / root.relative_to(Path.cwd())
            )
            if (own / f"{split}.arrow").is_file():
                return _try_table(str(own / f"{split}.arrow"))
        return None

    def features(self, results: dict[str, Any], encoder: str, split: str) -> FeatureFile | None:
        """Returns the features that an evaluation has left, None where they are gone."""
        try:
            path = results["encoders"][encoder]["features"][split]
            return open_features(results["folder"] / path, root=self.root)
        except (KeyError, FeatureError) as err:
            logger.info("no features of %s %s: %s", encoder, split, err)
            return None

    def class_names(self, results: Any) -> Sequence[str]:
        """Returns the names of the classes of an evaluation, empty where they are unknown."""
        for encoder in results["encoders"]:
            for split in ("test", "train"):
                found = self.features(results, encoder, split)
                if found is not None and found.metadata.get("class_names"):
                    return list(found.metadata["class_names"])
        return ()

    def videos(self, features: FeatureFile, spec: str) -> Table | None:
        """Returns the table that features were made of, if it is still here."""
        path = features.metadata.get("table", {}).get("path")
        if path and Path(path).is_file():
            return _try_table(path)
        return self.table(spec)


def read_run(folder: Path, *, root: Path | None = None) -> RunData:
    """Returns what is known of a run.

    Args:
        root: the folder that its videos lie in now, where they were moved.

    Raises:
        RunNotFound: no folder, or one without any file of a run; no folder `root`.
    """
    if root is not None and not root.is_dir():
        raise RunNotFound(f"no folder {root}: root is the folder that the videos lie in now.")
    if not folder.is_dir():
        raise RunNotFound(
            f"no run {folder}: give the folder of a run, as `video-ssl pretrain` makes it."
        )
    if not any((folder / name).exists() for name in (RECIPE, METRICS, ENVIRONMENT)):
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise RunNotFound(
            f"{folder} is not the folder of a run: {RECIPE}, {METRICS} and {ENVIRONMENT} are missing; there is {there}."
        )
    data = RunData(folder=folder, root=root)
    if (folder / RECIPE).is_file():
        data.recipe = _yaml(folder / RECIPE)
    data.metrics = read_metrics(folder / METRICS)
    data.finished = _json(folder / FINISHED)
    data.encoder = _json(folder / "encoder" / "config.json")
    for path in sorted(folder.glob("encoders/*/config.json")):
        data.other_encoders[path.parent.relative_to(folder).as_posix()] = _json(path) or {}
    data.starts = (_json(folder / ENVIRONMENT) or {}).get("starts", [])
    for stage in sorted(p for p in folder.glob("stages/*") if p.is_dir()):
        data.stages[stage.name] = read_metrics(stage / METRICS)
    for path in sorted(folder.glob("evaluate/*/results.json")):
        content = _json(path)
        if content and content.get("encoders"):
            data.evaluations.append({**content, "folder": path.parent})
    data.skipped = [("training", row) for row in read_metrics(folder / "skipped.jsonl")]
    for results in data.evaluations:
        for split, entries in next(iter(results["encoders"].values())).get("skipped", {}).items():
            data.skipped += [(f"{results['name']}, {split}", entry) for entry in entries]
    return data


def class_name(names: Sequence[str], label: int | None, before: str = "") -> str:
    """Returns the name of a class, or `class 3`; empty for a video without a label."""
    if label is None or label < 0:
        return ""
    return before + (names[label] if label < len(names) else f"class {label}")


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        logger.warning("%s is not JSON: %s", path, err)
        return None
    return content if isinstance(content, dict) else None


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return {str(key): value for key, value in load_yaml(path).items()}
    except (ConfigError, OSError) as err:
        logger.warning("%s", err)
        return {}


def _try_table(text: str) -> Table | None:
    try:
        return open_table(text)
    except (TableError, ConfigError) as err:
        logger.info("%s", err)
        return None
