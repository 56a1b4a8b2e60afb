"""What a run says about its cost and its mistakes before they cost hours.

Warnings before the first step, and the time of the end from the first steps.

The rules are plain, so that they can be checked by hand:
- a training is too long for a CPU where it would take more than `LONG_ON_CPU_SEC`.  Before the first step that is
  computed from below: every trained weight is used at least once a clip, forward and backward, 6 operations each, and a
  core does not do more than `OPERATIONS_PER_CORE` a second.  After the first steps it is measured;
- a batch is larger than the data where a step takes more records than there are;
- clips are too long where most of the videos that were looked at have fewer frames than a clip spans, or last less
  than the objective needs.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from video_ssl.clips.config import ClipLength
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.clips.streams import Stream
from video_ssl.clips.too_short import LONGER
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.table import Record, Table
from video_ssl.objectives.shared.objective_config import clip_length_of
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.reporting import duration_text

logger = logging.getLogger(__name__)

LONG_ON_CPU_SEC = 24 * 3600.0
OPERATIONS_PER_CORE = 50e9
_OPERATIONS_PER_WEIGHT = 6  # a multiplication and an addition, forward and twice backward
_LOOKED_AT, _LOOK_SEC = 16, 2.0
_ADVICE = (
    "a recipe for GPUs. Try the chain in miniature with training.scale=0.01 run=runs/trial, take a smaller recipe "
    "(`video-ssl recipes` says what each is for), or a machine with a GPU"
)


def held_gib(trained: int, frozen: int, optimizer: OptimizerConfig, *, average: bool) -> float:
    """Returns the GiB of weights, gradients, state of the optimizer and moving average, all float32, undivided.

    What a batch takes, its activations above all, comes on top.
    """
    moments = 2 if "betas" in optimizer.own_settings() else int(optimizer.momentum > 0)
    return 4 * (trained * (2 + moments + average) + frozen) / 2**30


def warnings_before(
    recipe: PretrainRecipe,
    streams: Mapping[str, Stream],
    *,
    steps: int,
    trained: int,
    cpus: int,
) -> Iterator[str]:
    """Yields what is odd about a training that is about to start, in a sentence each with what to do.

    Args:
        recipe, streams: of the run.
        steps: those to be trained.
        trained: parameters.
        cpus: processes that compute on a CPU; 0 = they have something better.
    """
    main = next(iter(streams.values()))
    batch, records = recipe.training.global_batch_size, main.num_examples
    if batch > records:
        yield (
            f"training.global_batch_size={batch} is more than the {records} records of the data: every step sees "
            f"videos several times. Lower it to {_below(records, recipe.training.accumulation)} or less."
        )
    length = clip_length_of(recipe.objective)
    if length is not None:
        least_sec = getattr(recipe.objective, "least_sec", 0.0)
        yield from _short_videos(length, main.only_tables, recipe.loader.backend, least_sec)
    if cpus:
        clips = recipe.objective.clips_per_record * batch
        operations = _OPERATIONS_PER_WEIGHT * float(trained) * clips * steps
        seconds = operations / (
            OPERATIONS_PER_CORE * _cores() * cpus
        )  # of one machine or of several
        if seconds > LONG_ON_CPU_SEC:
            yield f"{steps:,} steps take {days(seconds)} at the very least on this CPU: {_ADVICE}."


def _below(records: int, accumulation: int) -> int:
    """The largest power of two times the micro-batches that the data can fill, at least one record each."""
    size = accumulation
    while 2 * size <= records:
        size *= 2
    return size


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _short_videos(
    length: ClipLength, tables: Sequence[Table], backend: str, least_sec: float
) -> Iterator[str]:
    """What is to be said where most videos are too short: for an objective with `least_sec` they are no use at all."""
    found = list(_lengths(tables, backend))
    if least_sec > 0:
        unused = [frames / fps for frames, fps in found if fps > 0 and frames / fps < least_sec]
        if len(unused) > len(found) / 2:
            yield (
                f"{len(unused)} of {len(found)} videos that were looked at are shorter than the {least_sec:.2f} s that "
                f"the objective needs; their median lasts {statistics.median(unused):.2f} s. They are skipped, and the "
                f"training ends where loader.max_bad_share does not allow that: {LONGER}."
            )
        return
    short = [video for video in found if not length.fits(*video)]
    if len(short) <= len(found) / 2:
        return
    median = statistics.median(frames for frames, _ in found)
    yield (
        f"{len(short)} of {len(found)} videos that were looked at are shorter than a clip, which spans {length}; the "
        f"median has {median:.0f} frames. What is missing is made of repeated frames: lower the stride or the number "
        "of frames under objective, or take longer videos."
    )


def _lengths(tables: Sequence[Table], backend: str) -> Iterator[tuple[int, float]]:
    """(frames, frames a second) of some videos, spread over the tables: as the table knows them, else looked at."""
    until = time.monotonic() + _LOOK_SEC
    for table in tables:
        count = -(-_LOOKED_AT // len(tables))
        for row in np.linspace(0, len(table) - 1, min(count, len(table))).astype(int):
            length = _length(table.record(int(row)), backend, look=time.monotonic() < until)
            if length is not None:
                yield length


def _length(record: Record, backend: str, *, look: bool) -> tuple[int, float] | None:
    whole = record.start_sec is None and record.end_sec is None
    if whole and record.num_frames and record.fps:
        return record.num_frames, record.fps
    if not look or is_remote(record.source):
        return None
    try:
        with open_record(record, backend, timeout_sec=_LOOK_SEC) as reader:
            return reader.info.num_frames, reader.info.fps
    except BadVideo:
        return None


def days(seconds: float) -> str:
    """Returns a long time in words.

    >>> days(3 * 86400), days(90000), days(7200)
    ('3.0 days', '25 hours', '2:00:00')
    """
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:,.1f} days"
    return f"{seconds / 3600:.0f} hours" if seconds >= 86400 else duration_text(seconds)


@dataclass
class Pace:
    """Measures what a step takes once, over the first steps but the very first, which builds and compiles.

    Attributes:
        first: step before which the training begins.
        last: its end.
    """

    first: int
    last: int
    _begin: float = 0.0
    _told: bool = False

    _LEAST_STEPS, _ENOUGH_STEPS, _ENOUGH_SEC = 3, 20, 5.0

    def is_due(self, done: int, now: float) -> bool:
        """Returns whether the device should be waited for after `done` steps, for `measure`."""
        if self._told:
            return False
        steps = done - self.first - 1
        if steps == 0:
            return True
        enough = steps >= self._ENOUGH_STEPS or now - self._begin >= self._ENOUGH_SEC
        return steps >= self._LEAST_STEPS and enough and done < self.last

    def measure(self, done: int, now: float) -> float | None:
        """Returns the seconds of a step, once; called where `is_due`, when the device has ended its work."""
        steps = done - self.first - 1
        if steps == 0:
            self._begin = now
            return None
        self._told = True
        return (now - self._begin) / steps


def pace_line(seconds: float, *, done: int, last: int, memory: Mapping[str, float]) -> str:
    """Returns the line about the pace of a training: a step, the memory so far, and when it will have ended."""
    left = seconds * (last - done)
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
    gib = memory.get("device_memory_gib", memory["host_memory_gib"])
    where = "on the device" if "device_memory_gib" in memory else "in this process"
    return (
        f"a step takes {seconds:.3g} s; memory so far {gib:.2f} GiB {where}; {last - done:,} steps are left: "
        f"{days(left)}, until about {end}"
    )


def pace_warning(seconds: float, *, left: int, on_cpu: bool) -> str | None:
    """Returns what is to be said about a training that is too long for a CPU; None where it is not."""
    if not on_cpu or seconds * left <= LONG_ON_CPU_SEC:
        return None
    return f"{left:,} steps take {days(seconds * left)} on this CPU: {_ADVICE}."
