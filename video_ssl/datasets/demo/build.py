"""The generated data sets as files: real mp4 files of a figure that moves, with every kind of label.

`build_demo` fills a folder with `videos/SPLIT/*.mp4` and the tables `train`, `val` (clips of one action),
`sessions_train`, `sessions_val` (untrimmed videos), `segments_train`, `segments_val` (the actions within them),
`phases_train`, `phases_val`, and `views_train`, `views_val` (not of the world `exercises`).

What is in a clip: an action (the label) that goes through its phases (the frame labels) once, at a random moment and
with a bent clock; a sound at every key event; captions; boxes of the figure and of a distracting object.  Body,
clothes, background, camera, light, noise and tempo are random and independent of the label, and no figure or
background of `train` occurs in `val`.

`phases_train` and `phases_val` are for frame-wise representations, in the manner of Penn Action: longer, one action
of `PHASES_CLASSES` anywhere in it, phases of very different length, idle frames without a label.  Camera,
background, light and distractor stand still in time (else the easiest clue to the moment would be their drift, and
nothing about the pose need be learned); looks vary from video to video as everywhere.

`views_train` and `views_val` hold performances that two cameras have filmed at once (see `rows.clip_row`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_ssl.child_signals import deaf_children
from video_ssl.datasets.demo.config import DemoConfig
from video_ssl.datasets.demo.mp4 import write_mp4
from video_ssl.datasets.demo.rows import clip_row, segment_rows, session_row
from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.video import World
from video_ssl.datasets.demo.worlds import plan_of, world_of, world_of_format
from video_ssl.datasets.table import Table
from video_ssl.files import OutputError, claim_file, claim_folder, remove_leftovers, write_json
from video_ssl.progress import metered
from video_ssl.recipes import build_config, nearest, to_plain

logger = logging.getLogger(__name__)

_TITLE = "demo videos"
_DONE, _BEGUN = "demo.json", ".demo.begun.json"


def build_demo(
    root: str | os.PathLike[str],
    *,
    world: str = DemoConfig.world,
    size: str = DemoConfig.size,
    seed: int = DemoConfig.seed,
    num_workers: int | None = DemoConfig.num_workers,
    progress: bool = True,
    nuisances: NuisanceConfig | Mapping[str, float] | None = None,
) -> Path:
    """Returns `root` with the generated data in it, made or completed where something is missing.

    An interrupted build continues where it stopped; a complete one is recognised by `demo.json` and left alone.  The
    data depend on world, size, seed and nuisances, never on the number of processes.

    Args:
        root: folder to fill; created if needed.
        world: what is generated, a name in `WORLDS`.
        size: `tiny` (tests), `small` (a laptop), `large` (a GPU).
        seed: another seed gives other figures, backgrounds, motions and sounds.
        num_workers: processes; None for one per core, 0 to work in this one.  Libraries that this process has loaded
            may then change last bits of the pictures (seen beside torch and jax).  Processes of their own gave other
            bits once, on a busy machine, in 48 of 626 videos (by 0.1 grey levels on average), for a reason not found.
        progress: show a progress bar.
        nuisances: strengths of what is not the action; the defaults if None.

    Raises:
        ValueError: unknown world or size, or a folder that holds another world or demo data of other settings.
        OutputError: a file to be written was made by somebody else, or the folder cannot be written.
    """
    made = world_of(world)
    if size not in made.sizes:
        raise ValueError(
            f"size={size!r} is not one of {list(made.sizes)}.{nearest(size, made.sizes)}"
        )
    if not isinstance(nuisances, NuisanceConfig):
        nuisances = build_config(NuisanceConfig, nuisances, "nuisances")
    root = Path(os.path.realpath(root))
    settings = {
        "format": made.format,
        "size": size,
        "seed": seed,
        "nuisances": to_plain(nuisances),
    }
    if _check_settings(root, settings):
        return root
    _claim(root, settings)
    for split in made.splits:
        (root / "videos" / split).mkdir(parents=True, exist_ok=True)
    write_json(root / _BEGUN, settings)
    missing = _missing(root, settings)
    workers = len(os.sched_getaffinity(0)) if num_workers is None else max(0, num_workers)
    workers = min(workers, len(missing))
    logger.info("making %d demo videos below %s with %d processes", len(missing), root, workers)
    if workers == 0:
        _render_here(root, settings, missing, progress)
    else:
        _render_in_processes(root, settings, len(missing), workers, progress)
    _write_tables(root, settings)
    versions = {
        name: importlib.metadata.version(name) for name in ("numpy", "pillow", "av", "video_ssl")
    }
    write_json(root / _DONE, {**settings, "versions": versions})
    (root / _BEGUN).unlink(missing_ok=True)
    return root


def _check_settings(root: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder is complete; raises where it holds data of other settings."""
    for name in (_DONE, _BEGUN):
        if not (root / name).is_file():
            continue
        found = _read_settings(root / name)
        _refuse_another_world(root, settings["format"], found["format"])
        differing = [key for key in settings if found.get(key) != settings[key]]
        if differing:
            given, there = ({key: d.get(key) for key in differing} for d in (settings, found))
            raise ValueError(
                f"{root} holds demo data with {there}, but {given} was requested. "
                "Choose another folder, ask for the same settings, or delete the folder."
            )
        return name == _DONE
    return False


