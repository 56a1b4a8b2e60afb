"""What `bench step` of every framework shares: figures, clocks, random pixels, the table.  Free of both."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from rich.table import Table as ScreenTable

from video_ssl.clips.decoders.reader import Reader, VideoInfo
from video_ssl.clips.samples import Plan
from video_ssl.clips.streams import prefix_of
from video_ssl.datasets.table import Caption, Record
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.progress import console_for_tables

#: Side of the square matrices of the yardstick, and products in one measurement.
MATMUL_SIDE = {"cpu": 2048}
LARGE_MATMUL_SIDE, CPU_REPEATS, REPEATS = 8192, 3, 20
#: Of the video that random batches are made of.
_SIDE, _NUM_FRAMES, _FPS = 128, 300, 30.0


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What one variant of a step cost.

    Attributes:
        variant: what was timed, in words.
        chip: what it ran on, in words.
        step_sec: median time of a whole step.
        compile_sec: time of making the program, before the first step; None where nothing is compiled.
        parts_sec: median time of `frozen` (teachers), `student` (the rest of the forward pass), `backward`,
            `optimizer`.  Measured in a separate pass with a wait after each part, so they add up to a little more.
            Empty for compiled steps, which have no parts.
        peak_gib: memory of the accelerator, or on a CPU the peak resident size of the process.
        flops: multiplications and additions of the products and convolutions of one step, backward pass included.
        chip_flops: rate of the yardstick in 1/s: large matrix products of this framework in the same precision, the
            better of before and after the steps.
    """

    variant: str
    chip: str
    batch_size: int
    clips: int
    step_sec: float
    compile_sec: float | None = None
    parts_sec: dict[str, float] = field(default_factory=dict)
    peak_gib: float
    flops: float
    chip_flops: float

    @property
    def clips_per_sec(self) -> float:
        return self.clips / self.step_sec

    @property
    def frozen_share(self) -> float:
        return self.parts_sec.get("frozen", 0.0) / max(sum(self.parts_sec.values()), 1e-12)

    @property
    def chip_share(self) -> float:
        return self.flops / self.step_sec / self.chip_flops


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How steps are timed: `warmup` steps, then `steps` whose median counts."""

    steps: int = 5
    warmup: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0:
            raise ValueError(
                f"steps={self.steps} must be at least 1 and warmup={self.warmup} at least 0."
            )

    def median_sec(self, step: Callable[[], Any], wait: Callable[[], Any]) -> float:
        """Returns the median seconds of a step; `wait` returns when the device has done what it was given."""
        for _ in range(self.warmup):
            step()
        return float(np.median([timed(step, wait) for _ in range(self.steps)]))


def timed(work: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Returns the seconds that some work takes, from one wait for the device to the next."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def product_rate(
    multiply: Callable[[], Any], wait: Callable[[], Any], *, side: int, platform: str
) -> float:
    """Returns the yardstick in 1/s: operations per second of a product of two side x side matrices, best of three."""
    repeats = CPU_REPEATS if platform == "cpu" else REPEATS

    def work() -> None:
        for _ in range(repeats):
            multiply()

    work()
    return repeats * 2 * side**3 / min(timed(work, wait) for _ in range(3))


def matmul_side(platform: str) -> int:
    """Returns how large the matrices of the yardstick are."""
    return MATMUL_SIDE.get(platform, LARGE_MATMUL_SIDE)


def resident_gib() -> float:
    """Returns the peak resident size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def tidy() -> None:
    """Frees what nobody holds any more, before memory is looked at."""
    gc.collect()


