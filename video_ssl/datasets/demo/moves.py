"""Movements as courses in time: bone directions, path and height of a figure, from captures or from key poses.

A movement starts and ends in an idle pose; a capture is blended into it and out of it, so that movements can follow
one another.  Everything random about it is in the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from video_ssl.datasets.demo.bones import BONES, bone_directions, turn, unit
from video_ssl.datasets.demo.exercises.motion import FIELDS, NEUTRAL, POSES
from video_ssl.datasets.demo.exercises.skeleton import skeleton
from video_ssl.datasets.demo.figure import JOINT_INDEX, Body
from video_ssl.datasets.demo.mocap.clips import Clip, load_clip
from video_ssl.datasets.demo.mocap.retarget import Frames, Rows, captured, straightened

# Steps of a course, in seconds of the movement at its natural speed; captures have 16 to 60 key frames a second.
_STEP_SEC = 1 / 60
_KEY_SEC = 0.8
# How long it takes to turn back where a capture is followed there and back.
_SNAP_SEC = 0.1


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the pelvis of an idle figure is (average body heights) and which way it faces (0: to +z, 90 degrees: +x).

    `clock_sec` is the time that the performer's sway has run for.
    """

    x: float = 0.0
    z: float = 0.0
    heading_rad: float = 0.0
    clock_sec: float = 0.0

    def then(self, step: Placement) -> Placement:
        """Returns where a step, given as seen from here, leads to; clocks add up."""
        x, _, z = turn(np.array([step.x, 0.0, step.z]), self.heading_rad)
        heading = (self.heading_rad + step.heading_rad + np.pi) % (2 * np.pi) - np.pi
        return Placement(
            x=self.x + float(x), z=self.z + float(z), heading_rad=float(heading),
            clock_sec=self.clock_sec + step.clock_sec,
        )  # fmt: skip

    def back(self) -> Placement:
        """Returns the step that leads from here to the origin: `p.then(p.back())` is the origin."""
        x, _, z = turn(np.array([-self.x, 0.0, -self.z]), -self.heading_rad)
        return Placement(
            x=float(x), z=float(z), heading_rad=-self.heading_rad, clock_sec=-self.clock_sec
        )


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one performer moves: the same in all that the performer does.

    Attributes:
        amplitude: scale of every movement of the limbs, 1 as in the textbook or the capture.
        pose_offsets: key pose -> float64 (P,), degrees.
        bone_offsets: float64 (B, 3), added to the unit directions of captured bones, as seen from the trunk.
        sway: float64 (2, B, 3), size of the swaying of the directions at the two frequencies.
        sway_hz: frequency of the first; the second is 1.6 times it.
        sway_phase: float64 (2, B, 3), radians.
        warp: largest bend of the clock within a phase.
    """

    amplitude: float
    pose_offsets: dict[str, np.ndarray]
    bone_offsets: np.ndarray
    sway: np.ndarray
    sway_hz: float
    sway_phase: np.ndarray
    warp: float

    def pose(self, name: str) -> np.ndarray:
        """Returns the performer's own version of a key pose, float64 (P,)."""
        return NEUTRAL + self.amplitude * (POSES[name] - NEUTRAL) + self.pose_offsets[name]


_KEY_POSES = ("neutral", "crouch", "seated", "bow", "reach")
_LEGS = ("hip", "knee", "ankle", "toe")


def sample_style(rng: np.random.Generator, *, strength: float, warp: float) -> Style:
    """Returns a random style; `strength` 0 is the textbook movement without sway, `warp` in 0..1 bends the clock."""
    bend = np.array([name not in ("anchor", "lift", "roll") for name in FIELDS])
    legs = np.array([end.partition("_")[0] in _LEGS for _, end in BONES])
    trunk = np.array(["_" not in end or end[:-2] in ("shoulder", "hip") for _, end in BONES])
    # Legs hardly sway, so that standing feet stay where they are.
    sway = np.radians(rng.uniform(0.5, 2.5)) * np.where(legs, 0.15, 1.0)[:, None]
    return Style(
        amplitude=float(1 + strength * rng.uniform(-0.18, 0.1)),
        pose_offsets={
            name: 5 * strength * rng.normal(size=len(FIELDS)) * bend for name in _KEY_POSES
        },
        bone_offsets=0.08 * strength * rng.normal(size=(len(BONES), 3))
        * np.where(trunk, 0.4, 1.0)[:, None],
        sway=strength * sway * rng.normal(size=(2, len(BONES), 3)),
        sway_hz=float(rng.uniform(0.3, 0.8)),
        sway_phase=rng.uniform(0, 2 * np.pi, (2, len(BONES), 3)),
        warp=0.28 * warp,
    )  # fmt: skip


def swayed(directions: np.ndarray, style: Style, clock_sec: np.ndarray) -> np.ndarray:
    """Returns unit directions (T, B, 3) with breathing and swaying added; it never stops, so idle is not frozen."""
    angle = 2 * np.pi * style.sway_hz * clock_sec[:, None, None]
    first = style.sway[0] * np.sin(angle + style.sway_phase[0])
    second = style.sway[1] * np.sin(1.6 * angle + style.sway_phase[1])
    return unit(directions + first + second)


