"""Which files of a folder are the frames of a video, and in which order: by the number in their names.

Every picture counts once.  Where names leave open what a frame is, the folder is refused with the names that say so:
a wrong order or a doubled frame is seen by nobody later.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from video_ssl.clips.decoders.reader import StatedCount

# Of several series in one folder (TSN writes flow_x_00001.jpg beside img_00001.jpg) these hold the pictures.
_PICTURE_SERIES = ("img", "image", "frame", "rgb", "color", "colour", "")
_DIGITS = re.compile(r"(\d+)")
_HEXADECIMAL = re.compile(r"(.*[^0-9a-f])?([0-9a-f]+)")


class FolderProblem(ValueError):
    """A folder whose frames cannot be identified; the text is the rest of a sentence that begins with its name."""


@dataclass(frozen=True)
class _Name:
    """A file name, what its series is called, and its number in it (None where there is none)."""

    name: str
    series: str
    number: int | None


def frames_in_order(names: Sequence[str], stated: StatedCount | None = None) -> list[str]:
    """Returns the names of the frames, in the order of their numbers.

    Args:
        names: the pictures of a folder.
        stated: how many a list says there are.  As many must be there; where there are exactly as many, numbers may be
            missing between them.

    Raises:
        FolderProblem: several series of pictures, two pictures of one number, missing numbers, or too few frames.
    """
    parsed = _parsed(names)
    items = _one_series(parsed) or _hexadecimal(names)
    if items is None:
        examples = sorted({item.series: item.name for item in parsed}.values())
        raise FolderProblem(
            f"holds several series of pictures ({_some(examples)}): keep one of them, or call it img_00001.jpg and so "
            "on."
        )
    _refuse_doubled_numbers(items)
    items = sorted(items, key=lambda item: item.number or 0)
    if stated is not None and len(items) < stated.count:
        gap = _gap(items)
        where = "" if gap is None else f" Missing are numbers between {gap[1]} and {gap[2]}."
        raise FolderProblem(f"has {len(items)} frames, {stated.by} says {stated.count}.{where}")
    if stated is None or len(items) != stated.count:
        _refuse_gaps(items)
    return [item.name for item in items]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _parsed(names: Sequence[str]) -> list[_Name]:
    """The names with the number that counts the frames: the one that varies, the last where several do."""
    groups: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for name in names:
        parts = _DIGITS.split(os.path.splitext(name)[0])
        groups.setdefault(tuple(parts[::2]), []).append((name, parts[1::2]))
    found = []
    for texts, members in groups.items():
        if len(texts) == 1:
            found += [_Name(name, _plain(texts[0]), None) for name, _ in members]
            continue
        columns = list(zip(*(numbers for _, numbers in members), strict=True))
        varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
        running = varying[0] if len(varying) == 1 else len(columns) - 1
        series: dict[tuple[str, ...], str] = {}
        for name, numbers in members:
            others = (*numbers[:running], *numbers[running + 1 :])
            if others not in series:
                series[others] = _series(texts, others, running)
            found.append(_Name(name, series[others], int(numbers[running])))
    return found


def _series(texts: tuple[str, ...], others: tuple[str, ...], running: int) -> str:
    """What a series is called: the texts and the other numbers around the running one."""
    numbers = [*others[:running], " ", *others[running:]]
    pairs = itertools.zip_longest(texts, numbers, fillvalue="")
    return _plain("".join(itertools.chain.from_iterable(pairs)))


def _plain(text: str) -> str:
    """The name of a series: lower case, letters and digits only, one space between."""
    return " ".join(re.split(r"[\W_]+", text.lower())).strip()


def _one_series(items: Sequence[_Name]) -> list[_Name] | None:
    """All names where they are one series, else the picture series; None if neither, or if names may be hexadecimal."""
    series: dict[str, list[_Name]] = {}
    for item in items:
        series.setdefault(item.series, []).append(item)
    if len(series) == 1:
        (only,) = series.values()
        return None if len(only) > 1 and only[0].number is None else only
    if _hexadecimal([item.name for item in items]) is not None:
        return None
    return next((series[name] for name in _PICTURE_SERIES if name in series), None)


def _hexadecimal(names: Sequence[str]) -> list[_Name] | None:
    """The names read as hexadecimal numbers behind one prefix, or None where they do not look like it."""
    matches = [_HEXADECIMAL.fullmatch(os.path.splitext(name)[0].lower()) for name in names]
    parts = [(match[1] or "", match[2]) for match in matches if match is not None]
    if len(parts) < len(names) or len({prefix for prefix, _ in parts}) > 1:
        return None
    digits = [number for _, number in parts]
    # The last digit runs through letters and digits; `a1`, `b1` are two cameras.
    last_digits = {number[-1].isdecimal() for number in digits}
    if last_digits != {True, False}:
        return None
    is_padded = any(number.startswith("0") and len(number) > 1 for number in digits)
    if is_padded and len({len(number) for number in digits}) > 1:
        return None
    return [_Name(name, parts[0][0], int(number, 16)) for name, number in zip(names, digits, strict=True)]  # fmt: skip


def _refuse_doubled_numbers(items: Sequence[_Name]) -> None:
    first: dict[int | None, str] = {}
    for item in items:
        other = first.setdefault(item.number, item.name)
        if other != item.name:
            raise FolderProblem(
                f"holds {other} and {item.name}, two pictures of one number: keep one of each, "
                "and put masks and other formats into folders of their own."
            )


def _refuse_gaps(items: Sequence[_Name]) -> None:
    gap = _gap(items)
    if gap is not None:
        missing, before, after = gap
        raise FolderProblem(
            f"has {len(items)} frames with gaps in their numbers: {missing} are missing, the first between {before} "
            f"and {after}. Copy the folder again, or number the frames anew."
        )


def _gap(items: Sequence[_Name]) -> tuple[int, str, str] | None:
    """(numbers that are missing, name before the first gap, name behind it), or None.

    Numbers may begin anywhere and go by any stride; times and hand-picked frames have none, a gap breaks one.
    """
    numbers = [item.number for item in items if item.number is not None]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if len(set(steps)) <= 1:
        return None
    counts = Counter(steps)
    stride = min(counts)
    if stride > 1 and (2 * counts[stride] < len(steps) or any(step % stride for step in steps)):
        return None
    place = next(k for k, step in enumerate(steps) if step != stride)
    missing = sum(step // stride - 1 for step in steps)
    return missing, items[place].name, items[place + 1].name
