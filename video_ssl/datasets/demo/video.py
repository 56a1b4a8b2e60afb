"""What is common to the generated worlds: sizes, random streams, and the plan of one video before it is drawn.

Everything random has a stream of its own: what surrounds the action never shares numbers with what the action is, so
the two are independent, and a video is the same whoever makes it and in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from video_ssl.datasets.demo.figure import Body, sample_body
from video_ssl.datasets.demo.scene import Camera, NuisanceConfig, Scene
from video_ssl.datasets.demo.sound import render_sound

SPLITS = (
    *("train", "val", "sessions_train", "sessions_val", "phases_train", "phases_val"),
    *("views_train", "views_val"),
)
"""The place of a name here is part of its random streams: new ones go to the end."""
_POOLS = ("train", "val")
_STREAMS = ("identity", "action", "style", "scene", "sway", "sound", "text", "figure", "background")


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
    num_views_train: int = 0
    num_views_val: int = 0
    figures: tuple[int, int]
    backgrounds: tuple[int, int]
    views_sec: tuple[float, float] = (5.0, 6.5)
    session_sec: tuple[float, float] = (20.0, 40.0)
    clip_sec: tuple[float, float] = (3.5, 5.0)
    phases_sec: tuple[float, float] = (6.0, 9.0)
    frame_px: int = 96
    fps: int = 12

    def count(self, split: str) -> int:
        """Returns the number of videos of a split."""
        return int(getattr(self, f"num_{split}"))


def stream(seed: int, split: str, index: int, name: str) -> np.random.SeedSequence:
    """Returns the seed of one of the random streams of a video, or (split `train`, `val`) of a figure or background."""
    return np.random.SeedSequence([seed, SPLITS.index(split), index, _STREAMS.index(name)])


class Motion(Protocol):
    """An action in time, as the plans of both worlds hold it; seconds are of the motion's own clock."""

    @property
    def action(self) -> str:
        """Name of the class."""
        ...

    @property
    def phases(self) -> np.ndarray:
        """Phase of every frame, int16 (T,): 0 before the action, then those of the class, the last after it."""
        ...

    @property
    def events(self) -> Sequence[tuple[str, float]]:
        """(name, seconds) of every event."""
        ...

    @property
    def start_sec(self) -> float: ...

    @property
    def end_sec(self) -> float: ...

    def phase_windows(self) -> list[tuple[str, float, float]]:
        """Returns (phase name, start, end) in seconds of every active phase, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An action within a video: frames `first` to `last` (exclusive); frame `begin` (may be < 0) starts its clock."""

    motion: Motion
    first: int
    last: int
    begin: int = 0


