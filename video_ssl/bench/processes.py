"""`bench start` and `bench retrieve`: whole processes, and the least that others need for the same, in turns.

Each is started several times, one after the other in every turn, so that what else a machine does meets all alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.table import Table as ScreenTable

from video_ssl.bench.config import RetrieveBench, StartBench
from video_ssl.bench.footage import FOOTAGE, make_footage
from video_ssl.child_signals import deaf_children
from video_ssl.child_usage import Spent, spent, watched
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.files import MADE_BY, claim_file, made, temporary_folder, write_json
from video_ssl.progress import console_for_tables

#: What `bench start` compares with: a process that has imported torch, and one that has trained for a step with it.
_IMPORT = "import torch"
_STEP = """
import torch
weight = torch.zeros(8, 8, requires_grad=True)
optimizer = torch.optim.AdamW([weight])
(weight @ weight).sum().backward()
optimizer.step()
"""
#: What `bench retrieve` compares with: argv names two feature files; nearest 20 by cosine, in blocks, of mapped files.
_SEARCH = """
import sys
import numpy as np
import pyarrow as pa

def vectors(path):
    table = pa.ipc.open_file(pa.memory_map(path)).read_all()
    flat = np.concatenate([c.flatten().to_numpy() for c in table["feature"].chunks]).reshape(len(table), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)

queries, gallery = map(vectors, sys.argv[1:])
best, rows = np.full((len(queries), 0), 0.0, np.float32), np.zeros((len(queries), 0), np.int64)
for begin in range(0, len(gallery), 4096):
    similar = queries @ gallery[begin : begin + 4096].T
    best = np.concatenate([best, similar], 1)
    rows = np.concatenate([rows, np.broadcast_to(np.arange(begin, begin + similar.shape[1]), similar.shape)], 1)
    top = np.argpartition(-best, 20, axis=1)[:, :20] if best.shape[1] > 20 else np.argsort(-best, axis=1)
    best, rows = np.take_along_axis(best, top, 1), np.take_along_axis(rows, top, 1)
