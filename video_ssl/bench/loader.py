"""`video-ssl bench loader`: clips per second of a recipe's loader, where the time of a clip goes, and what to do.

Everything is CPU time of this process, one thread, on the same records, frames and regions, taken in turns several
times; medians of the turns are shown, since machines are noisy.  Beside the loader stand a plain loop as in the code
of the field, and decoding alone: the time that no loader can go below.  At last the pipeline runs with its workers.
Of a recipe with several streams the main one is timed clip by clip; the pipeline reads all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.table import Table as ScreenTable

from video_ssl.bench.config import LoaderBench
from video_ssl.bench.footage import FOOTAGE, make_footage
from video_ssl.bench.loader_advice import advice
from video_ssl.bench.yardsticks import Files, Floor, RecordingReader, plain_decoder, plain_loop
from video_ssl.clips.decoders.pyav.views import RegionScaler
from video_ssl.clips.pipeline import Pipeline
from video_ssl.clips.reading import SegmentReader, open_record
from video_ssl.clips.samples import Plan
from video_ssl.clips.streams import Stream
from video_ssl.datasets.table import Table
from video_ssl.files import MADE_BY, claim_file, made, write_json
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.lengths import Streams
from video_ssl.pretrain.processes import choose_device
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.run import open_streams, settled_recipe
from video_ssl.pretrain.torch_loop.device_feed import to_tensors
from video_ssl.progress import console_for_tables

#: Stages of the loader in the order of a clip's way; "plan" is what the plan does beside the frames: draws, masks.
STAGES = ("open", "decode", "resize", "plan", "transport", "device")


@dataclass(frozen=True, kw_only=True)
class LoaderFigures:
    """What the loader of a recipe costs and delivers on one kind of footage.

    Attributes:
        footage: name of the kind, or "table" for the recipe's own videos.
        cpu_ms: CPU milliseconds per clip of "loader" (open to finished clip), "plain" (the plain loop), "floor" (only
            pictures that must be decoded) and "floor_all" (every picture from the key frame on).
        stage_ms: CPU milliseconds per clip in each of STAGES; those up to "plan" add up to the loader.
        plain_decoder: what the plain loop decodes with.
        clips_per_sec: of the pipeline with its workers, clips of the main stream by the wall clock, after the first two
            batches.
        wait_share: share of the wall time in which the consumer waited, if each of its steps takes `step_ms`.
        worker_mib: memory of the workers at the end, without what they share.
    """

    footage: str
    cpu_ms: dict[str, float]
    stage_ms: dict[str, float]
    plain_decoder: str
    num_workers: int
    clips_per_sec: float
    wait_share: float
    step_ms: float
    worker_mib: float

    @property
    def speedup(self) -> float:
        """Clips per second and core, compared with the plain loop."""
        return self.cpu_ms["plain"] / self.cpu_ms["loader"]

    @property
    def over_floor(self) -> float:
        """CPU time compared with the decoding that cannot be avoided."""
        return self.cpu_ms["loader"] / self.cpu_ms["floor"]

    @property
    def bottleneck(self) -> str:
        return max(self.stage_ms, key=lambda name: self.stage_ms[name])


def bench_loader(
    recipe: PretrainRecipe,
    *,
    footage: str = LoaderBench.footage,
    folder: Path = LoaderBench.folder,
    num_batches: int = LoaderBench.num_batches,
    num_records: int = LoaderBench.num_records,
    repeats: int = LoaderBench.repeats,
    step_ms: float = LoaderBench.step_ms,
    json_path: Path | None = LoaderBench.json_path,
) -> list[LoaderFigures]:
    """Measures the data pipeline of a recipe, prints a table per kind of footage and returns the figures.

    Args:
        recipe: its clip settings, batch, loader and, for footage="table", its data are used.
        footage: "easy" or "hard" (made in `folder` on first use), or "table".
        folder: where the footage is kept.
        num_batches: batches drawn from the pipeline with workers; 0 leaves this part out.
        num_records: records read one by one in every turn.
        repeats: turns.
        step_ms: how long the consumer of the pipeline pretends to compute after every batch.
        json_path: where the figures go as JSON, too.

    Raises:
        ValueError: unknown footage; an objective that looks at nothing.
        OutputError: `json_path` is another's file or cannot be written.
    """
    if footage not in (*FOOTAGE, "table"):
        raise ValueError(f"footage={footage!r} must be one of {sorted([*FOOTAGE, 'table'])}.")
    if json_path is not None:
        json_path = claim_file(json_path, "bench loader")
    recipe = settled_recipe(recipe, check=False)
    plan = OBJECTIVES[recipe.objective_name].main_plan(recipe.objective)
    if getattr(plan, "sound_alone", False):
        raise ValueError(
            f"{recipe.name} reads sound alone, and the yardsticks of `bench loader` decode frames: use "
            "`video-ssl bench step`, and the share of data waits in the run's progress line."
        )
    kinds = {kind.name: make_footage(kind, folder) for kind in FOOTAGE.get(footage, [])}
    found = {name: _on_footage(recipe, table) for name, table in kinds.items()}
    found = found or {"table": open_streams(recipe)}
    figures = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, streams in found.items():
            figures.append(
                _measure(recipe, name, streams, num_batches, num_records, repeats, step_ms)
            )
            table = next(iter(streams.values())).tables[0][0]
            _print(recipe, figures[-1], advice(figures[-1].bottleneck, recipe, table))
    finally:
        torch.set_num_threads(threads)
    if json_path is not None:
        lines = [{**asdict(f), "speedup": f.speedup, "over_floor": f.over_floor, "bottleneck": f.bottleneck}
                 for f in figures]  # fmt: skip
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_path, {MADE_BY: made("bench loader"), "footage": lines})
    return figures


def _on_footage(recipe: PretrainRecipe, table: Table) -> Streams:
    """The streams of a recipe with the same videos in each; to a plan they look as if they were the recipe's."""
    main, *others = OBJECTIVES[recipe.objective_name].plans(recipe.objective).items()
    data = recipe.data
    rows = [(*main, data.table, recipe.training.global_batch_size)]
    rows += [
        (name, plan, next(iter(data.tables_of(name))), data.streams[name].records)
        for name, plan in others
    ]
    return {
        name: Stream(tables=[(table.named(spec), 1.0)], plan=plan, records=records)
        for name, plan, spec, records in rows
    }


