"""Public data sets: tables from their official annotation files and the videos that are there.

A data set is one file with a function `read_X(root, **settings) -> Annotations`, which reads the annotation files and
nothing else.  This module finds the videos, writes one `SPLIT.arrow` per split below the root (or in the cache, where
the root cannot be written), and says what is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_ssl.datasets.cache import cache_folder
from video_ssl.datasets.folder import walk
from video_ssl.datasets.left_out import LeftOut
from video_ssl.datasets.parts import divide_parts, each_part, join_parts
from video_ssl.datasets.paths import PICTURE_SUFFIXES, VIDEO_SUFFIXES, printable, source_of_path
from video_ssl.datasets.table import Table, TableError
from video_ssl.files import write_json

log = logging.getLogger(__name__)

_FORMAT = 4
_STAMP = ".video_ssl_tables.json"
_NAMED = 5
_SETTLED_NS = 10**9
_LISTED_FILES = 20
_LOGGED_NOTES = 10


@dataclass(frozen=True, kw_only=True)
class Split:
    """What an annotation file lists.

    Attributes:
        names: path of each video without its suffix.  A file of that name may lie in any folder but one that another
            listed name has and this one has not: a video of another class or split is another video.  A video that lies
            in several files names each of them (`parts.py`), and is there when all of them are.
        columns: other columns of the table, one value for each name.
        other_names: a second name that files may have, or ().
    """

    names: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    other_names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotation files of a data set, read.

    Attributes:
        splits: by name.
        files: the annotation files; the tables are made anew when one changes, or appears if it may be absent.
        class_names: names of the labels.
        metadata: further metadata of the tables, for example `no_flip`.
        suffixes: what counts as a video.
        expected: how many videos a split should have, where that is not how many it lists.
        source: where videos come from, for whoever lacks them.
        layout: where videos are expected, relative to the root.
        notes: what is odd about the lists, for the log.
    """

    splits: Mapping[str, Split]
    files: Sequence[Path]
    class_names: Sequence[str]
    source: str
    layout: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    suffixes: tuple[str, ...] = VIDEO_SUFFIXES
    expected: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


def find_annotation(root: Path, names: Iterable[str], *, source: str) -> Path:
    """Returns the first of the files that exists below the root.

    Raises:
        TableError: none; says which were looked for, and where they come from.
    """
    names = list(names)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise TableError(
        f"{root} has no annotation file {names[0]}"
        + (f" (nor {', '.join(names[1:])})" if len(names) > 1 else "")
        + f". Get it from {source}."
    )


def open_public(name: str, root: Path, read: Callable[[Path], Annotations]) -> Path:
    """Returns the folder with one `SPLIT.arrow` per split, made if annotation files or video folders have changed.

    Raises:
        TableError: annotation files missing or broken, or not one video.
    """
    for folder in (root, _other_folder(root)):
        if _is_current(folder, root, read):
            return folder
    return build_public(name, root, read)


def build_public(name: str, root: Path, read: Callable[[Path], Annotations]) -> Path:
    """Writes the tables of a data set and returns their folder; see `open_public`."""
    if not root.is_dir():
        raise TableError(
            f"{name}: there is no folder {root}. Put the data there, or set $VIDEO_SSL_DATA to the folder above it; "
            f"`video-ssl data check {name}` says what is needed."
        )
    annotations = read(root)
    present = _Present(root, annotations)
    tables, missing = {}, 0
    for split, listed in annotations.splits.items():
        found = present.find_all(listed)
        count = found.count(None)
        missing += count
        if count < len(found):
            tables[split] = _table(root, annotations, listed, found)
    if not tables and not any(len(listed.names) for listed in annotations.splits.values()):
        reasons = "".join(f"\n  {note}" for note in annotations.notes[:_LOGGED_NOTES])
        raise TableError(
            f"{name}: not one video that its annotation files list can be used."
            + (reasons or f" They are empty: get them from {annotations.source}.")
        )
    if not tables:
        raise TableError(
            f"{name}: not one of the listed videos lies below {root}. Expected: {annotations.layout} "
            f"From: {annotations.source} `video-ssl data check {name}` says what is missing."
        )
    present.left_out.log(str(root))
    notes = [*annotations.notes, *present.notes()]
    for note in notes[:_LOGGED_NOTES]:
        log.warning("%s: %s", name, note)
    if len(notes) > _LOGGED_NOTES:
        log.warning(
            "%s: %d more of that kind; `video-ssl data check %s` lists all",
            name,
            len(notes) - _LOGGED_NOTES,
            name,
        )
    if missing:
        log.warning(
            "%s: %d listed videos are missing; `video-ssl data check %s` names them",
            name,
            missing,
            name,
        )
    stamp = {"format": _FORMAT, "read": _describe(read), "tables": sorted(tables)}
    return _save(root, tables, stamp, annotations, present)


