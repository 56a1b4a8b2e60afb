"""The recipe of an evaluation: which encoders, which videos, which evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from video_ssl.datasets.paths import at_home
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.open_encoder import without_flax
from video_ssl.evaluate.evaluators import Evaluator, evaluator_class
from video_ssl.models.encoder_folder import find_encoder, named_step
from video_ssl.recipes import ConfigError, build_config, read_recipe, read_typed


@dataclass(frozen=True, kw_only=True)
class EvaluateRecipe:
    """Settings of an evaluation.

    Attributes:
        name: of the evaluation; names its folder.
        encoder: what `{encoder}` stands for in `encoders`: usually a run, or RUN@STEP while it trains.
        encoders: name in the report -> what `open_encoder` understands, or features:TRAIN,TEST: two
            feature files, which nothing is embedded for.  Evaluators of several senses take more of them:
            features:TRAIN,TEST,text=FILE,sound=FILE; TRAIN may be empty where nothing is learned.
        train: the table that evaluators learn from, as `open_table` understands it; null where none does.
        test: the table they are tested on.
        embed: how videos become features.
        evaluators: name in the table of evaluators -> its settings; null = its own; false leaves out one that a base
            names.
        out: folder for features and results; null: RUN/evaluate/NAME of the encoder's run, or
            runs/evaluate/NAME; NAME_flax for flax:RUN, NAME_ENCODER for
            RUN/encoders/ENCODER, NAME_step_N for RUN@N.
        seed: of everything random (held-out videos, order of training).
        device: auto, cpu, cuda.
        keep_predictions: the class that every test video is given stands in the results, so that encoders can be
            compared video by video.
    """

    name: str = "evaluation"
    encoder: str | None = None
    encoders: dict[str, str] = field(default_factory=lambda: {"encoder": "{encoder}"})
    train: str | None = "demo:train"
    test: str = "demo:val"
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    evaluators: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"probe": None})
    out: str | None = None
    seed: int = 0
    device: str = "auto"
    keep_predictions: bool = False

    def __post_init__(self) -> None:
        if not self.encoders or not self.evaluators:
            raise ValueError("encoders and evaluators must both name at least one.")
        if self.train == self.test:
            raise ValueError(
                f"train and test are both {self.train!r}: the result would mean nothing. Name a "
                "table of other videos as test."
            )
        learning = [name for name, own in self.make_evaluators().items() if own.needs.train]
        if self.train is None and learning:
            raise ValueError(
                f"train is null, but evaluators.{learning[0]} learns from it: name a table."
            )

    def make_evaluators(self) -> dict[str, Evaluator]:
        """Returns the evaluators, made from their settings.

        Raises:
            ConfigError: unknown evaluator or setting; the nearest is named.
        """
        made: dict[str, Evaluator] = {}
        for name, settings in self.evaluators.items():
            cls = evaluator_class(name)
            made[name] = cls(build_config(cls.Config, settings, f"evaluators.{name}"))
        return made

    def encoder_specs(self) -> dict[str, str]:
        """Returns name -> specification, `{encoder}` replaced.

        Raises:
            ValueError: `encoder` is needed but not set.
        """
        waiting = [name for name, spec in self.encoders.items() if "{encoder}" in spec]
        if self.encoder is None and waiting:
            more = ""
            if len(waiting) < len(self.encoders):
                more = f" Or leave out its rows: {' '.join(f'encoders.{name}=null' for name in waiting)}."
            raise ValueError(
                f"the evaluation {self.name!r} needs an encoder: add encoder=RUN, the folder of a "
                f"pretraining run or of an encoder.{more}"
            )
        given = self._encoder_by_folder()
        return {name: spec.replace("{encoder}", given) for name, spec in self.encoders.items()}

    def _encoder_by_folder(self) -> str:
        """`encoder`, and instead of RUN@STEP the folder of that encoder: behind `untrained:` it would be a seed."""
        given = self.encoder or ""
        plain = without_flax(given)
        if named_step(plain) is None:
            return given
        return given.removesuffix(plain) + str(find_encoder(plain))

    def folder(self) -> Path:
        """Returns where features and results go."""
        if self.out is not None:
            return Path(at_home(self.out))
        given = self.encoder or ""
        plain = at_home(without_flax(given))
        name = self.name if plain == at_home(given) else f"{self.name}_flax"
        asked = named_step(plain)
        if asked is not None:
            return asked[0] / "evaluate" / f"{name}_step_{asked[1]}"
        run = Path(plain) if plain and Path(plain).is_dir() else None
        if run is not None and (run / "encoder" / "config.json").is_file():
            return run / "evaluate" / name
        if run is not None and run.name == "encoder":
            return run.parent / "evaluate" / name
        if run is not None and run.parent.name in ("encoders", "exports"):
            return run.parent.parent / "evaluate" / f"{name}_{run.name}"
        return Path("runs") / "evaluate" / name


def load_evaluate_recipe(name: str | Path, overrides: Sequence[str] = ()) -> EvaluateRecipe:
    """Returns the recipe of a file, or of a name of the room `evaluate`, with overrides."""
    content = read_recipe(name, overrides, room="evaluate", as_typed=True)
    chosen = content.get("evaluators")
    if isinstance(chosen, Mapping):
        content["evaluators"] = {
            key: read_typed(evaluator_class(key).Config, settings, f"evaluators.{key}")
            if isinstance(settings, Mapping)
            else settings
            for key, settings in chosen.items()
            if settings not in (False, "false", "False")  # the words are those of an override
        }
    return build_config(EvaluateRecipe, content)


def read_evaluations(names: Sequence[str], encoder: str) -> list[EvaluateRecipe]:
    """Returns the recipes of the evaluations that go with a run, for its encoder.

    Raises:
        ConfigError: as `load_evaluate_recipe`; or a later one would replace the results of an earlier one.
    """
    recipes = [replace(load_evaluate_recipe(name), encoder=encoder) for name in names]
    taken: dict[str, str] = {}
    for name, recipe in zip(names, recipes, strict=True):
        place = recipe.out or recipe.name
        if place in taken:
            raise ConfigError(
                f"evaluate: {taken[place]} and {name} would both write their results to {place!r}: give one of them "
                "another `name:`."
            )
        taken[place] = name
    return recipes