class _RandomReader:
    """Reads random frames and sound, so that a recipe's plan makes a batch of the right shapes without a file."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.info = VideoInfo(
            num_frames=_NUM_FRAMES,
            fps=_FPS,
            width=_SIDE,
            height=_SIDE,
            duration_sec=_NUM_FRAMES / _FPS,
            codec="random",
            rotation=0,
            has_audio=True,
        )
        self._rng = rng

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        height, width = size or (self.info.height, self.info.width)
        return self._rng.integers(0, 256, (len(indices), height, width, 3), dtype=np.uint8)

    def times(self, indices: Any) -> np.ndarray:
        return np.asarray(indices) / self.info.fps

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        count = round((end_sec - start_sec) * rate)
        return self._rng.uniform(-1, 1, count).astype(np.float32)


def random_samples(recipe: PretrainRecipe, batch_size: int) -> dict[str, np.ndarray]:
    """Returns a batch of random pixels and sound made by the recipe's own plans, (B, ...) each.

    Args:
        batch_size: records of the main stream; the others have as many as goes with it in the recipe, at least 1.
    """
    rng = np.random.default_rng(recipe.seed)
    main, *others = OBJECTIVES[recipe.objective_name].plans(recipe.objective).items()
    batch = _random_rows(main[1], batch_size, recipe.data.table, rng)
    for name, plan in others:
        stream = recipe.data.streams[name]
        count = max(1, round(batch_size * stream.records / recipe.training.global_batch_size))
        table, *_ = recipe.data.tables_of(name)
        rows = _random_rows(plan, count, table, rng)
        batch |= {f"{prefix_of(name)}{key}": value for key, value in rows.items()}
    return batch


def _random_rows(
    plan: Plan, count: int, table: str, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Samples of a plan from a record that has everything a plan may ask for."""
    reader = cast(Reader, _RandomReader(rng))
    whole_frame = np.array([0, 0, _SIDE, _SIDE], np.float32)
    record = Record(
        index=0,
        id="random",
        source="random",
        label=0,
        labels=(0,),
        captions=(Caption(text="a random sentence about random pixels"),),
        frame_labels=np.zeros(_NUM_FRAMES, np.int16),
        boxes=np.tile(whole_frame, (_NUM_FRAMES, 1, 1)),
        num_frames=_NUM_FRAMES,
        fps=_FPS,
        has_audio=True,
        table=table,
    )
    samples = [plan(record, reader, rng, 0.0) for _ in range(count)]
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def random_clips(recipe: PretrainRecipe, batch_size: int) -> np.ndarray:
    """Returns standard normal float32 (B, T, H, W, 3): clips of the size that the recipe's plan shows first."""
    plan = OBJECTIVES[recipe.objective_name].main_plan(recipe.objective)
    sample = {name: array[0] for name, array in random_samples(recipe, 1).items()}
    shown = plan.shown(sample)
    if not shown:
        raise ValueError(
            f"{recipe.name} trains an encoder of sound, and encoders are timed on clips of video: bench the whole step "
            "in place of the encoder (`video-ssl bench step`)."
        )
    shape = (batch_size, *shown[0].frames.shape)
    return np.random.default_rng(recipe.seed).standard_normal(shape, np.float32)


def print_figures(title: str, rows: Sequence[StepFigures]) -> None:
    """Prints the rows as a table, and the parts of a step where they are known."""
    screen = ScreenTable(title=title, title_justify="left")
    screen.add_column("variant", no_wrap=True)
    for column in ("batch", "clips", "ms", "clips/s", "compile s", "peak GiB", "frozen", "TFLOP"):
        screen.add_column(column, justify="right", no_wrap=True)
    screen.add_column("of yardstick", justify="right", no_wrap=True)
    for row in rows:
        screen.add_row(
            row.variant,
            str(row.batch_size),
            str(row.clips),
            f"{1e3 * row.step_sec:.0f}",
            f"{row.clips_per_sec:.2f}",
            "" if row.compile_sec is None else f"{row.compile_sec:.1f}",
            f"{row.peak_gib:.2f}",
            f"{100 * row.frozen_share:.0f} %" if row.parts_sec else "",
            f"{row.flops / 1e12:.3f}",
            f"{100 * row.chip_share:.0f} % of {row.chip_flops / 1e12:.3f} TFLOP/s",
        )
    console = console_for_tables()
    console.print(screen)
    for row in rows:
        if row.parts_sec:
            parts = "  ".join(f"{name} {1e3 * sec:.0f} ms" for name, sec in row.parts_sec.items())
            console.print(f"{row.variant}: {parts}")
