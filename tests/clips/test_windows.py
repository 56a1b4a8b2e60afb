"""Windows of an evaluation: every moment covered, decoded once, with the times of the frames that are shown."""

import dataclasses
import itertools
import tracemalloc
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_ssl.clips import windows
from video_ssl.clips.arrays import ArrayReader
from video_ssl.clips.config import Sampling
from video_ssl.clips.decoders.reader import BadVideo, VideoInfo
from video_ssl.clips.sampling.clip_rules import window_rule
from video_ssl.clips.sampling.one_clip import ClipIndices
from video_ssl.clips.sampling.window_layout import FixedLayout
from video_ssl.clips.windows import WindowConfig, WindowPlan, iterate_windows
from video_ssl.datasets.table import Record

RECORD = Record(index=0, id="a", source="a.mp4")


class CountingReader:
    """A video whose frame i is flat and carries i in its pixels; counts what is decoded."""

    def __init__(self, num_frames, height=24, width=32, fps=10.0, times=None):
        self.info = VideoInfo(
            num_frames=num_frames,
            fps=fps,
            width=width,
            height=height,
            duration_sec=num_frames / fps,
            codec="none",
            rotation=0,
            has_audio=False,
        )
        self.all_times = np.arange(num_frames) / fps if times is None else np.asarray(times)
        self.decoded = []
        self.most_at_once = 0

    def frames(self, indices, size=None):
        assert size is None
        indices = np.asarray(indices)
        assert indices.min() >= 0
        assert indices.max() < self.info.num_frames
        self.decoded += indices.tolist()
        self.most_at_once = max(self.most_at_once, len(indices))
        frames = np.empty((len(indices), self.info.height, self.info.width, 3), np.uint8)
        frames[..., 0] = (indices % 256)[:, None, None]
        frames[..., 1] = (indices // 256)[:, None, None]
        frames[..., 2] = np.linspace(0, 255, self.info.width).astype(np.uint8)
        return frames

    def times(self, indices):
        return self.all_times[np.asarray(indices)]


def shown(video):
    """The frame numbers that a view (..., T, H, W, 3) shows."""
    middle = video[..., video.shape[-3] // 2, video.shape[-2] // 2, :].astype(int)
    return middle[..., 0] + 256 * middle[..., 1]


def test_even_windows_span_the_video_with_their_times():
    reader = CountingReader(50)
    config = WindowConfig(num_frames=4, frame_stride=5, num_clips=3, size=16)
    sample = WindowPlan(config)(RECORD, reader, np.random.default_rng(0), 0.0)
    expected = np.array([[0, 5, 10, 15], [17, 22, 27, 32], [34, 39, 44, 49]])
    assert sample["video"].shape == (3, 4, 16, 16, 3)
    assert np.array_equal(shown(sample["video"]), expected)
    assert sample["times_sec"] == pytest.approx(expected / 10)
    assert sample["valid"].all()
    assert sample["clip"].tolist() == [0, 1, 2]
    assert sorted(reader.decoded) == sorted(expected.ravel().tolist())


def test_shuffled_windows_show_the_same_frames_in_the_same_random_order_every_time():
    def sample(record, **settings):
        config = WindowConfig(num_frames=8, frame_stride=5, num_clips=2, size=16, **settings)
        return WindowPlan(config)(record, CountingReader(50), np.random.default_rng(0), 0.0)

    ordered, found = sample(RECORD), sample(RECORD, shuffle_frames=True)
    frames = shown(found["video"])
    assert np.array_equal(np.sort(frames), shown(ordered["video"]))
    assert (frames != shown(ordered["video"])).any(1).all()
    assert np.argsort(frames[0]).tolist() != np.argsort(frames[1]).tolist()
    assert np.array_equal(found["times_sec"], ordered["times_sec"])
    assert np.array_equal(sample(RECORD, shuffle_frames=True)["video"], found["video"])
    other = sample(dataclasses.replace(RECORD, id="another"), shuffle_frames=True)
    assert not np.array_equal(other["video"], found["video"])
    with pytest.raises(ValueError, match="this encoder's clips are shuffled"):
        WindowConfig(per_frame=True, shuffle_frames=True)


def test_times_are_those_of_the_source():
    record = Record(index=0, id="a", source="a.mp4", start_sec=12.5, end_sec=20.0)
    config = WindowConfig(num_frames=2, frame_stride=4, size=16)
    sample = WindowPlan(config)(record, CountingReader(5), np.random.default_rng(0), 0.0)
    assert sample["times_sec"].tolist() == [[12.5, 12.9]]


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 8), st.integers(1, 6))
def test_dense_windows_show_the_right_frames_and_decode_each_once(n, hop, num_frames, stride):
    reader = CountingReader(n, height=8, width=8)
    config = WindowConfig(num_frames=num_frames, frame_stride=stride, hop=hop, size=8)
    layout = windows.lay_out_windows(RECORD, reader, config)
    clips = [layout.clip(number) for number in range(len(layout))]
    made = list(windows.iterate_windows(RECORD, reader, config))
    assert len(made) == len(clips)
    for window, clip in zip(made, clips, strict=True):
        assert np.array_equal(shown(window.clips[0]), clip.indices)
        assert window.times == pytest.approx(clip.indices / 10)
        assert np.array_equal(window.valid, clip.valid)
    assert len(reader.decoded) == len(set(reader.decoded))
    assert reader.most_at_once <= 64


