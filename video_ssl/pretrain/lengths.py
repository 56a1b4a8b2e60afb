"""How long a run is in steps, how large a step may be, and the learning rate of every step.  Free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_ssl.clips.streams import Stream
from video_ssl.objectives.shared.objective_config import FewRecords
from video_ssl.pretrain.durations import scaled_steps, to_steps
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.schedules import SCHEDULES

#: The learning rate of every step is computed beforehand.
MAX_STEPS = 10**8

#: Name -> where its records come from; the main stream stands first.
Streams = dict[str, Stream]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The durations of a recipe in steps of its data, shortened by `training.scale`; `num_examples` are an epoch."""

    num_examples: int
    num_steps: int
    warmup_steps: int
    log_steps: int
    checkpoint_steps: int
    keep_steps: int | None
    validate_steps: int | None
    probe_steps: int | None


def lengths_of(recipe: PretrainRecipe, streams: Streams) -> Lengths:
    """Returns how long a run is.

    Raises:
        RunError: more than `MAX_STEPS`.
    """
    training = recipe.training
    num_examples = next(iter(streams.values())).num_examples

    def steps(duration: str | int) -> int:
        return to_steps(
            duration,
            num_examples=num_examples,
            global_batch_size=training.global_batch_size,
            scale=training.scale,
        )

    num_steps = steps(training.duration)
    if num_steps > MAX_STEPS:
        raise RunError(
            f"training.duration={training.duration!r} is {num_steps:,} steps: more than {MAX_STEPS:,}."
        )
    return Lengths(
        num_examples=num_examples,
        num_steps=num_steps,
        warmup_steps=steps(recipe.optimizer.warmup),
        log_steps=scaled_steps(training.log_every, training.scale),
        checkpoint_steps=steps(training.checkpoint_every),
        keep_steps=steps(training.keep_every) if training.keep_every else None,
        validate_steps=steps(recipe.validation.every) if recipe.validation else None,
        probe_steps=steps(training.probe.every) if training.probe else None,
    )


def check_batch(recipe: PretrainRecipe, count: int, what: str = "processes") -> None:
    """Raises RunError if the records of a step cannot be shared equally by `count` processes (devices) and
    micro-batches, in any stream, or a micro-batch of a process is not what balance and objective need."""
    training = recipe.training
    parts = count * training.accumulation
    sizes = {"training.global_batch_size": training.global_batch_size} | {
        f"data.streams.{name}.records": own.records for name, own in recipe.data.streams.items()
    }
    for name, size in sizes.items():
        if size % parts:
            raise RunError(
                f"{name}={size} cannot be divided among {count} {what} "
                f"x training.accumulation={training.accumulation}: use a multiple of {parts}."
            )
    if what == "processes":  # devices of a process share whole arrays: nothing is torn between them
        _check_part(recipe, parts)


def _check_part(recipe: PretrainRecipe, parts: int) -> None:
    """Raises RunError if a micro-batch of a process tears balanced groups, or is too small for the objective."""
    batch, balance = recipe.training.global_batch_size, recipe.data.balance
    try:
        if balance is not None:
            balance.check_batch(batch, parts)
        if hasattr(recipe.objective, "check_records"):
            recipe.objective.check_records(batch // parts)
    except FewRecords as err:
        lowered = (
            " training.shrink_batch lowers it to what the data hold: where these are too few, take more videos."
            if recipe.training.shrink_batch
            else ""
        )
        raise RunError(f"{recipe.name}: {err}{lowered}") from err
    except ValueError as err:
        raise RunError(f"{recipe.name}: {err}") from err


def check_data(recipe: PretrainRecipe, main: Stream) -> None:
    """Raises RunError if the main stream has too few different records for an objective that compares them.

    A batch would be filled with one and the same video, and train nothing.
    """
    if not hasattr(recipe.objective, "check_records"):
        return
    seen: set[tuple[str, float | None, float | None]] = set()
    few: FewRecords | None = None
    for record in (table.record(row) for table in main.only_tables for row in range(len(table))):
        own = (record.source, record.start_sec, record.end_sec)
        if own in seen:
            continue
        seen.add(own)
        try:
            recipe.objective.check_records(len(seen))
        except FewRecords as err:
            few = err
        else:
            return
    if few is not None:
        counted = "one usable video" if few.count == 1 else f"{few.count} usable videos"
        least = "two" if few.least == 2 else few.least
        raise RunError(
            f"{recipe.name}: the data hold {counted}; {few.why} At least {least} are needed: add videos to "
            f"data.table={recipe.data.table}, or take other data."
        )


def lr_schedule(recipe: PretrainRecipe, lengths: Lengths) -> np.ndarray:
    """Returns float64 (num_steps,): the learning rate of every step, scaled.

    Raises:
        ValueError: a warm-up longer than the training.
    """
    optimizer, batch = recipe.optimizer, recipe.training.global_batch_size
    rates = optimizer.rates(
        global_batch_size=batch, clips_per_record=recipe.objective.clips_per_record
    )
    return SCHEDULES[optimizer.schedule].rates(
        lengths.num_steps,
        **rates,
        warmup_steps=lengths.warmup_steps,
        steps_per_epoch=lengths.num_examples / batch,
    )
