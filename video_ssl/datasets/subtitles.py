"""Subtitles, WebVTT (.vtt) and SubRip (.srt), as captions with times.

Formatting is taken out (`<i>`, `<00:00:01.000>`, `{\\an8}`, `&amp;`), lines of a cue become one, and of captions that
roll, where every cue begins with the line that the one before ended with, every line is taken once.

Source: W3C WebVTT for .vtt; for .srt, which no document defines, what players read (unverified).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_ssl.datasets.errors import shown
from video_ssl.datasets.record import Caption

SUBTITLE_SUFFIXES = (".vtt", ".srt")
#: Of a file.
MAX_BYTES = 2**25
_TIME = r"(?:(\d{1,6}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_TIME}\s+-->\s+{_TIME}(?:\s.*)?")
_ARROW = "-->"
_FORMATTING = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")
#: Blocks of WebVTT that are no cues.
_NO_CUES = ("NOTE", "STYLE", "REGION")
#: Cues that follow each other so closely may roll.
_TOUCHING_SEC = 0.1


class SubtitleError(ValueError):
    """A file that is no subtitles; the text says why."""


@dataclass(frozen=True)
class Subtitles:
    """The captions of a file, in the order of the file, and what of it is left out: lines with the reason."""

    captions: tuple[Caption, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cue:
    begin_sec: float
    end_sec: float
    lines: tuple[str, ...]


def read_subtitles(path: str | Path) -> Subtitles:
    """Returns the captions of a file.

    A cue whose times cannot be read, or whose end is not after its beginning, is left out, and so is text without
    times.

    Raises:
        SubtitleError: the file cannot be read, is no text in UTF-8, has another suffix than its content, or text and no
            cue.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in SUBTITLE_SUFFIXES:
        raise SubtitleError(f"subtitles end in {' or '.join(SUBTITLE_SUFFIXES)}, not in {suffix!r}")
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= MAX_BYTES else b""
    except OSError as err:
        raise SubtitleError(f"it cannot be read ({err.strerror})") from err
    except ValueError as err:  # a zero byte in the name
        raise SubtitleError(f"it cannot be read ({err})") from err
    if size > MAX_BYTES:
        raise SubtitleError(f"it has {size:,} bytes, more than any subtitles")
    return parse_subtitles(content, is_vtt=suffix == ".vtt")


def parse_subtitles(content: bytes, *, is_vtt: bool) -> Subtitles:
    """Returns the captions of the content of a file; see `read_subtitles`.

    >>> content = b"1\\n00:00:01,500 --> 00:00:03,000\\n<i>Sit</i>\\ndown.\\n"
    >>> parse_subtitles(content, is_vtt=False).captions
    (Caption(text='Sit down.', start_sec=1.5, end_sec=3.0),)
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise SubtitleError(f"line {line} is not UTF-8: save the file as UTF-8") from err
    if "\0" in text:
        raise SubtitleError("it holds zero bytes: save the file as a text in UTF-8")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    begin = 0
    if is_vtt:
        if not re.match(r"WEBVTT([ \t]|$)", lines[0]):
            raise SubtitleError(f"its first line must begin with WEBVTT, but is {shown(lines[0])}")
        ends = (i for i, line in enumerate(lines) if not line or _TIMING.fullmatch(line))
        begin = next(ends, len(lines))
    cues: list[_Cue] = []
    left_out: list[str] = []
    for first, block in _blocks(lines, begin, is_vtt=is_vtt):
        if is_vtt and _is_no_cue(block):
            continue
        found = _cue_of(block, first)
        if isinstance(found, str):
            left_out.append(found)
        else:
            cues.append(found)
    if left_out and not cues:
        raise SubtitleError(f"it has no cue with times: {left_out[0]}")
    return Subtitles(tuple(_captions(cues)), tuple(left_out))


def _blocks(lines: Sequence[str], begin: int, *, is_vtt: bool) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the first line from 1, lines) of what blank lines divide; none begins with a blank one.

    In WebVTT only an empty line ends a cue, or the times of the next: YouTube writes a line of one blank before the
    text of the first.
    """
    block: list[str] = []
    for number, line in enumerate([*lines[begin:], ""], begin + 1):
        is_blank = not line if is_vtt and block else not line.strip()
        if block and (is_blank or (is_vtt and _begins_a_cue(line, block))):
            yield number - len(block), block
            block = []
        if not is_blank:
            block.append(line)


def _begins_a_cue(line: str, block: Sequence[str]) -> bool:
    """Whether a line of WebVTT is the times of a cue after the one that the block holds."""
    is_cue = any(_ARROW in before for before in block[:2]) and not _is_no_cue(block)
    return is_cue and _TIMING.fullmatch(line) is not None


def _is_no_cue(block: Sequence[str]) -> bool:
    return block[0].split(maxsplit=1)[0] in _NO_CUES


def _cue_of(block: Sequence[str], first: int) -> _Cue | str:
    """The cue of a block, or why there is none.  Before the times there may be one line, its name or number."""
    place = next((i for i, line in enumerate(block[:2]) if _ARROW in line), None)
    if place is None:
        return f"line {first} is text without times, {shown(block[0])}"
    match = _TIMING.fullmatch(block[place])
    times = None if match is None else _times(match)
    if times is None:
        return f"line {first + place} has times that cannot be read, {shown(block[place])}"
    if times[1] <= times[0]:
        return f"line {first + place} ends before it begins, {shown(block[place])}"
    plain = (
        " ".join(html.unescape(_FORMATTING.sub("", line)).split()) for line in block[place + 1 :]
    )
    return _Cue(*times, tuple(line for line in plain if line))


def _times(match: re.Match[str]) -> tuple[float, float] | None:
    """Beginning and end in seconds; None for 61 minutes of an hour and the like."""
    found = []
    for hours, minutes, seconds, part in (match.groups()[:4], match.groups()[4:]):
        if int(minutes) > 59 or int(seconds) > 59:
            return None
        whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
        found.append(whole + int(part.ljust(3, "0")) / 1000)
    return found[0], found[1]


def _captions(cues: Sequence[_Cue]) -> Iterator[Caption]:
    """The cues with text; of lines that the cue just before has ended with only the new ones."""
    shown_last, end_sec = "", -1.0
    for cue in cues:
        lines = cue.lines
        rolls = lines and lines[0] == shown_last and abs(cue.begin_sec - end_sec) <= _TOUCHING_SEC
        if lines:
            shown_last, end_sec = lines[-1], cue.end_sec
        new = lines[1:] if rolls else lines
        if new:
            yield Caption(text=" ".join(new), start_sec=cue.begin_sec, end_sec=cue.end_sec)