def test_dense_windows_of_stride_one_show_every_frame():
    reader = CountingReader(100)
    config = WindowConfig(num_frames=16, frame_stride=1, hop=16, size=16)
    seen = np.concatenate(
        [shown(w.clips[0]) for w in windows.iterate_windows(RECORD, reader, config)]
    )
    assert set(seen) == set(range(100))


def test_long_videos_are_not_held_in_memory():
    reader = CountingReader(3000, height=8, width=8)
    config = WindowConfig(num_frames=8, frame_stride=2, hop=4, size=8)
    first = list(itertools.islice(windows.iterate_windows(RECORD, reader, config), 5))
    assert len(first) == 5
    assert len(reader.decoded) <= 64
    large = CountingReader(3000, height=64, width=64)
    config = WindowConfig(num_frames=8, frame_stride=2, hop=4, size=64)
    tracemalloc.start()
    count = sum(1 for _ in windows.iterate_windows(RECORD, large, config))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 700
    assert peak < 500 * 64 * 64 * 3  # 500 frames, of 1500 that are shown


def test_windows_by_time_last_equally_long_in_a_video_of_changing_rate():
    times = np.concatenate([np.arange(100) / 50, 2 + np.arange(20) / 10])
    reader = CountingReader(120, times=times)
    config = WindowConfig(num_frames=5, frame_stride=2, fps=10.0, hop=8, size=8)
    for window in windows.iterate_windows(RECORD, reader, config):
        assert np.diff(window.times) == pytest.approx([0.2] * 4, abs=0.05)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24), (30, 30)])
def test_crops_lie_where_they_should(height, width):
    reader = CountingReader(4, height=height, width=width)
    base = {"num_frames": 2, "frame_stride": 2, "size": 24}
    rng = np.random.default_rng(0)
    whole = WindowPlan(WindowConfig(**base, crop="short_side"))(RECORD, reader, rng, 0.0)["video"]
    spread = WindowPlan(WindowConfig(**base, crop="spread", num_crops=3))(RECORD, reader, rng, 0.0)
    center = WindowPlan(WindowConfig(**base))(RECORD, reader, rng, 0.0)["video"]
    long_side = 24 * max(height, width) // min(height, width)
    assert whole.shape[2:4] == ((24, long_side) if width >= height else (long_side, 24))
    assert spread["video"].shape == (3, 2, 24, 24, 3)
    assert spread["clip"].tolist() == [0, 0, 0]
    for k, start in enumerate([0, (long_side - 24) // 2, long_side - 24]):
        cut = (
            whole[0, :, :, start : start + 24]
            if width >= height
            else whole[0, :, start : start + 24]
        )
        assert np.array_equal(spread["video"][k], cut)
    assert np.abs(center[0].astype(int) - spread["video"][1]).max() <= 4


@pytest.mark.parametrize("turned", [False, True])
def test_squares_in_equal_steps_may_end_before_the_frame_does(turned):
    """13 pixels of room: V-JEPA's third of three begins at 12, VideoMAE's at 13."""
    height, width = (37, 24) if turned else (24, 37)
    reader = CountingReader(4, height=height, width=width)
    base = {"num_frames": 2, "frame_stride": 2, "size": 24}
    rng = np.random.default_rng(0)
    whole = WindowPlan(WindowConfig(**base, crop="short_side"))(RECORD, reader, rng, 0.0)["video"]
    even = WindowPlan(WindowConfig(**base, crop="even", num_crops=3))(RECORD, reader, rng, 0.0)
    for k, start in enumerate([0, 6, 12]):
        part = slice(start, start + 24)
        cut = whole[0, :, part] if turned else whole[0, :, :, part]
        assert np.array_equal(even["video"][k], cut)


def test_short_videos_are_filled_and_marked_or_refused():
    config = WindowConfig(num_frames=4, frame_stride=4, num_clips=2, size=16)
    sample = WindowPlan(config)(RECORD, CountingReader(6), np.random.default_rng(0), 0.0)
    assert shown(sample["video"]).tolist() == [[0, 4, 4, 4]] * 2
    assert sample["valid"].tolist() == [[True, True, False, False]] * 2
    refusing = WindowConfig(num_frames=4, frame_stride=4, short_video="error")
    with pytest.raises(BadVideo, match=r"a.mp4: too short .* needs 13 frames, but a.mp4 has 6"):
        WindowPlan(refusing)(RECORD, CountingReader(6), np.random.default_rng(0), 0.0)


def test_feature_times_lie_between_the_frames_of_a_tubelet():
    times = np.array([[0.0, 0.1, 0.3, 0.4], [1.0, 1.1, 1.1, 1.1]])
    assert windows.feature_times(times, [0.5, 2.5]) == pytest.approx(
        np.array([[0.05, 0.35], [1.05, 1.1]])
    )
    assert windows.feature_times(times[0], np.arange(4)) == pytest.approx(times[0])
    assert windows.feature_times([2.0], [0.0, 0.5]).tolist() == [2.0, 2.0]
    valid = np.array([[True] * 4, [True, True, False, False]])
    assert windows.feature_valid(valid, [0.5, 2.5]).tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: WindowConfig(hop=4, num_clips=2), "hop=4 with num_clips=2"),
        (lambda: WindowConfig(hop=0), "hop must be at least 1"),
        (lambda: WindowConfig(num_crops=3), "goes with crop='spread' or 'even', not crop='center'"),
        (lambda: WindowConfig(num_frames=0), "num_frames=0 must be at least 1"),
        (lambda: WindowConfig(fps=-1.0), "fps=-1.0 must be positive"),
        (lambda: WindowPlan(WindowConfig(hop=4)), "cannot be batched: use num_clips"),
    ],
)
def test_refused_settings_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("rule", ["segments", "segments_videomae", "dense", "seconds"])
@pytest.mark.parametrize("num_frames", [1, 9, 70, 400])
def test_windows_of_a_rule_are_its_test_views(rule, num_frames):
    reader = CountingReader(num_frames)
    config = WindowConfig(sampling=rule, num_clips=3, num_frames=8, frame_stride=4, size=16)
    settings_ = {"num_clips": 3, "num_frames": 8, "frame_stride": 4, "fps": 10.0}
    expected = window_rule(rule, **settings_)(num_frames)
    found = list(windows.iterate_windows(RECORD, reader, config))
    assert [shown(w.clips[0]).tolist() for w in found] == [c.indices.tolist() for c in expected]
    for window, clip in zip(found, expected, strict=True):
        assert window.times.tolist() == (clip.indices / 10).tolist()
        assert window.valid.tolist() == clip.valid.tolist()
    assert len(reader.decoded) == len(set(reader.decoded))
    later = list(windows.iterate_windows(RECORD, CountingReader(num_frames), config, first=1))
    assert [w.clips.tobytes() for w in later] == [w.clips.tobytes() for w in found[1:]]


