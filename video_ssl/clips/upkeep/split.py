"""`video-ssl split`: a table becomes one of training and one of test videos, between which nothing leaks.

Every class is divided alike.  What belongs together stays on one side: a group (a person, a place), stretches of one
file, and copies of a video, which are found by what they show (`video_ssl.clips.fingerprints`).  Videos are looked at
in processes of their own; what was seen is kept in a journal, so a split that was killed goes on.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.clips.decoders.reader import ONLY_SOUND
from video_ssl.clips.fingerprints import copies, tied, video_fingerprint
from video_ssl.clips.reading import open_record
from video_ssl.clips.upkeep.config import SplitConfig
from video_ssl.clips.upkeep.journal import Journal
from video_ssl.clips.upkeep.looks import looks
from video_ssl.datasets.columns import known_column
from video_ssl.datasets.hold_out import hold_out
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.table import Record, Table, TableError
from video_ssl.files import MADE_BY, OutputError, claim_folder, made, made_by, write_json
from video_ssl.recipes import nearest

log = logging.getLogger(__name__)

LOOK = "video_ssl.clips.upkeep.split:look_at"
SPLITS = ("train", "test")
ABOUT = "split.json"
_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """What a split has done.

    Attributes:
        train, test: the tables, opened on their files.
        copies: the ids of videos that are copies of each other, set by set.
        unread: id -> why a video could not be looked at; it was divided like a video without copies.
        lines: all that is to be told.
    """

    train: Table
    test: Table
    copies: list[list[str]] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def split_table(
    table: Table,
    out: str | os.PathLike[str],
    config: SplitConfig | None = None,
    *,
    progress: bool = True,
) -> SplitResult:
    """Returns the table in two, written as OUT/train.arrow and OUT/test.arrow; OUT/split.json says what was tied.

    Args:
        table: any records; without labels only ties and the share count.
        out: a folder, which must not hold a split yet: one that was used must not change.
        config: how.
        progress: show a progress bar.

    Raises:
        OutputError: there is a split already, or the folder cannot be written.
        TableError: no such column, or all that there is belongs together.
        DiskFull: nothing is lost, run again.
    """
    config = config or SplitConfig()
    out = _claim(Path(out))
    table.refuse_doubled_ids()
    labels = table.column("label") if "label" in table.column_names else np.full(len(table), -1)
    ties = _Ties(len(table))
    column = _group_column(table, config.group)
    if column is not None:
        ties.add_equal(f"groups of the column {column}", table.column(column))
    ties.add_equal("stretches of one file", _files(table))
    together: list[list[str]] = []
    unread: dict[str, str] = {}
    if config.copies:
        ties_of_copies, unread = _look_for_copies(table, out, config, progress=progress)
        ties.add("copies of one video, found by what they show", ties_of_copies)
        together = _sets(ties_of_copies, table)
    groups = ties.groups()
    if groups.max() == 0:
        raise TableError(
            f"nothing to divide: all {len(table)} videos belong together ({'; '.join(ties.lines())}). Give a column "
            "of smaller groups (--group), or --no-copies."
        )
    in_test = hold_out(labels, groups, config.test, np.random.default_rng((config.seed, 0x5B117)))
    made_tables = {
        "train": table.select(~in_test).save(out / "train.arrow", maker="split"),
        "test": table.select(in_test).save(out / "test.arrow", maker="split"),
    }
    lines = [
        f"{out}: {len(made_tables['train'])} training and {len(made_tables['test'])} test videos "
        f"({100 * in_test.mean():.1f} % of {len(table)}), seed {config.seed}",
        *(f"kept together: {line}" for line in ties.lines()),
        *_class_lines(table, labels, in_test),
        *_doubt_lines(together, table, labels),
        *_unread_lines(unread),
        "use them as " + shlex.join([f"train={out}:train", f"test={out}:test"]),
    ]
    write_json(
        out / ABOUT,
        {
            MADE_BY: made("split"),
            "table": table.name,
            "test": config.test,
            "seed": config.seed,
            "group": column,
            "looked_for_copies": config.copies,
            "copies": together,
            "unread": unread,
            "told": lines,
        },
    )
    (out / _JOURNAL).unlink(missing_ok=True)
    return SplitResult(**made_tables, copies=together, unread=unread, lines=lines)


def default_folder(table: str) -> Path:
    """Returns where the split of a table goes if nothing is said: a folder named after it in the current one.

    >>> str(default_folder("/data/videos.arrow")), str(default_folder("demo:train"))
    ('videos-split', 'demo-train-split')
    """
    name = Path(table.rstrip("/")).name
    for suffix in (".arrow", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt", ".list"):
        name = name.removesuffix(suffix)
    return Path(re.sub(r"[^\w.-]+", "-", name) + "-split")


def look_at(task: tuple[Record, float]) -> tuple[list[list[int]], float]:
    """Returns the fingerprint of a video, as numbers, and its length in seconds; runs in a process of its own."""
    record, timeout_sec = task
    with open_record(record, timeout_sec=timeout_sec) as reader:
        return video_fingerprint(reader).tolist(), reader.info.duration_sec


_JOURNAL = ".split.jsonl"


def _claim(out: Path) -> Path:
    """The folder, in which nothing may lie but what a killed split has left."""
    if (out / ABOUT).exists():
        raise OutputError(
            f"{out} holds a split already: it is not replaced, since results may rest on it. Give another folder, or "
            "move that one away."
        )
    names = [f"{split}.arrow" for split in SPLITS]
    half_done = all(made_by(out / name) == "split" for name in names if (out / name).exists())
    claim_folder(out, "split", names, ours=half_done)
    return out


def _group_column(table: Table, name: str | None) -> str | None:
    if name is None:
        return "group" if "group" in table.column_names else None
    names = table.column_names
    found = name if name in names else known_column(name)
    if found not in names:
        raise TableError(
            f"no column {name!r} to group by: the table has {names}.{nearest(name, names)} Other columns of a list "
            "are read as groups if they are called group, subject or person."
        )
    return found


def _files(table: Table) -> np.ndarray:
    """The file of every row, with the place inside where it is one of many in a file."""
    if "byte_offset" not in table.column_names:
        return table.column("source")
    places = zip(table.column("source"), table.column("byte_offset"), strict=True)
    return np.array([f"{source} {offset}" for source, offset in places], dtype=object)


class _Ties:
    """What belongs together, reason by reason."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pairs = [np.empty((0, 2), np.int64)]
        self._reasons: list[tuple[str, np.ndarray]] = []

    def add(self, reason: str, firsts: np.ndarray) -> None:
        """Ties every row to the row `firsts` (count,) names; itself if to none."""
        rows = np.arange(self._count)
        self._pairs.append(np.stack([firsts, rows], axis=1)[firsts != rows])
        self._reasons.append((reason, firsts))

    def add_equal(self, reason: str, values: np.ndarray) -> None:
        """Ties rows with equal values; a row without one (None, "", -1) stands alone."""
        place: dict[Any, int] = {}
        rows = [
            row if value is None or value == "" or value == -1 else place.setdefault(value, row)
            for row, value in enumerate(values.tolist())
        ]
        self.add(reason, np.array(rows, np.int64))

    def groups(self) -> np.ndarray:
        """Returns int64 (count,): 0, 1, ... for what belongs together."""
        firsts = tied(self._count, np.concatenate(self._pairs))
        return np.unique(firsts, return_inverse=True)[1].astype(np.int64)

    def lines(self) -> list[str]:
        """Returns how many were tied, and why."""
        said = []
        for reason, firsts in self._reasons:
            counts = np.bincount(firsts, minlength=self._count)
            several = counts[counts > 1]
            if len(several):
                said.append(f"{reason}: {int(several.sum())} videos in {len(several)}")
        return said