@dataclass(frozen=True, kw_only=True)
class Course:
    """A movement from idle to idle, as seen from where it starts, at its natural speed.

    Attributes:
        times_sec: float64 (N,), from 0.
        directions: float64 (N, B, 3), unit vectors.
        root: float64 (N, 2), x and z of the pelvis.
        height: float64 (N,), the lowest point above the ground.
        borders_sec: float64 (P + 1,), where its P phases begin and end; first 0, last `times_sec[-1]`.
        contacts_sec: further moments that are heard.
        end: where it ends.
    """

    times_sec: np.ndarray
    directions: np.ndarray
    root: np.ndarray
    height: np.ndarray
    borders_sec: np.ndarray
    contacts_sec: tuple[float, ...] = ()
    end: Placement

    def at(self, times_sec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns directions (T, B, 3), root (T, 2) and height (T,) at the given times; ends are held."""
        rows = Rows(self.times_sec, times_sec)
        return unit(rows(self.directions)), rows(self.root), rows(self.height)


def smooth_step(x: np.ndarray) -> np.ndarray:
    """Returns 0 below 0, 1 above 1, and between them the cubic that starts and ends at rest."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


@dataclass(frozen=True, kw_only=True)
class KeyMove:
    """A movement through key poses, at rest in each; every pose but the first ends a phase."""

    poses: tuple[str, ...]

    @property
    def num_phases(self) -> int:
        """How many phases it has."""
        return len(self.poses) - 1

    def course(self, body: Body, style: Style) -> Course:
        """Returns the movement as this performer does it."""
        borders = _KEY_SEC * np.arange(len(self.poses))
        times = _steps(borders[-1])
        corners = np.stack([style.pose(name) for name in self.poses])
        stretch = np.clip((times / _KEY_SEC).astype(int), 0, self.num_phases - 1)
        u = smooth_step(times / _KEY_SEC - stretch)[:, None]
        joints = skeleton(body, corners[stretch] * (1 - u) + corners[stretch + 1] * u)
        root = joints[:, JOINT_INDEX["pelvis"]][:, [0, 2]]
        root = root - root[0]
        return Course(
            times_sec=times, directions=bone_directions(joints), root=root, height=np.zeros(len(times)),
            borders_sec=borders, end=Placement(x=float(root[-1, 0]), z=float(root[-1, 1])),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment of a capture by what happens in it, looked for between two times of the capture.

    `lowest` and `highest` are about the height of a joint, `farthest` about its distance from the pelvis.
    """

    rule: Literal["lowest", "highest", "farthest"]
    joint: str
    after_sec: float
    before_sec: float

    def find(self, clip: Clip) -> float:
        """Returns the moment in seconds of the capture."""
        inside = (clip.times_sec >= self.after_sec) & (clip.times_sec <= self.before_sec)
        positions = clip.positions[self.joint]
        if self.rule == "farthest":
            signal = np.linalg.norm(positions - clip.positions["root"], axis=1)
        else:
            signal = positions[:, 1] * (1 if self.rule == "highest" else -1)
        return float(clip.times_sec[inside][np.argmax(signal[inside])])


@dataclass(frozen=True, kw_only=True)
class ClipMove:
    """A stretch of a capture; `moments` part its phases.

    Where `from_standing` (`to_standing`), it is blended from (to) the idle pose of a standing figure within
    `blend_sec`; elsewhere the first (last) frame of the stretch is the idle pose.  `on_the_spot` takes back in flight
    what it leads away.
    """

    clip: str
    start_sec: float
    end_sec: float
    moments: tuple[Moment, ...] = ()
    from_standing: bool = True
    to_standing: bool = True
    on_the_spot: bool = False
    blend_sec: float = 0.35

    @property
    def num_phases(self) -> int:
        """How many phases it has."""
        return len(self.moments) + 1

    def course(self, body: Body, style: Style) -> Course:
        """Returns the movement as this performer does it."""
        found = [moment.find(load_clip(self.clip)) for moment in self.moments]
        borders = np.array([self.start_sec, *found, self.end_sec]) - self.start_sec
        times = _steps(borders[-1])
        frames = captured(self.clip).at(
            self.start_sec + times, amplitude=style.amplitude, offsets=style.bone_offsets
        )
        course = _blended(self, straightened(frames), times, borders, body, style)
        return _on_the_spot(course) if self.on_the_spot else course


@dataclass(frozen=True, kw_only=True)
class SnapMove:
    """A capture from `start_sec` to a moment and the same way back, from a standing figure to a standing one.

    It ends where it starts, and has two phases: there and back.
    """

    clip: str
    start_sec: float
    turn: Moment
    from_standing: bool = True
    to_standing: bool = True
    blend_sec: float = 0.35
    num_phases: int = 2

    def course(self, body: Body, style: Style) -> Course:
        """Returns the movement as this performer does it."""
        turn_sec = self.turn.find(load_clip(self.clip))
        # A hyperbola: full speed on both ways, and no jerk where they meet.
        half = np.sqrt((turn_sec - self.start_sec + _SNAP_SEC) ** 2 - _SNAP_SEC**2)
        times = _steps(2 * half)
        seen = turn_sec + _SNAP_SEC - np.hypot(times - half, _SNAP_SEC)
        frames = straightened(
            captured(self.clip).at(seen, amplitude=style.amplitude, offsets=style.bone_offsets)
        )
        return _blended(self, frames, times, np.array([0, half, 2 * half]), body, style)


@dataclass(frozen=True, kw_only=True)
class LoopMove:
    """A capture that repeats, from a standing figure to a standing one; its phases: starting, going, halting.

    The phases are parted by the first and the last moment in which a foot touches the ground: in which it is farthest
    in front of the pelvis.
    """

    clip: str
    blend_sec: float = 0.45
    from_standing: bool = True
    to_standing: bool = True
    num_phases: int = 3

    def course(self, body: Body, style: Style, *, duration_sec: float, first_sec: float) -> Course:
        """Returns `duration_sec` of the movement at natural speed, starting at `first_sec` of the capture."""
        capture = captured(self.clip)
        times = _steps(duration_sec)
        cycle = capture.times_sec[-1]
        first_sec = first_sec % cycle
        frames = capture.at(
            first_sec + times, amplitude=style.amplitude, offsets=style.bone_offsets, loop=True
        )
        steps = [
            step + turns * cycle - first_sec
            for step in capture.footfalls_sec()
            for turns in range(int(duration_sec / cycle) + 3)
        ]
        inner = sorted(t for t in steps if 0.3 < t < duration_sec - 0.3)
        # In less than a step there may be no footfall: thirds then, so that every phase is there.
        first, last = (
            (inner[0], inner[-1]) if len(inner) > 1 else (duration_sec / 3, 2 * duration_sec / 3)
        )
        borders = np.array([0.0, first, last, duration_sec])
        course = _blended(self, frames, times, borders, body, style)
        return replace(course, contacts_sec=tuple(inner))


Move = KeyMove | ClipMove | SnapMove | LoopMove


def _steps(duration_sec: float) -> np.ndarray:
    return np.linspace(0, duration_sec, max(1, round(duration_sec / _STEP_SEC)) + 1)


def _on_the_spot(course: Course) -> Course:
    """The course with the way to its end taken back in flight, where no foot slides."""
    flight = np.cumsum(course.height) / course.height.sum()
    way = flight[:, None] * np.array([course.end.x, course.end.z])
    return replace(course, root=course.root - way, end=Placement())


def _blended(
    move: ClipMove | SnapMove | LoopMove,
    frames: Frames,
    times: np.ndarray,
    borders: np.ndarray,
    body: Body,
    style: Style,
) -> Course:
    """The frames between two idle poses; the path follows the capture as far as the capture is seen."""
    standing = bone_directions(skeleton(body, style.pose("neutral")[None]))[0]
    into = smooth_step(times / move.blend_sec)
    out = smooth_step((times[-1] - times) / move.blend_sec)
    first = standing if move.from_standing else frames.directions[0]
    last = standing if move.to_standing else frames.directions[-1]
    directions = _mix(first, frames.directions, into)
    directions = _mix(last, directions, out)
    leg = body.thigh + body.shin
    weight = (into * out)[:, None]
    pace = np.diff(frames.root, axis=0) * (weight[1:] + weight[:-1]) / 2
    root = leg * np.concatenate([np.zeros((1, 2)), np.cumsum(pace, axis=0)])
    return Course(
        times_sec=times, directions=directions, root=root, height=leg * frames.height * into * out,
        borders_sec=borders,
        end=Placement(x=float(root[-1, 0]), z=float(root[-1, 1])),
    )  # fmt: skip


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    weight = share[:, None, None]
    return unit(first * (1 - weight) + second * weight)


def chained(courses: Sequence[Course]) -> Course:
    """Returns courses one after another; all but the last must end where they start, facing the same way."""
    begin = 0.0
    times, borders, contacts = [np.zeros(1)], [np.zeros(1)], []
    for course in courses:
        # The first sample of a course is the last of the one before.
        times.append(begin + course.times_sec[1:])
        borders.append(begin + course.borders_sec[1:])
        contacts += [begin + moment for moment in course.contacts_sec]
        begin = float(borders[-1][-1])

    def joined(name: str) -> np.ndarray:
        arrays = [getattr(course, name) for course in courses]
        return np.concatenate([arrays[0], *(array[1:] for array in arrays[1:])])

    return Course(
        times_sec=np.concatenate(times), directions=joined("directions"), root=joined("root"),
        height=joined("height"), borders_sec=np.concatenate(borders), contacts_sec=tuple(contacts),
        end=courses[-1].end,
    )  # fmt: skip