def cut_of(motion: Motion, fps: float, *, begin: int = 0, total: int | None = None) -> Cut:
    """Returns where the action lies in a video of `total` frames (those of the motion if None)."""
    times = np.arange(len(motion.phases)) / fps
    edges = np.searchsorted(times, [motion.start_sec, motion.end_sec]) + begin
    first, last = edges.clip(0, len(times) if total is None else total)
    return Cut(motion=motion, first=int(first), last=int(last), begin=begin)


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """One video before it is drawn; `cuts` has one entry for a clip, several for a session.

    `joints` is float64 (T, J, 3) in space; event times are in seconds of the video.  `film` returns the camera that
    looks at them, from (rng, strengths, joints, frames per second).  `performance` names what several
    cameras film at once.
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
    joints: np.ndarray
    film: Callable[[np.random.Generator, NuisanceConfig, np.ndarray, float], Camera]
    cuts: tuple[Cut, ...]
    topic: str | None = None
    performance: str | None = None

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
        return len(self.joints) / self.size.fps

    def stream(self, name: str) -> np.random.Generator:
        """Returns a fresh generator of one of the video's random streams."""
        return np.random.default_rng(stream(self.seed, self.split, self.index, name))

    def events(self) -> list[tuple[str, float]]:
        """Returns (name, seconds of the video) of every event."""
        return [event for cut in self.cuts for event in self.events_of(cut)]

    def events_of(self, cut: Cut) -> list[tuple[str, float]]:
        """Returns (name, seconds of the video) of the events of one action."""
        return [(name, time + self.offset_sec(cut)) for name, time in cut.motion.events]

    def offset_sec(self, cut: Cut) -> float:
        """Returns when the clock of an action's motion starts, in seconds of the video."""
        return cut.begin / self.size.fps

    def scene(self) -> Scene:
        """Returns the scene, ready to be drawn."""
        rng = self.stream("scene")
        camera = self.film(rng.spawn(1)[0], self.config, self.joints, self.size.fps)
        return Scene(
            self.body, self.joints, camera, rng=rng, texture_seed=self.texture_seed,
            config=self.config, size=self.size.frame_px, fps=self.size.fps,
        )  # fmt: skip

    def sound(self) -> np.ndarray:
        """Returns the audio track, float32 (S,)."""
        return render_sound(
            self.events(), seconds=self.seconds, rng=self.stream("sound"), nuisance=self.config.sound
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Look:
    """Who is filmed, and in front of what: names, and what they stand for."""

    figure: str
    background: str
    body: Body
    texture_seed: np.random.SeedSequence


def sample_look(seed: int, split: str, index: int, size: DemoSize, config: NuisanceConfig) -> Look:
    """Returns a figure and a background of the split's pool: those of `train` and of `val` are never the same."""
    pool = split.rpartition("_")[2]
    identity = np.random.default_rng(stream(seed, split, index, "identity"))
    figure = int(identity.integers(size.figures[_POOLS.index(pool)]))
    background = int(identity.integers(size.backgrounds[_POOLS.index(pool)]))
    body_rng = np.random.default_rng(stream(seed, pool, figure, "figure"))
    return Look(
        figure=f"{pool}-figure-{figure:04d}", background=f"{pool}-background-{background:04d}",
        body=sample_body(body_rng, shape=config.body, color=config.color),
        texture_seed=stream(seed, pool, background, "background"),
    )  # fmt: skip


def sample_length(
    limits: tuple[float, float], rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[int, float]:
    """Returns frames and seconds of a video of `limits` seconds."""
    low, high = limits
    middle, reach = (low + high) / 2, (high - low) / 2
    seconds = middle + reach * min(1.0, config.speed) * rng.uniform(-1, 1)
    num_frames = round(seconds * size.fps)
    return num_frames, num_frames / size.fps


@dataclass(frozen=True, kw_only=True)
class Words:
    """Ways to say what is seen: per class (each implies the class), per phase and per topic."""

    actions: Mapping[str, tuple[str, ...]]
    phases: Mapping[str, tuple[str, ...]]
    topics: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class World:
    """A generator of videos: what it is called, what it can show, and the plan of each video.

    Attributes:
        name: as in `video-ssl data demo --world NAME`.
        format: belongs to this world alone and counts changes that give other videos for the same seed.
        splits: of the videos, a part of `SPLITS`.
        sizes: name -> how much there is.
        class_names: of the actions.
        phase_names: `CLASS/PHASE` for every class, in order, idleness before and after it included.
        topics: name of a topic of sessions -> classes that it may hold.
        words: for the captions.
        plan: (seed, split, index, size, strengths) -> the video.
    """

    name: str
    format: int
    splits: tuple[str, ...]
    sizes: Mapping[str, DemoSize]
    class_names: tuple[str, ...]
    phase_names: tuple[str, ...]
    topics: Mapping[str, tuple[str, ...]]
    words: Words
    plan: Callable[[int, str, int, DemoSize, NuisanceConfig], VideoPlan]

    def phase_labels(self, cut: Cut, first: int, last: int) -> np.ndarray:
        """Returns the phases of frames `first` to `last` (exclusive) of a video, indices into `phase_names`, int16."""
        name = f"{cut.motion.action}/"
        start = next(i for i, phase in enumerate(self.phase_names) if phase.startswith(name))
        phases = cut.motion.phases[first - cut.begin : last - cut.begin]
        return (start + phases).astype(np.int16)
