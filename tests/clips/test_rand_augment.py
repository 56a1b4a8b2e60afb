"""RandAugment: what each operation does to pixels, by hand; what is drawn; and that a clip changes as one."""

import numpy as np
import pytest

from video_ssl.clips.config import ClipConfig, CropConfig
from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.clips.rand_augment import (
    OPERATIONS,
    Change,
    RandAugmentConfig,
    apply_changes,
    sample_changes,
)
from video_ssl.clips.views import sample_clip_views
from video_ssl.datasets.table import Record

HEIGHT, WIDTH = 40, 60


def noise(frames=2):
    """Neither black nor white, brighter in red than in blue."""
    rng = np.random.default_rng(3)
    return (rng.integers(0, 150, (frames, HEIGHT, WIDTH, 3)) + [60, 30, 10]).astype(np.uint8)


def ramp():
    """3 x + 1 y: what a bicubic filter leaves as it is, wherever it looks."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.repeat((x * 3.0 + y)[None, ..., None], 3, -1).astype(np.uint8)


def grey(frame):
    return np.floor(frame @ [0.299, 0.587, 0.114] + 0.5)[..., None]


def stretched(frame):
    low, high = frame.min((0, 1)), frame.max((0, 1))
    return np.floor((frame - low) * (255.0 / (high - low)))


def equalized(frame):
    out = np.empty(frame.shape)
    for c in range(3):
        counts = np.bincount(frame[..., c].astype(int).ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        below = np.concatenate([[0], counts.cumsum()[:-1]])
        out[..., c] = ((step // 2 + below) // step)[frame[..., c].astype(int)]
    return out


def smoothed(frame):
    out, inner = frame.copy(), frame[1:-1, 1:-1] * 4
    for dy in range(3):
        for dx in range(3):
            inner = inner + frame[dy : dy + HEIGHT - 2, dx : dx + WIDTH - 2]
    out[1:-1, 1:-1] = np.floor(inner / 13 + 0.5)
    return out


#: Operation -> what becomes of a frame (float64) at magnitude m with sign s.
BY_HAND = {
    "autocontrast": lambda x, m, s: stretched(x),
    "equalize": lambda x, m, s: equalized(x),
    "invert": lambda x, m, s: 255 - x,
    "posterize": lambda x, m, s: x - x % 2 ** (8 - (4 - int(0.4 * m))),
    "solarize": lambda x, m, s: np.where(x >= 256 - int(25.6 * m), 255 - x, x),
    "solarize_add": lambda x, m, s: np.where(x < 128, np.minimum(x + int(11 * m), 255), x),
    "color": lambda x, m, s: grey(x) + (x - grey(x)) * (1 + s * 0.09 * m),
    "contrast": lambda x, m, s: (
        np.floor(grey(x).mean() + 0.5) + (x - np.floor(grey(x).mean() + 0.5)) * (1 + s * 0.09 * m)
    ),
    "brightness": lambda x, m, s: x * (1 + s * 0.09 * m),
    "sharpness": lambda x, m, s: smoothed(x) + (x - smoothed(x)) * (1 + s * 0.09 * m),
}


@pytest.mark.parametrize("magnitude", [3.0, 7.0])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", BY_HAND)
def test_colors_by_hand(name, sign, magnitude):
    frames = noise()
    before = frames.copy()
    found = apply_changes(frames, [Change(name, magnitude, sign)]).astype(float)
    wanted = np.stack([BY_HAND[name](x, magnitude, sign) for x in frames.astype(float)])
    assert np.abs(found - wanted.clip(0, 255)).max() <= 1.7  # the grey is rounded to a level first
    assert np.abs(found - frames).mean() > 2
    assert np.array_equal(frames, before)


#: Operation -> where a pixel (x, y), counted from the middle of the first, is taken from.
GEOMETRY = {
    "shear_x": lambda x, y, m, s: (x + s * 0.03 * m * (y + 0.5), y),
    "shear_y": lambda x, y, m, s: (x, y + s * 0.03 * m * (x + 0.5)),
    "translate_x": lambda x, y, m, s: (x + s * 0.045 * m * WIDTH, y),
    "translate_y": lambda x, y, m, s: (x, y + s * 0.045 * m * HEIGHT),
}


def turned(x, y, m, s):
    """About the middle; a positive angle turns the picture against the clock."""
    angle, dx, dy = np.deg2rad(s * 3 * m), x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * dx - sin * dy + (WIDTH - 1) / 2, sin * dx + cos * dy + (HEIGHT - 1) / 2


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", [*GEOMETRY, "rotate"])
def test_geometry_by_hand(name, sign):
    (found,) = apply_changes(ramp(), [Change(name, 7.0, sign)]).astype(float)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    from_x, from_y = {**GEOMETRY, "rotate": turned}[name](x, y, 7.0, sign)
    inside = (from_x > 1) & (from_x < WIDTH - 3) & (from_y > 1) & (from_y < HEIGHT - 3)
    outside = (from_x < -1) | (from_x > WIDTH) | (from_y < -1) | (from_y > HEIGHT)
    assert inside.sum() > 0.4 * inside.size
    assert outside.sum() > 50
    assert np.abs(found[..., 0] - (3 * from_x + from_y))[inside].max() <= 1.5
    assert (found[outside] == 128).all()


def test_every_operation_is_seen_by_a_test():
    assert set(OPERATIONS) == {*BY_HAND, *GEOMETRY, "rotate"}


def test_frames_change_alike_and_in_order():
    frames = np.repeat(noise(1), 3, 0)
    changes = [Change("brightness", 5.0), Change("invert", 5.0)]
    found = apply_changes(frames, changes)
    assert (found == found[:1]).all()
    once = apply_changes(frames, changes[:1])
    assert np.array_equal(found, 255 - once)
    assert not np.array_equal(found, apply_changes(frames, changes[::-1]))


def test_what_is_drawn():
    rng = np.random.default_rng(0)
    drawn = [sample_changes(RandAugmentConfig(), rng) for _ in range(4000)]
    flat = [change for changes in drawn for change in changes]
    assert max(map(len, drawn)) == 4
    assert np.mean([len(changes) for changes in drawn]) == pytest.approx(2, abs=0.05)
    names, counts = np.unique([change.name for change in flat], return_counts=True)
    assert set(names) == set(OPERATIONS)
    assert counts / len(flat) == pytest.approx(np.full(15, 1 / 15), abs=0.01)
    # The same one may come twice.
    assert any(len({c.name for c in changes}) < len(changes) for changes in drawn)
    magnitudes = np.array([change.magnitude for change in flat])
    assert magnitudes.mean() == pytest.approx(7, abs=0.03)
    assert magnitudes.std() == pytest.approx(0.5, abs=0.02)
    assert np.mean([change.sign for change in flat]) == pytest.approx(0, abs=0.05)
    strong = RandAugmentConfig(magnitude=10, magnitude_std=2, probability=1, num_ops=9)
    found = [c.magnitude for _ in range(200) for c in sample_changes(strong, rng)]
    assert len(found) == 1800
    assert max(found) == 10
    assert min(found) < 8


class NoiseReader:
    """Every frame is the same noise."""

    info = VideoInfo(
        num_frames=20,
        fps=10.0,
        width=WIDTH,
        height=HEIGHT,
        duration_sec=2.0,
        codec="none",
        rotation=0,
        has_audio=False,
    )

    def frames(self, indices, size=None):
        return np.repeat(noise(1), len(indices), 0)

    def times(self, indices):
        return np.asarray(indices) / 10

    def views(self, requests):
        raise AssertionError("a reader that cuts regions out does not know of the changes")


def test_views_of_a_clip_change_as_whole_frames_each_in_its_own_way():
    record = Record(index=0, id="a", source="a.mp4")
    clip = ClipConfig(num_frames=4, frame_stride=2, views_per_clip=2)
    crop = CropConfig(kind="whole", size=HEIGHT)
    augment = RandAugmentConfig(probability=1.0)
    rng = np.random.default_rng(0)
    (found,) = sample_clip_views(record, NoiseReader(), rng, clip=clip, crop=crop, augment=augment)
    assert found.shape == (2, 4, HEIGHT, HEIGHT, 3)
    assert (found == found[:, :1]).all()
    assert (found[0] != found[1]).mean() > 0.5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: RandAugmentConfig(num_ops=0), "leave the whole setting out"),
        (lambda: RandAugmentConfig(magnitude=11), r"magnitude=11 must lie in \[0, 10\]"),
        (lambda: RandAugmentConfig(magnitude_std=float("nan")), "magnitude_std=nan must be 0 or"),
        (lambda: RandAugmentConfig(probability=2), r"probability=2 must lie in \[0, 1\]"),
        (lambda: apply_changes(noise(), [Change("blur", 1)]), "no operation 'blur': use one of"),
    ],
)
def test_refusals_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()
