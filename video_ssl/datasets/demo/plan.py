"""What each video of the demo data holds: drawn from (seed, split, index) alone, and turned into rows of tables.

Everything random has a stream of its own: what surrounds the action never shares numbers with what the action is, so
the two are independent, and a video is the same whoever makes it and in whatever order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from video_ssl.datasets.demo.figure import Body, sample_body
from video_ssl.datasets.demo.motion import (
    CLASS_NAMES,
    EXERCISES,
    TOPICS,
    Motion,
    add_sway,
    exercise_of,
    perform,
    sample_style,
)
from video_ssl.datasets.demo.scene import NuisanceConfig, Scene
from video_ssl.datasets.demo.sound import render_sound
from video_ssl.datasets.demo.text import captions_of, session_captions

SPLITS = ("train", "val", "sessions_train", "sessions_val", "phases_train", "phases_val")
"""The place of a name here is part of its random streams: new ones go to the end."""
_POOLS = ("train", "val")
_STREAMS = ("identity", "action", "style", "scene", "sway", "sound", "text", "figure", "background")

PHASE_NAMES: tuple[str, ...] = tuple(
    f"{exercise.name}/{phase}" for exercise in EXERCISES for phase in exercise.phase_names
)
"""Names of the frame labels of clips: the phases of a class are neighbours, in the order in which they happen."""


PHASES_CLASSES = ("kick", "throw", "bow_then_reach", "reach_then_bow")
"""Exercises of the splits `phases_train` and `phases_val`: of three or four phases, two of them in opposite order."""

# Spread of the logarithm of a phase's length there, in units of that of a clip (0.3): the longest of four phases
# often takes five times as long as the shortest.
_PHASES_SPREAD = 2.4


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much there is; numbers of videos per split, seconds as (shortest, longest), pools of figures and backgrounds.

    `frame_px` is the height and width of a frame.
    """

    num_train: int
    num_val: int
    num_sessions_train: int
    num_sessions_val: int
    num_phases_train: int
    num_phases_val: int
    figures: tuple[int, int]
    backgrounds: tuple[int, int]
    session_sec: tuple[float, float] = (20.0, 40.0)
    clip_sec: tuple[float, float] = (3.5, 5.0)
    phases_sec: tuple[float, float] = (6.0, 9.0)
    frame_px: int = 96
    fps: int = 12

    def count(self, split: str) -> int:
        """Returns the number of videos of a split."""
        return int(getattr(self, f"num_{split}"))


SIZES: dict[str, DemoSize] = {
    "tiny": DemoSize(
        num_train=24, num_val=12, num_sessions_train=2, num_sessions_val=1,
        num_phases_train=8, num_phases_val=4,
        figures=(8, 4), backgrounds=(12, 6), session_sec=(9.0, 11.0),
    ),
    "small": DemoSize(
        num_train=900, num_val=300, num_sessions_train=12, num_sessions_val=6,
        num_phases_train=160, num_phases_val=80,
        figures=(180, 60), backgrounds=(360, 120),
    ),
    "large": DemoSize(
        num_train=8000, num_val=2000, num_sessions_train=400, num_sessions_val=100,
        num_phases_train=2000, num_phases_val=800,
        figures=(1000, 250), backgrounds=(2000, 500),
    ),
}  # fmt: skip


def _stream(seed: int, split: str, index: int, name: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, SPLITS.index(split), index, _STREAMS.index(name)])


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An action within a session: frames `first` to `last` (exclusive)."""

    motion: Motion
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """One video before it is drawn; `cuts` has one entry for a clip, several for a session.

    `poses` is float64 (T, P); event times are in seconds of the video.
    """

    seed: int
    split: str
    index: int
    config: NuisanceConfig
    size: DemoSize
    figure: str
    background: str
    body: Body
    texture_seed: np.random.SeedSequence
    poses: np.ndarray
    cuts: tuple[Cut, ...]
    topic: str | None = None

    @property
    def id(self) -> str:
        """For example `val-00012`."""
        return f"{self.split}-{self.index:05d}"

    @property
    def source(self) -> str:
        """Path of the file below the root of the data."""
        return f"videos/{self.split}/{self.id}.mp4"

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return len(self.poses) / self.size.fps

    def stream(self, name: str) -> np.random.Generator:
        """Returns a fresh generator of one of the video's random streams."""
        return np.random.default_rng(_stream(self.seed, self.split, self.index, name))

    def events(self) -> list[tuple[str, float]]:
        """Returns (name, seconds of the video) of every event."""
        return [event for cut in self.cuts for event in self.events_of(cut)]

    def events_of(self, cut: Cut) -> list[tuple[str, float]]:
        """Returns (name, seconds of the video) of the events of one action."""
        return [(name, time + self.offset_sec(cut)) for name, time in cut.motion.events]

    def offset_sec(self, cut: Cut) -> float:
        """Returns when the clock of an action's motion starts, in seconds of the video."""
        return (cut.last - len(cut.motion.phases)) / self.size.fps if self.topic else 0.0

    def scene(self) -> Scene:
        """Returns the scene, ready to be drawn."""
        return Scene(
            self.body, self.poses, rng=self.stream("scene"), texture_seed=self.texture_seed,
            config=self.config, size=self.size.frame_px, fps=self.size.fps,
        )  # fmt: skip

    def sound(self) -> np.ndarray:
        """Returns the audio track, float32 (S,)."""
        return render_sound(
            self.events(), seconds=self.seconds, rng=self.stream("sound"), nuisance=self.config.sound
        )  # fmt: skip


