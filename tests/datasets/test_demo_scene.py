"""The generator below the files: poses, phases, projection and boxes, and what must not depend on the action."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from video_ssl.datasets.demo.actions import CLASS_NAMES, TWINS, sample_style
from video_ssl.datasets.demo.camera import sample_camera
from video_ssl.datasets.demo.captions import ACTION_WORDS, PHASE_WORDS
from video_ssl.datasets.demo.figure import JOINT_INDEX, sample_body
from video_ssl.datasets.demo.plan import SIZES, WORLD, Performer, plan_video
from video_ssl.datasets.demo.scene import NuisanceConfig, Scene
from video_ssl.datasets.demo.sound import RATE, TIMBRES, render_sound

FPS = 16
OFF = NuisanceConfig(**{field.name: 0.0 for field in dataclasses.fields(NuisanceConfig)})


def test_length_and_start_do_not_depend_on_the_action() -> None:
    found = set()
    for name in CLASS_NAMES:
        rng = np.random.default_rng(7)
        style = sample_style(np.random.default_rng(8), strength=1, warp=1)
        body = sample_body(np.random.default_rng(9))
        joints, (cut,) = Performer(body, style, rng, SIZES["tiny"], NuisanceConfig()).clip(name)
        found.add((len(joints), cut.first, cut.last))
    assert len(found) == 1


@pytest.mark.parametrize("split", ["train", "views_train", "phases_train", "sessions_train"])
def test_every_action_fits_into_its_video_at_the_strongest_settings(split: str) -> None:
    strongest = NuisanceConfig(speed=3.0, style=3.0)
    for index in range(0, 40, 3):
        plan = plan_video(0, split, index, SIZES["small"], strongest)
        assert np.isfinite(plan.joints).all()
        for cut in plan.cuts:
            assert 0 <= cut.first < cut.last <= len(plan.joints)


def test_surroundings_do_not_depend_on_the_action() -> None:
    """What moves with the figure is where the camera looks, and the background because of that; nothing else."""
    plan = plan_video(0, "train", 0, SIZES["tiny"], NuisanceConfig())
    first = plan.scene()
    other = dataclasses.replace(plan, joints=plan.joints[::-1] * 1.1).scene()
    for part in ("camera", "light", "distractor"):
        for name in set(vars(getattr(first, part))) - {"target", "travel"}:
            value, other_value = (getattr(getattr(s, part), name) for s in (first, other))
            np.testing.assert_array_equal(value, other_value, err_msg=f"{part}.{name}")
    elsewhere = dataclasses.replace(plan, joints=plan.joints + np.array([9.0, 0, -5])).scene()
    empty = [next(s.frames(figure=False, distractor=False)) for s in (first, elsewhere)]
    assert np.abs(empty[0].astype(int) - empty[1]).max() <= 1


def test_where_the_figure_is_in_the_frame_does_not_tell_forwards_from_backwards() -> None:
    """The camera runs ahead of a walker as often as behind: the distance ahead has one mean, within 4 errors."""
    found = []
    for name in ("walk", "walk_backwards"):
        ahead = []
        for index in range(150):
            rng = np.random.default_rng([index, len(name)])
            style = sample_style(rng, strength=1, warp=1)
            performer = Performer(sample_body(rng), style, rng, SIZES["tiny"], NuisanceConfig())
            joints, (cut,) = performer.clip(name)
            camera = sample_camera(rng, NuisanceConfig(), joints, SIZES["tiny"].fps)
            gap = joints[:, JOINT_INDEX["pelvis"], 2] - camera.target[:, 2]
            ahead.append(gap[cut.first : cut.last].mean())
        found.append(np.array(ahead))
    error = np.sqrt(sum(a.var() / len(a) for a in found))
    assert abs(found[0].mean() - found[1].mean()) < 4 * error
    assert error < 0.02, "a lag of 0.3 s would be seen"


def test_the_figure_is_seen_from_all_sides_and_stays_in_the_frame() -> None:
    yaws, cut_off, heights = [], [], []
    for index in range(56):
        scene = plan_video(0, "train", index, SIZES["small"], NuisanceConfig()).scene()
        boxes = scene.painter.boxes() / (2 * scene.size)
        cut_off.append((boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > 1).any(1))
        heights.append((boxes[:, 3] - boxes[:, 1]).max())
        yaws.append(np.degrees(scene.camera.yaw.mean()) * (-1 if scene.camera.mirror else 1))
    assert np.concatenate(cut_off).mean() < 0.03
    assert np.ptp(yaws) > 150
    assert 0.6 < np.median(heights) < 0.9, "the figure is large"


def test_perspective_makes_what_is_near_larger() -> None:
    joints = np.zeros((1, 2, 3))
    joints[0, 1] = [0, 1, 0]
    still = {"camera_shift": 0.0, "camera_zoom": 0.0, "motion": 0.0, "mirror": 0.0}
    config = NuisanceConfig(**still)
    camera = sample_camera(np.random.default_rng(0), config, joints, FPS)
    toward = np.array([-np.sin(camera.yaw[0]), 0, np.cos(camera.yaw[0])])
    lengths, scales = [], []
    for step in (-0.5, 0.0, 0.5):
        points, near, scale = camera.project(joints + step * toward, 100)
        lengths.append(np.linalg.norm(points[0, 1] - points[0, 0]))
        scales.append(scale.mean())
        assert near.mean() == pytest.approx(step * np.cos(camera.tilt), abs=1e-9)
    assert lengths[0] < lengths[1] < lengths[2]
    assert scales[2] / scales[0] == pytest.approx(lengths[2] / lengths[0], rel=0.05)
    middle, _, _ = camera.project(joints.mean(1, keepdims=True), 100)
    np.testing.assert_allclose(middle[0, 0], [50, 50], atol=1e-6)


def test_every_name_has_its_words_and_sounds() -> None:
    assert set(CLASS_NAMES) <= set(ACTION_WORDS)
    assert {name.split("/")[1] for name in WORLD.phase_names} - {"ready", "done"} <= set(
        PHASE_WORDS
    )
    assert {name for names in WORLD.topics.values() for name in names} == set(CLASS_NAMES)
    assert set(WORLD.words.topics) == set(WORLD.topics)
    assert sorted(name for pair in TWINS for name in pair) == sorted(CLASS_NAMES)
    for index in range(len(CLASS_NAMES)):
        plan = plan_video(0, "train", index, SIZES["tiny"], NuisanceConfig())
        assert {name for name, _ in plan.events()} <= set(TIMBRES)


@pytest.mark.parametrize("index", range(0, 28, 3))
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


def test_nuisances_off_leave_a_still_picture() -> None:
    plan = plan_video(0, "train", 0, SIZES["tiny"], OFF)
    joints = np.repeat(plan.joints[:1], 8, 0)
    rng = np.random.default_rng(0)
    scene = Scene(
        plan.body, joints, sample_camera(rng, OFF, joints, FPS), rng=rng, config=OFF, size=64, fps=FPS,
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


def test_no_more_idleness_before_an_action_than_after_it() -> None:
    """Videos had one idle frame more before than after: how much of them stands told sit_down from stand_up.  The share
    before the action is uniform in 0.15 to 0.85, the same law as that after it."""
    shares = []
    for index in range(200):
        plan = plan_video(0, "train", index, SIZES["small"], NuisanceConfig())
        (cut,) = plan.cuts
        before = cut.motion.start_sec
        after = (len(plan.joints) - 1) / plan.size.fps - cut.motion.end_sec
        shares.append(before / (before + after))
    assert 0.15 <= min(shares) < 0.17
    assert 0.83 < max(shares) <= 0.85