def check_public(
    name: str, root: Path, read: Callable[[Path], Annotations]
) -> tuple[list[str], bool]:
    """Returns (lines that say what is there and what is missing, whether everything is there)."""
    lines = [f"{name}: {root}"]
    if not root.is_dir():
        lines.append(
            "  the folder does not exist. Make it, or set $VIDEO_SSL_DATA to the folder above it."
        )
    try:
        annotations = read(root)
    except TableError as err:
        return [*lines, f"  {err}"], False
    complete, usable = True, 0
    files = [file for file in annotations.files if file.exists()]
    if len(files) > _LISTED_FILES:
        folder = os.path.relpath(os.path.commonpath(files), root)
        lines.append(f"  {len(files)} annotation files and folders in {folder}")
    else:
        lines += [f"  annotation file {os.path.relpath(file, root)}" for file in files]
    present = _Present(root, annotations)
    for split, listed in annotations.splits.items():
        found = present.find_all(listed)
        names = listed.columns.get("id", listed.names)
        missing = [name for name, path in zip(names, found, strict=True) if path is None]
        have = len(listed.names) - len(missing)
        total = annotations.expected.get(split, len(listed.names))
        complete &= have >= total
        usable += have
        lines.append(f"  {split}: {have} of {total} videos" + _some(missing))
    complete &= usable > 0
    lines += [f"  {note}" for note in (*annotations.notes, *present.notes())]
    if not complete:
        lines.append(f"  expected: {annotations.layout}")
        lines.append(f"  from: {annotations.source}")
    return lines, complete


