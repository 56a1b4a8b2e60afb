"""`bench embed`: what reading for `embed` and `evaluate` costs, beside decoding alone and a plain loop, in turns.

Every frame of every file is wanted once, as `--per-frame` does where windows do not overlap.  All is CPU time, that of
the reading process included; medians of the turns are shown.  What the network takes is for `bench step`.
"""

from __future__ import annotations

import itertools
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table as ScreenTable

from video_ssl.bench.config import EmbedBench
from video_ssl.bench.footage import FOOTAGE, make_footage
from video_ssl.bench.turns import cpu_medians
from video_ssl.bench.yardsticks import Files, Floor, Shown, plain_decoder, plain_loop
from video_ssl.clips.crops import Region
from video_ssl.clips.reading import open_video
from video_ssl.clips.windows import WindowConfig
from video_ssl.datasets.opening import open_table
from video_ssl.datasets.table import Table
from video_ssl.embed.window_workers import Piece, WindowJob, read_windows
from video_ssl.files import MADE_BY, claim_file, made, write_json
from video_ssl.models.config import Normalization
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.progress import console_for_tables

#: Files are read so many times in one call, to tell the reading of a process from its start.
_AGAIN = 3
#: The plain loop holds all frames at once, those as decoded too; of every file it reads so many.
_PLAIN_FRAMES = 128
_KEPT = 16


@dataclass(frozen=True, kw_only=True)
class ReadingFigures:
    """What reading every frame of some videos costs.

    Attributes:
        footage: name of the kind, or the table.
        frames: how many were read in a turn.
        cpu_ms: CPU milliseconds per frame of "floor" (decoding alone), "plain" (a plain loop, up to normalised
            float32), "read" (uint8 windows, in one process), "apart" (the same from a process of its own, the way
            through a pipe included, without its start) and "normalise" (from those windows to normalised float32).
        plain_decoder: what the plain loop decodes with.
    """

    footage: str
    frames: int
    cpu_ms: dict[str, float]
    plain_decoder: str

    @property
    def over_floor(self) -> float:
        """CPU time of reading in one process, compared with decoding alone."""
        return self.cpu_ms["read"] / self.cpu_ms["floor"]

    @property
    def speedup(self) -> float:
        """Of reading and normalising, compared with the plain loop, which does both."""
        return self.cpu_ms["plain"] / (self.cpu_ms["read"] + self.cpu_ms["normalise"])


def bench_embed(config: EmbedBench, *, json_path: Path | None = None) -> list[ReadingFigures]:
    """Measures reading for `embed`, prints a table per kind of footage and returns the figures.

    Args:
        config: what is read, and how often.
        json_path: where the figures go as JSON, too.

    Raises:
        ValueError: a table of stretches, of what is no file, or with videos that cannot be read.
        OutputError: `json_path` is another's file or cannot be written.
    """
    place = None if json_path is None else claim_file(json_path, "bench embed")
    kinds = FOOTAGE.get(config.footage)
    tables = (
        {config.footage: open_table(config.footage)}
        if kinds is None
        else {kind.name: make_footage(kind, config.folder) for kind in kinds}
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures = [_measured(name, table, config) for name, table in tables.items()]
    finally:
        torch.set_num_threads(threads)
    for row in figures:
        _print(row, config)
    if place is not None:
        rows = [
            {**asdict(row), "over_floor": row.over_floor, "speedup": row.speedup} for row in figures
        ]
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {MADE_BY: made("bench embed"), "footage": rows})
    return figures


def _measured(name: str, table: Table, config: EmbedBench) -> ReadingFigures:
    table = table.select(np.arange(min(len(table), config.num_records)))
    for record in map(table.record, range(len(table))):
        if (record.start_sec, record.end_sec) != (None, None):
            raise ValueError(
                f"{record.id} is a stretch of {record.source}, and decoding alone and the plain loop read whole files: "
                "give a folder, or a table of whole videos."
            )
    windows = WindowConfig(
        num_frames=config.num_frames, frame_stride=1, per_frame=True, overlap=0.0, size=config.size
    )
    once = WindowJob(table=table, windows=windows)
    again = WindowJob(table=table.select(np.tile(np.arange(len(table)), _AGAIN)), windows=windows)
    clips, frames = _clips(once)
    videos = [_Video.of(table.record(n).source, count) for n, count in enumerate(frames)]
    plain_frames = sum(min(count, _PLAIN_FRAMES) for count in frames)
    total = sum(frames)
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "floor": (lambda: _each(videos, _Video.decode), total),
        "plain": (lambda: _each(videos, lambda video: video.plain(config.size)), plain_frames),
        "read": (lambda: _drain(once, 0), total),
        "apart": (lambda: _drain(once, 1), total),
        "apart again": (lambda: _drain(again, 1), total),
        "normalise": (lambda: _normalise(clips, total), total),
    }
    took = cpu_medians({way: act for way, (act, _) in ways.items()}, config.repeats, _cpu_sec)
    medians = {way: took[way] / count for way, (_, count) in ways.items()}
    # What a process takes to begin is in both, so it goes out with the difference.
    medians["apart"] = (medians.pop("apart again") - medians["apart"]) / (_AGAIN - 1)
    return ReadingFigures(footage=name, frames=total, cpu_ms=medians, plain_decoder=plain_decoder())


