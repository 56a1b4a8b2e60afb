"""Public data sets: tables from their official annotation files and the videos that are there.

A data set is one file with a function `read_X(root, **settings) -> Annotations`, which reads the annotation files and
nothing else.  This module finds the videos, writes one `SPLIT.arrow` per split below the root (or in the cache, where
the root cannot be written), and says what is missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_ssl.datasets.cache import cache_folder
from video_ssl.datasets.folder import walk
from video_ssl.datasets.paths import PICTURE_SUFFIXES, VIDEO_SUFFIXES, printable, source_of_path
from video_ssl.datasets.table import Table, TableError
from video_ssl.files import write_json

log = logging.getLogger(__name__)

_FORMAT = 1
_STAMP = ".video_ssl_tables.json"
_NAMED = 5
_LISTED_FILES = 20


@dataclass(frozen=True, kw_only=True)
class Split:
    """What an annotation file lists.

    Attributes:
        names: path of each video without its suffix; the folders in it only help to choose where several files of that
            name are there.
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
        expected: how many videos a split should have, where the annotation files do not list them.
        source: where videos come from, for whoever lacks them.
        layout: where videos are expected, relative to the root.
    """

    splits: Mapping[str, Split]
    files: Sequence[Path]
    class_names: Sequence[str]
    source: str
    layout: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    suffixes: tuple[str, ...] = VIDEO_SUFFIXES
    expected: Mapping[str, int] = field(default_factory=dict)


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
    present = _Present(root, annotations.suffixes)
    tables, missing = {}, 0
    for split, listed in annotations.splits.items():
        found = [present.find(*names) for names in _all_names(listed)]
        count = found.count(None)
        missing += count
        if count < len(found):
            tables[split] = _table(root, annotations, listed, found)
    if not tables:
        raise TableError(
            f"{name}: not one of the listed videos lies below {root}. Expected: {annotations.layout} "
            f"From: {annotations.source} `video-ssl data check {name}` says what is missing."
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
    complete = True
    files = [file for file in annotations.files if file.exists()]
    if len(files) > _LISTED_FILES:
        folder = os.path.relpath(os.path.commonpath(files), root)
        lines.append(f"  {len(files)} annotation files and folders in {folder}")
    else:
        lines += [f"  annotation file {os.path.relpath(file, root)}" for file in files]
    present = _Present(root, annotations.suffixes)
    for split, listed in annotations.splits.items():
        missing = [names[0] for names in _all_names(listed) if present.find(*names) is None]
        have = len(listed.names) - len(missing)
        total = annotations.expected.get(split, len(listed.names))
        complete &= have >= total
        lines.append(f"  {split}: {have} of {total} videos" + _some(missing))
    if not complete:
        lines.append(f"  expected: {annotations.layout}")
        lines.append(f"  from: {annotations.source}")
    return lines, complete


def _some(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return f", missing {len(missing)}: {', '.join(missing[:_NAMED])}{more}"


def _all_names(listed: Split) -> Iterable[tuple[str, ...]]:
    if not listed.other_names:
        return ((name,) for name in listed.names)
    return zip(listed.names, listed.other_names, strict=True)


class _Present:
    """The videos below a root by the stem of their name: files, and folders of frames."""

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self._by_stem: dict[str, list[str]] = {}
        self.folders: set[str] = set()
        skip = len(str(root).rstrip(os.sep)) + 1
        frames: set[str] = set()
        pictures_are_videos = bool(set(suffixes) & set(PICTURE_SUFFIXES))
        for parent, name in walk(root):
            stem, suffix = os.path.splitext(name)
            suffix = suffix.lower()
            if suffix in suffixes:
                self._add(stem, os.path.join(parent, name)[skip:])
                self.folders.add(parent)
            elif suffix in PICTURE_SUFFIXES and not pictures_are_videos:
                frames.add(parent)
        for folder in frames:
            if len(folder) > skip:
                self._add(os.path.basename(folder), folder[skip:])
                self.folders.add(os.path.dirname(folder))

    def _add(self, stem: str, path: str) -> None:
        self._by_stem.setdefault(stem, []).append(path)
        lower = stem.lower()
        if lower != stem:
            self._by_stem.setdefault("\0" + lower, []).append(path)

    def find(self, *names: str) -> str | None:
        """The path of the first name that is there, relative to the root."""
        for name in names:
            folder, _, stem = name.rpartition("/")
            found = self._by_stem.get(stem) or self._by_stem.get("\0" + stem.lower())
            if found and len(found) == 1:
                return found[0]
            if found:
                wanted = set(folder.split("/"))
                return max(sorted(found), key=lambda path: len(wanted & set(path.split(os.sep))))
        return None


def _table(
    root: Path, annotations: Annotations, listed: Split, found: Sequence[str | None]
) -> Table:
    rows = [row for row, path in enumerate(found) if path is not None]
    columns: dict[str, Any] = {
        name: [values[row] for row in rows] for name, values in listed.columns.items()
    }
    columns["source"] = [_source(root, str(found[row])) for row in rows]
    columns.setdefault("id", [printable(listed.names[row]) for row in rows])
    about = {**annotations.metadata, "listed": len(found), "missing": len(found) - len(rows)}
    return Table.from_columns(columns, root=root, class_names=annotations.class_names, **about)


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
            stamp["folders"] = _states(present.folders - {str(root)})
            stamp["in_root"] = _count_in(root, annotations.suffixes)
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
        and stamp["in_root"] == _count_in(root, tuple(stamp["suffixes"]))
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


def _count_in(root: Path, suffixes: tuple[str, ...]) -> int:
    """Videos in the root itself, whose time changes when tables are written."""
    try:
        return sum(name.lower().endswith(suffixes) for name in os.listdir(root))
    except OSError:
        return -1
