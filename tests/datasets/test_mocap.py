"""The captured clips: our kinematics against the positions in the data file, refusals, and the notices."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.datasets.demo.mocap.clips import (
    DATA_FILE,
    NOTICES,
    clip_from_frames,
    clip_names,
    load_clip,
)

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
