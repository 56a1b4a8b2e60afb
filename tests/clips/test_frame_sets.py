"""Frame sets: every law of CARL's sheet, and the shares that were measured on its code."""

import numpy as np
import pytest

from video_ssl.clips.sampling.frame_sets import (
    FrameSetConfig,
    context_indices,
    offset_bounds,
    offset_uniform,
    sample_frame_sets,
    time_augment,
)

LENGTHS = [1, 2, 3, 7, 40, 79, 80, 81, 300]


def draws(num_source, num_frames, count=200, seed=0, **settings):
    rng = np.random.default_rng(seed)
    return [time_augment(num_source, num_frames, rng, **settings) for _ in range(count)]


@pytest.mark.parametrize("block_from", ["video", "clip"])
@pytest.mark.parametrize("length", LENGTHS)
def test_steps_ascend_inside_the_video_and_slots_without_a_frame_come_last(length, block_from):
    for view in (v for pair in draws(length, 80, block_from=block_from) for v in pair):
        assert view.steps.dtype == np.int64
        assert view.steps.shape == view.valid.shape == (80,)
        count = int(view.valid.sum())
        assert 1 <= count <= min(length, 80)
        assert view.valid[:count].all()
        assert (np.diff(view.steps[:count]) > 0).all()
        assert view.steps[0] >= 0
        assert view.steps[:count].max() < length
        assert (view.steps[count:] == length - 1).all()


def test_views_of_a_video_of_one_frame_are_drawn_until_they_show_it():
    for first, second in draws(1, 4):
        assert first.valid.tolist() == second.valid.tolist() == [True, False, False, False]
        assert first.steps.tolist() == [0, 0, 0, 0]


def test_valid_shares_measured_on_the_reference():
    """Penn Action: 0.81 in the mean and 0.58 at least for videos of T frames and more; 0.40 for L = 40."""
    long = [v.valid.mean() for n in (80, 120, 663) for pair in draws(n, 80, 300) for v in pair]
    assert abs(np.mean(long) - 0.81) < 0.01
    assert 0.5 < min(long) < 0.65
    short = [v.valid.mean() for pair in draws(40, 80, 500) for v in pair]
    assert abs(np.mean(short) - 0.40) < 0.01


@pytest.mark.parametrize(("length", "share"), [(800, 0.17), (2000, 0.21)])
def test_frames_without_counterpart_measured_on_the_reference(length, share):
    """FineGym: nothing is padded, but some frames have no frame of the other view within 42."""
    lonely = []
    for first, second in draws(length, 240, 1500, block_from="clip"):
        assert first.valid.all()
        assert second.valid.all()
        gaps = np.abs(first.steps[:, None] - second.steps)
        lonely += [(gaps.min(1) > 42).mean(), (gaps.min(0) > 42).mean()]
    assert abs(np.mean(lonely) - share) < 0.015


def test_blocks_from_the_clip_are_short_and_from_the_video_cover_it():
    spans = {
        kind: np.array(
            [np.ptp(v.steps[v.valid]) for p in draws(1000, 50, block_from=kind) for v in p]
        )
        for kind in ("clip", "video")
    }
    assert spans["clip"].min() > 40
    assert spans["clip"].max() < 75
    assert spans["video"].min() > 700
    # r is uniform in [1, 1.5): the mean block is 62.5 frames, of which the ends are rarely drawn.
    assert abs(spans["clip"].mean() - (62.5 - 3)) < 2


def test_begin_of_the_second_view_stays_near_the_first():
    shift = int(0.8 * 50)
    for first, second in draws(2000, 50, 400, block_from="clip"):
        # The offset lies within the shift; the first sampled frame of the view may lie behind it.
        assert second.steps[0] - first.steps[0] >= -shift
        assert second.steps[0] - first.steps[0] <= shift + 30
    together = draws(2000, 50, 200, block_from="clip", min_overlap=1.0)
    assert max(abs(int(b.steps[0]) - int(a.steps[0])) for a, b in together) < 30
    assert max(int(a.steps[0]) for a, _ in together) > 1500


