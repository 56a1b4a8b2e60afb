"""The first generated world: it is still what old results were made with, and never mixed with the default one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from video_ssl.datasets.demo.build import build_demo
from video_ssl.datasets.demo.exercises.motion import (
    CLASS_NAMES,
    EXERCISES,
    ORDER_PAIRS,
    POSES,
    TOPICS,
    exercise_of,
    perform,
    sample_style,
)
from video_ssl.datasets.demo.exercises.plan import SIZES, WORLD, _plan_clip
from video_ssl.datasets.demo.exercises.skeleton import skeleton
from video_ssl.datasets.demo.exercises.text import ACTIONS, PHASES, TOPIC_WORDS
from video_ssl.datasets.demo.figure import JOINT_INDEX, sample_body
from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.sound import TIMBRES
from video_ssl.datasets.demo.worlds import WORLDS, world_of
from video_ssl.datasets.opening import resolve_recipe

NUMBERS = json.loads(Path(__file__).with_name("exercises_numbers.json").read_text())


def numbers_of(split: str, index: int) -> dict[str, object]:
    """What a change of the generator would change: the length, and the picture and boxes of the middle frame."""
    scene = WORLD.plan(0, split, index, SIZES["small"], NuisanceConfig()).scene()
    middle = scene.num_frames // 2
    frame = next(f for t, f in enumerate(scene.frames()) if t == middle).astype(float)
    levels = frame[:72, :72].reshape(3, 24, 3, 24, 3).mean((1, 3, 4))
    return {
        "frames": scene.num_frames,
        "boxes": scene.boxes()[middle].tolist(),
        "levels": levels.tolist(),
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_the_same_seed_gives_the_videos_of_before(name: str) -> None:
    """`exercises_numbers.json` is `numbers_of` at the last commit whose `demo` was this world."""
    split, _, index = name.rpartition("-")
    found, wanted = numbers_of(split, int(index)), NUMBERS[name]
    assert found["frames"] == wanted["frames"]
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=1e-5)
    np.testing.assert_allclose(found["levels"], wanted["levels"], atol=0.2)


def test_a_format_belongs_to_one_world() -> None:
    assert len({world_of(name).format for name in WORLDS}) == len(WORLDS)


def test_folders_of_two_worlds_are_not_mixed(tmp_path: Path) -> None:
    begun = {"format": WORLD.format, "size": "tiny", "seed": 0}
    (tmp_path / "demo.json").write_text(json.dumps(begun))
    with pytest.raises(ValueError, match=r"world 'exercises' \(format 3\).*--world exercises"):
        build_demo(tmp_path, world="demo", size="tiny")
    (tmp_path / "demo.json").write_text(json.dumps({**begun, "format": 2}))
    with pytest.raises(ValueError, match="of format 2, which nothing here makes"):
        build_demo(tmp_path, world="demo", size="tiny")
    with pytest.raises(ValueError, match=r"world='exercise' .*Did you mean 'exercises'"):
        build_demo(tmp_path, world="exercise")
    folders = {resolve_recipe(name)[1] for name in ("demo", "exercises")}
    assert len(folders) == 2
    assert Path("data/demo-small").absolute() not in folders, "that of the old default"


def pose_names(name: str) -> list[str]:
    exercise = exercise_of(name)
    return [exercise.start, *(key.pose for key in exercise.keys)]


@pytest.mark.parametrize("pair", ORDER_PAIRS)
def test_a_pair_is_the_same_poses_in_opposite_order(pair: tuple[str, str]) -> None:
    first, second = pair
    assert pose_names(first) == pose_names(second)[::-1]
    assert pose_names(first) != pose_names(second)
    forth, back = exercise_of(first), exercise_of(second)
    assert [key.share for key in forth.keys] == [key.share for key in back.keys][::-1]


@pytest.mark.parametrize("pair", ORDER_PAIRS)
def test_the_bag_of_frames_of_a_pair_has_one_law(pair: tuple[str, str]) -> None:
    """Mean and second moment over time of every joint angle agree within 4.5 standard errors over 400 performances;
    the same figures of the first and second half of the clip must tell the pair apart."""
    whole, halves = [], []
    for number, name in enumerate(pair):
        clips = []
        for index in range(400):
            rng = np.random.default_rng([number, index])
            style = sample_style(rng, strength=1, warp=1)
            label = CLASS_NAMES.index(name)
            poses, _ = _plan_clip(label, style, rng, SIZES["tiny"], NuisanceConfig())
            middle = len(poses) // 2
            clips.append([np.r_[p.mean(0), (p**2).mean(0)] for p in (poses, poses[:middle])])
        whole.append(np.array([clip[0] for clip in clips]))
        halves.append(np.array([clip[1] for clip in clips]))

    def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        error = np.sqrt((a.var(0) + b.var(0)) / len(a)) + 1e-9
        return np.abs(a.mean(0) - b.mean(0)) / error

    assert differences(*whole).max() < 4.5
    assert differences(*halves).max() > 20


def test_no_other_two_classes_share_their_poses() -> None:
    bags = {name: frozenset(pose_names(name)) for name in CLASS_NAMES}
    same = {(a, b) for a in CLASS_NAMES for b in CLASS_NAMES if a < b and bags[a] == bags[b]}
    assert same == {tuple(sorted(pair)) for pair in ORDER_PAIRS}


def test_every_name_has_its_words_and_sounds() -> None:
    assert set(ACTIONS) == set(CLASS_NAMES)
    assert {phase for e in EXERCISES for phase in e.phase_names[1:-1]} == set(PHASES)
    assert {key.event for e in EXERCISES for key in e.keys if key.event} == set(TIMBRES)
    assert {key.pose for e in EXERCISES for key in e.keys} == set(POSES)
    assert {name for names in TOPICS.values() for name in names} == set(CLASS_NAMES)
    assert set(TOPIC_WORDS) == set(TOPICS)
    words = [text for texts in (*ACTIONS.values(), *PHASES.values()) for text in texts]
    assert len(words) == len(set(words)), "a sentence belongs to one class or phase"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_key_poses_are_reached_at_the_key_times(exercise) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    style = sample_style(rng, strength=1, warp=1)
    fps = 1000
    motion = perform(exercise, style, rng, num_frames=4000, fps=fps, before_sec=0.7, active_sec=2.5)
    assert motion.start_sec == pytest.approx(0.7)
    assert motion.end_sec == pytest.approx(3.2)
    for key, second in zip(exercise.keys, motion.key_times_sec, strict=True):
        reached = motion.poses[round(second * fps)]
        np.testing.assert_allclose(reached, style.pose(key.pose), atol=0.1)
    assert (np.diff(motion.phases) >= 0).all()
    assert set(motion.phases) == set(range(len(exercise.phase_names)))
    for name, start, end in motion.phase_windows():
        inside = motion.phases[round(start * fps) + 1 : round(end * fps) - 1]
        assert set(inside) == {exercise.phase_names.index(name)}


def test_the_figure_stands_on_the_ground_with_its_own_bone_lengths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        body = sample_body(rng)
        joints = skeleton(body, np.stack(list(POSES.values())))
        at = {name: joints[:, i] for name, i in JOINT_INDEX.items()}
        for a, b, length in (
            ("shoulder_l", "elbow_l", body.upper_arm),
            ("elbow_r", "wrist_r", body.forearm),
            ("hip_l", "knee_l", body.thigh),
            ("knee_r", "ankle_r", body.shin),
            ("pelvis", "chest", body.torso),
        ):
            np.testing.assert_allclose(np.linalg.norm(at[a] - at[b], axis=1), length, rtol=1e-6)
        feet = np.stack([at[f"{n}_{s}"] for n in ("ankle", "toe") for s in "lr"])[..., 1]
        lowest = np.minimum(feet.min(0) - body.limb_radius, at["pelvis"][:, 1] - body.torso_radius)
        np.testing.assert_allclose(lowest, 0, atol=1e-9)
    order = list(POSES)
    heights = joints[:, JOINT_INDEX["head"], 1]
    assert heights[order.index("seated")] < 0.75 * heights[order.index("neutral")]
    assert heights[order.index("bow")] < 0.8 * heights[order.index("neutral")]
    wrist = joints[order.index("reach"), JOINT_INDEX["wrist_l"], 1]
    assert wrist > heights[order.index("reach")]