def _refuse_another_world(root: Path, wanted: int, found: object) -> None:
    """A folder tells its world by its format."""
    if found == wanted:
        return
    world, other = world_of_format(wanted), world_of_format(found)
    assert world is not None
    if other is None:
        raise ValueError(
            f"{root} holds generated videos of format {found!r}, which nothing here makes, but the world "
            f"{world.name!r} (format {wanted}) was requested. Choose another folder, or delete the folder."
        )
    raise ValueError(
        f"{root} holds the world {other.name!r} (format {found}), but the world {world.name!r} (format {wanted}) was "
        f"requested. Choose another folder, delete this one, or keep what is there: it is opened with "
        f"`world: {other.name}` in its dataset recipe (`video-ssl data demo {root} --world {other.name}`)."
    )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "format" not in found:
        raise OutputError(
            f"{path} is not that of demo data: the folder is left alone. Give another folder, or move that file away."
        )
    return found


def _claim(root: Path, settings: Mapping[str, Any]) -> None:
    """Refuses files of somebody else; whether a folder is ours, the file of an unfinished build says."""
    ours = (root / _BEGUN).is_file()
    videos = [f"videos/{split}/{split}-{index:05d}.mp4" for split, index in _videos(settings)]
    claim_folder(root, "data demo", videos, ours=ours)
    for name in _tables(_world(settings)):
        claim_file(root / f"{name}.arrow", "data demo")
    _remove_leftovers(root)


def _remove_leftovers(root: Path) -> None:
    """Removes what processes that have ended have left of a video; others may be at work in the same folder."""
    for folder in (root, *(root / "videos").glob("*")):
        remove_leftovers(folder)


def _world(settings: Mapping[str, Any]) -> World:
    world = world_of_format(settings["format"])
    assert world is not None
    return world


def _tables(world: World) -> list[str]:
    """Names of the tables: one per split, and the actions within the sessions."""
    segments = [
        s.replace("sessions_", "segments_") for s in world.splits if s.startswith("sessions_")
    ]
    return [*world.splits, *segments]


def _videos(settings: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(split, index) of every video; long ones come first: at the end short ones balance the processes better."""
    world = _world(settings)
    size = world.sizes[settings["size"]]
    return [(split, i) for split in reversed(world.splits) for i in range(size.count(split))]


def _missing(root: Path, settings: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(split, index) of every video that is not there; a file is either complete or absent."""
    wanted = _videos(settings)
    return [(s, i) for s, i in wanted if not (root / f"videos/{s}/{s}-{i:05d}.mp4").is_file()]


def _render(root: Path, settings: Mapping[str, Any], split: str, index: int) -> None:
    plan = plan_of(settings, split, index)
    scene = plan.scene()
    path = root / plan.source
    write_mp4(path, scene.frames(), plan.sound(), fps=plan.size.fps, size=plan.size.frame_px)


def _render_here(
    root: Path, settings: Mapping[str, Any], missing: list[tuple[str, int]], progress: bool
) -> None:
    with metered(_TITLE, total=len(missing), show=progress) as meter:
        for split, index in missing:
            _render(root, settings, split, index)
            meter.advance()


def _render_in_processes(
    root: Path, settings: Mapping[str, Any], total: int, workers: int, progress: bool
) -> None:
    """Runs this module once per process: fresh interpreters, which need no `__main__` guard in the user's script."""
    command = [sys.executable, "-m", __name__, str(root), json.dumps(settings), str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        metered(_TITLE, total=total, show=progress) as meter,
    ):
        with deaf_children():
            processes = [
                subprocess.Popen([*command, str(number)], stderr=errors, env=environment)
                for number in range(workers)
            ]
        try:
            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):
                    break
                time.sleep(0.1 if total < 2000 else 1.0)
                if progress:
                    meter.at(total - len(_missing(root, settings)))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
                process.wait()
            _remove_leftovers(root)
        failed = [process.returncode for process in processes if process.returncode]
        if failed:
            errors.seek(0)
            text = errors.read()[-2000:]
            raise RuntimeError(
                f"{len(failed)} of {workers} processes that make demo videos failed "
                f"(exit {failed[0]}); what is done is kept, run it again to continue. {text}"
            )


def _work(root: Path, settings: Mapping[str, Any], workers: int, number: int) -> None:
    """The share of one process: every `workers`-th video of the whole list that is not there yet."""
    parent = os.getppid()
    for split, index in _videos(settings)[number::workers]:
        if os.getppid() != parent:
            raise SystemExit("the process that started this one is gone")
        if not (root / f"videos/{split}/{split}-{index:05d}.mp4").is_file():
            _render(root, settings, split, index)


def _write_tables(root: Path, settings: Mapping[str, Any]) -> None:
    """Writes all tables; rows are drawn anew from the plans, so a continued build gives the same."""
    world = _world(settings)
    classes, phases, topics = (
        list(names) for names in (world.class_names, world.phase_names, world.topics)
    )
    about: dict[str, Any] = {"objects": ["figure", "distractor"], "generator": dict(settings)}
    for split in world.splits:
        count = world.sizes[settings["size"]].count(split)
        plans = (plan_of(settings, split, index) for index in range(count))
        if not split.startswith("sessions_"):
            _save([clip_row(world, plan) for plan in plans], root, split, classes, phases, about)
            continue
        sessions = list(plans)
        rows = [session_row(world, plan) for plan in sessions]
        _save(rows, root, split, topics, classes, about)
        segments = [row for plan in sessions for row in segment_rows(world, plan)]
        name = split.replace("sessions_", "segments_")
        _save(segments, root, name, classes, phases, about)


def _save(
    rows: list[dict[str, Any]],
    root: Path,
    name: str,
    classes: list[str],
    phases: list[str],
    about: dict[str, Any],
) -> None:
    if not rows:
        return
    table = Table.from_rows(rows, root=root, class_names=classes, phase_names=phases, **about)
    table.save(root / f"{name}.arrow", maker="data demo")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One process of build_demo.")
    parser.add_argument("root", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("workers", type=int)
    parser.add_argument("number", type=int)
    given = parser.parse_args()
    _work(given.root, given.settings, given.workers, given.number)
