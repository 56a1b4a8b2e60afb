"""Folders of checkpoints, whatever wrote the tensors: complete or not there, found again by themselves.

    RUN/checkpoints/step_N/meta.json   step, versions, sizes and checksums of the files, and its own checksum
    RUN/checkpoints/step_N/...         tensors, see `torch_loop/` and `flax_loop/`
    RUN/checkpoints/step_N.damaged/    one whose contents were found changed, moved out of the way

A folder is filled under a temporary name, synced to the disk and renamed; what a crash leaves under a temporary name is
never read and swept away by the next start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from video_ssl.checksums import SEAL, checksums, damage, file_sizes, seal_is_broken, sealed
from video_ssl.files import remove_at_once, remove_leftovers, take_place, temporary_name
from video_ssl.limits import read_json
from video_ssl.pretrain.errors import CheckpointError

logger = logging.getLogger(__name__)

META = "meta.json"
DAMAGED = ".damaged"
_NAME = re.compile(r"step_(\d+)")
_MAX_META_BYTES = 2**26


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    step: int
    folder: Path


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Returns the complete checkpoints below RUN/checkpoints, oldest first; damaged ones are logged."""
    found = []
    for step, path in _steps(folder):
        problem = _problem(path)
        if problem:
            logger.warning("checkpoint %s is not complete (%s) and is not used", path, problem)
        else:
            found.append(Checkpoint(step, path))
    return found


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the complete checkpoint of the highest step, or None; only sizes are looked at."""
    return max(list_checkpoints(folder), key=lambda c: c.step, default=None)


def checkpoint_at(folder: Path, step: int | None = None) -> Checkpoint:
    """Returns the checkpoint of a step below RUN/checkpoints, the newest where none is named; its files are read once.

    Raises:
        CheckpointError: there is none (those that are there are named), or it is damaged.
    """
    known = [checkpoint.step for checkpoint in list_checkpoints(folder)]
    if not known:
        raise CheckpointError(
            f"{folder.parent} has no checkpoint yet: one is made every training.checkpoint_every, and when the run is "
            "stopped with Ctrl-C."
        )
    wanted = known[-1] if step is None else step
    if wanted not in known:
        raise CheckpointError(
            f"{folder.parent} has no checkpoint of step {wanted}: there are {', '.join(map(str, known))} "
            f"({known[-1]} is the newest)."
        )
    found = folder / f"step_{wanted}"
    problem = _changed(found)
    if problem:
        raise CheckpointError(f"checkpoint {found} is damaged ({problem}): take another one.")
    return Checkpoint(wanted, found)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Returns what tells a checkpoint from another one that has had the same place."""
    return f"{zlib.crc32((checkpoint.folder / META).read_bytes()):08x}"


def sound_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest checkpoint whose files are what was written, or None where there never was one.

    Reads its files once.  Newer ones that are damaged are named in a warning and renamed `step_N.damaged`, so that no
    later sweep takes them for the newest.  Only for the holder of the run folder.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for step, path in reversed(_steps(folder)):
        problem = _problem(path) or _changed(path)
        if not problem:
            for wrong, reason in damaged:
                logger.warning(
                    "checkpoint %s is damaged (%s): it is not used, but the one before it",
                    wrong,
                    reason,
                )
                _set_aside(wrong)
            return Checkpoint(step, path)
        damaged.append((path, problem))
    aside = [(path, "found before") for path in folder.glob(f"step_*{DAMAGED}")]
    if not damaged and not aside:
        return None
    listed = "; ".join(f"{path.name}: {reason}" for path, reason in [*damaged, *aside][:5])
    raise CheckpointError(
        f"every checkpoint in {folder} is damaged ({listed}), and nothing is trained anew over them. Bring back a "
        f"copy, give this run another folder (run=...), or remove {folder} to begin from the start."
    )


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Every step_N, complete or not, oldest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append((int(match[1]), path))
    return sorted(found)


def _set_aside(path: Path) -> None:
    place = path.with_name(path.name + DAMAGED)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(path, place)


