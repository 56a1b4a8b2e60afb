"""What each video of the exercises holds: drawn from (seed, split, index) alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from video_ssl.datasets.demo.exercises.camera import Camera, sample_camera
from video_ssl.datasets.demo.exercises.motion import (
    CLASS_NAMES,
    EXERCISES,
    TOPICS,
    add_sway,
    exercise_of,
    perform,
    sample_style,
)
from video_ssl.datasets.demo.exercises.skeleton import skeleton
from video_ssl.datasets.demo.exercises.text import WORDS
from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.video import (
    SPLITS,
    Cut,
    DemoSize,
    VideoPlan,
    World,
    cut_of,
    sample_length,
    sample_look,
    stream,
)

PHASE_NAMES: tuple[str, ...] = tuple(
    f"{exercise.name}/{phase}" for exercise in EXERCISES for phase in exercise.phase_names
)
"""Names of the frame labels of clips: the phases of a class are neighbours, in the order in which they happen."""


PHASES_CLASSES = ("kick", "throw", "bow_then_reach", "reach_then_bow")
"""Exercises of the splits `phases_train` and `phases_val`: of three or four phases, two of them in opposite order."""

# Spread of the logarithm of a phase's length there, in units of that of a clip (0.3): the longest of four phases
# often takes five times as long as the shortest.
_PHASES_SPREAD = 2.4

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


def plan_video(
    seed: int, split: str, index: int, size: DemoSize, config: NuisanceConfig
) -> VideoPlan:
    """Returns the plan of video `index` of a split; classes and topics take turns, so that they are balanced."""
    look = sample_look(seed, split, index, size, config)
    style_rng = np.random.default_rng(stream(seed, split, index, "style"))
    style = sample_style(style_rng, strength=config.style, warp=config.time_warp)
    rng = np.random.default_rng(stream(seed, split, index, "action"))
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
    sway = np.random.default_rng(stream(seed, split, index, "sway"))
    poses = add_sway(poses, style, sway, size.fps)
    return VideoPlan(
        seed=seed, split=split, index=index, config=config, size=size, **vars(look),
        joints=skeleton(look.body, poses), film=_film, cuts=cuts, topic=topic,
    )  # fmt: skip


def _film(
    rng: np.random.Generator, config: NuisanceConfig, joints: np.ndarray, fps: float
) -> Camera:
    """The camera knows nothing of the figure."""
    return sample_camera(rng, config, len(joints), fps)


def _plan_clip(
    label: int, style: Any, rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """One action between two stretches of idleness; no length depends on the action."""
    num_frames, seconds = sample_length(size.clip_sec, rng, size, config)
    active = seconds * (0.66 + 0.14 * config.speed * rng.uniform(-1, 1))
    spare = seconds - active
    before = spare * rng.uniform(0.15, 0.85)
    motion = perform(
        EXERCISES[label], style, rng, num_frames=num_frames, fps=size.fps,
        before_sec=before, active_sec=active, speed_spread=config.speed,
    )  # fmt: skip
    return motion.poses, (cut_of(motion, size.fps),)


def _plan_phases(
    label: int, style: Any, rng: np.random.Generator, size: DemoSize, config: NuisanceConfig
) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """One action anywhere in a long video, phases of very different length: position says little about the phase."""
    num_frames, seconds = sample_length(size.phases_sec, rng, size, config)
    active = 3.4 + 1.0 * min(1.0, config.speed) * rng.uniform(-1, 1)
    before = (seconds - active) * rng.uniform(0.04, 0.96)
    motion = perform(
        EXERCISES[label], style, rng, num_frames=num_frames, fps=size.fps,
        before_sec=before, active_sec=active, speed_spread=_PHASES_SPREAD * config.speed,
    )  # fmt: skip
    return motion.poses, (cut_of(motion, size.fps),)


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
        first, last = total + idle, total + idle + active
        cuts.append(Cut(motion=motion, first=first, last=last, begin=total))
        poses.append(motion.poses)
        standing, total = exercise_of(name).end, last
    rest = np.repeat(style.pose(standing)[None], target - total, axis=0)
    return np.concatenate([*poses, rest]), tuple(cuts)


WORLD = World(
    name="exercises", format=3, splits=SPLITS[:6], sizes=SIZES, class_names=CLASS_NAMES,
    phase_names=PHASE_NAMES, topics=TOPICS, words=WORDS, plan=plan_video,
)  # fmt: skip