def plan_video(
    seed: int, split: str, index: int, size: DemoSize, config: NuisanceConfig
) -> VideoPlan:
    """Returns the plan of video `index` of a split; classes and topics take turns, so that they are balanced."""
    pool = split.rpartition("_")[2]
    identity = np.random.default_rng(_stream(seed, split, index, "identity"))
    figure = int(identity.integers(size.figures[_POOLS.index(pool)]))
    background = int(identity.integers(size.backgrounds[_POOLS.index(pool)]))
    body_rng = np.random.default_rng(_stream(seed, pool, figure, "figure"))
    body = sample_body(body_rng, shape=config.body, color=config.color)
    style_rng = np.random.default_rng(_stream(seed, split, index, "style"))
    style = sample_style(style_rng, strength=config.style, warp=config.time_warp)
    rng = np.random.default_rng(_stream(seed, split, index, "action"))
    topic = None
    if split.startswith("sessions_"):
        topic = tuple(TOPICS)[index % len(TOPICS)]
        poses, cuts = _plan_session(topic, style, rng, size, config)
    elif split.startswith("phases_"):
        name = PHASES_CLASSES[index % len(PHASES_CLASSES)]
        poses, cuts = _plan_phases(CLASS_NAMES.index(name), style, rng, size, config)
        config = replace(config, motion=0.0)
    else:
        poses, cuts = _plan_clip(index % len(EXERCISES), style, rng, size, config)
    sway = np.random.default_rng(_stream(seed, split, index, "sway"))
    return VideoPlan(
        seed=seed, split=split, index=index, config=config, size=size, body=body, topic=topic,
        figure=f"{pool}-figure-{figure:04d}", background=f"{pool}-background-{background:04d}",
        texture_seed=_stream(seed, pool, background, "background"),
        poses=add_sway(poses, style, sway, size.fps), cuts=cuts,
    )  # fmt: skip