def begin_checkpoint(folder: Path, step: int) -> Path:
    """Returns a new folder under a temporary name, for the tensors of a checkpoint.

    Raises:
        CheckpointError: the disk is full or refuses.
    """
    temporary = temporary_name(folder / f"step_{step}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as err:
        raise CheckpointError(save_failed(folder, step, err)) from err
    return temporary


def complete_checkpoint(
    folder: Path,
    step: int,
    temporary: Path,
    meta: Mapping[str, Any],
    *,
    sums: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Returns the checkpoint that a folder with all its tensors becomes: described, synced and renamed.

    Args:
        folder, step, meta: of the checkpoint.
        temporary: what `begin_checkpoint` has given.
        sums: name -> checksum of files that were taken while they were written; others are read for it.

    Raises:
        CheckpointError: the disk is full or refuses; what was there before is untouched.
    """
    target = folder / f"step_{step}"
    try:
        sizes, known = file_sizes(temporary), dict(sums or {})
        known |= checksums(temporary, [name for name in sizes if name not in known])
        content = {"step": step, **meta, "bytes": sizes, "crc32": known}
        with open(temporary / META, "w", encoding="utf-8") as file:
            file.write(json.dumps(sealed(content), indent=2) + "\n")
            to_disk(file)
        _sync_folder(temporary)
        take_place(temporary, target)  # of another one only after a resume from an earlier step
        _sync_folder(folder)
    except (OSError, RuntimeError) as err:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(save_failed(folder, step, err)) from err
    return Checkpoint(step, target)


def read_meta(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns what was written about a checkpoint beside its tensors."""
    return _meta(checkpoint.folder)


def _meta(folder: Path) -> dict[str, Any]:
    """The content of meta.json; ValueError if it is not what was written."""
    content = read_json(folder / META, max_bytes=_MAX_META_BYTES)
    unsealed = not isinstance(content, dict) or ("crc32" in content and SEAL not in content)
    if unsealed or seal_is_broken(content):
        raise ValueError(f"{META} is not what was written")
    return content


def stays(step: int, *, checkpoint_every: int, keep_every: int) -> bool:
    """Returns whether the checkpoint of a step is the first one at or after a multiple of `keep_every`.

    Both lengths are rounded to steps on their own, so a multiple of one need not be a multiple of the other.  What
    counts is where checkpoints are laid out, not which are there: those of stopped runs move nothing.

    >>> [step for step in range(4, 29, 4) if stays(step, checkpoint_every=4, keep_every=6)]
    [8, 12, 20, 24]
    """
    if step % keep_every == 0:
        return True
    before = step - checkpoint_every
    return step % checkpoint_every == 0 and step // keep_every > before // keep_every


def sweep(
    folder: Path, *, keep: int, checkpoint_every: int = 1, keep_every: int | None = None
) -> None:
    """Removes all but the `keep` newest checkpoints and those of `keep_every`, see `stays`."""
    for checkpoint in list_checkpoints(folder)[:-keep]:
        if not (
            keep_every
            and stays(checkpoint.step, checkpoint_every=checkpoint_every, keep_every=keep_every)
        ):
            with contextlib.suppress(OSError):
                remove_at_once(checkpoint.folder)


def sweep_unfinished(folder: Path) -> None:
    """Removes what crashes have left under temporary names.  Only for the holder of the run folder.

    A complete checkpoint that was moved aside by a crash between two renames is put back first.
    """
    remove_leftovers(folder, held=True)


def _problem(folder: Path) -> str | None:
    try:
        meta = _meta(folder)
        if folder.name != f"step_{meta['step']}":
            return f"it is the checkpoint of step {meta['step']} under another name: call it step_{meta['step']}"
        for name, size in meta["bytes"].items():
            if (folder / name).stat().st_size != size:
                return f"{name} has {(folder / name).stat().st_size} bytes instead of {size}"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        return f"{type(err).__name__}: {err}"
    return None


def _changed(folder: Path) -> str | None:
    """What of a complete checkpoint is not what was written; None if nothing is, or it cannot be checked."""
    try:
        sums = _meta(folder).get("crc32")
    except (OSError, ValueError) as err:
        return str(err)
    if sums is None:
        logger.info(
            "checkpoint %s is of an earlier version, without checksums: whether it is damaged cannot be checked",
            folder,
        )
        return None
    return damage(folder, sums) or None


def to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_failed(folder: Path, step: int, err: Exception) -> str:
    """Returns the text of the error of a checkpoint that could not be written."""
    last = newest_checkpoint(folder)
    rest = (
        f"The checkpoint of step {last.step} is untouched: make room and start the same command again to resume there."
        if last
        else "There is no earlier checkpoint: make room and start again."
    )
    free = shutil.disk_usage(folder).free / 2**30 if folder.is_dir() else float("nan")
    return f"the checkpoint of step {step} could not be written to {folder} ({_why(err)}; {free:.1f} GiB free). {rest}"


def _why(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        longest = " (`ulimit -f`)" if err.errno == errno.EFBIG else ""
        return err.strerror + longest
    # torch's writer of archives, which keeps what the system said to itself
    return "the file ends too early" if "inline_container" in str(err) else str(err)
