"""The captured clips: our kinematics against the positions in the data file, refusals, and the notices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from video_ssl.datasets.demo.bones import BONE_INDEX
from video_ssl.datasets.demo.mocap.clips import (
    DATA_FILE,
    NOTICES,
    clip_from_frames,
    clip_names,
    load_clip,
)
from video_ssl.datasets.demo.mocap.retarget import captured, straightened

DATA = np.load(DATA_FILE)


@pytest.mark.parametrize("name", clip_names())
def test_kinematics_equal_the_positions_in_the_file(name: str) -> None:
    clip = load_clip(name)
    ours = np.stack([clip.positions[str(joint)] for joint in DATA["joint_names"]], 1)
    np.testing.assert_allclose(ours, DATA[f"joints/{name}"], atol=1e-5)  # stored as float32


def test_a_rotation_turns_what_hangs_on_the_joint() -> None:
    rows = np.zeros((2, 44))
    rows[:, 0] = 0.5
    for first in (4, 8, 12, 16, 21, 25, 30, 35, 39):
        rows[:, first] = 1.0
    rest = clip_from_frames("rest", rows)
    assert rest.times_sec.tolist() == [0.0, 0.5]
    rows[:, 20] = -np.pi / 2
    bent = clip_from_frames("bent", rows)
    knee = bent.positions["rknee"]
    np.testing.assert_allclose(knee, rest.positions["rknee"])
    # The shin hangs down by 0.41 m; a quarter turn about z (to the right), clockwise, points it to the back.
    np.testing.assert_allclose(bent.positions["rankle"] - knee, [[-0.41, 0, 0]] * 2, atol=1e-12)


def test_captures_last_as_long_as_their_durations_say() -> None:
    assert len(clip_names()) == 15
    assert load_clip("walk").times_sec[-1] == pytest.approx(1.2667, abs=1e-3)
    assert load_clip("spin").times_sec[-1] == pytest.approx(4.42, abs=1e-2)


def test_an_unknown_capture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no capture 'swim'.*backflip.*walk"):
        load_clip("swim")


def test_damaged_frames_are_refused() -> None:
    frames = DATA["frames/walk"]
    with pytest.raises(ValueError, match=r"shape \(39, 43\)"):
        clip_from_frames("walk", frames[:, 1:])
    with pytest.raises(ValueError, match="not finite"):
        clip_from_frames("walk", np.where(frames == frames[3, 5], np.nan, frames))
    standing_still = frames.copy()
    standing_still[4, 0] = 0
    with pytest.raises(ValueError, match="duration"):
        clip_from_frames("walk", standing_still)


def test_both_notices_lie_beside_the_data() -> None:
    assert {notice.parent for notice in NOTICES} == {DATA_FILE.parent}
    text = "\n".join(notice.read_text() for notice in NOTICES)
    assert "ALTERED version" in text
    assert "Altered source versions must be plainly marked as such" in text
    assert "Bullet Continuous Collision Detection and Physics Library" in text
    assert "Copyright (c) 2018 Xue Bin Peng" in text
    assert "Permission is hereby granted, free of charge" in text


def of_file(name: str, start: str, end: str) -> np.ndarray:
    """Unit directions (T, 3) from joint to joint of the data file, in the figure's coordinates."""
    joints = [str(joint) for joint in DATA["joint_names"]]
    positions = DATA[f"joints/{name}"].astype(np.float64)
    step = positions[:, joints.index(end)] - positions[:, joints.index(start)]
    return (step / np.linalg.norm(step, axis=1, keepdims=True))[:, [2, 1, 0]]


@pytest.mark.parametrize(
    ("bone", "start", "end"),
    [
        ("knee_r", "rhip", "rknee"), ("toe_l", "lankle", "left_toe"), ("wrist_l", "lelbow", "lwrist"),
        ("chest", "root", "neck"), ("head", "neck", "head"), ("shoulder_r", "neck", "rshoulder"),
    ],
)  # fmt: skip
def test_bones_of_the_figure_point_where_those_of_the_capture_do(
    bone: str, start: str, end: str
) -> None:
    for name in ("kick", "roll"):
        frames = captured(name).at(load_clip(name).times_sec)
        np.testing.assert_allclose(
            frames.directions[:, BONE_INDEX[bone]], of_file(name, start, end), atol=1e-4
        )


def test_the_way_is_that_of_the_capture_in_lengths_of_its_leg() -> None:
    frames = captured("jump").at(load_clip("jump").times_sec)
    root = DATA["joints/jump"][:, 0]
    np.testing.assert_allclose(frames.root * 0.8315, root[:, [2, 0]], atol=1e-5)
    # Only in the air is the lowest point above the ground.
    assert frames.height[[0, 20, -1]].tolist() == [0, 0, 0]
    assert frames.height.max() * 0.8315 == pytest.approx(0.18, abs=0.03)


def test_straightened_frames_face_ahead_at_both_ends() -> None:
    times = np.linspace(0, 1.5, 40)
    turned = captured("kick").at(times)
    assert abs(turned.heading[-1] - turned.heading[0]) > 2
    frames = straightened(turned)
    for frame in (0, -1):
        hip = frames.directions[frame, BONE_INDEX["hip_r"]]
        assert hip[0] > 0
        assert abs(hip[2]) < 1e-9
    # The way is turned as a whole: its shape is kept, and it starts to where the figure faces.
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(frames.root, axis=0), axis=1),
        np.linalg.norm(np.diff(turned.root, axis=0), axis=1),
        atol=1e-12,
    )
    half = np.pi / 2
    ahead = captured("jump").at(load_clip("jump").times_sec)
    aside = straightened(replace(ahead, heading=ahead.heading + half))
    np.testing.assert_allclose(aside.root[:, 0], -straightened(ahead).root[:, 1], atol=1e-9)


def test_style_offsets_and_amplitude_and_endless_cycles() -> None:
    walk = captured("walk")
    cycle = walk.times_sec[-1]
    times = np.linspace(0, cycle, 30)
    plain = walk.at(times, loop=True)
    again = walk.at(times + 3 * cycle, loop=True)
    np.testing.assert_allclose(again.directions, plain.directions, atol=1e-9)
    way = again.root - plain.root
    np.testing.assert_allclose(way, np.broadcast_to(way[0], way.shape), atol=1e-9)
    assert way[0, 1] * 0.8315 == pytest.approx(3 * 1.24, abs=0.01)
    seam = walk.at(np.array([cycle - 1e-6, cycle + 1e-6]), loop=True)
    np.testing.assert_allclose(seam.directions[0], seam.directions[1], atol=1e-4)
    np.testing.assert_allclose(seam.root[0], seam.root[1], atol=1e-4)

    knee = BONE_INDEX["knee_l"]
    still = walk.at(times, amplitude=0.0, loop=True).directions[:, knee]
    assert np.ptp(still, axis=0).max() < 0.5 * np.ptp(plain.directions[:, knee], axis=0).max()
    offsets = np.zeros((len(BONE_INDEX), 3))
    offsets[knee] = [0, 0, 0.3]  # to the right, as seen from the pelvis
    bent = walk.at(times, offsets=offsets, loop=True).directions
    assert (bent[:, knee, 0] > plain.directions[:, knee, 0] + 0.2).all()
    others = [i for i in range(len(BONE_INDEX)) if i != knee]
    np.testing.assert_allclose(bent[:, others], plain.directions[:, others])