class _Clock:
    """CPU seconds by name; time within an inner block counts there only."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = 0.0

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start, outer, self._inner = time.process_time(), self._inner, 0.0
        try:
            yield
        finally:
            took = time.process_time() - start
            self.spent[name] = self.spent.get(name, 0.0) + took - self._inner
            self._inner = outer + took


def _measure(
    recipe: PretrainRecipe,
    name: str,
    streams: Streams,
    num_batches: int,
    num_records: int,
    repeats: int,
    step_ms: float,
) -> LoaderFigures:
    main = next(iter(streams.values()))
    turns: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        spent, clips = _turn(recipe, main.plan, main.tables[0][0], num_records)
        for what, seconds in spent.items() if turn else ():  # the first turn warms up
            turns.setdefault(what, []).append(1e3 * seconds / clips)
    medians = {what: float(np.median(values)) for what, values in turns.items()}
    stage_ms = {stage: medians.pop(stage, 0.0) for stage in STAGES}
    return LoaderFigures(
        footage=name,
        cpu_ms=medians,
        stage_ms=stage_ms,
        plain_decoder=plain_decoder(),
        num_workers=recipe.loader.workers,
        step_ms=step_ms,
        **_pipeline(streams, recipe, num_batches, step_ms),
    )


def _turn(
    recipe: PretrainRecipe, plan: Plan, table: Table, num_records: int
) -> tuple[dict[str, float], int]:
    """(CPU seconds by what was done, clips): every record goes through loader, plain loop and floors in turn."""
    clock, clips = _Clock(), 0
    device = choose_device("cpu" if recipe.training.device == "cpu" else "auto")
    for number in range(num_records):
        record = table.record(number % len(table))
        rng = np.random.default_rng([recipe.seed, number])
        start = time.process_time()
        with clock("open"):
            reader = open_record(record, recipe.loader.backend)
        with reader, _timed(RegionScaler, "show", clock, "resize"):
            recorder = RecordingReader(reader, clock)
            with clock("plan"):
                sample = plan(record, recorder, rng, 0.0)
            first = reader.first_frame if isinstance(reader, SegmentReader) else 0
        clock.spent["loader"] = clock.spent.get("loader", 0.0) + time.process_time() - start
        clips += recipe.objective.clips_per_record
        _transport(sample, device, clock)
        asked = [shown.moved(first) for shown in recorder.asked]
        files = Files.of(record.source)
        with clock("plain"):
            plain_loop(files, asked)
        wanted = np.unique(np.concatenate([shown.indices for shown in asked]))
        floors = [(Floor(path), indices) for path, indices in files.divided(wanted)]
        for what, necessary in (("floor", True), ("floor_all", False)):
            with clock(what):
                for floor, indices in floors:
                    floor.decode(indices, necessary=necessary)
    return clock.spent, clips


@contextlib.contextmanager
def _timed(owner: type, method: str, clock: _Clock, name: str) -> Iterator[None]:
    """Within it, the time of a method counts under a name of its own."""
    original = getattr(owner, method)

    def timed(*args: Any) -> Any:
        with clock(name):
            return original(*args)

    setattr(owner, method, timed)
    try:
        yield
    finally:
        setattr(owner, method, original)


def _transport(sample: Mapping[str, np.ndarray], device: torch.device, clock: _Clock) -> None:
    """What happens to a finished sample: into the shared memory of a batch, out of it, to the device."""
    out = {}
    with clock("transport"):
        for name, value in sample.items():
            memory = shared_memory.SharedMemory(create=True, size=max(1, value.nbytes))
            batch: np.ndarray = np.ndarray((1, *value.shape), value.dtype, buffer=memory.buf)
            np.stack([value], out=batch)
            out[name] = np.array(batch)
            del batch
            memory.close()
            memory.unlink()
    with clock("device"):
        for tensor in to_tensors(out).values():
            tensor.to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _pipeline(
    streams: Streams, recipe: PretrainRecipe, num_batches: int, step_ms: float
) -> dict[str, float]:
    """Clips per second, waiting and worker memory of the pipeline; the first two batches are start-up."""
    if num_batches == 0:
        return {"clips_per_sec": 0.0, "wait_share": 0.0, "worker_mib": 0.0}
    main, *_ = streams.values()
    waited, start, memory = 0.0, 0.0, 0
    with Pipeline(
        main.tables,
        main.plan,
        seed=recipe.seed,
        global_batch_size=main.records,
        num_steps=num_batches + 2,
        config=recipe.loader,
        balance=main.balance,
        others=dict(list(streams.items())[1:]),
    ) as batches:
        for number, _ in enumerate(batches):
            if number == 1:
                start = time.perf_counter()
            elif number > 1:
                waited += batches.stats.last_wait_sec
            if number == num_batches:
                memory = sum(own_bytes(pid) for pid in batches.worker_pids)
            if step_ms and number > 0:
                time.sleep(step_ms / 1e3)
        seconds = time.perf_counter() - start
    return {
        "clips_per_sec": num_batches * main.records * recipe.objective.clips_per_record / seconds,
        "wait_share": waited / seconds,
        "worker_mib": memory / 2**20,
    }


def own_bytes(pid: int) -> int:
    """Returns the memory that a process shares with no other (USS); 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return 0


