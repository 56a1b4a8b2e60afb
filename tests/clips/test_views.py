"""From settings to views: which rule a `sampling:` means, views of one clip, and tables that forbid the mirror."""

import typing

import numpy as np
import pytest

from video_ssl.clips.config import ClipConfig, CropConfig, Sampling
from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.clips.sampling import one_clip as sampling
from video_ssl.clips.sampling import seconds as time_sampling
from video_ssl.clips.sampling.clip_rules import window_rule
from video_ssl.clips.sampling.dmvr import dmvr_clip
from video_ssl.clips.sampling.parts import part_clips
from video_ssl.clips.views import sample_clip_views, sample_clips
from video_ssl.datasets.table import Record, Table

RECORD = Record(index=0, id="a", source="a.mp4")
RULES = typing.get_args(Sampling)


class FlatReader:
    """Frame i is i in red; green rises from left to right, blue from top to bottom."""

    def __init__(self, num_frames=100, fps=30.0, height=40, width=60):
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
        self.decoded = []

    def frames(self, indices, size=None):
        assert size is None
        self.decoded += list(indices)
        frames = np.empty((len(indices), self.info.height, self.info.width, 3), np.uint8)
        frames[..., 0] = np.asarray(indices)[:, None, None]
        frames[..., 1] = np.arange(self.info.width) * 4
        frames[..., 2] = np.arange(self.info.height)[:, None] * 4
        return frames

    def times(self, indices):
        return np.asarray(indices) / self.info.fps


def chosen(config, num_frames=100, fps=30.0, seed=0):
    reader = FlatReader(num_frames, fps)
    clips = sample_clips(RECORD, reader, np.random.default_rng(seed), config)
    return [clip.indices.tolist() for clip in clips]


# Which rule ---------------------------------------------------------------------------------------


def test_each_sampling_is_its_rule():
    shape = {"num_frames": 8, "frame_stride": 3}
    one = np.random.default_rng(4).random(1)
    many = np.random.default_rng(4).random(8)
    expected = {
        "constant": sampling.sample_constant_clips(100, one, **shape)[0],
        "reference": sampling.sample_reference_clips(100, one, **shape)[0],
        "dense": sampling.reference_dense_clip(100, one[0], **shape),
        "segments": sampling.sample_segment_clip(100, many, rule="mvd"),
        "segments_videomae": sampling.sample_segment_clip(100, many, rule="videomae"),
        "looped": sampling.looped_clip(100, one[0], **shape),
        "seconds": time_sampling.seconds_clip(100, 30.0, one[0], **shape),
        "dmvr": dmvr_clip(100, one[0], **shape),
        "parts": part_clips(100, one, num_clips=1, **shape)[0],
    }
    assert set(expected) == set(RULES)
    found = {rule: chosen(ClipConfig(sampling=rule, **shape), seed=4)[0] for rule in RULES}
    assert found == {rule: clip.indices.tolist() for rule, clip in expected.items()}
    # Of this video and draw these begin where another rule does; a clip from the only part is a "dense" one.
    alike = {"looped", "dmvr", "parts"}
    others = {tuple(indices) for rule, indices in found.items() if rule not in alike}
    assert len(others) == len(RULES) - len(alike)


def test_clips_of_parts_are_each_from_their_own():
    config = ClipConfig(sampling="parts", num_frames=8, frame_stride=3, num_clips=3)
    clips = np.array([chosen(config, 120, seed=seed) for seed in range(40)])
    assert (clips[..., 0] >= [0, 40, 80]).all()
    assert (clips[..., -1] < [40, 80, 120]).all()
    assert (clips.min((0, 2)) == [0, 40, 80]).all()
    tested = window_rule("parts", num_clips=3, num_frames=8, frame_stride=3, fps=30.0)(120)
    assert [int(clip.indices[0]) for clip in tested] == [7, 47, 87]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_frames", [1, 7, 33, 500])
def test_every_sampling_gives_frames_of_the_video_for_every_clip(rule, num_frames):
    config = ClipConfig(sampling=rule, num_frames=8, frame_stride=4, num_clips=3)
    for seed in range(5):
        clips = chosen(config, num_frames, seed=seed)
        assert len(clips) == 3
        for indices in clips:
            assert len(indices) == 8
            assert indices[0] >= 0
            if rule not in ("looped", "dmvr"):  # which begin again where the video ends
                assert indices == sorted(indices)
            assert max(indices) < num_frames


def test_segments_see_the_whole_video_and_clips_draw_on_their_own():
    config = ClipConfig(sampling="segments", num_frames=10, num_clips=2)
    clips = np.array([chosen(config, 200, seed=seed) for seed in range(50)])
    assert (clips[..., 0] <= 20).all()
    assert (clips[..., -1] >= 179).all()
    assert clips.max() == 199
    assert (clips[:, 0] != clips[:, 1]).any(1).all()


