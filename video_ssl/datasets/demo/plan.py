"""What each video of the default world holds: drawn from (seed, split, index) alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from video_ssl.datasets.demo.actions import (
    CLASS_NAMES,
    Performance,
    Placement,
    Style,
    end_posture,
    perform,
    phase_names,
    sample_style,
    start_posture,
)
from video_ssl.datasets.demo.camera import sample_camera
from video_ssl.datasets.demo.captions import ACTION_WORDS, PHASE_WORDS
from video_ssl.datasets.demo.figure import Body
from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.video import (
    SPLITS,
    Cut,
    DemoSize,
    VideoPlan,
    Words,
    World,
    cut_of,
    sample_length,
    sample_look,
    stream,
)

PHASE_NAMES: tuple[str, ...] = tuple(
    f"{action}/{phase}" for action in CLASS_NAMES for phase in phase_names(action)
)
"""Names of the frame labels of clips: the phases of a class are neighbours, in the order in which they happen."""

TOPICS: dict[str, tuple[str, ...]] = {
    "stretching": ("walk", "walk_backwards", "bow_then_reach", "reach_then_bow"),
    "rest": ("sit_down", "stand_up", "lie_down", "get_up"),
    "fight": ("punch_then_kick", "kick_then_punch", "roll", "roll_backwards"),
    "show": ("jump_then_flip", "flip_then_jump", "bow_then_reach", "reach_then_bow"),
}
"""Topics of the sessions: the set of actions each may hold."""

TOPIC_WORDS: dict[str, tuple[str, ...]] = {
    "stretching": ("someone walking about and stretching", "a walk with stretches in between"),
    "rest": ("someone going down to the floor and getting up again", "a person resting and rising"),
    "fight": ("training for a fight", "someone practising strikes and rolls"),
    "show": ("an acrobatic show with bows", "someone showing jumps and flips"),
}

PHASES_CLASSES = ("get_up", "punch_then_kick", "bow_then_reach", "reach_then_bow")
"""Classes of the splits `phases_train` and `phases_val`: of three or four phases, two of them in opposite order."""

# Spread of the logarithm of a phase's length there, in units of that of a clip (0.3): the longest of four phases
# often takes five times as long as the shortest.
_PHASES_SPREAD = 2.4
# The second of two cameras starts at most this much before or after the first.
_VIEWS_OFFSET_SEC = 1.5

SIZES: dict[str, DemoSize] = {
    "tiny": DemoSize(
        num_train=24, num_val=12, num_sessions_train=2, num_sessions_val=1,
        num_phases_train=8, num_phases_val=4, num_views_train=4, num_views_val=2,
        figures=(8, 4), backgrounds=(12, 6), session_sec=(12.0, 14.0),
    ),
    "small": DemoSize(
        num_train=900, num_val=300, num_sessions_train=12, num_sessions_val=6,
        num_phases_train=160, num_phases_val=80, num_views_train=24, num_views_val=12,
        figures=(180, 60), backgrounds=(360, 120),
    ),
    # Untrimmed videos alone, as many as learning from them takes: about what "small" takes to make.
    "sessions": DemoSize(
        num_train=0, num_val=0, num_sessions_train=128, num_sessions_val=48,
        num_phases_train=0, num_phases_val=0,
        figures=(180, 60), backgrounds=(360, 120),
    ),
    "large": DemoSize(
        num_train=8000, num_val=2000, num_sessions_train=400, num_sessions_val=100,
        num_phases_train=2000, num_phases_val=800, num_views_train=800, num_views_val=200,
        figures=(1000, 250), backgrounds=(2000, 500),
    ),
}  # fmt: skip


def plan_video(
    seed: int, split: str, index: int, size: DemoSize, config: NuisanceConfig
) -> VideoPlan:
    """Returns the plan of video `index` of a split; classes and topics take turns, so that they are balanced.

    Videos 2 k and 2 k + 1 of `views_train` and `views_val` are one performance, filmed by two cameras.
    """
    views = split.startswith("views_")
    done = index // 2 if views else index
    look = sample_look(seed, split, index, size, config)
    if views:  # each camera sees another wall behind the same figure
        first = sample_look(seed, split, 2 * done, size, config)
        look = replace(look, figure=first.figure, body=first.body)
    style_rng = np.random.default_rng(stream(seed, split, done, "style"))
    style = sample_style(style_rng, strength=config.style, warp=config.time_warp)
    rng = np.random.default_rng(stream(seed, split, done, "action"))
    performer = Performer(look.body, style, rng, size, config)
    topic = None
    if split.startswith("sessions_"):
        topic = tuple(TOPICS)[index % len(TOPICS)]
        joints, cuts = performer.session(topic)
    elif split.startswith("phases_"):
        joints, cuts = performer.phases(PHASES_CLASSES[index % len(PHASES_CLASSES)])
        config = replace(config, motion=0.0)
    elif views:
        joints, cuts = performer.view(CLASS_NAMES[done % len(CLASS_NAMES)], index % 2)
    else:
        joints, cuts = performer.clip(CLASS_NAMES[index % len(CLASS_NAMES)])
    return VideoPlan(
        seed=seed, split=split, index=index, config=config, size=size, **vars(look),
        joints=joints, film=sample_camera, cuts=cuts, topic=topic,
        performance=f"{split}-performance-{done:05d}" if views else None,
    )  # fmt: skip


class Performer:
    """One figure with its style; every method returns joints float64 (T, J, 3) and where the actions lie."""

    def __init__(
        self,
        body: Body,
        style: Style,
        rng: np.random.Generator,
        size: DemoSize,
        config: NuisanceConfig,
    ) -> None:
        self._body, self._style, self._rng = body, style, rng
        self._size, self._config, self._fps = size, config, size.fps

    def clip(self, action: str) -> tuple[np.ndarray, tuple[Cut, ...]]:
        """One action between two stretches of idleness; no length depends on the action."""
        num_frames, _ = sample_length(self._size.clip_sec, self._rng, self._size, self._config)
        before, active = self._around(num_frames)
        done = self._perform(action, num_frames, before, active)
        return done.joints, (cut_of(done, self._fps),)

    def phases(self, action: str) -> tuple[np.ndarray, tuple[Cut, ...]]:
        """One action anywhere in a long video, phases of very different length: position says little of the phase."""
        rng, config = self._rng, self._config
        num_frames, seconds = sample_length(self._size.phases_sec, rng, self._size, config)
        active = 3.4 + 1.0 * min(1.0, config.speed) * rng.uniform(-1, 1)
        before = (seconds - active) * rng.uniform(0.04, 0.96)
        done = self._perform(action, num_frames, before, active, spread=_PHASES_SPREAD)
        return done.joints, (cut_of(done, self._fps),)

    def view(self, action: str, camera: int) -> tuple[np.ndarray, tuple[Cut, ...]]:
        """What one of two cameras records of an action; both see all of it."""
        rng, fps = self._rng, self._fps
        length, _ = sample_length(self._size.views_sec, rng, self._size, self._config)
        later = round(fps * rng.uniform(-_VIEWS_OFFSET_SEC, _VIEWS_OFFSET_SEC))
        first = (max(0, -later), max(0, later))
        both, total = length - abs(later), length + abs(later)
        before, active = self._around(both)
        done = self._perform(action, total, before + abs(later) / fps, active)
        begin = -first[camera]
        return (
            done.joints[first[camera] : first[camera] + length],
            (cut_of(done, fps, begin=begin, total=length),),
        )

    def session(self, topic: str) -> tuple[np.ndarray, tuple[Cut, ...]]:
        """Actions of the topic one after another, idleness between; an action follows only where its posture fits."""
        rng, size, fps = self._rng, self._size, self._fps
        target = int(fps * rng.uniform(*size.session_sec))
        used = dict.fromkeys(TOPICS[topic], 0)
        parts: list[tuple[str, int, int]] = []
        posture, total = "standing", 0
        while True:
            idle = int(fps * rng.uniform(0.8, 3.0))
            active = int(fps * (2.8 + 0.7 * self._config.speed * rng.uniform(-1, 1)))
            fitting = [name for name in used if start_posture(name) == posture]
            least = min(used[name] for name in fitting)
            fitting = [name for name in fitting if used[name] <= least + 1]
            name = fitting[rng.integers(len(fitting))]
            if total + idle + active > target - fps // 2:
                break
            used[name] += 1
            parts.append((name, idle, active))
            posture, total = end_posture(name), total + idle + active
        return self._in_a_row(parts, target)

    def _in_a_row(
        self, parts: list[tuple[str, int, int]], target: int
    ) -> tuple[np.ndarray, tuple[Cut, ...]]:
        """The actions (name, idle frames before it, frames of it) one after another, and idleness up to `target`."""
        fps = self._fps
        joints: list[np.ndarray] = []
        cuts: list[Cut] = []
        place, total = Placement(), 0
        for number, (name, idle, active) in enumerate(parts):
            last = total + idle + active
            frames = target - total if number == len(parts) - 1 else idle + active
            done = self._perform(name, frames, idle / fps, active / fps, at=place)
            cuts.append(Cut(motion=done, first=total + idle, last=last, begin=total))
            joints.append(done.joints)
            place, total = done.placement_at_end, last
        return np.concatenate(joints), tuple(cuts)

    def _around(self, num_frames: int) -> tuple[float, float]:
        """Seconds of idleness before the action, and of the action, within a video of so many frames.

        From its first frame to its last: whoever counts a frame more gives every video more idleness before than after,
        and with it a hint at which of two twins is shown.
        """
        rng = self._rng
        seconds = (num_frames - 1) / self._fps
        # At the highest `speed` the action takes all but a moment of the video.
        share = min(0.95, 0.66 + 0.14 * self._config.speed * rng.uniform(-1, 1))
        active = seconds * share
        return (seconds - active) * rng.uniform(0.15, 0.85), active

    def _perform(
        self,
        action: str,
        num_frames: int,
        before_sec: float,
        active_sec: float,
        *,
        spread: float = 1.0,
        at: Placement = Placement(),  # noqa: B008 - frozen
    ) -> Performance:
        return perform(
            action, self._body, self._style, self._rng, num_frames=num_frames, fps=self._fps,
            before_sec=before_sec, active_sec=active_sec, speed_spread=spread * self._config.speed, at=at,
        )  # fmt: skip


WORLD = World(
    name="demo", format=5, splits=SPLITS, sizes=SIZES, class_names=CLASS_NAMES, phase_names=PHASE_NAMES,
    topics=TOPICS, words=Words(actions=ACTION_WORDS, phases=PHASE_WORDS, topics=TOPIC_WORDS), plan=plan_video,
)  # fmt: skip
