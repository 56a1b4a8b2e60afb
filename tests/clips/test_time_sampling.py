"""Sampling in seconds: the numbers of HiCo are in tests/golden/test_hico.py, here what must hold beyond them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_ssl.clips.sampling import seconds as ts

uniforms = st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4)
frame_places = st.floats(0.01, 1e4) | st.integers(0, 10_000).map(float)
L = ts.clip_seconds(16, 4)


@given(st.floats(2 * L, 500), uniforms, st.floats(0, 3))
def test_intervals_lie_in_the_video_and_the_pair_is_near(duration, draws, distance):
    pair_and_topic = ts.chained_intervals(
        duration, draws, clip_sec=L, max_distance_sec=distance, topical=True
    )
    assert pair_and_topic.shape == (3, 2)
    assert pair_and_topic.min() >= 0
    assert pair_and_topic.max() <= duration
    np.testing.assert_allclose(np.diff(pair_and_topic), L)
    assert abs(pair_and_topic[1, 0] - pair_and_topic[0, 0]) <= distance + 1e-9
    pairs = ts.paired_intervals(duration, draws, clip_sec=L, max_distance_sec=distance)
    assert np.abs(pairs[1::2, 0] - pairs[::2, 0]).max() <= distance + 1e-9


def test_the_topical_clip_may_be_anywhere_the_pair_may_not():
    rng = np.random.default_rng(0)
    found = np.stack(
        [
            ts.chained_intervals(
                60.0, rng.random(4), clip_sec=L, max_distance_sec=1.0, topical=True
            )
            for _ in range(300)
        ]
    )
    starts = found[:, 2, 0]
    assert starts.min() < 5
    assert starts.max() > 52
    apart = np.abs(starts - found[:, 0, 0])
    assert np.median(apart) > 5


def test_the_reach_grows_with_progress_and_stays_at_its_ends():
    reach = [ts.gradual_distance(p, (0.5, 3.0)) for p in (-1, 0, 0.5, 1, 2)]
    assert reach == [0.5, 0.5, 1.75, 3.0, 3.0]


@given(st.integers(1, 2000), st.floats(5, 120), st.floats(0, 60), st.floats(0, 60))
def test_frames_of_an_interval_are_frames_of_the_video(n, fps, a, b):
    clip = ts.interval_clip(n, fps, (a, b), num_frames=16)
    assert clip.indices.min() >= 0
    assert clip.indices.max() < n
    assert (np.diff(clip.indices) >= 0).all()
    assert clip.valid[0]


@given(
    st.integers(1, 2000),
    st.floats(5, 120),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 5),
)
def test_clips_in_seconds_last_equally_long_at_any_rate(n, fps, uniform, stride):
    clip = ts.seconds_clip(n, fps, uniform, num_frames=16, frame_stride=stride)
    assert clip.indices.max() < n
    length = 16 * stride / 30
    if n / fps > length + 1:
        assert clip.valid.all()
        shown = (clip.indices[-1] - clip.indices[0] + 1) / fps
        assert shown == pytest.approx(length, abs=2 / fps)
    if n / fps < length - 2 / fps:
        assert not clip.valid.all()
        assert (clip.indices[~clip.valid] == n - 1).all()


@settings(max_examples=200)
@given(frame_places, frame_places, st.integers(1, 64))
def test_points_round_as_torch_rounds_them(a, b, steps):
    assert np.array_equal(ts.linspace32(a, b, steps), torch.linspace(a, b, steps).numpy())


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.floats(0, 40), st.floats(0.5, 4))
def test_a_clip_over_files_is_the_clip_of_the_joined_video(counts, start, length):
    counts = [150] * (len(counts) - 1) + [min(counts[-1], 150)]
    interval = (min(start, 5 * (len(counts) - 1)), 0.0)
    interval = (interval[0], interval[0] + length)
    segment, frame = ts.segment_clip(counts, 30.0, interval, num_frames=8)
    first, last = int(interval[0] // 5), int(-(-interval[1] // 5))
    joined = [(s, f) for s in range(first, min(last, len(counts))) for f in range(counts[s])]
    inside = (interval[0] - 5 * first, interval[1] - 5 * first)
    clip = ts.interval_clip(len(joined), 30.0, inside, num_frames=8)
    assert [joined[i] for i in clip.indices] == list(zip(segment, frame, strict=True))


def test_a_clip_behind_the_last_file_is_one_of_that_file():
    """Was wrong: an IndexError.  Files may last longer than the seconds that they are said to have."""
    for interval in ((252.0, 254.0), (255.9, 256.0)):
        segment, frame = ts.segment_clip([128] * 50, 25.0, interval, num_frames=4)
        assert (segment.tolist(), frame.tolist()) == ([49] * 4, [127] * 4)
