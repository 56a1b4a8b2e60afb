"""Captions of the generated worlds: what is done in the whole clip, and what happens in each phase."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np

from video_ssl.datasets.demo.figure import Body, Color
from video_ssl.datasets.demo.video import Motion, Words

_FRAMES = (
    "{subject} {action}.",
    "{subject} {action}.",
    "in this clip, {subject} {action}.",
    "{subject} {action} in front of a moving background.",
)

_HUES = (
    (0.04, "red"), (0.11, "orange"), (0.19, "yellow"), (0.45, "green"), (0.54, "turquoise"),
    (0.7, "blue"), (0.8, "purple"), (0.95, "pink"), (1.01, "red"),
)  # fmt: skip


def color_word(color: Color) -> str:
    """Returns the plain name of a color.

    >>> color_word((20, 30, 200))
    'blue'
    """
    hue, light, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    if light < 0.13:
        return "black"
    if saturation < 0.18:
        return "white" if light > 0.8 else "grey"
    return next(word for limit, word in _HUES if hue < limit)


def _subject(body: Body, rng: np.random.Generator) -> str:
    shirt, trousers = color_word(body.shirt), color_word(body.trousers)
    shorts = "trousers" if body.long_trousers else "shorts"
    options = (
        "a person", "someone", "a figure", "the performer",
        f"a person in a {shirt} shirt", f"someone wearing {trousers} {shorts}", f"a figure in {shirt} and {trousers}",
    )  # fmt: skip
    return options[rng.integers(len(options))]


def captions_of(
    motion: Motion,
    words: Words,
    body: Body,
    rng: np.random.Generator,
    *,
    seconds: float,
    shift_sec: float = 0.0,
    num_full: int = 2,
) -> list[dict[str, Any]]:
    """Returns captions as rows of the table: `num_full` about the whole clip (0 to `seconds`), then one per phase.

    The sentence about a phase carries the window of that phase, in seconds of the clip, in which the clock of the
    motion starts at `shift_sec`.
    """
    rows = []
    chosen = rng.permutation(len(words.actions[motion.action]))[:num_full]
    for i in chosen:
        frame = _FRAMES[rng.integers(len(_FRAMES))]
        text = frame.format(subject=_subject(body, rng), action=words.actions[motion.action][i])
        rows.append(_row(text, 0.0, seconds))
    for name, start, end in motion.phase_windows():
        ways = words.phases[name]
        said = ways[rng.integers(len(ways))]
        opening = ("", "now ", "here ")[rng.integers(3)]
        text = f"{opening}{_subject(body, rng)} {said}."
        rows.append(_row(text, start + shift_sec, min(end + shift_sec, seconds)))
    return rows


def session_captions(
    topic: str, words: Words, rng: np.random.Generator, *, seconds: float
) -> list[dict[str, Any]]:
    """Returns the captions about a whole session of a topic."""
    ways = words.topics[topic]
    return [_row(f"{ways[rng.integers(len(ways))]}.", 0.0, seconds)]


def _row(text: str, start_sec: float, end_sec: float) -> dict[str, Any]:
    text = text[0].upper() + text[1:]
    return {"text": text, "start_sec": float(start_sec), "end_sec": float(end_sec)}
