"""Captions of the demo data: what is done in the whole clip, and what happens in each phase."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np

from video_ssl.datasets.demo.figure import Body, Color
from video_ssl.datasets.demo.motion import Motion

ACTIONS: dict[str, tuple[str, ...]] = {
    "squat": ("does a squat", "squats down and comes up again", "performs a deep squat"),
    "jumping_jack": ("does a jumping jack", "spreads arms and legs in a jumping jack", "performs a jumping jack"),
    "side_lunge": ("does a side lunge", "lunges to the side and back", "performs a lunge sideways"),
    "kick": ("kicks forward", "does a front kick", "performs a kick with one leg"),
    "throw": ("throws something overhead", "does an overhead throw", "winds up and throws"),
    "wave": ("waves with one hand", "greets with a wave", "raises an arm and waves"),
    "sit_down": ("sits down on the floor", "goes from standing to sitting", "takes a seat on the ground"),
    "stand_up": ("stands up from the floor", "goes from sitting to standing", "gets up from the ground"),
    "bow_then_reach": (
        "bows, then reaches up", "bows before reaching for the ceiling", "first bows and then stretches up",
    ),
    "reach_then_bow": (
        "reaches up, then bows", "reaches for the ceiling before a bow", "first stretches up and then bows",
    ),
}  # fmt: skip
"""Class -> ways to say it; every one of them implies the class."""

PHASES: dict[str, tuple[str, ...]] = {
    "lower": ("goes down into the squat", "bends the knees"),
    "rise": ("comes up from the squat", "straightens the knees"),
    "open": ("spreads arms and legs", "opens the jumping jack"),
    "close": ("brings arms and legs together", "closes the jumping jack"),
    "step_out": ("steps out into the lunge", "shifts the weight to the side"),
    "step_back": ("pushes back from the lunge", "returns to the middle"),
    "lift_knee": ("lifts the knee", "draws one leg up"),
    "extend": ("extends the leg into the kick", "kicks out"),
    "retract": ("puts the foot down again", "takes the leg back"),
    "wind_up": ("winds up for the throw", "takes the arm back"),
    "swing": ("swings the arm forward", "releases the throw"),
    "follow_through": ("follows through", "lets the throw run out"),
    "recover": ("recovers after the throw", "comes upright again"),
    "raise": ("raises one hand", "lifts an arm to greet"),
    "wave": ("moves the hand from side to side", "waves the raised hand"),
    "lower_hand": ("lowers the hand", "lets the arm sink"),
    "crouch": ("crouches to sit", "bends down to the floor"),
    "settle": ("settles on the floor", "sits back"),
    "lean_in": ("leans forward to get up", "gathers the legs to rise"),
    "straighten": ("straightens up", "rises to the feet"),
    "bow": ("bows down", "bends forward from the hips"),
    "unbow": ("comes up from the bow", "straightens the back"),
    "reach": ("reaches up with both arms", "stretches towards the ceiling"),
    "unreach": ("lets both arms sink", "brings the arms down"),
}  # fmt: skip
"""Phase -> ways to say what happens in it."""

TOPIC_WORDS: dict[str, tuple[str, ...]] = {
    "warm_up": ("a warm-up with several exercises", "someone warming up"),
    "contest": ("training for a contest", "someone practising kicks and throws"),
    "greeting": ("a person greeting and bowing", "a series of greetings"),
    "rest": ("someone going down and getting up", "a person resting and rising"),
}

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
    motion: Motion, body: Body, rng: np.random.Generator, *, seconds: float, num_full: int = 2
) -> list[dict[str, Any]]:
    """Returns captions as rows of the table: `num_full` about the whole clip (0 to `seconds`), then one per phase.

    The sentence about a phase carries the window of that phase, in seconds of the clip.
    """
    rows = []
    chosen = rng.permutation(len(ACTIONS[motion.exercise.name]))[:num_full]
    for i in chosen:
        frame = _FRAMES[rng.integers(len(_FRAMES))]
        text = frame.format(subject=_subject(body, rng), action=ACTIONS[motion.exercise.name][i])
        rows.append(_row(text, 0.0, seconds))
    for name, start, end in motion.phase_windows():
        words = PHASES[name][rng.integers(len(PHASES[name]))]
        opening = ("", "now ", "here ")[rng.integers(3)]
        rows.append(_row(f"{opening}{_subject(body, rng)} {words}.", start, min(end, seconds)))
    return rows


def session_captions(
    topic: str, rng: np.random.Generator, *, seconds: float
) -> list[dict[str, Any]]:
    """Returns the captions about a whole session of a topic."""
    words = TOPIC_WORDS[topic]
    return [_row(f"{words[rng.integers(len(words))]}.", 0.0, seconds)]


def _row(text: str, start_sec: float, end_sec: float) -> dict[str, Any]:
    text = text[0].upper() + text[1:]
    return {"text": text, "start_sec": float(start_sec), "end_sec": float(end_sec)}
