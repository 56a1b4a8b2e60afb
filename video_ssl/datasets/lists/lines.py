"""What the fields of a list's lines are: a path, `path label`, or `folder num_frames label`.

Paths hold spaces, commas and numbers, so a line alone does not show where its path ends: `clip 1` is a folder, or a
clip of class 1.  The first lines are therefore looked up on the disk, and the longest beginning that is there is the
path.  Only where nothing is there, which `refuse_absent` checks, do the signs have to decide.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from video_ssl.datasets.archives.tars import divide_member
from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.parts import divide_parts
from video_ssl.datasets.paths import VIDEO_SUFFIXES, at_home, local_path

LOOKED_AT = 100
_MOST_FIELDS = 8
# One separator, or several spaces and tabs; the comma of `a.mp4, 3` may have spaces beside it.
_SEPARATOR = re.compile(r"[ \t]*[,;][ \t]*|[ \t]+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_ALLOWED = "Allowed are `path`, `path label`, and for folders of frames `folder num_frames label`"
_INSTEAD = "Several labels go into a CSV with the columns path,labels (`0;2`), stretches into path,start,end,label."


@dataclass(frozen=True)
class Line:
    """A line of a list that is not blank: its number from 1, and the text without spaces around it."""

    number: int
    text: str


@dataclass(frozen=True)
class Layout:
    """How all lines of a list are read: `fields` behind the path (0, 1 or 2), and what stands before the last one."""

    fields: int
    separator: str = ""


def layout_of(path: Path, lines: Sequence[Line], folder: Path) -> Layout:
    """Returns how the lines of a list are read, from its first ones.

    Raises:
        TableError: a path that is there has fields behind it that are none of the allowed.
    """
    seen = [(line, *found) for line in lines[:LOOKED_AT] if (found := _there(line.text, folder))]
    if not seen:
        return _layout_by_signs(lines[0].text)
    votes = Counter(len(rest) for _, _, rest in seen)
    count = votes.most_common(1)[0][0]  # of equals the first
    line, prefix, rest = next(each for each in seen if len(each[2]) == count)
    if count > 2 or (count == 2 and not os.path.isdir(_on_disk(folder, prefix))):
        _refuse_fields(path, line, prefix, rest)
    layout = Layout(count, _last_separator(line.text) if count else "")
    for other, its_prefix, its_rest in seen:
        # Its path may be there in another reading, too: then it is read as the others are.
        if len(its_rest) != count and not _is_read_as_well(path, other, layout, folder):
            if max(count, len(its_rest)) > 1:
                before = f"; line {line.number} has {count}"
                _refuse_fields(path, other, its_prefix, its_rest, before)
            bare, labelled = (line, other) if its_rest else (other, line)
            raise TableError(
                f"{path} line {bare.number} has no label, but line {labelled.number} has one "
                f"({shown(labelled.text)}): label all videos or none."
            )
    return layout


def _is_read_as_well(path: Path, line: Line, layout: Layout, folder: Path) -> bool:
    try:
        source, _ = fields_of(path, line, layout, folder)
    except TableError:
        return False
    return os.path.exists(_on_disk(folder, source))


def fields_of(path: Path, line: Line, layout: Layout, folder: Path) -> tuple[str, list[str]]:
    """Returns (path without the quotes of CSV, fields behind it) of a line.

    Raises:
        TableError: fewer or more fields than the lines of this list have.
    """
    if not layout.fields:
        return _unquoted(line.text, folder), []
    source = line.text
    fields: list[str] = []
    for _ in range(layout.fields):
        source, field = _last_field(source, layout.separator)
        fields.insert(0, field)
    if not source or not all(fields):
        if layout.fields == 1:
            raise TableError(
                f"{path} line {line.number}: {shown(line.text)} has no label, but lines before have."
            )
        raise TableError(
            f"{path} line {line.number}: {shown(line.text)} is not `folder num_frames label`, but lines before are."
        )
    return _unquoted(source, folder), fields


def _unquoted(source: str, folder: Path) -> str:
    """The path without quotes around it, unless a file of that very name is there."""
    bare = source.strip('"')
    if bare != source and os.path.lexists(os.path.join(folder, source)):
        return source
    return bare


def refuse_swallowed_fields(
    path: Path, lines: Sequence[Line], sources: Sequence[str], folder: Path
) -> None:
    """Raises TableError for a path that goes on behind the suffix of a video with what looks like further fields."""
    for line, source in zip(lines, sources, strict=True):
        if _SEPARATOR.search(source) and not source.lower().endswith(VIDEO_SUFFIXES):
            video = _BEHIND_A_VIDEO.fullmatch(source)
            if video and not os.path.lexists(_on_disk(folder, source)):
                rest = line.text.partition(video[1])[2].strip('" \t,;')
                _refuse_fields(path, line, video[1], _SEPARATOR.split(rest))


_BEHIND_A_VIDEO = re.compile(
    rf"""(.*(?:{"|".join(map(re.escape, VIDEO_SUFFIXES))}))"?[\s,;]+[^/]+""", re.IGNORECASE
)