def _cpu_sec() -> float:
    """Of this process and of those of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _drain(job: WindowJob, num_workers: int) -> None:
    for piece in read_windows(job, num_workers):
        _refuse_unreadable(job, piece)


def _refuse_unreadable(job: WindowJob, piece: Piece) -> None:
    if piece.reason is not None:
        source = job.table.record(piece.index).source
        raise ValueError(f"{source} cannot be read, so nothing can be compared: {piece.reason}")


def _clips(job: WindowJob) -> tuple[list[np.ndarray], list[int]]:
    """Windows as they are read, and the frames of every video."""
    counts = [0] * len(job.table)
    kept: list[np.ndarray] = []
    for piece in read_windows(job, 0):
        _refuse_unreadable(job, piece)
        for window in piece.windows:
            counts[piece.index] = window.num_source
            if len(kept) < _KEPT:
                kept.append(window.clips)
    return kept, counts


def _normalise(clips: list[np.ndarray], frames: int) -> None:
    """As many frames as were read, of the windows that were kept."""
    done = 0
    for clip in itertools.cycle(clips):
        normalize(to_pixels(torch.from_numpy(clip)), Normalization())
        done += clip.shape[1]
        if done >= frames:
            return


@dataclass(frozen=True, kw_only=True)
class _Video:
    """A video as other code would read it: its files, how many frames there are, and the square in its middle."""

    files: Files
    floors: list[tuple[Floor, np.ndarray]]
    count: int
    square: Region

    @classmethod
    def of(cls, source: str, count: int) -> _Video:
        """Returns the video of a source, of which so many frames are read."""
        files = Files.of(source)
        with open_video(source) as reader:
            height, width = reader.info.height, reader.info.width
        side = min(height, width)
        return cls(
            files=files,
            floors=[(Floor(path), wanted) for path, wanted in files.divided(np.arange(count))],
            count=count,
            square=Region(
                left=(width - side) // 2, top=(height - side) // 2, width=side, height=side
            ),
        )

    def decode(self) -> None:
        for floor, wanted in self.floors:
            floor.decode(wanted, necessary=False)

    def plain(self, size: int) -> None:
        indices = np.arange(min(self.count, _PLAIN_FRAMES))
        plain_loop(self.files, [Shown(indices=indices, region=self.square, size=(size, size))])


def _each(videos: Sequence[_Video], act: Callable[[_Video], None]) -> None:
    for video in videos:
        act(video)


def _print(figures: ReadingFigures, config: EmbedBench) -> None:
    screen = ScreenTable(
        title=f"every frame of {figures.footage} ({figures.frames}), {config.size} px: {os.cpu_count()} cores",
        title_justify="left",
    )
    screen.add_column("CPU time per frame")
    screen.add_column("ms", justify="right")
    screen.add_column("times decoding", justify="right")
    names = {
        "floor": "decoding alone",
        "read": "read for embed, one process",
        "apart": "read by a process of its own, without its start",
        "normalise": "to normalised float32",
        "plain": f"plain loop: {figures.plain_decoder}, PIL, float32",
    }
    for way, text in names.items():
        milliseconds = figures.cpu_ms[way]
        screen.add_row(text, f"{milliseconds:.3f}", f"{milliseconds / figures.cpu_ms['floor']:.2f}")
    console = console_for_tables()
    console.print(screen)
    console.print(
        f"Reading takes {figures.over_floor:.2f} times the CPU time of decoding alone; with normalising it is "
        f"{figures.speedup:.2f} times as fast as the plain loop."
    )
