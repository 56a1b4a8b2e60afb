"""What the figure of the exercises does: key poses, exercises and their course in time.

An exercise is a start pose and a sequence of keys; every key says which pose is reached, in which phase, and which
event (with its sound) marks the moment.  Two pairs of exercises hold the same poses in opposite order, so that
neither a frame nor the set of all frames distinguishes them: the law of every random choice here is symmetric in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SIDED = ("arm", "fore", "thigh", "shin")
FIELDS: tuple[str, ...] = (
    *("pitch", "roll", "head", "twist", "anchor", "lift"),
    *(f"{limb}_{side}_{angle}" for limb in _SIDED for side in "lr" for angle in ("flex", "out")),
)
"""Degrees, but `anchor` (-1: left foot planted, 1: right, 0: both) and `lift` (body heights above the ground).
A limb hangs straight down at 0, `flex` swings it forward, `out` away from the body."""

FIELD_INDEX = {name: i for i, name in enumerate(FIELDS)}


def pose(base: np.ndarray | None = None, **angles: float) -> np.ndarray:
    """Returns a pose, float64 (P,) in the order of FIELDS: `base` (zeros if none) with the given fields changed.

    `thigh_flex` stands for both sides, `thigh_l_flex` for one.

    >>> float(pose(thigh_flex=30)[FIELD_INDEX["thigh_r_flex"]])
    30.0
    """
    values = np.zeros(len(FIELDS)) if base is None else base.copy()
    for name, value in angles.items():
        limb, _, angle = name.partition("_")
        names = [name] if name in FIELD_INDEX else [f"{limb}_{side}_{angle}" for side in "lr"]
        for each in names:
            values[FIELD_INDEX[each]] = value
    return values


NEUTRAL = pose(arm_out=10, fore_flex=16, fore_out=6, thigh_out=5, thigh_flex=2, shin_flex=-4, shin_out=4)  # fmt: skip


def _from_neutral(**angles: float) -> np.ndarray:
    return pose(NEUTRAL, **angles)


POSES: dict[str, np.ndarray] = {
    "neutral": NEUTRAL,
    "squat": _from_neutral(
        pitch=34, head=-20, thigh_flex=90, thigh_out=16, shin_flex=-30, arm_flex=88, arm_out=4, fore_flex=92,
        fore_out=0,
    ),
    "star": _from_neutral(arm_out=150, fore_out=172, fore_flex=0, thigh_out=30, shin_out=28),
    "lunge": _from_neutral(
        pitch=18, roll=10, anchor=-1, thigh_r_flex=48, thigh_r_out=58, shin_r_flex=-22, shin_r_out=-4,
        thigh_l_out=40, shin_l_out=42,
        arm_flex=62, arm_out=0, fore_flex=112, fore_out=-30,
    ),
    "chamber": _from_neutral(
        pitch=4, anchor=-1, thigh_r_flex=88, shin_r_flex=-15, arm_flex=35, fore_flex=118, fore_out=-10,
    ),
    "kick": _from_neutral(
        pitch=-18, head=12, anchor=-1, thigh_r_flex=104, shin_r_flex=104, arm_flex=10, arm_out=38, fore_flex=70,
        fore_out=20,
    ),
    "wind_up": _from_neutral(
        pitch=-14, twist=-40, anchor=1, arm_r_flex=-30, arm_r_out=105, fore_r_flex=-35, fore_r_out=165,
        arm_l_flex=78, fore_l_flex=88,
        thigh_l_flex=52, shin_l_flex=-20,
    ),
    "release": _from_neutral(
        pitch=16, twist=30, arm_r_flex=118, arm_r_out=10, fore_r_flex=104, arm_l_flex=-20, fore_l_flex=10,
        thigh_l_flex=26, thigh_r_flex=-22,
        shin_r_flex=-40,
    ),
    "follow_through": _from_neutral(
        pitch=42, twist=42, arm_r_flex=30, arm_r_out=-38, fore_r_flex=24, fore_r_out=-50, arm_l_flex=-45,
        fore_l_flex=-30, thigh_l_flex=30,
        thigh_r_flex=-26, shin_r_flex=-52,
    ),
    "hand_up": _from_neutral(arm_r_out=112, fore_r_out=176, fore_r_flex=0),
    "hand_out": _from_neutral(arm_r_out=106, fore_r_out=128, fore_r_flex=0, roll=-4),
    "hand_in": _from_neutral(arm_r_out=118, fore_r_out=222, fore_r_flex=0, roll=4),
    "crouch": _from_neutral(pitch=46, head=-25, thigh_flex=108, shin_flex=-44, arm_flex=66, fore_flex=60),
    "seated": _from_neutral(
        pitch=-18, head=10, thigh_flex=113, shin_flex=44, arm_flex=-38, arm_out=24, fore_flex=-28,
        fore_out=10,
    ),
    "bow": _from_neutral(pitch=88, head=22, thigh_flex=-10, shin_flex=-6, arm_flex=12, fore_flex=4),
    "reach": _from_neutral(pitch=-9, head=-24, arm_flex=162, arm_out=8, fore_flex=176),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Key:
    """A pose that is reached at the end of a stretch of `share` (relative length) of the phase `phase`."""

    pose: str
    phase: str
    share: float = 1.0
    event: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """An action: it starts in the pose `start` and goes through `keys` once, in order."""

    name: str
    start: str
    keys: tuple[Key, ...]

    @property
    def phase_names(self) -> list[str]:
        """Names of the phases in order: `ready`, those of the keys (equal neighbours merged), `done`."""
        names = ["ready", *dict.fromkeys(key.phase for key in self.keys), "done"]
        assert len(names) == len(set(names)), f"{self.name}: a phase comes back: {names}"
        return names

    @property
    def end(self) -> str:
        """Name of the pose in which the exercise ends."""
        return self.keys[-1].pose


EXERCISES: tuple[Exercise, ...] = (
    Exercise(name="squat", start="neutral", keys=(
        Key(pose="squat", phase="lower", event="thud"),
        Key(pose="neutral", phase="rise", event="click"),
    )),
    Exercise(name="jumping_jack", start="neutral", keys=(
        Key(pose="star", phase="open", event="clap"),
        Key(pose="neutral", phase="close", event="knock"),
    )),
    Exercise(name="side_lunge", start="neutral", keys=(
        Key(pose="lunge", phase="step_out", event="knock"),
        Key(pose="neutral", phase="step_back", event="knock"),
    )),
    Exercise(name="kick", start="neutral", keys=(
        Key(pose="chamber", phase="lift_knee", event="click"),
        Key(pose="kick", phase="extend", share=0.7, event="clap"),
        Key(pose="neutral", phase="retract", share=1.2, event="knock"),
    )),
    Exercise(name="throw", start="neutral", keys=(
        Key(pose="wind_up", phase="wind_up", share=1.3, event="creak"),
        Key(pose="release", phase="swing", share=0.7, event="whoosh"),
        Key(pose="follow_through", phase="follow_through", share=0.7),
        Key(pose="neutral", phase="recover", event="knock"),
    )),
    Exercise(name="wave", start="neutral", keys=(
        Key(pose="hand_up", phase="raise"),
        Key(pose="hand_out", phase="wave", share=0.5, event="bell"),
        Key(pose="hand_in", phase="wave", share=0.7, event="chirp"),
        Key(pose="hand_out", phase="wave", share=0.7, event="bell"),
        Key(pose="neutral", phase="lower_hand"),
    )),
    Exercise(name="sit_down", start="neutral", keys=(
        Key(pose="crouch", phase="crouch", event="creak"),
        Key(pose="seated", phase="settle", event="thud"),
    )),
    Exercise(name="stand_up", start="seated", keys=(
        Key(pose="crouch", phase="lean_in", event="creak"),
        Key(pose="neutral", phase="straighten", event="click"),
    )),
    Exercise(name="bow_then_reach", start="neutral", keys=(
        Key(pose="bow", phase="bow", event="creak"),
        Key(pose="neutral", phase="unbow", event=None),
        Key(pose="reach", phase="reach", event="bell"),
        Key(pose="neutral", phase="unreach", event="click"),
    )),
    Exercise(name="reach_then_bow", start="neutral", keys=(
        Key(pose="reach", phase="reach", event="bell"),
        Key(pose="neutral", phase="unreach", event=None),
        Key(pose="bow", phase="bow", event="creak"),
        Key(pose="neutral", phase="unbow", event="click"),
    )),
)  # fmt: skip

CLASS_NAMES: tuple[str, ...] = tuple(exercise.name for exercise in EXERCISES)
ORDER_PAIRS = (("sit_down", "stand_up"), ("bow_then_reach", "reach_then_bow"))
"""Pairs of classes whose poses are the same, in opposite order."""

TOPICS: dict[str, tuple[str, ...]] = {
    "warm_up": ("squat", "jumping_jack", "side_lunge"),
    "contest": ("kick", "throw", "jumping_jack"),
    "greeting": ("wave", "bow_then_reach", "reach_then_bow"),
    "rest": ("sit_down", "stand_up", "squat"),
}
"""Topics of the sessions: the set of actions each may hold."""


def exercise_of(name: str) -> Exercise:
    """Returns the exercise called `name`."""
    return EXERCISES[CLASS_NAMES.index(name)]


@dataclass(frozen=True, kw_only=True)
class MotionStyle:
    """How one performer moves: the scale of every movement, joint offsets per pose, and sway while idle.

    `offsets` maps a pose name to float64 (P,) degrees; `warp` is the largest bend of the clock within a phase.
    """

    amplitude: float
    offsets: dict[str, np.ndarray]
    sway_deg: float
    sway_hz: float
    warp: float

    def pose(self, name: str) -> np.ndarray:
        """Returns the performer's own version of a pose, float64 (P,)."""
        return NEUTRAL + self.amplitude * (POSES[name] - NEUTRAL) + self.offsets[name]


