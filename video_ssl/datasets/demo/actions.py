"""What the figure of the moving world does: the actions, and one performance of one of them.

Every class shares its poses with a twin: the twin is the same movement played backwards, or has the same two parts in
the other order.  A backward twin is drawn as its partner is and then reversed as a whole; the two parts of an order
twin each start and end in the same place and pose.  So neither a frame nor the set of all frames tells twins apart,
only the order in which things happen.  No pair is made equal by a mirror image.

What surrounds a performance must keep to that: idle times have the same law before and after (the last frame is at
(T - 1) / fps, so they share `(T - 1) / fps - active_sec`), and the camera looks at the middle of the way, not at its
start, and from all sides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from video_ssl.datasets.demo.bones import assemble, turn
from video_ssl.datasets.demo.figure import Body
from video_ssl.datasets.demo.moves import (
    ClipMove,
    Course,
    KeyMove,
    LoopMove,
    Moment,
    Move,
    Placement,
    SnapMove,
    Style,
    chained,
    sample_style,
    swayed,
)

__all__ = [
    "CLASS_NAMES", "EXTRA_ACTIONS", "TWINS", "Performance", "Placement", "Style", "end_posture", "perform",
    "phase_names", "sample_style", "start_posture",
]  # fmt: skip

# No phase is shorter (but in an action with no time for that), so that each has frames at 8 frames a second and more.
_SHORTEST_PHASE_SEC = 0.25

ORIGIN = Placement()


@dataclass(frozen=True, kw_only=True)
class Action:
    """One kind of action.

    Attributes:
        name: its name.
        moves: its parts, one after another; their phases together are `phases`.
        phases: names in the order in which they happen in this action.
        events: for each phase what is heard at its end, or None.
        step_sound: what is heard at each further contact.
        start: posture in which it starts.
        end: posture in which it ends.
        backwards: the moves are performed as they are and then reversed in time as a whole.
    """

    name: str
    moves: tuple[Move, ...]
    phases: tuple[str, ...]
    events: tuple[str | None, ...]
    step_sound: str | None = None
    start: str = "standing"
    end: str = "standing"
    backwards: bool = False

    def __post_init__(self) -> None:
        count = sum(move.num_phases for move in self.moves)
        assert count == len(self.phases) == len(self.events) == len(set(self.phases)), self.name


_SIT = (KeyMove(poses=("neutral", "crouch", "seated")),)
_BOW = KeyMove(poses=("neutral", "bow", "neutral"))
_REACH = KeyMove(poses=("neutral", "reach", "neutral"))
_WALK = (LoopMove(clip="walk"),)
_GET_UP = (
    ClipMove(clip="getup_facedown", start_sec=0.1, end_sec=2.85, from_standing=False, moments=(
        Moment(rule="highest", joint="root", after_sec=1.2, before_sec=2.1),
        Moment(rule="lowest", joint="root", after_sec=1.9, before_sec=2.5),
    )),
)  # fmt: skip
_ROLL = (
    ClipMove(clip="roll", start_sec=0.0, end_sec=2.0, moments=(
        Moment(rule="lowest", joint="rwrist", after_sec=0.3, before_sec=0.8),
        Moment(rule="lowest", joint="root", after_sec=0.8, before_sec=1.3),
    )),
)  # fmt: skip
_PUNCH = SnapMove(
    clip="punch", start_sec=0.15,
    turn=Moment(rule="farthest", joint="rwrist", after_sec=0.6, before_sec=1.6),
)  # fmt: skip
_KICK = SnapMove(
    clip="kick", start_sec=0.1,
    turn=Moment(rule="farthest", joint="right_toe", after_sec=0.4, before_sec=1.1),
)  # fmt: skip
_JUMP = ClipMove(clip="jump", start_sec=0.1, end_sec=1.7, on_the_spot=True, moments=(
    Moment(rule="highest", joint="root", after_sec=0.6, before_sec=1.3),
))  # fmt: skip
_BACKFLIP = ClipMove(clip="backflip", start_sec=0.1, end_sec=1.65, on_the_spot=True, moments=(
    Moment(rule="highest", joint="root", after_sec=0.4, before_sec=1.2),
))  # fmt: skip

_CLASSES: tuple[Action, ...] = (
    Action(
        name="sit_down", moves=_SIT, phases=("crouch", "settle"), events=("creak", "thud"), end="sitting",
    ),
    Action(
        name="stand_up", moves=_SIT, phases=("lean_in", "straighten"), events=("creak", "thud"),
        start="sitting", backwards=True,
    ),
    Action(
        name="walk", moves=_WALK, phases=("set_off", "stride", "halt"), events=(None, None, None),
        step_sound="knock",
    ),
    Action(
        name="walk_backwards", moves=_WALK, phases=("back_off", "stride_back", "stop_back"),
        events=(None, None, None), step_sound="knock", backwards=True,
    ),
    Action(
        name="get_up", moves=_GET_UP, phases=("push_up", "gather", "rise"), events=("creak", "thud", "click"),
        start="lying",
    ),
    Action(
        name="lie_down", moves=_GET_UP, phases=("fold", "hands_out", "sink"), events=("click", "thud", "creak"),
        end="lying", backwards=True,
    ),
    Action(
        name="roll", moves=_ROLL, phases=("duck", "tumble", "come_up"), events=("clap", "thud", "click"),
    ),
    Action(
        name="roll_backwards", moves=_ROLL, phases=("sit_back", "tumble_back", "unfold"),
        events=("thud", "clap", "click"), backwards=True,
    ),
    Action(
        name="bow_then_reach", moves=(_BOW, _REACH), phases=("bow", "unbow", "reach", "unreach"),
        events=("creak", "click", "bell", "click"),
    ),
    Action(
        name="reach_then_bow", moves=(_REACH, _BOW), phases=("reach", "unreach", "bow", "unbow"),
        events=("bell", "click", "creak", "click"),
    ),
    Action(
        name="punch_then_kick", moves=(_PUNCH, _KICK), phases=("punch", "draw_back", "kick", "set_down"),
        events=("clap", None, "whoosh", "knock"),
    ),
    Action(
        name="kick_then_punch", moves=(_KICK, _PUNCH), phases=("kick", "set_down", "punch", "draw_back"),
        events=("whoosh", "knock", "clap", None),
    ),
    Action(
        name="jump_then_flip", moves=(_JUMP, _BACKFLIP), phases=("leap", "land", "flip", "alight"),
        events=("chirp", "thud", "whoosh", "thud"),
    ),
    Action(
        name="flip_then_jump", moves=(_BACKFLIP, _JUMP), phases=("flip", "alight", "leap", "land"),
        events=("whoosh", "thud", "chirp", "thud"),
    ),
)  # fmt: skip

_EXTRAS: tuple[Action, ...] = (
    Action(
        name="run", moves=(LoopMove(clip="run"),), phases=("speed_up", "race", "slow_down"),
        events=(None, None, None), step_sound="knock",
    ),
    Action(
        name="cartwheel", moves=(ClipMove(clip="cartwheel", start_sec=0.0, end_sec=2.7, moments=(
            Moment(rule="lowest", joint="head", after_sec=0.6, before_sec=2.0),
        )),),
        phases=("swing_over", "come_round"), events=("clap", "knock"),
    ),
    Action(
        name="spinkick", moves=(ClipMove(clip="spinkick", start_sec=0.0, end_sec=1.28, moments=(
            Moment(rule="highest", joint="root", after_sec=0.3, before_sec=1.0),
        )),),
        phases=("spin_up", "touch_down"), events=("whoosh", "thud"),
    ),
    Action(
        name="dance", moves=(ClipMove(clip="dance_b", start_sec=0.0, end_sec=2.5, moments=(
            Moment(rule="highest", joint="lwrist", after_sec=0.3, before_sec=1.2),
            Moment(rule="highest", joint="rwrist", after_sec=1.3, before_sec=2.3),
        )),),
        phases=("swing_left", "swing_right", "close_dance"), events=("bell", "bell", "click"),
    ),
)  # fmt: skip

ACTIONS: dict[str, Action] = {action.name: action for action in (*_CLASSES, *_EXTRAS)}

CLASS_NAMES: tuple[str, ...] = tuple(action.name for action in _CLASSES)
"""The classes; twins are neighbours."""
TWINS: tuple[tuple[str, str], ...] = tuple(zip(CLASS_NAMES[::2], CLASS_NAMES[1::2], strict=True))
"""Pairs of classes with the same poses."""
EXTRA_ACTIONS: tuple[str, ...] = tuple(action.name for action in _EXTRAS)
"""Further actions, for sessions: they start and end standing, and have no twin."""


def action_of(name: str) -> Action:
    """Returns the action called `name`.

    Raises:
        ValueError: if there is none.
    """
    if name not in ACTIONS:
        raise ValueError(f"There is no action {name!r}. Choose one of: {', '.join(ACTIONS)}.")
    return ACTIONS[name]


def phase_names(action: str) -> tuple[str, ...]:
    """Returns the phases of an action in order: `ready`, its own, `done`."""
    return ("ready", *action_of(action).phases, "done")


def start_posture(action: str) -> str:
    """Returns in which posture an action starts: `standing`, `sitting` or `lying`."""
    return action_of(action).start


def end_posture(action: str) -> str:
    """Returns in which posture an action ends."""
    return action_of(action).end


@dataclass(frozen=True, kw_only=True)
class Performance:
    """An action done once, with idleness before and after it.

    Attributes:
        action: its name.
        joints: float64 (T, J, 3), average body heights, y up, on the ground y = 0.
        phases: int16 (T,), indices into `phase_names(action)`.
        events: (name of the sound, seconds), in order of time.
        border_times_sec: when its phases begin and end, one more than there are phases.
        placement_at_end: where the figure is then, for what follows.
    """

    action: str
    joints: np.ndarray
    phases: np.ndarray
    events: tuple[tuple[str, float], ...]
    border_times_sec: tuple[float, ...]
    placement_at_end: Placement

    @property
    def start_sec(self) -> float:
        """When the action begins."""
        return self.border_times_sec[0]

    @property
    def end_sec(self) -> float:
        """When the action ends."""
        return self.border_times_sec[-1]

    def phase_windows(self) -> list[tuple[str, float, float]]:
        """Returns (phase name, start, end) in seconds of every phase but `ready` and `done`, in order."""
        names = phase_names(self.action)[1:-1]
        borders = self.border_times_sec
        return [
            (name, start, end)
            for name, start, end in zip(names, borders[:-1], borders[1:], strict=True)
        ]


def perform(
    action: str,
    body: Body,
    style: Style,
    rng: np.random.Generator,
    *,
    num_frames: int,
    fps: float,
    before_sec: float,
    active_sec: float,
    speed_spread: float = 1.0,
    at: Placement = ORIGIN,
) -> Performance:
    """Returns the action performed once within `num_frames`: idle for `before_sec`, active, then idle.

    Phases get random lengths around their natural share, each with a random bend of its clock, so that the position
    in the clip does not give the phase.  How many random numbers are drawn depends on the structure of the action
    only, and is the same for twins.

    Args:
        action: its name.
        body: who does it.
        style: how.
        rng: source of speeds and bends.
        num_frames: T.
        fps: frames per second.
        before_sec: idle time before the action.
        active_sec: length of the action; captures look natural at about 2 to 3.5 s.
        speed_spread: spread of the lengths of phases, 1 as usual.
        at: where the idle figure stands, sits or lies at first.

    Raises:
        ValueError: if there is no such action, or if it does not fit into the frames.
    """
    spec = action_of(action)
    if active_sec <= 0 or before_sec < 0 or before_sec + active_sec > num_frames / fps + 1e-9:
        raise ValueError(
            f"before_sec={before_sec:g} and active_sec={active_sec:g} do not fit: {num_frames} frames at {fps:g} fps "
            f"last {num_frames / fps:g} s, the action must last longer than 0 s and idle time must not be negative."
        )
    clock = np.arange(num_frames) / fps
    # A backward twin is its partner on a clock that runs backwards from the last frame.
    times = clock[::-1] if spec.backwards else clock
    before = clock[-1] - before_sec - active_sec if spec.backwards else before_sec
    course = _course(spec, body, style, rng, active_sec)
    knots = before + active_sec * _phase_ends(course, rng, speed_spread, active_sec)
    bends = rng.uniform(-style.warp, style.warp, len(spec.phases))
    directions, root, height = course.at(_warped(times, knots, course.borders_sec, bends))

    start, end, borders = Placement(), course.end, knots
    heard = [_when(t, knots, course.borders_sec, bends) for t in course.contacts_sec]
    if spec.backwards:
        start, end, borders = course.end, Placement(), (clock[-1] - knots)[::-1]
        heard = [clock[-1] - t for t in heard]
    move = at.then(start.back())
    directions = swayed(turn(directions, move.heading_rad), style, at.clock_sec + clock)
    root = turn(np.stack([root[:, 0], np.zeros(num_frames), root[:, 1]], 1), move.heading_rad)
    return Performance(
        action=action,
        joints=assemble(body, directions, root[:, [0, 2]] + np.array([move.x, move.z]), height),
        phases=np.searchsorted(borders, clock, side="right").astype(np.int16),
        events=_events(spec, borders, heard),
        border_times_sec=tuple(float(t) for t in borders),
        placement_at_end=move.then(end).then(Placement(clock_sec=num_frames / fps)),
    )  # fmt: skip


def _course(
    spec: Action, body: Body, style: Style, rng: np.random.Generator, active_sec: float
) -> Course:
    """The action at natural speed; a loop goes on for as long as there is time, from anywhere in its cycle."""
    courses = []
    for move in spec.moves:
        if isinstance(move, LoopMove):
            speed, first_sec = np.exp(rng.uniform(-0.25, 0.25)), rng.uniform(0, 10)
            duration = float(active_sec * speed)
            courses.append(
                move.course(body, style, duration_sec=duration, first_sec=float(first_sec))
            )
        else:
            courses.append(move.course(body, style))
    return chained(courses)


def _phase_ends(
    course: Course, rng: np.random.Generator, spread: float, active_sec: float
) -> np.ndarray:
    """Borders of the phases, float64 (P + 1,), in shares of the active time."""
    shares = np.diff(course.borders_sec)
    shares = shares * np.exp(0.3 * spread * rng.normal(size=len(shares)).clip(-1.5, 1.5))
    least = min(_SHORTEST_PHASE_SEC / active_sec, 0.5 / len(shares))
    shares = least + (1 - least * len(shares)) * shares / shares.sum()
    return np.concatenate([[0.0], np.cumsum(shares)])


def _clock_corners(
    knots: np.ndarray, borders: np.ndarray, bends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Times and course times the clock goes through: the borders of phases, and the bent middle of each."""
    middle = (knots[1:] + knots[:-1]) / 2
    bent = borders[:-1] + np.diff(borders) * (0.5 + 0.6 * bends)
    return _interleaved(knots, middle), _interleaved(borders, bent)