def refuse_absent(path: Path, lines: Sequence[Line], sources: Sequence[str], folder: Path) -> None:
    """Raises TableError if not one of the first local sources is there, nor one of some spread over the rest."""
    local = [
        (line, source)
        for line, source in zip(lines, sources, strict=True)
        if "://" not in source or source.startswith("file://")
    ]
    if len(local) < len(lines):
        return
    step = max(1, len(local) // LOOKED_AT)
    looked_at = [*local[:LOOKED_AT], *local[LOOKED_AT::step]]
    if any(os.path.exists(_on_disk(folder, source)) for _, source in looked_at):
        return
    line, source = local[0]
    raise TableError(
        f"{path} line {line.number} names {shown(source)}, but {_on_disk(folder, source)} does not exist, and of "
        f"{len(looked_at)} lines that were looked at not one names what is there. Paths in a list are absolute, or "
        f"relative to {'its folder' if folder == Path(os.path.abspath(path)).parent else folder}. {_ALLOWED}."
    )


def _there(text: str, folder: Path) -> tuple[str, list[str]] | None:
    """(longest beginning of a line that is a file or a folder, the fields behind it), if those are numbers."""
    if "://" in text:
        return None
    ends = [match.start() for match in _SEPARATOR.finditer(text)][-_MOST_FIELDS:]
    for end in (len(text), *reversed(ends)):
        rest = [field for field in _SEPARATOR.split(text[end:]) if field]
        if not all(_NUMBER.fullmatch(field) for field in rest):
            return None
        if os.path.exists(_on_disk(folder, text[:end])):
            return text[:end], rest
    return None


def ends_in_label(text: str, folder: Path) -> bool:
    """Returns whether the last field of a line is a number behind a path, and not the end of one.

    What lies elsewhere cannot be looked up: there the number must stand behind the suffix of a video.
    """
    divided = [_last_field(text, separator) for separator in ",; "]
    if not any(source and _NUMBER.fullmatch(field) for source, field in divided):
        return False
    if "://" in text and not text.startswith("file://"):
        return _BEHIND_A_VIDEO.fullmatch(text) is not None
    return not os.path.lexists(_on_disk(folder, text))


def _on_disk(folder: Path, source: str) -> str:
    """The file that holds the source, or its last part (fields stand behind that one), as a path."""
    last = divide_parts(_unquoted(source, folder))[-1]
    holder = local_path(divide_member(last)[0])
    return os.path.join(folder, at_home(holder))


def _last_separator(text: str) -> str:
    """The kind of the last separator: ",", ";" or " " for spaces and tabs."""
    last = [match[0] for match in _SEPARATOR.finditer(text)][-1].strip()
    return last or " "


def _last_field(text: str, separator: str) -> tuple[str, str]:
    if separator == " ":
        match = re.fullmatch(r"(.*\S)[ \t]+(\S+)", text)
        return (match[1], match[2]) if match else ("", text)
    source, _, field = text.rpartition(separator)
    return source.strip(), field.strip()


def _layout_by_signs(text: str) -> Layout:
    """How a line is read whose files are not there, or lie elsewhere."""
    for separator in (",", ";", " "):
        source, field = _last_field(text, separator)
        # `my video.mp4` is a path with a space: its last field is no label, it ends in a suffix.
        is_label = _NUMBER.fullmatch(field) or not os.path.splitext(field)[1]
        if source and field and is_label:
            return Layout(1, separator)
    return Layout(0)


def _refuse_fields(
    path: Path, line: Line, prefix: str, fields: Sequence[str], but: str = ""
) -> NoReturn:
    count = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
    raise TableError(
        f"{path} line {line.number}: behind the path {shown(prefix)} comes {count} "
        f"({shown(' '.join(fields))}){but}. {_ALLOWED}. {_INSTEAD}"
    )
