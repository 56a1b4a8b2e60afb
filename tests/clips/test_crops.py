"""Crops: pixels that a slow version agrees with, boxes that stay on their pixels.

The numbers of the references are in tests/golden/test_sampling.py.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from video_ssl.clips import crops
from video_ssl.clips.config import CropConfig
from video_ssl.clips.crops import Region

# Regions ----------------------------------------------------------------------------------------

sides = st.integers(8, 300)
kinds = st.sampled_from(["multi_scale", "random_resized", "height_first", "center", "whole", "vgg"])


@given(sides, sides, kinds, st.integers(4, 256), st.integers(0, 2**32), st.floats(0, 1))
def test_regions_lie_inside_the_frame(height, width, kind, size, seed, flip):
    config = CropConfig(kind=kind, size=size, flip_probability=flip)
    region = crops.sample_region(height, width, config, np.random.default_rng(seed))
    assert region.left >= 0
    assert region.top >= 0
    assert region.left + region.width <= width
    assert region.top + region.height <= height


def test_the_whole_frame_is_squeezed():
    config = CropConfig(kind="whole", size=8, flip_probability=1.0)
    region = crops.sample_region(20, 50, config, np.random.default_rng(0))
    assert (region.top, region.left, region.height, region.width) == (0, 0, 20, 50)
    assert region.flip


@pytest.mark.parametrize("base", [221, 222, 223, 224, 225, 226, 227])
def test_a_side_near_the_size_is_the_size_unless_the_frame_is_smaller(base):
    whole = crops.multi_scale_regions(base, 300, size=224)[0][0]
    near = min(base, 224) if abs(base - 224) < 3 else base
    assert (whole.width, whole.height) == (near, near)


def draws(config, height=96, width=128, count=4000):
    rng = np.random.default_rng(0)
    return [crops.sample_region(height, width, config, rng) for _ in range(count)]


def test_every_multi_scale_candidate_is_drawn_equally_often():
    config = CropConfig(size=64)
    candidates = [r for pair in crops.multi_scale_regions(96, 128, size=64) for r in pair]
    expected = {r: candidates.count(r) / len(candidates) for r in candidates}
    drawn = draws(config, count=13000)
    assert set(drawn) == set(expected)
    for region, share in expected.items():
        deviation = np.sqrt(share * (1 - share) / len(drawn))
        assert drawn.count(region) / len(drawn) == pytest.approx(share, abs=5 * deviation)


def test_random_resized_regions_have_the_asked_area_and_aspect():
    config = CropConfig(kind="random_resized", area=(0.3, 0.6), aspect=(0.8, 1.25))
    drawn = draws(config, height=400, width=500)
    area = np.array([r.width * r.height / (400 * 500) for r in drawn])
    aspect = np.array([r.width / r.height for r in drawn])
    assert 0.295 < area.min() < 0.31
    assert 0.59 < area.max() < 0.605
    assert 0.795 < aspect.min() < 0.82
    assert 1.22 < aspect.max() < 1.26
    # Half of the crops are wider than high, as a log-uniform aspect around 1 promises.
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.01)


def test_a_random_resized_crop_that_never_fits_is_central():
    rng = np.random.default_rng(0)
    region = crops.sample_random_resized(100, 10, rng, area=(0.9, 1.0), aspect=(0.8, 1.2))
    assert region == Region(left=0, top=44, width=10, height=12)


def test_height_first_regions_follow_the_law_of_tensorflow():
    # papers/cvrl.md 2.2: uniform aspect, then a uniform height; on a square frame the mean area is 0.49.
    config = CropConfig(kind="height_first", area=(0.3, 1.0), aspect=(0.5, 2.0))
    drawn = draws(config, height=256, width=256)
    area = np.array([r.width * r.height / 256**2 for r in drawn])
    aspect = np.array([r.width / r.height for r in drawn])
    assert area.min() >= 0.3
    assert area.mean() == pytest.approx(0.49, abs=0.015)
    assert aspect.mean() == pytest.approx(1.25, abs=0.03)  # uniform, not log-uniform
    one = [r for r in drawn if abs(r.width / r.height - 1) < 0.05]
    assert np.mean([r.height for r in one]) == pytest.approx((140 + 256) / 2, abs=8)
    never = crops.sample_height_first(
        100, 10, np.random.default_rng(0), area=(0.9, 1.0), aspect=(0.8, 1.2)
    )
    assert never == crops.whole_region(100, 10)


def test_a_square_of_a_stretched_frame_has_one_whole_side():
    """papers/vatt.md 2, the code's crop: four of five views are stretched by uniforms of their own in 0.8 .. 1.2."""
    drawn = draws(CropConfig(kind="vgg"), height=900, width=1600)
    assert all(r.height == 900 for r in drawn)  # 1600 stays the longer side under any stretch
    stretched = [r for r in drawn if r.width != 900]
    assert len(stretched) / len(drawn) == pytest.approx(0.8, abs=0.03)
    aspect = np.array([r.width / r.height for r in stretched])
    rng = np.random.default_rng(1)
    wanted = rng.uniform(0.8, 1.2, 10**5) / rng.uniform(0.8, 1.2, 10**5)
    marks = (0.02, 0.1, 0.5, 0.9, 0.98)
    np.testing.assert_allclose(np.quantile(aspect, marks), np.quantile(wanted, marks), atol=0.02)
    place = np.array([r.left / (1600 - r.width) for r in drawn])
    assert place.min() < 0.01
    assert place.max() > 0.99
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    either = draws(CropConfig(kind="vgg"), height=1000, width=1040, count=500)
    assert all(r.height == 1000 or r.width == 1040 for r in either)
    assert {r.height == 1000 for r in either} == {True, False}