def test_a_rule_with_views_of_its_own_has_no_hop():
    with pytest.raises(ValueError, match=r"sampling='segments' goes with num_clips, not with hop"):
        WindowConfig(sampling="segments", hop=4)


def test_the_centre_may_be_smaller_than_the_short_side():
    config = WindowConfig(num_frames=2, frame_stride=1, size=8, center_share=0.5)
    (window,) = windows.iterate_windows(RECORD, CountingReader(20), config)
    ramp = np.linspace(0, 255, 32)
    assert window.clips[0, 0, 4, 0, 2] == pytest.approx(ramp[10:12].mean(), abs=6)
    assert window.clips[0, 0, 4, -1, 2] == pytest.approx(ramp[20:22].mean(), abs=6)
    for settings_ in ({"center_share": 0.0}, {"center_share": 0.5, "crop": "spread"}):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            WindowConfig(**settings_)


@pytest.mark.parametrize("sampling", get_args(Sampling))
@pytest.mark.parametrize("count", [1, 2, 5, 10, 40, 63, 64, 70])
@pytest.mark.parametrize("num_clips", [1, 2, 5])
def test_every_rule_shows_the_frames_that_it_names(sampling, count, num_clips):
    """Was wrong: rules that begin a short video again (looped, dmvr) ended embedding and training in a KeyError."""
    frames = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3)
    )
    config = WindowConfig(
        num_frames=16, frame_stride=4, num_clips=num_clips, sampling=sampling, size=8
    )
    reader = ArrayReader(np.ascontiguousarray(frames), fps=25.0)
    record = Record(index=0, id="a", source="a")
    windows = list(iterate_windows(record, reader, config))
    assert windows
    for window in windows:
        assert window.clips[0, :, 0, 0, 0].tolist() == window.indices.tolist()
    for number, window in enumerate(iterate_windows(record, reader, config, first=1), 1):
        assert np.array_equal(window.clips, windows[number].clips)


def test_frames_that_a_later_window_shows_are_kept():
    """Windows that begin a short video again, or lie between each other, need frames before their first ones."""
    clips = [
        ClipIndices(indices=np.array(own), valid=np.ones(3, bool)) for own in ([5, 7, 1], [6, 0, 2])
    ]
    layout = FixedLayout(clips, np.arange(9.0))
    assert [layout.lowest(number) for number in (0, 1)] == [0, 0]
    assert FixedLayout(clips[:1], np.arange(9.0)).lowest(0) == 1