"""
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class ProcessFigures:
    """What a process took, medians over its turns.

    Attributes:
        name: in words.
        cpu_sec: of processors, its own children included.
        wall_sec: on the clock.
        peak_mib: largest resident size of one process.
        ratio: of processor time to that of the yardstick, the first one.
    """

    name: str
    cpu_sec: float
    wall_sec: float
    peak_mib: float
    ratio: float


def bench_start(config: StartBench, *, json_path: Path | None = None) -> list[ProcessFigures]:
    """Measures what it takes to begin, prints a table and returns the figures.

    Args:
        config: how often.
        json_path: where the figures go as JSON, too.

    Raises:
        OutputError: `json_path` is another's file or cannot be written.
        RuntimeError: a process that fails; what it said is in the text.
    """
    place = None if json_path is None else claim_file(json_path, "bench start")
    ours = [sys.executable, "-m", "video_ssl"]
    with temporary_folder("bench") as folder:
        table = make_footage(FOOTAGE["easy"][0], folder / "footage").save(folder / "table.arrow")
        train = [
            *ours,
            "pretrain",
            "videomae/demo",
            f"data.table={table.path}",
            "training.duration=3 steps",
            "training.global_batch_size=4",
            "optimizer.warmup=1 steps",
            "training.device=cpu",
        ]
        commands = {
            "a process that imports torch": [sys.executable, "-c", _IMPORT],
            "and takes one AdamW step": [sys.executable, "-c", _STEP],
            "video-ssl --version": [*ours, "--version"],
            "a training of three small steps, no workers": [*train, "loader.num_workers=0"],
            "a training of three small steps, one worker": [*train, "loader.num_workers=1"],
        }
        figures = _measured(commands, config.repeats, folder)
    return _told(figures, "From the command to the end", place, "bench start")


def bench_retrieve(config: RetrieveBench, *, json_path: Path | None = None) -> list[ProcessFigures]:
    """Measures `video-ssl retrieve` beside a short script of numpy, prints a table and returns the figures.

    Args:
        config: sizes, and how often.
        json_path: where the figures go as JSON, too.

    Raises:
        OutputError, RuntimeError: as `bench_start`.
    """
    place = None if json_path is None else claim_file(json_path, "bench retrieve")
    with temporary_folder("bench") as folder:
        files = {"queries": config.queries, "gallery": config.gallery}
        for seed, (name, count) in enumerate(files.items()):
            _random_features(folder / f"{name}.arrow", count, config.width, seed)
        paths = [str(folder / f"{name}.arrow") for name in files]
        commands = {
            "numpy, the nearest 20 in blocks": [sys.executable, "-c", _SEARCH, *paths],
            "video-ssl retrieve": [
                *(sys.executable, "-m", "video_ssl", "retrieve"),
                *(*paths, "--out", str(folder / "found.json")),
            ],
        }
        figures = _measured(commands, config.repeats, folder)
    title = f"{config.queries:,} in {config.gallery:,} vectors of {config.width}"
    return _told(figures, title, place, "bench retrieve")


def _random_features(path: Path, count: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with FeatureWriter(path, embed_dim=width) as writer:
        for begin in range(0, count, _ROWS):
            own = rng.standard_normal((min(_ROWS, count - begin), width), np.float32)
            labels = rng.integers(100, size=len(own))
            writer.write(
                [
                    {
                        "id": f"{path.stem}{begin + n}",
                        "clip": 0,
                        "label": int(label),
                        "feature": row,
                    }
                    for n, (row, label) in enumerate(zip(own, labels, strict=True))
                ]
            )


def _measured(
    commands: Mapping[str, Sequence[str]], repeats: int, folder: Path
) -> list[ProcessFigures]:
    turns: dict[str, list[Spent]] = {name: [] for name in commands}
    for turn in range(repeats):
        for number, (name, command) in enumerate(commands.items()):
            run = [f"run={folder / f'run_{turn}_{number}'}"] if "pretrain" in command else []
            turns[name].append(_run([*command, *run]))
    medians = {
        name: np.median([(s.processor_sec, s.wall_sec, s.peak_gib) for s in own], axis=0)
        for name, own in turns.items()
    }
    first = next(iter(medians.values()))[0]
    return [
        ProcessFigures(
            name=name,
            cpu_sec=float(cpu),
            wall_sec=float(wall),
            peak_mib=float(1024 * peak),
            ratio=float(cpu / first),
        )
        for name, (cpu, wall, peak) in medians.items()
    ]


def _run(command: Sequence[str]) -> Spent:
    """What a process took that has ended well.

    Raises:
        RuntimeError: it has not; what it said is in the text.
    """
    with temporary_folder("bench") as folder, open(folder / "said.txt", "w+b") as said:
        with deaf_children():
            subprocess.run(
                watched(command, folder / "took.json"),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=True,
            )
        code, took = spent(folder / "took.json")
        if code:
            said.seek(0)
            tail = said.read()[-2000:].decode("utf-8", "replace")
            raise RuntimeError(f"{list(command[:4])} ended with code {code}: {tail}")
    return took


def _told(
    figures: list[ProcessFigures], title: str, place: Path | None, verb: str
) -> list[ProcessFigures]:
    screen = ScreenTable(
        title=f"{title}: {os.cpu_count()} cores, pyarrow {pa.__version__}", title_justify="left"
    )
    screen.add_column("process")
    for head in ("CPU s", "times the first", "s", "peak MiB"):
        screen.add_column(head, justify="right")
    for row in figures:
        numbers = (row.cpu_sec, row.ratio, row.wall_sec)
        screen.add_row(row.name, *(f"{n:.2f}" for n in numbers), f"{row.peak_mib:.0f}")
    console_for_tables().print(screen)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {MADE_BY: made(verb), "processes": [asdict(row) for row in figures]})
    return figures