def _print(recipe: PretrainRecipe, figures: LoaderFigures, to_do: str) -> None:
    screen = ScreenTable(
        title=f"{recipe.name} on {figures.footage}: {recipe.loader.backend}, {os.cpu_count()} cores",
        title_justify="left",
    )
    screen.add_column("CPU time per clip")
    screen.add_column("ms", justify="right")
    screen.add_column("clips/s per core", justify="right")
    names = {
        "loader": "the loader, one process",
        "plain": f"plain loop: {figures.plain_decoder}, PIL, float32"
        + ("" if figures.plain_decoder == "decord" else " (decord is not installed)"),
        "floor": "decoding alone: what must be decoded",
        "floor_all": "decoding alone: every frame from the key frame on",
    }
    for name, text in names.items():
        screen.add_row(text, f"{figures.cpu_ms[name]:.2f}", f"{1e3 / figures.cpu_ms[name]:.1f}")
    screen.add_section()
    for name, milliseconds in figures.stage_ms.items():
        screen.add_row(f"  {name}", f"{milliseconds:.2f}", "")
    console = console_for_tables()
    console.print(screen)
    console.print(
        f"{figures.speedup:.2f} times the plain loop per core; "
        f"{figures.over_floor:.2f} times the CPU time of decoding alone."
    )
    if figures.clips_per_sec:
        console.print(
            f"Pipeline with {figures.num_workers} workers: {figures.clips_per_sec:.1f} clips/s, "
            f"{figures.worker_mib:.0f} MiB; the consumer, {figures.step_ms:g} ms a step, "
            f"waits {figures.wait_share:.0%} of the time."
        )
    console.print(f"Bottleneck: {figures.bottleneck}. {to_do}")