def _look_for_copies(
    table: Table, out: Path, config: SplitConfig, *, progress: bool
) -> tuple[np.ndarray, dict[str, str]]:
    """Returns int64 (N,): for every row the first of its copies; and id -> why a video cannot be read."""
    rows, prints, seconds = [], [], []
    unread: dict[str, str] = {}
    with Journal(out / _JOURNAL, {"look": 1}) as journal:
        for row, entry in looks(
            LOOK,
            table,
            journal,
            lambda record: (record, config.timeout_sec),
            num_workers=config.num_workers,
            timeout_sec=config.timeout_sec,
            progress=progress,
        ):
            if "reason" in entry:
                unread[redacted(str(table.arrow["id"][row].as_py()))] = entry["reason"]
                continue
            rows.append(row)
            prints.append(entry["prints"])
            seconds.append(entry["seconds"])
    firsts = np.arange(len(table))
    if rows:
        order = np.argsort(rows)
        known = np.array(rows)[order]
        pairs = copies(np.array(prints, np.uint64)[order], np.array(seconds)[order])
        firsts[known] = known[tied(len(known), pairs)]
    return firsts, unread


def _sets(firsts: np.ndarray, table: Table) -> list[list[str]]:
    """The ids of the rows that have one first."""
    counts = np.bincount(firsts, minlength=len(firsts))
    ids = table.column("id")
    return [ids[firsts == first].tolist() for first in np.flatnonzero(counts > 1)]


