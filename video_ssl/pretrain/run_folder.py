"""RUN/: the folder of one run, held by one process at a time, and the record of what was run where.

recipe.yaml        resolved recipe                 checkpoints/step_N/   see `checkpoints.py`
environment.json   every start of the run          encoder/              the result
metrics.jsonl      one line every log_every        finished.json         written last
tensorboard/       the same, if installed          skipped.jsonl         unreadable videos
tracking/NAME/     of further trackers of metrics
encoders/NAME/     further encoders of a training  evaluate/             results of evaluations
nonfinite/         only after a non-finite loss    logs/rank_N.log       every message of process N
exports/step_N/    encoders of checkpoints that were asked for
attempts/N/        what starts with another recipe that never came to a checkpoint have left
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import socket
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.code_state import code_folder, git_state
from video_ssl.files import (
    FULL,
    OutputError,
    claim_file,
    claim_folder,
    full_place,
    remove_leftovers,
    write_atomically,
    write_json,
)
from video_ssl.limits import parse_json
from video_ssl.locks import try_lock
from video_ssl.models.encoder_folder import (
    CONFIG,
    EncoderError,
    claim_encoder_folder,
    read_config,
)
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import recipe_from_dict, recipe_to_dict
from video_ssl.pretrain.run_processes import RunProcesses
from video_ssl.pretrain.trackers import TRACKING
from video_ssl.recipes import ConfigError, load_yaml, recipe_changes, to_yaml

logger = logging.getLogger(__name__)

RECIPE, ENVIRONMENT, METRICS, FINISHED, LOCK = (
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "finished.json",
    ".lock",
)

CHECKPOINTS = "checkpoints"

#: Where the encoder of a run is, and below which folder further ones are.
ENCODER, FURTHER_ENCODERS = "encoder", "encoders"

#: Encoders of checkpoints, see `export.py`.
EXPORTS = "exports"

#: What starts that never came to a checkpoint have left, one folder each.
ATTEMPTS = "attempts"

_HOLDER = b"process "
# What a run writes, besides logs.
WRITTEN = (
    *(RECIPE, ENVIRONMENT, METRICS, FINISHED, "skipped.jsonl"),
    *(CHECKPOINTS, ENCODER, FURTHER_ENCODERS, "nonfinite", EXPORTS, ATTEMPTS),
)
# What of these belongs to the recipe they were written with, and not to the next one.
_OF_AN_ATTEMPT = (METRICS, "tensorboard", TRACKING, "skipped.jsonl", "nonfinite")

# What may differ between a run and its continuation.  Nothing here changes which records, views or weights come next,
# except the device, `compile`, `sharding` and `activation_checkpointing`, whose arithmetic may round differently.
HARMLESS = (
    "name",
    "run",
    "evaluate",
    "validation",
    "loader.num_workers",
    "loader.prefetch_batches",
    "loader.video_timeout_sec",
    "loader.max_bad_share",
    "training.log_every",
    "training.probe",
    "training.trackers",
    "training.checkpoint_every",
    "training.keep",
    "training.keep_every",
    "training.device",
    "training.compile",
    "training.sharding",
    "training.activation_checkpointing",
)
_PACKAGES = (
    *("video_ssl", "torch", "numpy", "av", "grain", "pyarrow", "safetensors"),
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
)


def exported_folders(
    run: Path, place: Path, names: Sequence[str], source: Mapping[str, Any]
) -> dict[str, Path]:
    """Returns where the encoders of a checkpoint go: the first to `place`, which is claimed before they are known, the
    others beside it; these are claimed here, see `claim_export`."""
    first, *others = names
    beside = {name: place.with_name(f"{place.name}_{name}") for name in others}
    for folder in beside.values():
        claim_export(run, folder, source)
    return {first: place, **beside}


def claim_export(run: Path, place: Path, source: Mapping[str, Any]) -> None:
    """Looks whether an encoder of a checkpoint may be written to a place; to be asked before any work.

    Raises:
        EncoderError: it holds something else than an encoder, or one that is no export of this run.
        OutputError: it cannot be written.
    """
    claim_encoder_folder(place)
    if place.resolve().parent == (run / EXPORTS).resolve() or not (place / CONFIG).exists():
        return
    there = read_config(place)["source"]
    # An earlier version wrote another digest into what it exported.
    ours = there.get("run") in (source["run"], _digest_of_recipe(run))
    if not ours and there.get("checkpoint") != source["checkpoint"]:
        raise EncoderError(
            f"{place} holds an encoder that is no export of {run} (objective: {there.get('objective')}, recipe: "
            f"{there.get('recipe')}): it is not overwritten. Name a new folder, or move that away."
        )


def run_digest(run: Path) -> str:
    """Returns 8 hexadecimal digits that tell a run from others and stay when its folder is moved, or harmless settings
    change: they are those of its first start, or of its recipe where none was noted."""
    starts = _starts(run / ENVIRONMENT)
    if not starts:
        return _digest_of_recipe(run)
    return f"{zlib.crc32(json.dumps(starts[0], sort_keys=True).encode()):08x}"


def _digest_of_recipe(run: Path) -> str:
    """What told a run from others in an earlier version."""
    name = run.resolve().name.encode()
    return f"{zlib.crc32((run / RECIPE).read_bytes() + name):08x}"


def encoder_folders(run: Path, names: Sequence[str]) -> dict[str, Path]:
    """Returns where the encoders of a run go: the first to RUN/encoder, the others to RUN/encoders/NAME."""
    assert all(name.isidentifier() for name in names), names
    first, *others = names
    return {first: run / ENCODER, **{name: run / FURTHER_ENCODERS / name for name in others}}


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps every other process out of it until the end, also after a crash of this one.

    Raises:
        RunError: another process holds it (its number and host are named), the path is a file, or whatever is done in
            between finds the disk full without an error of its own.
    """
    try:
        with _held(folder):
            yield
    except OSError as err:
        if err.errno not in FULL:
            raise
        place = full_place(err, folder)
        what = "Make room, or have the quota raised"
        if place == Path("/dev/shm"):
            what = "Enlarge it (docker: --shm-size) or lower loader.prefetch_batches"
        raise RunError(
            f"{place} could not be written ({err.strerror}). {what}, and start the same command again: it goes on from "
            "the newest checkpoint."
        ) from err


