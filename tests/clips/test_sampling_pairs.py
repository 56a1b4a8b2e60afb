"""Pairs of clips: laws of CVRL's and TeG's samplers; their numbers are in tests/golden/test_pairs.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_ssl.clips.sampling.two_clips import (
    correspondence,
    decreasing_distance,
    decreasing_pair,
    dense_feature_times,
    keyframe_clip,
    linspace_clips,
    looped_clip,
    nested_correspondence,
    nested_pair,
    random_looped_clip,
)

UNIT = st.floats(0, 1, exclude_max=True)
TEG = {"long_frames": 16, "long_stride": 4, "short_frames": 16, "short_stride": 2}


@given(st.integers(1, 300), UNIT, UNIT, UNIT, UNIT, st.integers(1, 20), st.integers(1, 5))
def test_pairs_stay_in_the_video_and_keep_their_stride(length, u, r1, r2, e, frames, stride):
    span = (frames - 1) * stride
    for clip in decreasing_pair(length, [u, r1, r2, e], num_frames=frames, frame_stride=stride):
        assert ((clip.indices >= 0) & (clip.indices < length)).all()
        assert (np.diff(clip.indices) % length == stride % length).all()
        assert clip.valid.all() or length <= span


def test_distances_fall_linearly():
    room = 220
    u = (np.arange(200_000) + 0.5) / 200_000
    counts = np.bincount([decreasing_distance(room, x) for x in u], minlength=room) / len(u)
    expected = [((room - d) ** 2 - (room - d - 1) ** 2) / room**2 for d in range(room)]
    np.testing.assert_allclose(counts, expected, atol=1e-4)
    assert decreasing_distance(room, 1 - 1e-16) == room - 1


def test_the_order_of_a_pair_is_the_fourth_uniform():
    one, two = decreasing_pair(200, [0.5, 0.3, 0, 0.4], num_frames=4, frame_stride=2)
    three, four = decreasing_pair(200, [0.5, 0.3, 0, 0.6], num_frames=4, frame_stride=2)
    assert one.indices.tolist() == four.indices.tolist() != two.indices.tolist()
    assert two.indices.tolist() == three.indices.tolist()


@given(st.integers(1, 300), UNIT, UNIT)
def test_the_short_clip_never_leaves_the_long_one(length, u1, u2):
    pair = nested_pair(length, [u1, u2], **TEG)
    assert pair.long_start <= pair.short_start
    assert pair.short_start + 30 <= pair.long_start + 60
    assert pair.long_start + 60 < length or pair.long_start == 0
    position = nested_correspondence(
        pair.long_start, pair.short_start, **TEG, long_positions=8, short_positions=8
    )
    assert ((position >= 0) & (position <= 7)).all()
    inner = position[(position > 0) & (position < 7)]
    np.testing.assert_allclose(np.diff(inner), 0.5)


def test_a_position_is_where_the_two_clips_show_the_same_time():
    short = dense_feature_times(30, num_frames=16, frame_stride=2, num_positions=8)
    position = correspondence(short, start=10, num_frames=16, frame_stride=4, num_positions=8)
    long = dense_feature_times(10, num_frames=16, frame_stride=4, num_positions=8)
    np.testing.assert_allclose(np.interp(position, np.arange(8), long), short)
    # a feature's time is the mean of the frames behind it
    frames = 30 + 2 * np.arange(16)
    np.testing.assert_allclose(short, frames.reshape(8, 2).mean(1))


def test_clips_for_evaluation_loop_and_repeat():
    assert looped_clip(5, 3, num_frames=4, frame_stride=2).valid.tolist() == [1, 0, 0, 0]
    clips = linspace_clips(5, num_clips=2, num_frames=4, frame_stride=2)
    assert [c.indices.tolist() for c in clips] == [[0, 2, 4, 1]] * 2
    edge = keyframe_clip(10, 1, num_frames=4, frame_stride=2)
    assert edge.indices.tolist() == [0, 0, 1, 3]
    assert edge.valid.tolist() == [False, False, True, True]
    starts = {
        int(random_looped_clip(9, u, num_frames=3, frame_stride=2).indices[0])
        for u in np.linspace(0, 0.999, 50)
    }
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nested_pair(99, [0, 0], **{**TEG, "short_stride": 5}), "covers 76 source frames, the long one"),
        (lambda: nested_pair(99, [0, 1.0], **TEG), r"uniform=1.0 must lie in \[0, 1\)"),
        (lambda: looped_clip(0, 0, num_frames=1, frame_stride=1), "a video of 0 frames"),
        (lambda: looped_clip(5, -1, num_frames=1, frame_stride=1), "start=-1"),
        (lambda: keyframe_clip(5, 5, num_frames=1, frame_stride=1), "keyframe=5 must be one of the 5"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
