"""Untrimmed videos cut into short files with an index: HACS and uncut Kinetics, as HiCo prepares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import read_text
from video_ssl.datasets.parts import break_in, join_parts
from video_ssl.datasets.public.annotations import (
    Annotations,
    Split,
    find_annotation,
    shared_between,
)

_SOURCE = (
    "https://github.com/hangzhaomit/HACS-dataset (the videos), cut into files of 5 seconds in a row as "
    "https://github.com/alibaba-mmai-research/HiCo says"
)
_LAYOUT = "v_NAME_STARTMS_ENDMS.mp4 (7 digits each: v_a-b_0090000_0092120.mp4) in any folder below the root."
_INDEX = {"train": ("training", "train"), "val": ("validation", "val")}
Stamps = list[tuple[int, int]]


def read_segments(root: Path, source: str = _SOURCE) -> Annotations:
    """Returns the splits train and val (where its index is there): a record for each video, all its files in a row.

    The index of a split is training.txt or validation.txt in `annotations` or the root: a line NAME,START,END for each
    file, in milliseconds; names may hold commas, dashes and underscores.  How long a video lasts is the end of its last
    file.  One whose files overlap or leave a gap, also at the beginning, is left out and named.  Source: papers/hico.md
    section 2.1.

    Args:
        root: folder of the data set.
        source: where videos and index come from, for whoever lacks them.

    Raises:
        TableError: no index of the training, or a line of another kind.
    """
    splits: dict[str, Split] = {}
    expected: dict[str, int] = {}
    files: list[Path] = []
    notes: list[str] = []
    for split, words in _INDEX.items():
        names = [f"{folder}{word}.txt" for word in words for folder in ("annotations/", "")]
        try:
            file = find_annotation(root, names, source=source)
        except TableError:
            if split == "train":
                raise
            continue
        files.append(file)
        videos = segment_names(read_text(file).splitlines(), str(file), notes)
        splits[split] = _split(file.name, videos, notes)
        expected[split] = len(videos)
    shared_between(splits, notes)
    return Annotations(
        splits=splits,
        files=files,
        class_names=(),
        source=source,
        layout=_LAYOUT,
        expected=expected,
        notes=notes,
    )


def segment_names(
    lines: Iterable[str], where: str = "the segment index", notes: list[str] | None = None
) -> dict[str, Stamps]:
    """Returns video name -> (start, end) of its files in milliseconds, in the order of the index.

    A file that is listed again is taken once, and `notes` say so.

    Raises:
        TableError: a line that is not NAME,START,END, or a file that ends before it starts.
    """
    videos: dict[str, Stamps] = {}
    seen: set[tuple[str, int, int]] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *stamps = line.strip().rsplit(",", 2)
        if len(stamps) != 2 or not name or not all(s.strip().isdecimal() for s in stamps):
            raise TableError(
                f"{where} line {number} is {shown(line.strip())}: expected NAME,START,END with milliseconds."
            )
        name = name.strip()
        start, end = (int(stamp) for stamp in stamps)
        if end <= start:
            raise TableError(
                f"{where} line {number}: {shown(name)} has a file from {start} to {end} ms, which holds nothing. "
                "Mend or remove the line."
            )
        if (name, start, end) not in seen:
            seen.add((name, start, end))
            videos.setdefault(name, []).append((start, end))
        elif notes is not None:
            notes.append(
                f"{where} line {number} lists a file of {name} once more: it is taken once"
            )
    return videos


def segment_file(name: str, start_ms: int, end_ms: int) -> str:
    """Returns the name of a file of a video.

    >>> segment_file("a-b", 90000, 92120)
    'v_a-b_0090000_0092120.mp4'
    """
    return f"v_{name}_{start_ms:07d}_{end_ms:07d}.mp4"


def _split(index: str, videos: Mapping[str, Stamps], notes: list[str]) -> Split:
    names, ids, seconds = [], [], []
    for name, stamps in videos.items():
        stamps = sorted(stamps)
        place = break_in([(start / 1000, end / 1000) for start, end in stamps])
        if place is not None:
            before = f"{stamps[place - 1][1]} ms is" if place else "the beginning is"
            notes.append(
                f"{index}: left out, as its files overlap or leave a gap: {name} "
                f"({before} followed by {stamps[place][0]} ms)"
            )
            continue
        ids.append(name)
        names.append(join_parts([segment_file(name, *s).removesuffix(".mp4") for s in stamps]))
        seconds.append(stamps[-1][1] / 1000)
    return Split(names=names, columns={"id": ids, "group": ids, "duration_sec": seconds})