def test_data_that_forbid_the_mirror_win_and_shift_no_draw():
    config = CropConfig(kind="random_resized", flip_probability=0.5)
    free, bound = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(40):
        region = crops.sample_region(96, 128, config, free)
        same = crops.sample_region(96, 128, config, bound, may_flip=False)
        assert not same.flip
        assert (same.left, same.top, same.width) == (region.left, region.top, region.width)
    assert free.random() == bound.random()


def test_the_flip_follows_its_probability_and_zero_forbids_it():
    flips = np.mean([r.flip for r in draws(CropConfig(flip_probability=0.5))])
    assert flips == pytest.approx(0.5, abs=0.04)
    assert not any(r.flip for r in draws(CropConfig(kind="random_resized", flip_probability=0.0)))
    assert all(r.flip for r in draws(CropConfig(flip_probability=1.0), count=50))


@given(sides, sides, st.integers(1, 300))
def test_the_short_side_is_exact_and_the_aspect_kept(height, width, short):
    h, w = crops.short_side_size(height, width, short)
    assert min(h, w) == short
    assert max(h, w) == int(short * max(height, width) / min(height, width))
    assert (h >= w) == (height >= width) or h == w


# Pixels -----------------------------------------------------------------------------------------


def noise(t, h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (t, h, w, 3), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (50, 20), (97, 130)])
def test_a_view_is_crop_then_resize_of_every_frame(size):
    frames = noise(3, 60, 80)
    region = Region(left=11, top=7, width=40, height=50)
    view = crops.view_frames(frames, region, size)
    assert view.shape == (3, *size, 3)
    assert view.dtype == np.uint8
    for ours, frame in zip(view, frames, strict=True):
        cut = Image.fromarray(frame).crop((11, 7, 51, 57))
        assert np.array_equal(ours, cut.resize(size[::-1], Image.Resampling.BILINEAR))


def test_shrinking_averages_over_the_pixels_in_between():
    # A checkerboard of single pixels: a filter that does not average would give black, white or
    # moiré.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    frames = np.repeat(board[None, ..., None], 3, -1)
    small = crops.resize_frames(frames, (16, 16))
    assert np.abs(small.astype(int) - 127).max() <= 4


def test_pixels_outside_the_region_have_no_influence():
    frames = noise(1, 40, 40)
    region = Region(left=10, top=10, width=20, height=20)
    other = noise(1, 40, 40, seed=1)
    other[:, 10:30, 10:30] = frames[:, 10:30, 10:30]
    assert np.array_equal(
        crops.view_frames(frames, region, 13), crops.view_frames(other, region, 13)
    )