def _plan_clip(
    label: int, style: Any, rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """One action between two stretches of idleness; no length depends on the action."""
    num_frames, seconds = _sample_length(size.clip_sec, rng, size, config)
    active = seconds * (0.66 + 0.14 * config.speed * rng.uniform(-1, 1))
    spare = seconds - active
    before = spare * rng.uniform(0.15, 0.85)
    motion = perform(
        EXERCISES[label], style, rng, num_frames=num_frames, fps=size.fps,
        before_sec=before, active_sec=active, speed_spread=config.speed,
    )  # fmt: skip
    return motion.poses, (_cut(motion, size),)


def _plan_phases(
    label: int, style: Any, rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """One action anywhere in a long video, phases of very different length: position says little about the phase."""
    num_frames, seconds = _sample_length(size.phases_sec, rng, size, config)
    active = 3.4 + 1.0 * min(1.0, config.speed) * rng.uniform(-1, 1)
    before = (seconds - active) * rng.uniform(0.04, 0.96)
    motion = perform(
        EXERCISES[label], style, rng, num_frames=num_frames, fps=size.fps,
        before_sec=before, active_sec=active, speed_spread=_PHASES_SPREAD * config.speed,
    )  # fmt: skip
    return motion.poses, (_cut(motion, size),)


def _sample_length(
    limits: tuple[float, float], rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[int, float]:
    """Frames and seconds of a video of `limits` seconds."""
    low, high = limits
    middle, reach = (low + high) / 2, (high - low) / 2
    seconds = middle + reach * min(1.0, config.speed) * rng.uniform(-1, 1)
    num_frames = round(seconds * size.fps)
    return num_frames, num_frames / size.fps


def _cut(motion: Motion, size: DemoSize) -> Cut:
    """Where the action of a clip lies."""
    times = np.arange(len(motion.phases)) / size.fps
    first, last = np.searchsorted(times, [motion.start_sec, motion.end_sec])
    return Cut(motion=motion, first=int(first), last=int(last))


def _plan_session(
    topic: str, style: Any, rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """Actions of the topic one after another, idleness between; an action follows only where its start pose fits."""
    target = int(size.fps * rng.uniform(*size.session_sec))
    used = dict.fromkeys(TOPICS[topic], 0)
    poses: list[np.ndarray] = []
    cuts: list[Cut] = []
    standing, total = "neutral", 0
    while True:
        idle = int(size.fps * rng.uniform(0.8, 3.0))
        active = int(size.fps * (2.6 + 0.8 * config.speed * rng.uniform(-1, 1)))
        fitting = [name for name in used if exercise_of(name).start == standing]
        least = min(used[name] for name in fitting)
        fitting = [name for name in fitting if used[name] <= least + 1]
        name = fitting[rng.integers(len(fitting))]
        if total + idle + active > target - size.fps // 2:
            break
        used[name] += 1
        motion = perform(
            exercise_of(name), style, rng, num_frames=idle + active, fps=size.fps,
            before_sec=idle / size.fps, active_sec=active / size.fps, speed_spread=config.speed,
        )  # fmt: skip
        cuts.append(Cut(motion=motion, first=total + idle, last=total + idle + active))
        poses.append(motion.poses)
        standing, total = exercise_of(name).end, total + idle + active
    rest = np.repeat(style.pose(standing)[None], target - total, axis=0)
    return np.concatenate([*poses, rest]), tuple(cuts)


def clip_row(plan: VideoPlan) -> dict[str, Any]:
    """Returns the row of a clip; `group` is the figure.

    Idle frames of `train` and `val` are the phases `ready` and `done`; those of `phases_train` and `phases_val` have no
    label (-1), as in Penn Action, whose labels run from the start to the end of the action.
    """
    (cut,) = plan.cuts
    label = CLASS_NAMES.index(cut.motion.exercise.name)
    phases = phase_labels(cut.motion)
    if plan.split.startswith("phases_"):
        phases[: cut.first] = phases[cut.last :] = -1
    return {
        **_common(plan),
        "label": label,
        "captions": captions_of(cut.motion, plan.body, plan.stream("text"), seconds=plan.seconds),
        "frame_labels": phases,
        "boxes": plan.scene().boxes(),
        "events": _event_rows(plan.events()),
        "group": plan.figure,
    }


def session_row(plan: VideoPlan) -> dict[str, Any]:
    """Returns the row of a session: label = topic, frame labels = action or -1 where the figure is idle."""
    assert plan.topic is not None
    labels = np.full(len(plan.poses), -1, np.int16)
    for cut in plan.cuts:
        labels[cut.first : cut.last] = CLASS_NAMES.index(cut.motion.exercise.name)
    captions = session_captions(plan.topic, plan.stream("text"), seconds=plan.seconds)
    return {
        **_common(plan),
        "label": tuple(TOPICS).index(plan.topic),
        "captions": captions + [c for row in segment_rows(plan) for c in row["captions"]],
        "frame_labels": labels,
        "boxes": plan.scene().boxes(),
        "events": _event_rows(plan.events()),
        "group": plan.figure,
    }


def segment_rows(plan: VideoPlan) -> list[dict[str, Any]]:
    """Returns one row per action of a session; `group` is the session.

    Times (also those of captions and events) are in seconds of the source; frame labels (phases) and boxes have one
    entry per frame of the segment.
    """
    fps, text, boxes = plan.size.fps, plan.stream("text"), plan.scene().boxes()
    rows = []
    for number, cut in enumerate(plan.cuts):
        start, end = cut.first / fps, cut.last / fps
        captions = captions_of(cut.motion, plan.body, text, seconds=end)
        for caption in captions:
            full = caption["start_sec"] == 0 and caption["end_sec"] == end
            shift = plan.offset_sec(cut)
            caption["start_sec"] = start if full else caption["start_sec"] + shift
            caption["end_sec"] = end if full else min(caption["end_sec"] + shift, end)
        rows.append({
            **_common(plan),
            "id": f"{plan.id}-{number:02d}",
            "start_sec": start,
            "end_sec": end,
            "label": CLASS_NAMES.index(cut.motion.exercise.name),
            "captions": captions,
            "frame_labels": phase_labels(cut.motion)[cut.first - cut.last :],
            "boxes": boxes[cut.first : cut.last],
            "events": _event_rows(plan.events_of(cut)),
            "group": plan.id,
            "num_frames": cut.last - cut.first,
        })  # fmt: skip
    return rows


def phase_labels(motion: Motion) -> np.ndarray:
    """Returns the phase of every frame as an index into PHASE_NAMES, int16 (T,)."""
    first = PHASE_NAMES.index(f"{motion.exercise.name}/ready")
    return (first + motion.phases).astype(np.int16)


def _common(plan: VideoPlan) -> dict[str, Any]:
    return {
        "id": plan.id,
        "source": plan.source,
        "num_frames": len(plan.poses),
        "fps": float(plan.size.fps),
    }


def _event_rows(events: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"name": name, "time_sec": time} for name, time in events]
