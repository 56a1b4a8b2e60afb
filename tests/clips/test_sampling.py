"""Index rules: the properties that the references lack.  Their numbers are in tests/golden/test_sampling.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_ssl.clips.sampling import one_clip as sampling

HIGHEST = np.nextafter(1.0, 0.0)


def test_several_reference_clips_take_their_own_parts_or_are_sorted():
    kwargs = {"num_frames": 16, "frame_stride": 4}
    # papers/mvd.md: part = (N - 64 + 1) // k; below that sorted draws from the whole; below 65
    # frames all start at 0.
    assert sampling.reference_start_bounds(163, **kwargs, num_clips=4) == [
        (0, 25),
        (25, 50),
        (50, 75),
        (75, 100),
    ]
    starts = [
        c.indices[0] for c in sampling.sample_reference_clips(66, [0.9, 0.0, 0.5, 0.9], **kwargs)
    ]
    assert starts == [0, 1, 2, 2]
    assert [c.indices[0] for c in sampling.sample_reference_clips(64, [0.9, 0.1], **kwargs)] == [
        0,
        0,
    ]


# Properties ---------------------------------------------------------------------------------------

lengths = st.integers(1, 400)
frames = st.integers(1, 24)
strides = st.integers(1, 9)
uniforms = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5)
policies = st.sampled_from(["repeat_last", "wrap"])


def assert_honest(clip, n, num_frames, stride):
    assert clip.indices.dtype == np.int64
    assert clip.valid.dtype == bool
    assert clip.indices.shape == clip.valid.shape == (num_frames,)
    assert clip.indices.min() >= 0
    assert clip.indices.max() < n
    seen = clip.indices[clip.valid]
    assert (np.diff(seen) == stride).all()
    assert clip.valid[0]
    assert clip.valid.all() or clip.indices[0] + stride * clip.valid.sum() >= n


@given(lengths, uniforms, frames, strides, policies)
def test_constant_clips_never_drift_and_are_sorted(n, us, num_frames, stride, policy):
    clips = sampling.sample_constant_clips(
        n, us, num_frames=num_frames, frame_stride=stride, short_video=policy
    )
    for clip in clips:
        assert_honest(clip, n, num_frames, stride)
        if policy == "repeat_last":
            assert (np.diff(clip.indices) >= 0).all()
        if sampling.clip_span(num_frames, stride) <= n:
            assert clip.valid.all()
    starts = [clip.indices[0] for clip in clips]
    assert starts == sorted(starts)


@given(lengths, frames, strides)
def test_constant_clips_reach_both_ends(n, num_frames, stride):
    kwargs = {"num_frames": num_frames, "frame_stride": stride}
    if sampling.clip_span(**kwargs) > n:
        return
    assert sampling.sample_constant_clips(n, [0.0], **kwargs)[0].indices[0] == 0
    assert sampling.sample_constant_clips(n, [HIGHEST], **kwargs)[0].indices[-1] == n - 1


def test_every_start_is_equally_likely():
    kwargs = {"num_frames": 4, "frame_stride": 2}
    grid = (np.arange(1400) + 0.5) / 1400
    starts = [sampling.sample_constant_clips(20, [u], **kwargs)[0].indices[0] for u in grid]
    assert np.bincount(starts).tolist() == [100] * 14


@given(lengths, st.integers(1, 7), frames, strides)
def test_even_clips_are_spread_over_the_video(n, num_clips, num_frames, stride):
    kwargs = {"num_frames": num_frames, "frame_stride": stride}
    clips = sampling.even_clips(n, num_clips=num_clips, **kwargs)
    starts = [int(clip.indices[0]) for clip in clips]
    for clip in clips:
        assert_honest(clip, n, num_frames, stride)
    room = max(n - sampling.clip_span(**kwargs), 0)
    if num_clips == 1:
        assert starts == [room // 2]
    else:
        assert (starts[0], starts[-1]) == (0, room)
        assert np.ptp(np.diff(starts)) <= 1


@given(lengths, st.integers(1, 30), frames, strides)
def test_dense_clips_cover_the_video(n, hop, num_frames, stride):
    clips = sampling.dense_clips(n, hop=hop, num_frames=num_frames, frame_stride=stride)
    starts = [int(clip.indices[0]) for clip in clips]
    assert starts == sorted(set(starts))
    assert (np.diff(starts)[:-1] == hop).all()
    assert all(gap <= hop for gap in np.diff(starts))
    room = n - sampling.clip_span(num_frames, stride)
    assert starts[-1] == max(room, 0)
    for clip in clips:
        assert_honest(clip, n, num_frames, stride)


@given(lengths, uniforms, frames, strides)
def test_reference_clips_stay_in_range(n, us, num_frames, stride):
    for clip in sampling.sample_reference_clips(n, us, num_frames=num_frames, frame_stride=stride):
        assert clip.indices.min() >= 0
        assert clip.indices.max() < n
        assert (np.diff(clip.indices[clip.valid]) == stride).all()
        assert (clip.indices[~clip.valid] == clip.indices[clip.valid][-1]).all()


@given(lengths, st.floats(0, 1, exclude_max=True), frames, strides)
def test_reference_dense_clips_stay_in_range(n, u, num_frames, stride):
    kwargs = {"num_frames": num_frames, "frame_stride": stride}
    clips = [sampling.reference_dense_clip(n, u, **kwargs)]
    clips += sampling.reference_dense_views(n, num_clips=3, **kwargs)
    for clip in clips:
        assert len(clip.indices) == num_frames
        assert clip.indices.min() >= 0
        assert clip.indices.max() < n
        assert (np.diff(clip.indices) >= 0).all()


@given(
    lengths,
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=24),
    st.sampled_from(sampling.SEGMENT_RULES),
)
def test_segment_clips_are_sorted_and_in_range(n, us, rule):
    clips = [sampling.sample_segment_clip(n, us, rule=rule)]
    clips += sampling.segment_views(n, num_frames=len(us), rule=rule)
    for clip in clips:
        assert len(clip.indices) == len(us)
        assert clip.indices.min() >= 0
        assert clip.indices.max() < n
        assert (np.diff(clip.indices) >= 0).all()


# Time ---------------------------------------------------------------------------------------------


@given(
    st.integers(1, 200),
    st.sampled_from([23.976, 25.0, 29.97, 30.0, 59.94]),
    st.sampled_from([1000, 90000]),
)
def test_the_grid_of_the_own_rate_is_every_frame_once(n, fps, clock):
    # The times of a container are multiples of its clock and so never exactly k / fps.
    times = np.round(np.arange(n) / fps * clock) / clock
    assert sampling.resample_grid(times, fps).tolist() == list(range(n))


@settings(max_examples=50)
@given(st.lists(st.floats(0.005, 0.2), min_size=1, max_size=100), st.floats(1, 60))
def test_the_grid_takes_the_frame_nearest_in_time(gaps, fps):
    times = np.cumsum(gaps)
    grid = sampling.resample_grid(times, fps)
    instants = times[0] + np.arange(len(grid)) / fps
    errors = np.abs(times[None] - instants[:, None])
    assert np.abs(times[grid] - instants) == pytest.approx(errors.min(1), abs=1e-9)
    assert instants[-1] <= times[-1] + 0.11 / fps
    assert instants[-1] + 1 / fps > times[-1]


def test_clips_by_time_last_equally_long_at_every_rate():
    spans = []
    for source_fps in (15, 24, 30, 60):
        times = np.arange(source_fps * 10) / source_fps
        grid = sampling.resample_grid(times, 12.0)
        clip = sampling.even_clips(len(grid), num_clips=1, num_frames=8, frame_stride=2)[0]
        spans.append(np.ptp(times[grid[clip.indices]]))
    assert spans == pytest.approx([14 / 12] * 4, abs=1 / 15)


# Edges --------------------------------------------------------------------------------------------


def test_short_videos_follow_the_policy():
    kwargs = {"num_frames": 5, "frame_stride": 3}
    repeated = sampling.constant_clip(8, 0, **kwargs, short_video="repeat_last")
    assert repeated.indices.tolist() == [0, 3, 6, 6, 6]
    assert repeated.valid.tolist() == [True, True, True, False, False]
    wrapped = sampling.constant_clip(8, 1, **kwargs, short_video="wrap")
    assert wrapped.indices.tolist() == [1, 4, 7, 1, 4]
    assert sampling.constant_clip(1, 0, **kwargs).indices.tolist() == [0] * 5


def test_the_reference_rules_mark_what_fills_up_a_short_video():
    kwargs = {"num_frames": 5, "frame_stride": 4}
    three = sampling.reference_dense_clip(3, 0.0, **kwargs)
    assert (three.indices.tolist(), three.valid.sum()) == ([2] * 5, 1)
    ten = sampling.reference_dense_clip(10, 0.0, **kwargs)
    assert (ten.indices.tolist(), ten.valid.sum()) == ([0, 9, 9, 9, 9], 2)
    (view,) = sampling.reference_dense_views(10, num_clips=1, **kwargs)
    assert view.indices.tolist() == [0, 4, 8, 8, 8]
    assert view.valid.tolist() == [True, True, True, False, False]


def test_the_error_policy_says_what_to_do():
    with pytest.raises(sampling.TooShort) as error:
        sampling.sample_constant_clips(
            40, [0.3], num_frames=16, frame_stride=4, short_video="error", name="a.mp4"
        )
    assert str(error.value) == (
        "num_frames=16 with frame_stride=4 needs 61 frames, but a.mp4 has 40. "
        'Use short_video="repeat_last", a smaller frame_stride, or run "video-ssl scan".'
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: sampling.constant_clip(0, 0, num_frames=4, frame_stride=1), "has 0 frames"),
        (lambda: sampling.constant_clip(9, 9, num_frames=4, frame_stride=1), "start=9 must be one"),
        (lambda: sampling.constant_clip(9, 0, num_frames=0, frame_stride=1), "num_frames=0"),
        (
            lambda: sampling.constant_clip(9, 0, num_frames=4, frame_stride=1, short_video="pad"),
            r"short_video='pad' must be one of \['repeat_last', 'wrap', 'error'\]",
        ),
        (lambda: sampling.uniform_int(1.0, 0, 3), r"uniform=1.0 must lie in \[0, 1\)"),
        (lambda: sampling.sample_segment_clip(9, [0.5], rule="tsn"), "rule='tsn' must be one of"),
        (lambda: sampling.resample_grid([0.0, 0.1], 0.0), "fps=0.0 must be a positive number"),
        (lambda: sampling.resample_grid([0.1, 0.0], 5.0), "must not decrease"),
        (
            lambda: sampling.dense_clips(9, hop=0, num_frames=2, frame_stride=1),
            "hop=0 must be at least 1",
        ),
    ],
)
def test_refused_settings_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()
