"""Grids: overrides with several values, `optimizer.base_lr=1e-3,3e-4`, become one run for every combination.

A value with a comma of its own is put into quotes, `data.table="'my,videos',others"`, or into brackets.  Quotes count
where a value, or an item of a list, begins; elsewhere they are letters, as in `it's`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from video_ssl.launch.errors import LaunchError

_OPEN, _CLOSE = "[{(", ")}]"
#: Letters of a value, and of the name of a run: file systems allow 255 bytes, and files are named after it.
_LONGEST_VALUE, _LONGEST_NAME = 48, 160


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
        name: of its folder, telling only what differs; "" where nothing does.
        overrides: with one value each.
        settings: what differs, key -> value.
    """

    name: str
    overrides: list[str]
    settings: dict[str, str] = field(default_factory=dict)


def split_values(text: str) -> list[str]:
    """Returns the values of an override; commas within brackets and quotes do not divide.

    Raises:
        LaunchError: there is a comma behind a bracket or quote that nothing closes.

    >>> split_values("1e-3,3e-4"), split_values("[1,2],[3]"), split_values("'a,b',it's")
    (['1e-3', '3e-4'], ['[1,2]', '[3]'], ["'a,b'", "it's"])
    """
    values, depth, quote, begin, before = [], 0, "", 0, ","
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in ",:" + _OPEN:
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth = max(depth - 1, 0)
        elif letter == "," and depth == 0:
            values.append(text[begin:i])
            begin = i + 1
        before = before if letter.isspace() else letter
    if (quote or depth) and "," in text[begin:]:
        raise LaunchError(
            f"{text!r}: a quote or bracket is not closed, so it is not clear which commas divide values. Put a value "
            "with a comma or bracket of its own into quotes."
        )
    return [*values, text[begin:]]


def expand(overrides: Sequence[str]) -> list[GridRun]:
    """Returns every run of a grid; without several values anywhere one run named "".

    Names differ also for file systems that ignore upper and lower case: where two would be alike, and where one
    would be too long, it ends with a digest of its value.

    Raises:
        LaunchError: an empty value, the same value twice, or a grid of run folders.

    >>> [run.name for run in expand(["a=1,2", "b=3"])]
    ['a=1', 'a=2']
    """
    choices: list[list[tuple[str, str, str]]] = []
    for override in overrides:
        key, _, text = override.partition("=")
        found = split_values(text) if "," in text else [text]
        several = len(found) > 1
        values = [_bare(value, several=several) for value in found]
        if several and (not all(v.strip() for v in values) or len(set(values)) < len(values)):
            raise LaunchError(
                f"{override!r}: the values of a grid must differ and must not be empty. A value with a comma of its "
                "own is put into brackets or quotes."
            )
        if several and key.strip() == "run":
            raise LaunchError(
                f"{override!r}: the runs of a grid are named by what differs in them."
            )
        names = _names(key, values) if several else [""]
        choices.append([(name, key, value) for name, value in zip(names, values, strict=True)])
    return [_run(combination) for combination in itertools.product(*choices)]


def _run(combination: Sequence[tuple[str, str, str]]) -> GridRun:
    name = "__".join(part for part, _, _ in combination if part)
    if len(name.encode()) > _LONGEST_NAME:
        short = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name = f"{short}-{_digest(name)}"
    return GridRun(
        name,
        [f"{key}={value}" for _, key, value in combination],
        {key: value for part, key, value in combination if part},
    )


def _bare(value: str, *, several: bool) -> str:
    """A value without the quotes around all of it where those were needed: in a grid, or around a comma."""
    bare = value.strip()
    quoted = (
        len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"" and bare[0] not in bare[1:-1]
    )
    if quoted and (several or "," in bare):
        return bare[1:-1]
    return bare if several else value


def _names(key: str, values: Sequence[str]) -> list[str]:
    """A part of a folder's name for every value, no two of them alike."""
    plain = [_plain(value) for value in values]
    seen = [name.casefold() for name in plain]
    return [
        f"{_plain(key)}={name[:_LONGEST_VALUE]}-{_digest(value)}"
        if seen.count(name.casefold()) > 1 or len(name) > _LONGEST_VALUE
        else f"{_plain(key)}={name}"
        for name, value in zip(plain, values, strict=True)
    ]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+|__+", "_", unicodedata.normalize("NFC", text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
