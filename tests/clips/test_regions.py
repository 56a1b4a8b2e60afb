"""Regions of frames, and where boxes lie after frames were changed."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.clips import box_transforms
from video_ssl.clips.box_transforms import Geometry, of_padding, of_region, of_scaling
from video_ssl.clips.crops import Region, view_frames
from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.clips.regions import (
    RandomRegions,
    Regions,
    SegmentRegions,
    TableRegions,
    carried,
    fitted,
    random_boxes,
    segment_boxes,
)
from video_ssl.clips.regions_config import RegionsConfig, SegmentConfig
from video_ssl.datasets.table import Record

NAN = [np.nan] * 4


class Reader:
    """Ten frames a second."""

    info = VideoInfo(
        num_frames=20,
        fps=10.0,
        width=24,
        height=20,
        duration_sec=2.0,
        codec="none",
        rotation=0,
        has_audio=False,
    )

    def times(self, indices):
        return np.asarray(indices) / 10


def frames(count=1, height=20, width=24):
    return np.zeros((count, height, width, 3), np.uint8)


def test_a_box_is_where_the_view_shows_its_pixels():
    picture = frames(1, 40, 60)
    picture[0, 10:26, 12:36] = 255
    box = np.array([[12 / 60, 10 / 40, 36 / 60, 26 / 40]])
    for flip in (False, True):
        region = Region(left=20, top=4, width=32, height=16, flip=flip)
        view = view_frames(picture, region, (32, 32))[0, :, :, 0] > 127
        found, valid = of_region(region, 40, 60, (32, 32)).boxes(box, flip=flip)
        rows, columns = np.nonzero(view)
        shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert valid.all()
        np.testing.assert_allclose(found[0] * 32, shown, atol=1.01)


def test_padding_then_scaling_is_one_step():
    step = of_padding(30, 60, top=15, left=0, size=(60, 60)).then(of_scaling(60, 60, (20, 20)))
    found, _ = step.boxes([[0, 0, 1, 1]])
    np.testing.assert_allclose(found, [[0, 0.25, 1, 0.75]])
    with pytest.raises(ValueError, match=r"second step is of frames of \(5, 5\)"):
        of_scaling(10, 10, (6, 6)).then(of_scaling(5, 5, (6, 6)))


@pytest.mark.parametrize(
    ("box", "there"),
    [
        ([0.2, 0.2, 0.4, 0.4], True),
        ([-0.5, -0.5, 0.4, 0.4], True),  # reaches out
        ([1.2, 0.2, 1.4, 0.4], False),  # outside
        ([0.4, 0.2, 0.2, 0.4], False),  # inverted
        ([0.2, 0.2, 0.2, 0.4], False),  # empty
        (NAN, False),
        ([-1, -1, -1, -1], False),  # padding of some tables
    ],
)
def test_what_is_no_box_is_no_region(box, there):
    found, valid = Geometry(original=(10, 20), target=(10, 20)).boxes([box])
    assert valid.tolist() == [there]
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    config = RegionsConfig(kind="table", count=2)
    record = Record(index=0, id="a", source="a.mp4", boxes=np.float32([[box]] * 20))
    regions = TableRegions(config, record, Reader(), [3])(frames(), np.random.default_rng(0))
    fit = fitted(
        carried(regions, Geometry(original=(1, 1), target=(1, 1)), flip=False), config, None
    )
    assert fit.mask.tolist() == [[there, False]]


def test_more_boxes_than_wanted_leave_the_surest():
    boxes = np.tile(np.float32([0, 0, 0.5, 0.5]), (1, 5, 1))
    boxes[0, :, 2] = np.arange(1, 6) / 10
    scores = np.float32([[0.1, 0.9, 0.2, np.nan, 0.8]])
    record = Record(
        index=0,
        id="a",
        source="a.mp4",
        boxes=boxes,
        box_scores=scores,
        box_times_sec=np.array([1.0]),
    )
    config = RegionsConfig(kind="table", count=2, min_score=0.15)
    found = TableRegions(config, record, Reader(), [10, 18])(frames(2), np.random.default_rng(0))
    fit = fitted(found, config, np.random.default_rng(0))
    assert fit.mask.tolist() == [[True, True], [False, False]]  # 0.8 s from the only key frame
    np.testing.assert_allclose(fit.boxes[0, :, 2], [0.2, 0.5])
    plain = Record(index=0, id="a", source="a.mp4", boxes=np.repeat(boxes, 20, 0))
    chosen = {
        tuple(
            TableRegions(config, plain, Reader(), [0])(frames(), np.random.default_rng(s)).boxes[
                0, :2, 2
            ]
        )
        for s in range(20)
    }
    assert len(chosen) > 5  # without scores any of them


def test_a_record_without_boxes_has_no_regions_unless_they_are_made_up():
    record = Record(index=0, id="a", source="a.mp4")
    for fill, there in (("none", False), ("random", True)):
        config = RegionsConfig(kind="table", count=3, fill=fill)
        found = TableRegions(config, record, Reader(), [0])(frames(), np.random.default_rng(0))
        assert fitted(found, config, np.random.default_rng(0)).mask.all() == there


def test_random_boxes_follow_their_law():
    config = RegionsConfig(count=4000)
    boxes, mask = RandomRegions(config)(frames(2), np.random.default_rng(0))
    assert boxes.shape == (2, 4000, 4)
    assert 0.0002 < 1 - mask.mean() < 0.003  # inverted: a corner beyond 0.999
    inside = boxes[(boxes[..., 2:] < 0.999).all(-1)]
    sides = inside[:, 2:] - inside[:, :2]
    assert sides[:, 0].min() >= 0.1 - 1e-6
    assert sides[:, 0].max() <= 0.5 + 1e-6
    ratio = sides[:, 1] / sides[:, 0]
    assert ratio.min() >= 0.5 - 1e-3
    assert ratio.max() <= 2 + 1e-3
    assert abs(np.corrcoef(boxes[0, :, 0], boxes[0, :, 1])[0, 1]) < 0.1
    legacy = RandomRegions(RegionsConfig(count=50, correlated=True))
    on_diagonal, _ = legacy(frames(), np.random.default_rng(0))
    np.testing.assert_array_equal(on_diagonal[..., 0], on_diagonal[..., 1])
    again = random_boxes(np.broadcast_to(on_diagonal[..., 0], (4, 1, 50)))
    np.testing.assert_allclose(on_diagonal, again)


def test_padding_is_last_and_regions_keep_their_order():
    boxes = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    found = fitted(
        Regions(boxes, np.array([[False, True, True]])),
        RegionsConfig(count=4),
        np.random.default_rng(0),
    )
    assert found.mask.tolist() == [[True, True, False, False]]
    np.testing.assert_array_equal(found.boxes[0, :2], boxes[0, 1:])


def test_segments_find_what_stands_out():
    pytest.importorskip("skimage", reason="needs scikit-image: pip install 'video_ssl[segments]'")
    picture = np.full((60, 80, 3), 30, np.uint8)
    picture[12:44, 24:60] = (220, 40, 40)
    boxes = segment_boxes(picture, SegmentConfig(num_segments=6, compactness=1.0))
    wanted = [24 / 80, 12 / 60, 60 / 80, 44 / 60]
    assert np.abs(boxes - wanted).max(1).min() < 0.05
    made = SegmentRegions(SegmentConfig())(frames(2, 60, 80), np.random.default_rng(0))
    assert made.mask.any(1).all()
    assert box_transforms.has_area(made.boxes[made.mask]).all()


def test_segments_without_their_library_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"video_ssl\[segments\]"):
        SegmentRegions(SegmentConfig())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"count": 0}, "count=0: there must be at least one region"),
        ({"kind": "boxes"}, "kind='boxes' must be one of random, segments, table"),
        ({"fill": "zeros"}, "fill='zeros' must be one of"),
        ({"width": (0.5, 0.1)}, "the smaller one first"),
        ({"width": (0.5, 1.5)}, "not above 1"),
        ({"aspect": (0.0, 2.0)}, "two positive numbers"),
        ({"max_distance_sec": -1}, "must not be negative"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        RegionsConfig(**settings)
