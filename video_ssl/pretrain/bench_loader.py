"""`video-ssl bench loader`: clips per second of a recipe's data pipeline, and where the time of a clip goes.

Stages are timed in this process, one after another: opening the file, decoding, and what the plan does with the
frames (crop, resize, mask).  Then the pipeline itself runs with the recipe's workers; what it costs beyond the stages
is transport.  The yardstick of the same run is a plain sequential decode of whole files with nothing else done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table as ScreenTable

from video_ssl.clips.pipeline import Pipeline
from video_ssl.clips.reading import Reader, open_record
from video_ssl.datasets.table import Table
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.run import open_tables

STAGES = ("open", "decode", "plan")


@dataclass(frozen=True, kw_only=True)
class LoaderFigures:
    """What the pipeline of a recipe delivers.

    Attributes:
        clips_per_sec: of the pipeline with its workers, over batches after the first two.
        stage_ms: CPU milliseconds per record in each of STAGES, in one process.
        decode_floor_fps: frames per second of a sequential decode of whole files, one thread: the yardstick.
        worker_gib: resident memory of all workers at the end.
    """

    clips_per_sec: float
    stage_ms: dict[str, float]
    decode_floor_fps: float
    worker_gib: float
    num_workers: int

    @property
    def bottleneck(self) -> str:
        return max(self.stage_ms, key=lambda name: self.stage_ms[name])


def bench_loader(
    recipe: PretrainRecipe, *, num_batches: int = 30, num_records: int = 40
) -> LoaderFigures:
    """Measures the data pipeline of a recipe, prints a table and returns the figures.

    Args:
        recipe: its data, clip settings, batch and loader are used.
        num_batches: batches drawn from the pipeline.
        num_records: records read one by one for the stages.
    """
    tables = open_tables(recipe)
    plan = OBJECTIVES[recipe.objective_name].plan()(recipe.objective)
    stages = _stages(tables[0][0], plan, recipe, num_records)
    figures = LoaderFigures(
        stage_ms={name: 1e3 * stages[name] / num_records for name in STAGES},
        decode_floor_fps=_sequential_fps(tables[0][0], recipe, 10),
        num_workers=recipe.loader.num_workers,
        **_pipeline(tables, plan, recipe, num_batches),
    )
    _print(recipe, figures)
    return figures


class _TimedReader:
    """A reader that adds up the CPU time spent decoding."""

    def __init__(self, reader: Reader, spent: dict[str, float]) -> None:
        self._reader, self._spent = reader, spent
        self.info = reader.info

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def frames(self, *args: Any, **kwargs: Any) -> np.ndarray:
        start = time.process_time()
        try:
            return self._reader.frames(*args, **kwargs)
        finally:
            self._spent["decode"] += time.process_time() - start


def _stages(
    table: Table, plan: Callable[..., Any], recipe: PretrainRecipe, num_records: int
) -> dict[str, float]:
    """CPU seconds of each stage over num_records records drawn at random."""
    rng = np.random.default_rng(recipe.seed)
    spent = dict.fromkeys(STAGES, 0.0)
    for index in rng.integers(0, len(table), num_records):
        record = table.record(int(index))
        start = time.process_time()
        with open_record(record, recipe.loader.backend) as reader:
            opened = time.process_time()
            before = spent["decode"]
            plan(record, _TimedReader(reader, spent), rng, 0.0)
            spent["open"] += opened - start
            spent["plan"] += time.process_time() - opened - (spent["decode"] - before)
    return spent


def _sequential_fps(table: Table, recipe: PretrainRecipe, num_files: int) -> float:
    frames, seconds = 0, 0.0
    for index in range(min(num_files, len(table))):
        with open_record(table.record(index), recipe.loader.backend) as reader:
            start = time.process_time()
            frames += len(reader.frames(np.arange(reader.info.num_frames)))
            seconds += time.process_time() - start
    return frames / max(seconds, 1e-9)


def _pipeline(
    tables: list[tuple[Table, float]], plan: Any, recipe: PretrainRecipe, num_batches: int
) -> dict[str, float]:
    """Clips per second and worker memory of the pipeline; the first two batches are start-up."""
    clips, start = 0, 0.0
    with Pipeline(
        tables,
        plan,
        seed=recipe.seed,
        global_batch_size=recipe.training.global_batch_size,
        num_steps=num_batches + 2,
        config=recipe.loader,
    ) as batches:
        for number, batch in enumerate(batches):
            if number == 1:
                start = time.perf_counter()
            elif number > 1:
                clips += batch["video"].shape[0] * batch["video"].shape[1]
            if number == num_batches:
                memory = sum(psutil.Process(pid).memory_info().rss for pid in batches.worker_pids)
        seconds = time.perf_counter() - start
    return {"clips_per_sec": clips / seconds, "worker_gib": memory / 2**30}


def _print(recipe: PretrainRecipe, figures: LoaderFigures) -> None:
    screen = ScreenTable(
        title=f"{recipe.name}: data pipeline, {recipe.loader.backend}, {os.cpu_count()} cores",
        title_justify="left",
    )
    screen.add_column("what")
    screen.add_column("measured", justify="right")
    for name, milliseconds in figures.stage_ms.items():
        screen.add_row(f"{name}, CPU per record", f"{milliseconds:.1f} ms")
    screen.add_row(
        "sequential decode of whole files (yardstick)", f"{figures.decode_floor_fps:.0f} frames/s"
    )
    screen.add_row(
        f"pipeline with {figures.num_workers} workers", f"{figures.clips_per_sec:.1f} clips/s"
    )
    screen.add_row("memory of the workers", f"{figures.worker_gib:.2f} GiB")
    console = Console()
    console.print(screen)
    advice = {
        "open": "files take longest to open: fewer, longer files or local storage help.",
        "decode": "decoding takes longest: a shorter distance between key frames and smaller frames help.",
        "plan": "cropping and resizing take longest: smaller source frames help.",
    }
    console.print(f"Bottleneck: {advice[figures.bottleneck]}")