def _interleaved(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    both = np.empty(len(outer) + len(inner))
    both[::2], both[1::2] = outer, inner
    return both


def _warped(
    times: np.ndarray, knots: np.ndarray, borders: np.ndarray, bends: np.ndarray
) -> np.ndarray:
    """Course times, float64 (T,), of times: monotone and of smooth speed; the ends are held."""
    x, y = _clock_corners(knots, borders, bends)
    return monotone_cubic(x, y, np.clip(times, x[0], x[-1]))


def _when(moment: float, knots: np.ndarray, borders: np.ndarray, bends: np.ndarray) -> float:
    """The time at which the course is at a moment."""
    fine = np.linspace(knots[0], knots[-1], 200)
    return float(np.interp(moment, _warped(fine, knots, borders, bends), fine))


def monotone_cubic(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the monotone cubic through points of rising x and y, at x within them; the law is symmetric in x.

    Source: Fritsch and Butland (1984), weighted harmonic mean of neighbouring slopes; at the ends the secant's.
    """
    gap, slope = np.diff(x), np.diff(y) / np.diff(x)
    before, after = 2 * gap[1:] + gap[:-1], gap[1:] + 2 * gap[:-1]
    inner = (before + after) / (before / slope[:-1] + after / slope[1:])
    tangent = np.concatenate([slope[:1], inner, slope[-1:]])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(gap) - 1)
    u = (at - x[i]) / gap[i]
    rest = (
        gap[i] * u * (1 - u) * ((1 - u) * (tangent[i] - slope[i]) - u * (tangent[i + 1] - slope[i]))
    )
    return y[i] + np.diff(y)[i] * u + rest


def _events(
    spec: Action, borders: np.ndarray, heard: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    ends = [(name, float(t)) for name, t in zip(spec.events, borders[1:], strict=True) if name]
    steps = [(spec.step_sound, t) for t in heard if spec.step_sound]
    return tuple(sorted([*ends, *steps], key=lambda event: event[1]))