def refuse_foreign_run(folder: Path) -> None:
    """Refuses to start a run in a folder that has files of somebody else under the names of a run's.

    Raises:
        OutputError: which; or the folder is a file or cannot be written; or it is the root of the file system, the
            home folder, or one above the current folder: nobody means to fill those with checkpoints.
    """
    place = Path(os.path.realpath(folder))
    here = Path.cwd()
    if place in here.parents or place in (Path(place.anchor), Path(os.path.realpath(Path.home()))):
        raise OutputError(
            f"run={folder} is {place}, which holds more than a run: give the run a folder of its own, run=runs/NAME."
        )
    ours = _was_held(folder / LOCK) or bool(_starts(folder / ENVIRONMENT))
    claim_folder(folder, "pretrain", WRITTEN, ours=ours)
    if not ours:
        claim_file(folder / LOCK, "pretrain")


def _was_held(lock: Path) -> bool:
    """Whether a file is the lock of a run: empty, or naming a process; it is made first."""
    try:
        with open(lock, "rb") as file:
            return file.read(len(_HOLDER)) in (b"", _HOLDER)
    except OSError:
        return False


def _starts(environment: Path) -> list[Any]:
    try:
        return list(parse_json(environment.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is not a folder. Give the run another folder: run=...")
    refuse_foreign_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        if not try_lock(file):
            file.seek(0)
            raise RunError(
                f"{folder} is in use by {file.read().strip() or 'another process'}. Wait for it, stop it, or give this "
                "run another folder: run=..."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        remove_leftovers(folder, WRITTEN, held=True)
        remove_leftovers(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a full file system that copies on write
                file.truncate(0)


def has_begun(folder: Path) -> bool:
    """Returns whether there is something trained here that another recipe could not go on from: a checkpoint, sound or
    damaged, or the encoder of a run that has ended."""
    checkpoints = any((folder / CHECKPOINTS).glob("step_*"))
    return (
        checkpoints or (folder / FINISHED).exists() or (folder / ENCODER / "config.json").exists()
    )


def changes_since_start(folder: Path, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Returns key -> readable line of what differs from the recipe that the folder was started with; {} if none was.

    Raises:
        RunError: the recipe in the folder cannot be read.
    """
    path = folder / RECIPE
    if not path.is_file():
        return {}
    try:
        return recipe_changes(_read_today(load_yaml(path)), recipe)
    except ConfigError as err:
        raise RunError(str(err)) from err


def serious(changes: Mapping[str, str]) -> list[str]:
    """Returns the lines of changes that a run must not go on with in silence."""
    return [line for key, line in changes.items() if not is_harmless(key)]


def forget_attempt(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Makes room in a folder where nothing is trained yet for a recipe other than the one it was started with.

    What the earlier starts have written moves to RUN/attempts/N, with their recipe.  Only for the holder of the folder.
    """
    try:
        if not serious(changes_since_start(folder, recipe)):
            return
    except RunError as err:  # whatever it was, nothing was trained with it
        logger.warning("%s", err)
    left = [folder / name for name in _OF_AN_ATTEMPT if (folder / name).exists()]
    if left:
        place = _next_attempt(folder)
        place.mkdir(parents=True)
        for each in (folder / RECIPE, *left):
            os.replace(each, place / each.name)
        logger.info(
            "%s was started with another recipe, but no checkpoint was made: this one begins anew, what that start has "
            "written is in %s",
            folder,
            place,
        )
    (folder / RECIPE).unlink(missing_ok=True)


def _next_attempt(folder: Path) -> Path:
    numbers = [int(p.name) for p in (folder / ATTEMPTS).glob("*") if p.name.isdecimal()]
    return folder / ATTEMPTS / str(max(numbers, default=0) + 1)


def settle_recipe(folder: Path, recipe: Mapping[str, Any], *, allow_changes: bool) -> bool:
    """Returns whether the recipe differs in earnest from the one the folder was started with; writes it if it does not.

    One that differs in earnest is written by `take_recipe`, once nothing can refuse it any more.

    Raises:
        RunError: they differ in more than harmless settings and `allow_changes` is False; every difference is listed.
    """
    changes = changes_since_start(folder, recipe)
    listed = serious(changes)
    if listed and not allow_changes:
        lines = "\n  ".join(listed)
        raise RunError(
            f"{folder} was started with another recipe (now <- before):\n  {lines}\n"
            "Undo the change, give this run another folder (run=...), or resume all the same with --allow-changes."
        )
    for line in changes.values():
        logger.info("changed since the start of the run: %s", line)
    if not listed:
        write_atomically(folder / RECIPE, to_yaml(dict(recipe)))
    return bool(listed)


def take_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Makes a recipe that differs in earnest that of the folder, whose run is then not finished any more."""
    (folder / FINISHED).unlink(missing_ok=True)
    write_atomically(folder / RECIPE, to_yaml(dict(recipe)))


def _read_today(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the defaults of keys that have come since it was written; unchanged if it is none any more."""
    try:
        return recipe_to_dict(recipe_from_dict(content))
    except ConfigError:
        return content


def is_harmless(key: str) -> bool:
    """Returns whether a setting may differ between a run and its continuation without a word."""
    return any(key == known or key.startswith(f"{known}.") for known in HARMLESS)


def note_start(folder: Path, processes: RunProcesses, *, step: int) -> None:
    """Adds this start of the run to environment.json: versions, git state, command, machine, first step."""
    path = folder / ENVIRONMENT
    starts = _starts(path)
    if path.is_file() and not starts:
        logger.warning("%s was not readable and is written anew", path)
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "run": str(folder.resolve()),  # no other run has begun here in this second
            "command": sys.argv,
            "folder": os.getcwd(),
            "code": str(code_folder()),
            "host": socket.gethostname(),
            "world_size": processes.world_size,
            "device": str(processes.device),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {name: _version(name) for name in _PACKAGES},
            "git": git_state(code_folder()),
        }
    )
    write_json(path, {"starts": starts})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def log_to_file(folder: Path, rank: int) -> Iterator[None]:
    """Copies every message of the package to RUN/logs/rank_N.log; processes other than 0 speak only there."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    package = logging.getLogger("video_ssl")
    handler = logging.FileHandler(folder / "logs" / f"rank_{rank}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = package.level, package.propagate
    package.addHandler(handler)
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)
        package.propagate = False
    if rank:
        package.propagate = False
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        package.propagate = propagate
        handler.close()
