"""Grids: overrides with several values, `optimizer.base_lr=1e-3,3e-4`, become one run for every combination."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from video_ssl.launch.errors import LaunchError

_OPEN, _CLOSE = "[{(", ")}]"


def split_values(text: str) -> list[str]:
    """Returns the values of an override; commas within brackets and quotes do not divide.

    >>> split_values("1e-3,3e-4"), split_values("[1,2],[3]"), split_values("'a,b'")
    (['1e-3', '3e-4'], ['[1,2]', '[3]'], ["'a,b'"])
    """
    values, depth, quote, begin = [], 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[begin:i])
            begin = i + 1
    return [*values, text[begin:]]


def expand(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns (name, overrides) of every run of a grid; without several values anywhere one run named "".

    The name tells only what differs, and can be the name of a folder.

    Raises:
        LaunchError: an empty value, the same value twice, or a grid of run folders.

    >>> expand(["a=1,2", "b=3"])
    [('a=1', ['a=1', 'b=3']), ('a=2', ['a=2', 'b=3'])]
    """
    choices: list[list[tuple[str, str]]] = []
    for override in overrides:
        key, _, text = override.partition("=")
        values = [value.strip() for value in split_values(text)]
        if len(values) > 1 and (not all(values) or len(set(values)) < len(values)):
            raise LaunchError(
                f"{override!r}: the values of a grid must differ and must not be empty. A value with a comma of its "
                "own is put into brackets or quotes."
            )
        if len(values) > 1 and key == "run":
            raise LaunchError(
                f"{override!r}: the runs of a grid are named by what differs in them."
            )
        choices.append([(_name(key, v) if len(values) > 1 else "", f"{key}={v}") for v in values])
    runs = []
    for combination in itertools.product(*choices):
        name = "__".join(part for part, _ in combination if part)
        runs.append((name, [override for _, override in combination]))
    return runs


def _name(key: str, value: str) -> str:
    return f"{key}={re.sub(r'[^A-Za-z0-9.+-]+', '_', value)}"