def test_a_flip_mirrors_columns_only_and_the_same_in_every_frame():
    frames = noise(2, 20, 30)
    plain = Region(left=3, top=2, width=16, height=16)
    flipped = Region(left=3, top=2, width=16, height=16, flip=True)
    assert np.array_equal(
        crops.view_frames(frames, flipped, 16), crops.view_frames(frames, plain, 16)[:, :, ::-1]
    )
    half = [crops.view_frames(frames, region, 8).astype(int) for region in (flipped, plain)]
    assert np.abs(half[0] - half[1][:, :, ::-1]).max() <= 1


# Boxes ------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_boxes_stay_on_their_pixels(data):
    height, width = data.draw(st.integers(40, 120)), data.draw(st.integers(40, 120))
    x0, y0 = data.draw(st.integers(0, width - 8)), data.draw(st.integers(0, height - 8))
    x1, y1 = data.draw(st.integers(x0 + 6, width)), data.draw(st.integers(y0 + 6, height))
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[:, y0:y1, x0:x1] = 255
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    config = CropConfig(kind="random_resized", size=64, flip_probability=0.5)
    region = crops.sample_region(height, width, config, rng)
    view = crops.view_frames(frames, region, 64)[0, ..., 0] / 255.0
    box = np.array([x0 / width, y0 / height, x1 / width, y1 / height])
    moved, share = crops.view_boxes(box, region, height, width)

    overlap = crops.crop_frames(frames, region)[..., 0].sum() / 255
    assert share == pytest.approx(overlap / ((x1 - x0) * (y1 - y0)), abs=1e-5)
    rows, columns = view.max(1), view.max(0)
    tolerance = 1.5 * max(1.0, 64 / min(region.width, region.height))
    if overlap == 0:
        assert view.max() == 0
        assert (moved[2] - moved[0]) * (moved[3] - moved[1]) == 0
    else:
        # Half the brightness marks the border of a blurred edge.
        seen_x = np.flatnonzero(columns > 0.5 * columns.max())[[0, -1]] + [0, 1]
        seen_y = np.flatnonzero(rows > 0.5 * rows.max())[[0, -1]] + [0, 1]
        assert moved[[0, 2]] * 64 == pytest.approx(seen_x, abs=tolerance)
        assert moved[[1, 3]] * 64 == pytest.approx(seen_y, abs=tolerance)


def test_boxes_in_closed_form():
    boxes = np.array([[[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.25, 0.5], [np.nan] * 4]])
    region = Region(left=50, top=0, width=50, height=100, flip=True)
    moved, share = crops.view_boxes(boxes, region, 100, 100)
    assert moved[0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert moved[0, 1].tolist() == [
        1.0,
        0.0,
        1.0,
        0.5,
    ]  # left of the region, so at the right of the mirror
    assert np.isnan(moved[0, 2]).all()
    assert share.tolist() == [[1.0, 0.0, 0.0]]


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: crops.crop_frames(noise(1, 8, 8), Region(left=4, top=0, width=8, height=4)),
            "reaches out of frames of 8x8",
        ),
        (lambda: Region(left=-1, top=0, width=4, height=4), "must begin inside the frame"),
        (
            lambda: crops.resize_frames(np.zeros((1, 4, 4, 3)), (2, 2)),
            r"uint8 \(T, H, W, 3\), got float64",
        ),
        (
            lambda: crops.view_boxes(np.zeros(5), Region(left=0, top=0, width=1, height=1), 1, 1),
            r"got \(5,\)",
        ),
        (
            lambda: crops.spread_crop_region(20, 30, size=24, crop=0, num_crops=3),
            "resize the short side to 24",
        ),
        (
            lambda: crops.spread_crop_region(24, 30, size=24, crop=3, num_crops=3),
            "count crops from 0",
        ),
        (lambda: crops.multi_scale_regions(1, 30, size=24), "leave no pixel of a frame of 30x1"),
    ],
)
def test_refusals_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()