def _class_lines(table: Table, labels: np.ndarray, in_test: np.ndarray) -> list[str]:
    """One line about every class, few or none, and which classes are on one side only."""
    known = labels >= 0
    if not known.any():
        return ["no labels: the videos were divided without regard to classes"]
    names = table.class_names
    counts = {side: Counter(labels[known & (in_test == side)].tolist()) for side in (False, True)}
    classes = sorted({*counts[False], *counts[True]})
    called = {c: names[c] if c < len(names) else f"class {c}" for c in classes}
    lines = [f"{called[c]}: {counts[False][c]} + {counts[True][c]}" for c in classes[:_NAMED]]
    said = [f"of each class, training + test: {', '.join(lines)}"]
    if len(classes) > _NAMED:
        said[0] += f", and {len(classes) - _NAMED} more classes"
    lone = [called[c] for c in classes if not counts[True][c]]
    if lone:
        more = f" and {len(lone) - _NAMED} more" if len(lone) > _NAMED else ""
        said.append(
            f"without a test video, since too few videos (or groups) are of them: {', '.join(lone[:_NAMED])}{more}"
        )
    if (~known).any():
        said.append(f"{int((~known).sum())} videos have no label")
    return said


def _doubt_lines(together: list[list[str]], table: Table, labels: np.ndarray) -> list[str]:
    """A line about copies that have different labels: one of them must be wrong."""
    label_of = dict(zip(table.column("id").tolist(), labels.tolist(), strict=True))
    doubtful = [ids for ids in together if len({label_of[name] for name in ids}) > 1]
    if not doubtful:
        return []
    return [
        f"copies with different labels (sets: {len(doubtful)}), of which one must be wrong; the first: "
        f"{', '.join(doubtful[0][:_NAMED])}"
    ]


def _unread_lines(unread: dict[str, str]) -> list[str]:
    said = []
    broken = {name: reason for name, reason in unread.items() if reason != ONLY_SOUND}
    if len(broken) < len(unread):
        said.append(
            f"{len(unread) - len(broken)} recordings of sound alone: copies of them are not looked for"
        )
    if broken:
        first, reason = next(iter(broken.items()))
        said.append(
            f"{len(broken)} videos could not be read, so that copies of them are not known (the first: {first} "
            f"{reason.rstrip('.')}); video-ssl scan leaves such videos out"
        )
    return said


def split_from_command(spec: str, table: Table, out: Path | None, config: SplitConfig) -> list[str]:
    """Returns what is to be told about the split of the table that `spec` names; see `split_table`."""
    return split_table(table, out or default_folder(spec), config).lines
