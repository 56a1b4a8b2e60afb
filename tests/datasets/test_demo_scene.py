"""The generator below the files: poses, phases, projection and boxes, and what must not depend on the action."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from video_ssl.datasets.demo.exercises.camera import sample_camera
from video_ssl.datasets.demo.exercises.motion import (
    CLASS_NAMES,
    EXERCISES,
    NEUTRAL,
    ORDER_PAIRS,
    POSES,
    TOPICS,
    exercise_of,
    perform,
    sample_style,
)
from video_ssl.datasets.demo.exercises.plan import SIZES, _plan_clip, plan_video
from video_ssl.datasets.demo.exercises.skeleton import skeleton
from video_ssl.datasets.demo.exercises.text import ACTIONS, PHASES, TOPIC_WORDS
from video_ssl.datasets.demo.figure import JOINT_INDEX, sample_body
from video_ssl.datasets.demo.scene import NuisanceConfig, Scene
from video_ssl.datasets.demo.sound import RATE, TIMBRES, render_sound

FPS = 16
OFF = NuisanceConfig(**{field.name: 0.0 for field in dataclasses.fields(NuisanceConfig)})


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


def test_length_and_start_do_not_depend_on_the_action() -> None:
    found = set()
    for label in range(len(CLASS_NAMES)):
        rng = np.random.default_rng(7)
        style = sample_style(np.random.default_rng(8), strength=1, warp=1)
        poses, (cut,) = _plan_clip(label, style, rng, SIZES["tiny"], NuisanceConfig())
        found.add((len(poses), cut.first, cut.last))
    assert len(found) == 1


def test_surroundings_do_not_depend_on_the_action() -> None:
    plan = plan_video(0, "train", 0, SIZES["tiny"], NuisanceConfig())
    other = dataclasses.replace(plan, joints=plan.joints[::-1] + 9.0)
    first, second = plan.scene(), other.scene()
    for part in ("camera", "light", "distractor"):
        for name, value in vars(getattr(first, part)).items():
            other_value = getattr(getattr(second, part), name)
            np.testing.assert_array_equal(value, other_value, err_msg=f"{part}.{name}")
    empty = [next(s.frames(figure=False, distractor=False)) for s in (first, second)]
    changed = np.abs(empty[0].astype(int) - empty[1]).max(-1) > 0
    assert changed.mean() < 0.1, "only the shadow may move"


@pytest.mark.parametrize("index", range(10))
def test_boxes_bound_the_figure_and_the_distractor_tightly(index: int) -> None:
    plan = plan_video(1, "val", index, SIZES["tiny"], NuisanceConfig(noise=0))
    scene = plan.scene()
    boxes, size = scene.boxes() * scene.size, scene.size
    full = list(scene.frames())
    for number, left_out in enumerate(({"figure": False}, {"distractor": False})):
        covered = []
        for t, frame in enumerate(scene.frames(**left_out)):
            if t % 6:
                continue
            changed = np.abs(frame.astype(int) - full[t]).max(-1) > 0
            if not changed.any():
                continue
            y, x = np.nonzero(changed)
            seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            low, high = boxes[t, number, :2], boxes[t, number, 2:]
            assert (seen[:2] >= np.floor(low)).all(), (t, seen, boxes[t, number])
            assert (seen[2:] <= np.ceil(high)).all(), (t, seen, boxes[t, number])
            covered.append((seen[2:] - seen[:2]).prod() / (high - low).prod())
        assert np.median(covered) > (0.8 if number == 0 else 0.6), (
            "the box is no larger than needed"
        )
    heights = (boxes[:, 0, 3] - boxes[:, 0, 1]) / size
    assert 0.5 < heights.max() <= 1, "the figure is large"


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


def test_nuisances_off_leave_a_still_picture() -> None:
    rng = np.random.default_rng(0)
    body = sample_body(rng)
    joints = skeleton(body, np.repeat(NEUTRAL[None], 20, 0))
    scene = Scene(
        body, joints, sample_camera(rng, OFF, 20, FPS), rng=rng, config=OFF, size=64, fps=FPS,
        texture_seed=np.random.SeedSequence(3),
    )  # fmt: skip
    frames = list(scene.frames(distractor=False))
    np.testing.assert_array_equal(frames[0], frames[-1])
    with pytest.raises(ValueError, match=r"camera_pan=4.0 must lie in 0..3"):
        NuisanceConfig(camera_pan=4.0)


def test_sounds_begin_at_their_events_and_differ_by_kind() -> None:
    spectra = {}
    for name in TIMBRES:
        rng = np.random.default_rng(0)
        track = render_sound([(name, 0.5)], seconds=1.0, rng=rng, nuisance=0)
        assert track.dtype == np.float32
        assert len(track) == RATE
        assert (track[: RATE // 2] == 0).all()
        assert np.abs(track).max() <= 1
        assert track[RATE // 2 :].std() > 0.02
        bands = np.abs(np.fft.rfft(track)) ** 2
        spectrum = np.add.reduceat(bands, [0, 120, 240, 350, 600, 1000, 1600, 3000])
        spectra[name] = np.append(
            spectrum / spectrum.sum(), np.abs(track[RATE // 2 :]).argmax() / RATE
        )
    names = list(spectra)
    for i, first in enumerate(names):
        for second in names[:i]:
            gap = np.abs(spectra[first] - spectra[second]).sum()
            assert gap > 0.2, (first, second, gap)
    end = render_sound([("thud", 0.99)], seconds=1.0, rng=np.random.default_rng(0))
    assert len(end) == RATE