@pytest.mark.parametrize(
    ("length", "block", "near", "bounds"),
    [
        (100, 40, None, (0, 60)),  # the last begin that fits, 60, is never drawn
        (100, 100, None, (0, 1)),
        (100, 130, None, (0, 1)),
        (100, 40, (50 - 16, 16), (34, 61)),
        (100, 40, (10 - 16, 16), (0, 27)),
        (100, 40, (95 - 16, 16), (60, 61)),
        (100, 130, (2 - 16, 16), (0, 1)),
    ],
)
def test_bounds_of_the_begin_of_a_block(length, block, near, bounds):
    assert offset_bounds(length, block, near) == bounds


def test_offset_uniform_covers_the_video_evenly_and_shows_a_short_one_whole():
    rng = np.random.default_rng(0)
    sets = [offset_uniform(50, 20, rng) for _ in range(500)]
    assert all((np.diff(s.steps) > 0).all() and s.valid.all() for s in sets)
    counts = np.bincount(np.concatenate([s.steps for s in sets]), minlength=50)
    assert counts.min() > 150
    assert counts.max() < 250
    short = offset_uniform(3, 5, rng)
    assert short.steps.tolist() == [0, 1, 2, 2, 2]
    assert short.valid.tolist() == [True, True, True, False, False]


def test_contexts_lie_before_the_frame_and_inside_the_video():
    found = context_indices(np.array([0, 14, 31]), 32, num_contexts=3, stride=15)
    assert found.tolist() == [[0, 0, 0], [0, 0, 14], [1, 16, 31]]
    assert context_indices(np.array([4]), 9, num_contexts=1, stride=15).tolist() == [[4]]


def test_views_are_made_of_the_generator_and_of_the_settings():
    config = FrameSetConfig(kind="offset_uniform", num_frames=5, num_views=3)
    first, again, other = (
        sample_frame_sets(90, np.random.default_rng(seed), config) for seed in (1, 1, 2)
    )
    assert len(first) == 3
    assert all(np.array_equal(a.steps, b.steps) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.steps, b.steps) for a, b in zip(first, other, strict=True))
    pair = sample_frame_sets(90, np.random.default_rng(0), FrameSetConfig(num_frames=5))
    assert len(pair) == 2


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: time_augment(0, 4, np.random.default_rng(0)), "has 0 frames"),
        (lambda: offset_uniform(4, 0, np.random.default_rng(0)), "num_frames=0 must be"),
        (lambda: FrameSetConfig(num_views=3), "num_views=3: kind='time_augment' makes a pair"),
        (lambda: FrameSetConfig(max_block=0.5), "max_block=0.5 must be at least 1"),
        (lambda: FrameSetConfig(min_overlap=1.5), r"min_overlap=1.5 must lie in \[0, 1\]"),
        (lambda: FrameSetConfig(block_from="all"), "block_from='all' must be one of"),
    ],
)
def test_refused_settings_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("length", [1, 3, 10, 300])
def test_positives_lie_shortly_before_their_anchors(length):
    """T/2 different anchors in order, a positive of each 1 to 5 frames before; before the first frame: that frame."""
    config = FrameSetConfig(kind="anchor_positive", num_frames=20, num_views=2)
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(100):
        for view in sample_frame_sets(length, rng, config):
            anchors, positives = view.steps[0::2], view.steps[1::2]
            own = view.valid[0::2]
            assert (np.diff(anchors[own]) > 0).all()
            assert own.sum() == min(10, length)
            assert (anchors[~own] == length - 1).all()
            inside = view.valid & view.valid.reshape(-1, 2).all(1).repeat(2)
            gaps += (anchors - positives)[inside[0::2]].tolist()
            assert view.steps.min() >= 0
            assert (positives[~view.valid[1::2] & own] == 0).all()
    assert set(gaps) == set(range(1, 6)) & set(range(1, length)) | ({*()} if length > 1 else set())


def test_one_view_of_time_augment_is_the_first_of_two():
    one, two = (
        sample_frame_sets(
            50, np.random.default_rng(3), FrameSetConfig(num_frames=20, num_views=views)
        )
        for views in (1, 2)
    )
    assert len(one) == 1
    assert np.array_equal(one[0].steps, two[0].steps)