def _some(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f", missing {len(missing)}: {', '.join(missing[:_NAMED])}{more}"


class _Present:
    """The videos below a root by the stem of their name: files, and folders of frames."""

    def __init__(self, root: Path, annotations: Annotations) -> None:
        self._by_stem: dict[str, list[str]] = {}
        #: Folder -> time of its last change, before it was looked at; those of frames are not among them.
        self.folders: dict[str, int] = {}
        self.left_out = LeftOut()
        self._elsewhere: list[str] = []
        self._shared: list[str] = []
        self._said = {
            folder
            for listed in annotations.splits.values()
            for name in (*listed.names, *listed.other_names)
            for part in divide_parts(name)
            for folder in part.split("/")[:-1]
        }
        self._cut: list[str] = []
        skip = len(str(root).rstrip(os.sep)) + 1
        frames: set[str] = set()
        pictures_are_videos = bool(set(annotations.suffixes) & set(PICTURE_SUFFIXES))
        for parent, name in walk(root, self.left_out, changed=self.folders):
            stem, suffix = os.path.splitext(name)
            suffix = suffix.lower()
            if suffix in annotations.suffixes:
                self._add(stem, os.path.join(parent, name)[skip:])
            elif suffix in PICTURE_SUFFIXES and not pictures_are_videos:
                frames.add(parent)
        for folder in frames:
            if len(folder) > skip:
                self._add(os.path.basename(folder), folder[skip:])
                del self.folders[folder]

    def _add(self, stem: str, path: str) -> None:
        self._by_stem.setdefault(stem, []).append(path)

    def find_all(self, listed: Split) -> list[str | None]:
        """The path of every listed video, relative to the root; None for those that are not there."""
        found = [self._find_parts(name) for name in listed.names]
        others = listed.other_names or [""] * len(found)
        by_other = {
            row: path
            for row, (name, other) in enumerate(zip(listed.names, others, strict=True))
            if found[row] is None and other and other != name and (path := self._find(other))
        }
        taken = Counter([*by_other.values(), *(path for path in found if path is not None)])
        for row, path in by_other.items():
            if (
                taken[path] > 1
            ):  # two different videos may have this name: it is not known which this is
                self._shared.append(f"{listed.names[row]} ({path})")
            else:
                found[row] = path
        return found

    def _find_parts(self, name: str) -> str | None:
        """The path of a video, those of all its files if it lies in several; None where one of them is not there."""
        parts = divide_parts(name)
        found = [self._find(part) for part in parts]
        if len(parts) > 1 and None in found and any(found):
            self._cut.append(parts[found.index(None)])
        return None if None in found else join_parts([str(path) for path in found])

    def notes(self) -> list[str]:
        """What has not been taken although its name is right."""
        notes = []
        if self._cut:
            notes.append(
                "videos of which a file is missing are not taken; missing is a file of "
                + _some_names(sorted(set(self._cut)))
            )
        if self._elsewhere:
            notes.append(
                "files of the right name in the folder of another class or split are not taken for "
                + _some_names(sorted(set(self._elsewhere)))
            )
        if self._shared:
            notes.append(
                "files whose name stands for several listed videos are not taken for "
                + _some_names(sorted(set(self._shared)))
            )
        return notes

    def _find(self, name: str) -> str | None:
        folder, _, stem = name.rpartition("/")
        wanted = set(folder.split("/"))
        found = self._by_stem.get(stem, [])
        fitting = [path for path in found if not self._is_elsewhere(path, wanted)]
        if found and not fitting:
            self._elsewhere.append(f"{name} ({found[0]})")
        if not fitting:
            return None
        return max(sorted(fitting), key=lambda path: len(wanted & set(path.split(os.sep))))

    def _is_elsewhere(self, path: str, wanted: set[str]) -> bool:
        """Whether the path leads through the folder of another class or split."""
        folders = path.split(os.sep)[:-1]
        return any(folder in self._said and folder not in wanted for folder in folders)


def _some_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} listed videos: {', '.join(names[:_NAMED])}{more}"


def _table(
    root: Path, annotations: Annotations, listed: Split, found: Sequence[str | None]
) -> Table:
    rows = [row for row, path in enumerate(found) if path is not None]
    columns: dict[str, Any] = {
        name: [values[row] for row in rows] for name, values in listed.columns.items()
    }
    columns["source"] = [
        each_part(str(found[row]), lambda path: _source(root, path)) for row in rows
    ]
    columns.setdefault("id", [printable(listed.names[row]) for row in rows])
    about = {**annotations.metadata, "listed": len(found), "missing": len(found) - len(rows)}
    return Table.from_columns(columns, root=root, class_names=annotations.class_names, **about)


def without_doubles(split: str, listed: Split, notes: list[str]) -> Split:
    """Returns the split without rows that say once more what an earlier one says; notes list them.

    A video that is listed again with another label stays, with an id of its own (`ID#2`).
    """
    names = listed.columns.get("id", listed.names)
    seen: dict[Any, set[str]] = {}
    counts: Counter[str] = Counter()
    rows, ids, again, differing = [], [], [], []
    for row, name in enumerate(names):
        content = repr([values[row] for values in listed.columns.values()])
        if name in seen:
            if content in seen[name]:
                again.append(str(name))
                continue
            differing.append(str(name))
        seen.setdefault(name, set()).add(content)
        counts[name] += 1
        rows.append(row)
        ids.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    if not again and not differing:
        return listed
    for doubled, text in (
        (again, "are listed twice and taken once"),
        (differing, "are listed twice with different labels, and are two records of one video"),
    ):
        if doubled:
            notes.append(f"{split}: {len(doubled)} videos {text}, for example {doubled[0]}")
    return Split(
        names=[listed.names[row] for row in rows],
        columns={
            **{name: [values[row] for row in rows] for name, values in listed.columns.items()},
            "id": ids,
        },
        other_names=[listed.other_names[row] for row in rows] if listed.other_names else (),
    )


