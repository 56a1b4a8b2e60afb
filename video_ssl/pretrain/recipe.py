"""What a pre-training run is: objective, data, loader, training and optimizer in one frozen recipe.  Free of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from video_ssl.clips.balance import BalanceConfig
from video_ssl.clips.pipeline import LoaderConfig
from video_ssl.datasets.paths import at_home
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.sources import EncoderSource, Source
from video_ssl.pretrain.durations import parse_duration
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.trackers import TRACKERS
from video_ssl.recipes import (
    ConfigError,
    build_config,
    list_recipes,
    nearest,
    read_recipe,
    read_typed,
    to_plain,
)

#: Largest `training.scale`: what is longer is most likely a mistake in the unit.
MAX_SCALE = 1000.0


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Where the records of a further stream come from, and how many of them a step takes.

    Attributes:
        table, mix: as in `DataConfig`; null = those of the main stream.  The tables are gone through again and again;
            they say nothing about epochs.
        records: of one optimizer step, over all processes and accumulated micro-batches.
    """

    table: str | None = None
    mix: dict[str, float] = field(default_factory=dict)
    records: int

    def __post_init__(self) -> None:
        _refuse_weights(self.mix)
        if self.table is None and self.mix:
            raise ValueError(
                f"mix={self.mix} without a table: null takes data.table with data.mix, so name a table beside a mix."
            )
        if self.records < 1:
            raise ValueError(f"records={self.records} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which records are trained on.  One epoch is as many records as `table` and `mix` hold together.

    Attributes:
        table: a table, folder, list or data set, as `video_ssl.datasets.open_table` takes it: `demo:train`.
        mix: further tables and their weights; the weight of `table` is 1.  Records are drawn in these proportions.
        balance: every process gets groups of several videos of several classes, drawn at random (an epoch is then only
            a number of records); empty = records one after the other in shuffled order, labels not looked at.
        streams: name -> where an objective's further streams come from; exactly those that the objective asks for.
    """

    table: str
    mix: dict[str, float] = field(default_factory=dict)
    balance: BalanceConfig | None = None
    streams: dict[str, StreamConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_weights(self.mix)
        if self.balance is not None and self.mix:
            raise ValueError(
                f"balance draws from one table, but mix names {list(self.mix)} too: put them into one table."
            )

    def tables_of(self, stream: str | None = None) -> dict[str, float]:
        """Returns table -> weight, of a further stream or of the main one."""
        own = None if stream is None else self.streams[stream]
        if own is None or own.table is None:
            return {self.table: 1.0, **self.mix}
        return {own.table: 1.0, **own.mix}


def _refuse_weights(mix: Mapping[str, float]) -> None:
    wrong = {name: weight for name, weight in mix.items() if not weight > 0}
    if wrong:
        raise ValueError(
            f"mix={wrong}: weights must be positive. Remove a table by removing its line."
        )


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """A moving average of the trained weights, exported in their place.

        average = d * average + (1 - d) * weights,  after every optimizer step

    Attributes:
        decay: d at the start.
        final_decay: d at the end, reached along half a cosine; empty = constant.
    """

    decay: float = 0.999
    final_decay: float | None = None

    def __post_init__(self) -> None:
        for value in (self.decay, self.final_decay):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"decay={value} must lie in [0, 1].")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is looked at of an encoder during its training: a small labelled table.  The training is the same without.

    Attributes:
        table: the videos, with labels; a few hundred, whose clips are kept in memory.
        every: duration between two probes, as `training.duration`; there is always one at the end.
        num_clips: clips of a video, spread evenly over it, whose features are averaged.
        k: neighbours that vote.
        max_videos: of a larger table so many are taken, spread evenly over its rows.
        batch_size: clips that go through the network together.
    """

    table: str
    every: str | int = "1 epoch"
    num_clips: int = 1
    k: int = 5
    max_videos: int = 300
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("num_clips", "k", "max_videos", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if parse_duration(self.every).amount <= 0:
            raise ValueError(f"every={self.every!r} must be longer than nothing.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how much at once, on what, and what is written on the way.

    Durations (`duration`, `checkpoint_every`, `keep_every`) are `400 epochs`, `2000 steps`, `5M examples` or steps.

    Attributes:
        duration: length of the training; the learning rate is laid out over it.
        scale: factor of every length: of duration, optimizer.warmup, checkpoint_every, keep_every, log_every,
            probe.every and validation.every, and of those of every stage.  0.01 is a trial of the whole chain in a
            hundredth of the time.
        global_batch_size: records of one optimizer step, over all processes and accumulated micro-batches.
        shrink_batch: where the data hold fewer records than that, halve it until they do not; the learning rate follows
            by the rule of `optimizer.lr_scaling`.  False = such a batch holds records twice.
        accumulation: micro-batches into which each process divides its part of the batch to save memory.
        precision: "bf16" runs the products of the forward pass in bfloat16; weights and losses stay float32.
        compile: compile the objective with torch.compile.
        sharding: what several processes divide among them: "ddp" nothing, "fsdp" weights, gradients and state of the
            optimizer, "oss" the latter only.  Without an effect on one process.
        activation_checkpointing: the blocks of the network compute their activations again in the backward pass
            instead of keeping them.
        sync_batch_norm: batch norms take their statistics over all processes.
        grad_clip: largest norm of the gradient of all parameters; empty = no clipping.
        ema: moving average of the weights; empty = none.
        log_every: steps from one line of metrics to the next.
        probe: kNN, linear accuracy and ranks on a small labelled table, every so often; empty = none.
        trackers: where metrics go besides metrics.jsonl, one or several of `TRACKERS`: "tensorboard", "mlflow",
            "wandb"; empty = nowhere.  All stays in the folder of the run unless a tracker's own environment variables
            say otherwise.
        checkpoint_every: duration between checkpoints; there is always one at the end.
        keep: newest checkpoints that stay on disk.
        keep_every: further checkpoints that stay for good: of every multiple of this duration the first one that is
            made at it or after it; empty = none.
        device: "auto" takes a CUDA device (flax: a TPU or CUDA devices) where there is one.
    """

    duration: str | int
    scale: float = 1.0
    global_batch_size: int
    shrink_batch: bool = False
    accumulation: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    sharding: Literal["ddp", "fsdp", "oss"] = "ddp"
    activation_checkpointing: bool = False
    sync_batch_norm: bool = False
    grad_clip: float | None = None
    ema: EMAConfig | None = None
    log_every: int = 20
    probe: ProbeConfig | None = None
    trackers: str | tuple[str, ...] | None = "tensorboard"
    checkpoint_every: str | int = "1 epoch"
    keep: int = 2
    keep_every: str | int | None = None
    device: Literal["auto", "cpu", "cuda", "tpu"] = "auto"

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "accumulation", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.scale <= MAX_SCALE:
            raise ValueError(
                f"scale={self.scale:g} must be more than 0 and at most {MAX_SCALE:g}; 1 is the length as written."
            )
        for name in ("duration", "checkpoint_every", "keep_every"):
            text = getattr(self, name)
            if text is not None and parse_duration(text).amount <= 0:
                raise ValueError(f"{name}={text!r} must be longer than nothing.")
        if self.global_batch_size % self.accumulation:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is not divisible by accumulation={self.accumulation}."
            )
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(
                f"grad_clip={self.grad_clip} must be positive, or null for no clipping."
            )
        for name in self.tracker_names:
            if name not in TRACKERS:
                raise ValueError(
                    f"trackers={name!r}: allowed are {', '.join(TRACKERS)}, a list of them, or null for none."
                    f"{nearest(name, TRACKERS)}"
                )

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """`trackers` as a list, each once."""
        given = (self.trackers,) if isinstance(self.trackers, str) else self.trackers or ()
        return tuple(dict.fromkeys(given))


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How a classifier in training is tried on videos that it does not learn from.  The training is the same without.

    Attributes:
        table: the videos, with labels; classes are those of the training table of the same names.
        every: duration between two trials, as `training.duration`; there is always one at the end.
        num_clips: clips of a video, spread evenly over it.
        average: of the clips of a video, their "softmax", or their "logits" before the softmax.
        num_crops: squares of every clip along the longer side of the picture; 1 = the one in the middle.
        size: side of these squares in pixels; null = as in training.
        center_share: with one crop, side of the square as a share of the short side of the video; HiCo tests on 0.875.
        max_videos: of a larger table so many are taken, spread evenly over its rows.
        batch_size: clips that go through the network together.
    """

    table: str
    every: str | int = "1 epoch"
    num_clips: int = 2
    average: Literal["softmax", "logits"] = "softmax"
    num_crops: int = 1
    size: int | None = None
    center_share: float = 1.0
    max_videos: int = 1000
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1, or null: as in training.")
        if not 0 < self.center_share <= 1 or (self.center_share < 1 and self.num_crops > 1):
            raise ValueError(
                f"center_share={self.center_share} must lie in (0, 1], and below 1 goes with num_crops=1 only."
            )
        for name in ("num_clips", "num_crops", "max_videos", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if parse_duration(self.every).amount <= 0:
            raise ValueError(f"every={self.every!r} must be longer than nothing.")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """One run.  Build it with `load_pretrain_recipe` or `recipe_from_dict`; write it with `recipe_to_dict`.

    Attributes:
        name: what the run is called.
        run: its folder.
        seed: of the weights, the order and views of the data, and everything random in a step.
        objective_name: key of `OBJECTIVES`; `objective.name` in the file.
        objective: the objective's own configuration.
        evaluate: recipes of the evaluations that go with the run, a list or one name: `video-ssl pretrain --evaluate`
            and `video-ssl launch --chain` run them on it; training does not read them.
        validation: labelled videos on which a classifier is tried during its training; null = none.
    """

    name: str
    run: str
    seed: int = 0
    objective_name: str
    objective: Any
    data: DataConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    training: TrainingConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluate: tuple[str, ...] | None = None
    validation: ValidationConfig | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative.")
        self._check_streams()
        if self.validation is not None and self.validation.table == self.data.table:
            raise ValueError(
                f"validation.table and data.table are both {self.data.table!r}: the accuracy would mean nothing. Name "
                "a table of other videos; video-ssl split makes one."
            )
        if self.data.balance is not None:
            training = self.training
            self.data.balance.check_batch(training.global_batch_size, training.accumulation)

    def _check_streams(self) -> None:
        """Raises ValueError unless `data.streams` are those that the objective asks for, in parts of equal size."""
        given, parts = self.data.streams, self.training.accumulation
        wanted = list(OBJECTIVES[self.objective_name].plans(self.objective))[1:]
        for name in given:
            if name not in wanted:
                allowed = (
                    f"the streams of {self.objective_name} are {wanted}"
                    if wanted
                    else (
                        f"{self.objective_name} takes the records of data.table and data.mix only"
                    )
                )
                raise ValueError(f"data.streams.{name}: {allowed}.{nearest(name, wanted)}")
        missing = [name for name in wanted if name not in given]
        if missing:
            raise ValueError(
                f"{self.objective_name} takes the streams {wanted}, but data.streams lacks {missing}: give each a "
                f"table and its records in a step, data.streams.{missing[0]}={{table: NAME, records: N}}."
            )
        for name, stream in given.items():
            if stream.records % parts:
                raise ValueError(
                    f"data.streams.{name}.records={stream.records} is not divisible by training.accumulation={parts}."
                )

    @property
    def folder(self) -> Path:
        return Path(self.run)

    @property
    def made_for_gpus(self) -> bool:
        """Whether it says that it wants a GPU: by its device, or by settings that are for GPUs."""
        training = self.training
        if training.device == "auto":
            return training.precision == "bf16" or training.compile
        return training.device == "cuda"

    @property
    def evaluations(self) -> tuple[str, ...]:
        """The recipes of `evaluate`, none where it is empty."""
        return self.evaluate or ()

    def replace(self, **changes: Any) -> PretrainRecipe:
        """Returns the recipe with other values of the given fields."""
        return dataclasses.replace(self, **changes)


def load_pretrain_recipe(name: str | Path, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Returns the recipe of a file or name (`mvd/demo`) with dotted overrides.

    A file without `name:` takes the name of the recipe, one without `run:` writes to runs/NAME.

    Raises:
        ConfigError: see `read_recipe` and `recipe_from_dict`.
    """
    content = read_recipe(name, overrides, room="pretrain", as_typed=True)
    if content.get("name") is None:
        content["name"] = _recipe_name(str(name))
    return recipe_from_dict(content)


def recipe_from_dict(content: Mapping[str, Any]) -> PretrainRecipe:
    """Returns the recipe of a nested dictionary, the inverse of `recipe_to_dict`.

    Raises:
        ConfigError: unknown objective or key (the nearest is named), missing key, wrong type or value.
    """
    content = dict(content)
    section = content.pop("objective", None)
    if not isinstance(section, Mapping) or "name" not in section:
        raise ConfigError(f"objective.name is not set: allowed are {sorted(OBJECTIVES)}.")
    section = dict(section)
    objective_name = str(section.pop("name"))
    if objective_name not in OBJECTIVES:
        raise ConfigError(
            f"objective.name={objective_name!r}: allowed are {sorted(OBJECTIVES)}."
            f"{nearest(str(objective_name), OBJECTIVES)}"
        )
    if "objective_name" in content:
        raise ConfigError("unknown key 'objective_name': write `name:` under `objective:`.")
    objective = build_config(OBJECTIVES[objective_name].config(), section, "objective")
    named = read_typed(str | tuple[str, ...] | None, content.get("evaluate"), "evaluate")
    content["evaluate"] = [named] if isinstance(named, str) else named
    if content.get("run") is None:
        content["run"] = f"runs/{str(content.get('name') or objective_name).replace('/', '-')}"
    if isinstance(content["run"], str):  # shells leave the ~ of run=~/x alone
        content["run"] = at_home(content["run"])
    content.setdefault("name", objective_name)
    return build_config(
        PretrainRecipe, {**content, "objective_name": objective_name, "objective": objective}
    )


def recipe_to_dict(recipe: PretrainRecipe) -> dict[str, Any]:
    """Returns the whole resolved recipe as nested dictionaries, ready for YAML."""
    content = to_plain(recipe)
    name = content.pop("objective_name")
    content["objective"] = {"name": name, **content["objective"]}
    return content


def stage_recipe(outer: PretrainRecipe, stage: str, source: EncoderSource) -> PretrainRecipe:
    """Returns the recipe of a run that must come before `outer`, in outer.run/stages/STAGE.

    The stage keeps its objective, its length, its batch and its optimizer.  It takes `seed`, `data`, `loader`,
    `training.device` and `training.trackers` from the outer recipe, so that one setting moves the whole chain to other
    videos or another device, and is shortened by `training.scale` as that is; further streams are its own, with the
    tables of the outer recipe where that has a stream of the same name.  Where its source names a `stream` of the outer
    recipe, the tables of that one are its main data.  A stage that needs data of its own is trained
    as a run of its own and named by `run:`.  What it needs itself and a stage before it has trained, under the same
    name from the same recipe, it takes from there (`stage:`).

    Raises:
        ConfigError: the source names a stream that the outer recipe does not have, or a recipe that another framework
            trains.
    """
    assert source.recipe is not None
    inner = load_pretrain_recipe(source.recipe)
    _refuse_other_framework(outer, stage, inner)
    inner = inner.replace(objective=_sharing(inner.objective, _before(outer, stage)))
    data = _data_of(outer, stage, source)
    streams = {
        name: dataclasses.replace(data.streams.get(name, own), records=own.records)
        for name, own in inner.data.streams.items()
    }
    return inner.replace(
        name=f"{outer.name}/{stage}",
        run=str(outer.folder / "stages" / stage),
        seed=outer.seed,
        data=dataclasses.replace(data, streams=streams),
        loader=outer.loader,
        training=dataclasses.replace(
            inner.training,
            device=outer.training.device,
            trackers=outer.training.trackers,
            probe=None,
            scale=round(inner.training.scale * outer.training.scale, 12),
        ),
        validation=None,  # its own videos may not belong to the data of the outer recipe
    )


def _refuse_other_framework(outer: PretrainRecipe, stage: str, inner: PretrainRecipe) -> None:
    """A run and its stages are trained by the same processes, which are those of one framework."""
    here, there = (OBJECTIVES[recipe.objective_name].framework for recipe in (outer, inner))
    if here != there:
        raise ConfigError(
            f"the stage {stage} of {outer.name} is the recipe {inner.name}, whose objective {inner.objective_name} is "
            f"trained by {there}, but {outer.objective_name} by {here}: train it as a run of its own, and name that by "
            "`run` in place of `recipe`, or name another recipe."
        )


def _data_of(outer: PretrainRecipe, stage: str, source: EncoderSource) -> DataConfig:
    """The data of a run as a stage of it takes them: the stream that its source names is the main one."""
    data, name = outer.data, source.stream
    if name is None:
        return data
    if name not in data.streams:
        raise ConfigError(
            f"the stage {stage} is trained on the stream {name!r} (objective.{stage}.stream), but data.streams has "
            f"{list(data.streams) or 'none'}. Name one of them, or set it to null for the videos of data.table."
            f"{nearest(name, data.streams)}"
        )
    own = data.streams[name]
    if own.table is None:
        return data
    main = StreamConfig(table=data.table, mix=data.mix, records=1)
    return dataclasses.replace(
        data,
        table=own.table,
        mix=own.mix,
        balance=None,  # of the classes of the other table
        streams={
            other: dataclasses.replace(main, records=stream.records)
            if stream.table is None
            else stream
            for other, stream in data.streams.items()
        },
    )


def with_stages(recipe: PretrainRecipe, *, alone: bool = False) -> Iterator[PretrainRecipe]:
    """Yields the recipes of the stages that a recipe trains first, in their order, then the recipe itself.

    Args:
        alone: each can be looked at without the others: what a stage takes from one before it stands in its recipe, as
            if it were trained again.
    """
    for name, source in recipe.objective.stages().items():
        if isinstance(source, EncoderSource) and source.recipe is not None:
            inner = stage_recipe(recipe, name, source)
            for part in with_stages(inner, alone=alone):
                yield _alone(part, recipe) if alone and part is inner else part
    yield recipe


def _alone(stage: PretrainRecipe, outer: PretrainRecipe) -> PretrainRecipe:
    """A stage with what it takes from others written out."""
    objective = stage.objective
    for source in stage.objective.stages().values():
        if isinstance(source, EncoderSource) and source.stage is not None:
            there = outer.objective.stages()[source.stage]
            assert isinstance(there, EncoderSource)
            objective = _with(objective, source, dataclasses.replace(there, stream=None))
    return dataclasses.replace(stage, objective=objective)


def _before(outer: PretrainRecipe, stage: str) -> dict[str, Source]:
    """What the stages of a run before one of them are."""
    stages = dict(outer.objective.stages())
    return dict(list(stages.items())[: list(stages).index(stage)]) if stage in stages else {}


def _sharing(objective: Any, before: Mapping[str, Source]) -> Any:
    """The settings of a stage, which takes what it needs from the stages before it where they train the same."""
    for name, source in objective.stages().items():
        there = before.get(name)
        if not isinstance(source, EncoderSource) or not isinstance(there, EncoderSource):
            continue
        # The stream that one is trained on is the main one of the other, which does not name it.
        if source.recipe and dataclasses.replace(there, stream=source.stream) == source:
            objective = _with(objective, source, EncoderSource(stage=name))
    return objective


def _with(part: Any, old: EncoderSource, new: EncoderSource) -> Any:
    """Settings with one source in the place of another."""
    if part is old:
        return new
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    changes = {k: found for k, v in values.items() if (found := _with(v, old, new)) is not v}
    return dataclasses.replace(part, **changes) if changes else part


def _recipe_name(name: str) -> str:
    """`mvd/demo` for the recipe pretrain/mvd/demo.yaml however it was named, else the stem of the file."""
    path = Path(name).resolve()
    for known, file in list_recipes("pretrain").items():
        if known == name.removeprefix("pretrain/").removesuffix(".yaml") or file.resolve() == path:
            return known
    return path.stem
