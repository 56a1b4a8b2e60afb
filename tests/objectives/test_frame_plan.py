"""Plans of frame-wise objectives: one region per view, time stamps, labels, color; only what shows is decoded."""

import pickle

import numpy as np
import pytest

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.clips.sampling.frame_sets import FrameSetConfig
from video_ssl.datasets.table import Record
from video_ssl.objectives import OBJECTIVES
from video_ssl.recipes import build_config

NAMES = ("carl", "tcc", "tcn")
RECORD = Record(index=3, id="a", source="a.mp4", label=2)
HEIGHT, WIDTH = 48, 64


class GradientReader:
    """Frame i carries i in red, the column in green and the row in blue; remembers what it decoded."""

    def __init__(self, num_frames):
        self.info = VideoInfo(
            num_frames=num_frames,
            fps=10.0,
            width=WIDTH,
            height=HEIGHT,
            duration_sec=num_frames / 10,
            codec="none",
            rotation=0,
            has_audio=False,
        )
        self.calls = []

    def frames(self, indices, size=None):
        indices = np.asarray(indices)
        self.calls.append(indices.tolist())
        frames = np.empty((len(indices), HEIGHT, WIDTH, 3), np.uint8)
        frames[..., 0] = indices[:, None, None]
        frames[..., 1] = np.arange(WIDTH) * 3
        frames[..., 2] = np.arange(HEIGHT)[:, None] * 3
        return frames


def sample_of(name="carl", num_frames=60, seed=0, record=RECORD, progress=0.25, **changes):
    content = {
        "frames": {"kind": "time_augment", "num_frames": 9, "num_views": 2},
        "crop": {"kind": "random_resized", "size": 32, "area": [0.8, 1.0], "flip_probability": 0.5},
        "color": None,
        "encoder": {"head": "transformer"},
        **({"loss": "window"} if name == "tcn" else {}),
        **changes,
    }
    plan = OBJECTIVES[name].main_plan(build_config(OBJECTIVES[name].config(), content))
    reader = GradientReader(num_frames)
    return plan(record, reader, np.random.default_rng(seed), progress), reader


def numbers(video):
    """(..., T, H, W, 3) -> (..., T)"""
    red = video[..., 0]
    assert (red == red[..., :1, :1]).all()
    return red[..., 0, 0].astype(int)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_frames", [1, 5, 9, 60])
def test_samples_show_the_steps_that_they_name(name, num_frames):
    sample, reader = sample_of(name, num_frames=num_frames)
    assert sample["video"].shape == (2, 9, 32, 32, 3)
    assert sample["video"].dtype == np.uint8
    assert sample["steps"].dtype == sample["num_source_frames"].dtype == sample["label"].dtype
    assert sample["steps"].dtype == np.int64
    assert sample["frame_valid"].dtype == bool
    assert sample["frame_valid"].any(1).all()
    assert np.array_equal(numbers(sample["video"]), sample["steps"])
    assert sample["num_source_frames"] == num_frames
    assert sample["label"] == 2
    assert sample["progress"].dtype == np.float32
    assert sample["progress"] == 0.25
    # One call, of the sampled frames alone, each once and in order.
    assert reader.calls == [np.unique(sample["steps"]).tolist()]


def test_a_view_has_one_region_and_the_views_have_their_own():
    same, mirrored, sizes = 0, 0, []
    for seed in range(60):
        video = sample_of(seed=seed)[0]["video"][..., 1:]
        assert (video == video[:, :1]).all()
        same += np.array_equal(video[0], video[1])
        columns = video[0, 0, 0, :, 0].astype(int)
        mirrored += columns[0] > columns[-1]
        rows = video[0, 0, :, 0, 1].astype(int)
        sizes.append(abs(columns[-1] - columns[0]) * (rows[-1] - rows[0]) / 9 / (WIDTH * HEIGHT))
    assert same < 5
    assert 15 < mirrored < 45
    # The outermost pixel centres lie inside the region: its share of the frame is 0.8 to 1 before that.
    assert min(sizes) > 0.7
    assert max(sizes) < 1


def test_tables_that_forbid_mirrors_are_obeyed():
    record = Record(index=0, id="b", source="b.mp4", no_flip=True)
    for seed in range(20):
        columns = sample_of(seed=seed, record=record)[0]["video"][:, 0, 0, :, 1].astype(int)
        assert (columns[:, 0] < columns[:, -1]).all()


def test_contexts_are_decoded_before_their_frames():
    encoder = {"head": "conv", "num_contexts": 3, "context_stride": 4}
    sample, _ = sample_of(encoder=encoder, crop={"kind": "whole", "size": 80})
    assert sample["video"].shape == (2, 27, 80, 80, 3)
    shown = numbers(sample["video"]).reshape(2, 9, 3)
    expected = np.maximum(sample["steps"][..., None] - np.array([8, 4, 0]), 0)
    assert np.array_equal(shown, expected)


def test_color_is_drawn_only_where_it_is_set():
    assert "color" not in sample_of()[0]
    sample, _ = sample_of(color={"law": "carl"})
    assert sample["color"].dtype == np.float32
    assert sample["color"].shape[0] == 2
    assert not np.array_equal(*sample["color"])
    plain, _ = sample_of()
    assert np.array_equal(plain["video"], sample["video"])


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_made_of_the_seed_and_nothing_else(name):
    first, again, other = (sample_of(name, seed=seed)[0] for seed in (1, 1, 2))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["video"], other["video"])
    plan = OBJECTIVES[name].main_plan(OBJECTIVES[name].config()())
    assert len(pickle.dumps(plan)) < 10_000


def test_records_without_a_label_carry_minus_one():
    assert sample_of(record=Record(index=0, id="b", source="b.mp4"))[0]["label"] == -1


def test_the_defaults_of_the_paper():
    config = OBJECTIVES["carl"].config()()
    assert config.frames == FrameSetConfig(num_frames=80)
    assert (config.crop.kind, config.crop.area, config.crop.flip_probability) == (
        "random_resized",
        (0.8, 1.0),
        0.5,
    )
    assert (config.temperature, config.variance, config.negatives) == (0.1, 10.0, "single_noself")
    assert config.encoder.length == 80
    assert config.encoder.frozen_parts == 4
