"""`video-ssl bench readers`: exactness and speed of every decoder on files that are made for it, in one run."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.progress import track
from rich.table import Table as RichTable

from video_ssl.bench.config import ReadersBench
from video_ssl.bench.odd_videos import ODD_VIDEOS, VideoStyle, write_odd_video, write_video
from video_ssl.clips.decoders.backends import missing, wrong_on
from video_ssl.clips.decoders.files.facts import file_facts
from video_ssl.clips.decoders.reader import READERS
from video_ssl.clips.reading import open_video
from video_ssl.clips.upkeep.isolated import Failure, run_isolated
from video_ssl.files import (
    MADE_BY,
    claim_file,
    claim_folder,
    made,
    made_by,
    temporary_folder,
    write_json,
)
from video_ssl.progress import console_for_tables

log = logging.getLogger(__name__)

SIZES = {"340x256": (256, 340), "1280x720": (720, 1280)}
GOPS = (12, 250)
CLIP = 16
STRIDE = 4
_LIMIT_SEC = 120.0


def bench_readers(
    folder: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    draws: int = ReadersBench.draws,
    num_frames: int = ReadersBench.num_frames,
    seed: int = ReadersBench.seed,
) -> dict[str, Any]:
    """Returns, prints and (with `out`) writes as JSON what every decoder does with every file.

    Exactness: every frame by one sequential call and 24 by random access, compared to the bit with a plain decode
    from start to end; each decoder and file in a process of its own.  Speed: one decoding thread, the file is opened
    for every clip; medians over `draws` clips of 16 frames, stride 4, at the same random starts for each decoder, and
    of 3 complete decodes; decoders take turns clip by clip, so that a change of the machine's load meets all alike.

    Args:
        folder: where the files are made and kept; a temporary one if None.
        out: a JSON file.
        draws: clips per file and decoder.
        num_frames: length of the timed files.
        seed: of the starts.

    Raises:
        OutputError: `out`, or a video in `folder`, is there and is another's, or cannot be written.
    """
    if out is not None:
        out = claim_file(out, "bench readers")
    if folder is not None:
        _claim_folder(Path(folder))
    backends = {name: missing(name) for name in READERS}
    for name, problem in backends.items():
        if problem is not None:
            log.warning("%s is left out: %s", name, problem)
    usable = [name for name, problem in backends.items() if problem is None]
    with temporary_folder("bench") as temporary:
        place = Path(temporary if folder is None else folder)
        place.mkdir(parents=True, exist_ok=True)
        exactness = _exactness(place, usable)
        speed = _speed(place, usable, draws, num_frames, seed)
    result = {
        MADE_BY: made("bench readers"),
        "when": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"av": importlib.metadata.version("av")}
        | {name: importlib.metadata.version(name) for name in usable if name != "pyav"},
        "settings": {"draws": draws, "num_frames": num_frames, "seed": seed, "stride": STRIDE, "clip": CLIP},
        "exact_wherever_used": all(
            cell["result"] == "exact"
            for row in exactness.values()
            for cell in row.values()
            if isinstance(cell, dict) and cell["used"]
        ),
        "exactness": exactness,
        "speed": speed,
    }  # fmt: skip
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(out), result, indent=1)
    _show(result, usable)
    return result


def _claim_folder(folder: Path) -> None:
    """Videos are written anew every time: only in a folder that says that they are ours."""
    note = folder / "bench-readers.json"
    names = [*ODD_VIDEOS, *(_speed_name(size, gop) for size in SIZES for gop in GOPS)]
    claim_folder(folder, "bench readers", names, ours=made_by(note) == "bench readers")
    claim_file(note, "bench readers")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, {MADE_BY: made("bench readers")})


def _speed_name(size: str, gop: int) -> str:
    return f"speed_{size}_gop{gop}.mp4"


def compare(task: tuple[str, str]) -> str:
    """Returns "exact", or how the frames of (path, backend) differ from a plain decode."""
    path, backend = task
    truth = _plain_decode(path)
    count = len(truth)
    with open_video(path, backend) as reader:
        if reader.info.num_frames != count:
            return f"counts {reader.info.num_frames} of {count}"
        order = [count - 1, *np.random.default_rng(0).integers(0, count, 24).tolist(), 0]
        wrong = [i for i in order if not np.array_equal(reader.frames([i])[0], truth[i])]
        every = reader.frames(np.arange(count))
    differ = [i for i in range(count) if not np.array_equal(every[i], truth[i])]
    if not wrong and not differ:
        return "exact"
    apart = np.abs(every.astype(np.int16) - np.stack(truth)).mean()
    return f"{len(differ)}/{count} in order, {len(wrong)}/{len(order)} at random, {apart:.1f} grey levels"


def _plain_decode(path: str) -> list[np.ndarray]:
    """Every frame by decoding from start to end, without any seeking."""
    import av

    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        return [
            np.rot90(f.to_ndarray(format="rgb24"), k=round(f.rotation / 90) % 4)
            for f in container.decode(stream)
        ]


def _exactness(folder: Path, backends: list[str]) -> dict[str, dict[str, Any]]:
    paths = {name: write_odd_video(folder, name) for name in ODD_VIDEOS}
    tasks = [
        ((name, backend), (str(path), backend))
        for name, path in paths.items()
        for backend in backends
    ]
    found: dict[str, dict[str, Any]] = {name: {"what": ODD_VIDEOS[name][0]} for name in paths}
    function = "video_ssl.bench.readers:compare"
    done = run_isolated(function, iter(tasks), num_workers=1, limit_sec=_LIMIT_SEC)
    for (name, backend), outcome in track(done, "exactness", total=len(tasks)):
        verdict = f"refused: {outcome.reason}" if isinstance(outcome, Failure) else outcome
        refusal = wrong_on(backend, file_facts(str(paths[name])))
        found[name][backend] = {"result": verdict, "used": refusal is None}
    return found


def _speed(
    folder: Path, backends: list[str], draws: int, num_frames: int, seed: int
) -> list[dict[str, Any]]:
    rows = []
    for title, size in SIZES.items():
        for gop in GOPS:
            path = folder / _speed_name(title, gop)
            write_video(path, VideoStyle(num_frames=num_frames, size=size, gop=gop, rate=30))
            row: dict[str, Any] = {"size": title, "gop": gop}
            row |= _timed(path, backends, draws, num_frames, seed)
            rows.append(row)
    return rows


def _timed(
    path: Path, backends: list[str], draws: int, num_frames: int, seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, num_frames - (CLIP - 1) * STRIDE, draws)
    clips = [start + STRIDE * np.arange(CLIP) for start in starts.tolist()]
    every = np.arange(num_frames)
    measured: dict[str, Any] = {}
    for kind, jobs in (("clip", clips), ("whole", [every] * 3)):
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in backends}
        for name in backends:  # imports and the file cache
            _read(path, name, jobs[0])
        for job in track(jobs, f"{path.stem} {kind}"):
            for name in backends:
                seconds[name].append(_read(path, name, job))
        for name, times in seconds.items():
            wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
            measured.setdefault(name, {})[kind] = {
                "frames_per_sec": len(jobs[0]) / wall,
                "wall_ms": wall * 1e3,
                "cpu_ms": cpu * 1e3,
            }
    return measured


def _read(path: Path, backend: str, indices: np.ndarray) -> tuple[float, float]:
    """Wall and processor seconds to open the file, read the frames and close it."""
    begin, used = time.perf_counter(), time.process_time()
    with open_video(path, backend) as reader:
        reader.frames(indices)
    return time.perf_counter() - begin, time.process_time() - used


def _show(result: dict[str, Any], backends: list[str]) -> None:
    console = console_for_tables()
    exact = RichTable("file", "what", *backends, title="exact against a plain decode")
    for name, row in result["exactness"].items():
        cells = []
        for backend in backends:
            verdict, used = row[backend]["result"], row[backend]["used"]
            cells.append(
                verdict if used or verdict != "exact" else "exact here; not used on such files"
            )
        exact.add_row(name, row["what"], *map(escape, cells))
    console.print(exact)
    console.print(f"exact on every file that it is used on: {result['exact_wherever_used']}")
    speed = RichTable("size", "GOP", "read", *backends, title="frames/s (processor ms)")
    titles: dict[str, Callable[[], str]] = {
        "clip": lambda: f"{CLIP} frames, stride {STRIDE}",
        "whole": lambda: f"all {result['settings']['num_frames']}",
    }
    for row in result["speed"]:
        for kind, title in titles.items():
            cells = [
                f"{row[b][kind]['frames_per_sec']:.0f} ({row[b][kind]['cpu_ms']:.0f})"
                for b in backends
            ]
            speed.add_row(row["size"], str(row["gop"]), title(), *cells)
    console.print(speed)