def sample_style(rng: np.random.Generator, *, strength: float, warp: float) -> MotionStyle:
    """Returns a random style; `strength` 0 is the textbook movement, `warp` in 0..1 bends the clock."""
    mask = np.array([name not in ("anchor", "lift", "roll") for name in FIELDS])
    offsets = {name: rng.normal(0, 5 * strength, len(FIELDS)) * mask for name in POSES}
    return MotionStyle(
        amplitude=float(1 + strength * rng.uniform(-0.18, 0.1)),
        offsets=offsets,
        sway_deg=float(strength * rng.uniform(0.5, 3)),
        sway_hz=float(rng.uniform(0.3, 0.8)),
        warp=0.28 * warp,
    )


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A course in time: poses float64 (T, P), phases int (T,), the key moments and what holds when.

    `key_times_sec` has one entry per key of the exercise; the action lasts from `start_sec` to `end_sec`.
    """

    exercise: Exercise
    poses: np.ndarray
    phases: np.ndarray
    key_times_sec: tuple[float, ...]
    start_sec: float
    end_sec: float

    @property
    def action(self) -> str:
        """Name of the class."""
        return self.exercise.name

    @property
    def events(self) -> list[tuple[str, float]]:
        """(name, seconds) of every key that has an event."""
        pairs = zip(self.exercise.keys, self.key_times_sec, strict=True)
        return [(key.event, time) for key, time in pairs if key.event]

    def phase_windows(self) -> list[tuple[str, float, float]]:
        """(phase name, start, end) in seconds of every active phase, in order."""
        windows: list[tuple[str, float, float]] = []
        begin = self.start_sec
        for key, time in zip(self.exercise.keys, self.key_times_sec, strict=True):
            if windows and windows[-1][0] == key.phase:
                windows[-1] = (key.phase, windows[-1][1], time)
            else:
                windows.append((key.phase, begin, time))
            begin = time
        return windows


def perform(
    exercise: Exercise,
    style: MotionStyle,
    rng: np.random.Generator,
    *,
    num_frames: int,
    fps: float,
    before_sec: float,
    active_sec: float,
    speed_spread: float = 1.0,
) -> Motion:
    """Returns the exercise performed once within `num_frames`: idle for `before_sec`, then active, then idle.

    Stretches between keys get random lengths around their share, each with a random bend of its clock, so that the
    position in the clip does not give the phase.  The random numbers drawn depend on the number of keys only.
    """
    shares = np.array([key.share for key in exercise.keys])
    shares = shares * np.exp(0.3 * speed_spread * rng.normal(size=len(shares)).clip(-1.5, 1.5))
    bends = rng.uniform(-style.warp, style.warp, len(shares))
    knots = before_sec + active_sec * np.concatenate([[0], np.cumsum(shares) / shares.sum()])
    times = np.arange(num_frames) / fps

    names = [exercise.start, *(key.pose for key in exercise.keys)]
    corners = np.stack([style.pose(name) for name in names])
    stretch = np.searchsorted(knots, times, side="right") - 1
    inside = np.clip(stretch, 0, len(shares) - 1)
    u = np.clip((times - knots[inside]) / np.diff(knots)[inside], 0, 1)
    u = u + bends[inside] * np.sin(np.pi * u)
    u = (u * u * (3 - 2 * u))[:, None]
    poses = corners[inside] * (1 - u) + corners[inside + 1] * u

    phase_of_stretch = [0] + [exercise.phase_names.index(key.phase) for key in exercise.keys]
    phase_of_stretch.append(len(exercise.phase_names) - 1)
    return Motion(
        exercise=exercise,
        poses=poses,
        phases=np.array(phase_of_stretch, np.int16)[stretch + 1],
        key_times_sec=tuple(float(t) for t in knots[1:]),
        start_sec=float(knots[0]),
        end_sec=float(knots[-1]),
    )


def add_sway(
    poses: np.ndarray, style: MotionStyle, rng: np.random.Generator, fps: float
) -> np.ndarray:
    """Returns the poses with breathing and swaying added, float64 (T, P); it never stops, so idle is not frozen."""
    times = np.arange(len(poses))[:, None] / fps
    weights = rng.normal(0, 1, (2, poses.shape[1]))
    weights[:, [FIELD_INDEX["anchor"], FIELD_INDEX["lift"]]] = 0
    angle = 2 * np.pi * (style.sway_hz * times + rng.uniform())
    return poses + style.sway_deg * (weights[0] * np.sin(angle) + weights[1] * np.cos(1.6 * angle))