@pytest.mark.parametrize("fps", [10.0, 24.0, 60.0])
def test_seconds_last_equally_long_at_any_rate(fps):
    config = ClipConfig(sampling="seconds", num_frames=16, frame_stride=4)
    indices = chosen(config, round(10 * fps), fps)[0]
    assert (indices[-1] - indices[0]) / fps == pytest.approx(64 / 30, abs=2 / fps)
    slow = ClipConfig(sampling="seconds", num_frames=16, frame_stride=4, fps=15.0)
    indices = chosen(slow, round(10 * fps), fps)[0]
    assert (indices[-1] - indices[0]) / fps == pytest.approx(64 / 15, abs=2 / fps)


def test_rules_with_their_own_way_with_short_videos_refuse_another():
    for rule in set(RULES) - {"constant"}:
        with pytest.raises(ValueError, match="goes with sampling='constant'"):
            ClipConfig(sampling=rule, short_video="error")


def test_test_views_go_with_the_training():
    settings = {"num_clips": 5, "num_frames": 16, "frame_stride": 4, "fps": 30.0}
    assert window_rule("constant", **settings) is None
    assert window_rule("reference", **settings) is None
    for rule in ("dense", "segments", "segments_videomae", "seconds"):
        views = window_rule(rule, **settings)(300)
        assert len(views) == 5
        assert [v.indices.tolist() for v in views] == [
            v.indices.tolist() for v in window_rule(rule, **settings)(300)
        ]
    dense = window_rule("dense", **settings)(300)
    assert [view.indices[0] for view in dense] == [0, 56, 116, 176, 236]
    assert all((np.diff(view.indices) == 4).all() for view in dense)


# Views of a clip ----------------------------------------------------------------------------------


def views_of(record=RECORD, seed=0, flip=0.5, **clip):
    reader = FlatReader()
    crop = CropConfig(kind="random_resized", size=16, area=(0.2, 0.6), flip_probability=flip)
    config = ClipConfig(num_frames=4, frame_stride=2, **clip)
    (video,) = sample_clip_views(
        record, reader, np.random.default_rng(seed), clip=config, crop=crop
    )
    return video, reader


def test_views_of_a_clip_show_the_same_frames_elsewhere_and_are_decoded_once():
    video, reader = views_of(num_clips=2, views_per_clip=3)
    assert video.shape == (6, 4, 16, 16, 3)
    numbers = video[..., 0, 0, 0].reshape(2, 3, 4)
    assert (numbers == numbers[:, :1]).all()
    assert (numbers[0] != numbers[1]).all()
    assert len(reader.decoded) == len(set(reader.decoded)) == 8
    assert len({view[0, ..., 1:].tobytes() for view in video}) == 6


def test_one_view_per_clip_draws_as_before():
    video, _ = views_of(num_clips=2, seed=7)
    rng = np.random.default_rng(7)
    starts = [
        c.indices[0]
        for c in sampling.sample_constant_clips(100, rng.random(2), num_frames=4, frame_stride=2)
    ]
    assert video[:, 0, 0, 0, 0].tolist() == starts


def mirrored(video):
    return video[..., 0, 0, 1].astype(int) > video[..., 0, -1, 1]


def test_shuffled_views_show_the_frames_of_the_others_each_in_an_order_of_its_own():
    def made(**settings):
        clip = ClipConfig(num_frames=8, frame_stride=2, views_per_clip=2, **settings)
        rng, reader = np.random.default_rng(5), FlatReader()
        small, large = sample_clip_views(
            RECORD, reader, rng, clip=clip, crop=CropConfig(size=8), sizes=(8, 16)
        )
        assert np.array_equal(small[..., 0, 0, 0], large[..., 0, 0, 0])
        return small

    ordered, shuffled = made(), made(shuffle_frames=True)
    frames = shuffled[..., 0, 0, 0]
    assert not (np.diff(frames.astype(int)) > 0).all(1).any()
    assert frames[0].tolist() != frames[1].tolist()
    for view, same in zip(shuffled, ordered, strict=True):
        assert np.array_equal(view[np.argsort(view[:, 0, 0, 0])], same)


def test_a_table_that_forbids_the_mirror_wins():
    bound = Table.from_rows([{"source": "a.mp4"}, {"source": "b.mp4"}], no_flip=True)
    free = Table.from_rows([{"source": "a.mp4"}])
    assert bound.no_flip
    assert not free.no_flip
    assert bound.select([1]).record(0).no_flip
    for seed in range(8):
        assert not mirrored(views_of(bound.record(0), seed, flip=1.0)[0]).any()
        assert mirrored(views_of(free.record(0), seed, flip=1.0)[0]).all()


def test_no_flip_survives_the_file(tmp_path):
    Table.from_rows([{"source": "a.mp4"}], no_flip=True).save(tmp_path / "t.arrow")
    assert Table.open(tmp_path / "t.arrow").record(0).no_flip