def shared_between(splits: Mapping[str, Split], notes: list[str]) -> None:
    """Notes the videos that stand in more than one split: what is trained on must not be tested on."""
    for one, other in itertools.combinations(splits, 2):
        names, others = (set(splits[split].columns["id"]) for split in (one, other))
        both = sorted(names & others)
        if both:
            notes.append(
                f"{len(both)} videos are listed in {one} and in {other}, for example {both[0]}: do not train on one "
                "and test on the other without taking them out"
            )


def _source(root: Path, path: str) -> str:
    return path if source_of_path(path) == path else source_of_path(os.path.join(root, path))


# Which tables are current


def _other_folder(root: Path) -> Path:
    """Where tables go if the root cannot be written."""
    return cache_folder() / "tables" / hashlib.sha256(os.fsencode(root)).hexdigest()[:40]


def _save(
    root: Path,
    tables: Mapping[str, Table],
    stamp: dict[str, Any],
    annotations: Annotations,
    present: _Present,
) -> Path:
    for folder in (root, _other_folder(root)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _STAMP).unlink(missing_ok=True)
            for split in annotations.splits:
                if split not in tables:
                    (folder / f"{split}.arrow").unlink(missing_ok=True)
            for split, table in tables.items():
                table.save(folder / f"{split}.arrow")
            stamp["files"] = _states(annotations.files)
            stamp["folders"] = _settled(present.folders, root)
            stamp["in_root"] = _digest_of(root, annotations.suffixes)
            stamp["suffixes"] = annotations.suffixes
            write_json(folder / _STAMP, stamp, indent=None)
            return folder
        except OSError as err:
            log.info("tables cannot be written to %s (%s)", folder, err)
            last = err
    raise TableError(f"the tables of {root} cannot be written anywhere: {last}") from last


def _is_current(folder: Path, root: Path, read: Callable[[Path], Annotations]) -> bool:
    try:
        stamp = json.loads((folder / _STAMP).read_text())
    except (OSError, ValueError):
        return False
    return bool(
        stamp.get("format") == _FORMAT
        and stamp["read"] == _describe(read)
        and all((folder / f"{split}.arrow").is_file() for split in stamp["tables"])
        and stamp["files"] == _states(stamp["files"])
        and stamp["folders"] == _states(stamp["folders"])
        and stamp["in_root"] == _digest_of(root, tuple(stamp["suffixes"]))
    )


def _describe(read: Any) -> str:
    function = getattr(read, "func", read)
    return f"{function.__module__}:{function.__qualname__} {sorted(getattr(read, 'keywords', {}).items())}"


def _states(paths: Iterable[str | Path]) -> dict[str, list[int]]:
    found = {}
    for path in paths:
        try:
            state = os.stat(path)
            size = 0 if os.path.isdir(path) else state.st_size
            found[os.fspath(path)] = [size, state.st_mtime_ns]
        except OSError:
            found[os.fspath(path)] = []
    return found


def _settled(folders: Mapping[str, int], root: Path) -> dict[str, list[int]]:
    """The states of folders as `_states` has them, without the root's.

    Clocks of file systems may be coarse: a folder that has changed just now may change once more without a later time,
    so it counts as changed the next time.
    """
    now = time.time_ns()
    return {
        folder: [0, changed] if now - changed > _SETTLED_NS else []
        for folder, changed in folders.items()
        if folder != str(root)
    }


def _digest_of(root: Path, suffixes: tuple[str, ...]) -> str:
    """Digest of the names of folders and videos in the root itself, whose time changes when tables are written."""
    try:
        with os.scandir(root) as found:
            names = sorted(
                entry.name
                for entry in found
                if entry.name.lower().endswith(suffixes) or entry.is_dir()
            )
    except OSError:
        return ""
    return hashlib.sha256(b"\0".join(os.fsencode(name) for name in names)).hexdigest()
