"""Plans: the arrays that each objective's Config promises, from the frames and regions that they should show."""

import pickle

import numpy as np
import pytest

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.clips.decoders.reader import BadVideo, VideoInfo
from video_ssl.datasets.table import Record
from video_ssl.models.config import ImageViTConfig
from video_ssl.objectives import OBJECTIVES
from video_ssl.recipes import build_config

HEIGHT, WIDTH = 48, 64
RECORD = Record(index=3, id="a", source="a.mp4", label=2)

ENCODER = {"preset": None, "embed_dim": 48, "depth": 1, "num_heads": 3, "patch_size": 8}
CLIP = {"num_frames": 4, "frame_stride": 3}
CONFIGS = {
    "mae": {
        "frames_per_video": 3,
        "crop": {"kind": "random_resized", "size": 32, "flip_probability": 0.5},
        "encoder": ENCODER,
        "decoder": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    },
    "videomae": {
        "clip": {**CLIP, "num_clips": 2},
        "crop": {"size": 32},
        "mask": {"kind": "tube", "ratio": 0.75},
        "decoder_mask": {"kind": "running_cell", "ratio": 0.5},
        "encoder": ENCODER,
        "decoder": {"embed_dim": 48, "depth": 1, "num_heads": 3},
    },
    "mvd": {
        "clip": {**CLIP, "sampling": "reference", "num_clips": 2},
        "crop": {"size": 32},
        "mask": {"kind": "tube", "ratio": 0.75},
        "encoder": ENCODER,
        "decoder": {"embed_dim": 48, "depth": 1, "num_heads": 3},
        "image": {"source": {"run": "runs/mae"}, "size": 28},
        "video": {"source": {"run": "runs/videomae"}},
    },
    "supervised": {
        "num_classes": 5,
        "clip": CLIP,
        "crop": {"size": 32, "flip_probability": 0.5},
        "encoder": ENCODER,
    },
}


def config_of(name, **changes):
    return build_config(OBJECTIVES[name].config(), {**CONFIGS[name], **changes})


class GradientReader:
    """Frame i carries i in red, the column in green and the row in blue, so a view tells what it shows."""

    def __init__(self, num_frames, height=HEIGHT, width=WIDTH):
        self.info = VideoInfo(
            num_frames=num_frames,
            fps=10.0,
            width=width,
            height=height,
            duration_sec=num_frames / 10,
            codec="none",
            rotation=0,
            has_audio=False,
        )
        self.calls = []

    def frames(self, indices, size=None):
        assert size is None
        indices = np.asarray(indices)
        self.calls.append(indices.tolist())
        frames = np.empty((len(indices), self.info.height, self.info.width, 3), np.uint8)
        frames[..., 0] = indices[:, None, None]
        frames[..., 1] = np.arange(self.info.width) * 3
        frames[..., 2] = np.arange(self.info.height)[:, None] * 3
        return frames

    def times(self, indices):
        return np.asarray(indices) / 10.0


def sample_of(name, num_frames=60, seed=0, **changes):
    reader = GradientReader(num_frames)
    plan = OBJECTIVES[name].main_plan(config_of(name, **changes))
    return plan(RECORD, reader, np.random.default_rng(seed), 0.0), reader


def frame_numbers(video):
    """(..., T, H, W, 3) -> (..., T); a resize cannot change the flat red channel."""
    red = video[..., 0]
    assert (red == red[..., :1, :1]).all()
    return red[..., 0, 0].astype(int)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_samples_are_made_of_the_seed_and_nothing_else(name):
    first, again, other = (sample_of(name, seed=seed)[0] for seed in (1, 1, 2))
    assert first.keys() == again.keys() == other.keys()
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["video"], other["video"])


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_plans_pickle_for_data_workers(name):
    plan = OBJECTIVES[name].main_plan(config_of(name))
    assert len(pickle.dumps(plan)) < 10_000
    copy = pickle.loads(pickle.dumps(plan))
    for made in (plan, copy):
        sample = made(RECORD, GradientReader(60), np.random.default_rng(0), 0.5)
        assert sample["video"].dtype == np.uint8


def test_every_listed_objective_of_clips_has_a_plan_here():
    assert set(OBJECTIVES) >= set(CONFIGS)
    for name in CONFIGS:
        assert callable(OBJECTIVES[name].main_plan(config_of(name)))


@pytest.mark.parametrize("name", ["videomae", "mvd", "supervised"])
@pytest.mark.parametrize("seed", range(5))
def test_clips_keep_their_stride_and_one_region(name, seed):
    sample, reader = sample_of(name, seed=seed)
    video = sample["video"]
    views = 1 if name == "supervised" else 2
    assert video.shape == (views, 4, 32, 32, 3)
    numbers = frame_numbers(video)
    assert (np.diff(numbers, axis=-1) == 3).all()
    # One call for all clips, of their frames only, each once and in order.
    assert reader.calls == [np.unique(numbers).tolist()]
    # The same region in all frames of a clip, another in another clip.
    assert (video[..., 1:] == video[:, :1, ..., 1:]).all()


def test_masks_are_those_of_the_settings():
    sample, _ = sample_of("videomae")
    config = config_of("videomae")
    mask, decoder_mask = sample["mask"], sample["decoder_mask"]
    assert mask.shape == decoder_mask.shape == (2, 32)
    assert mask.dtype == decoder_mask.dtype == bool
    assert (mask.sum(1) == config.mask.num_masked(config.encoder.grid)).all()
    assert (decoder_mask.sum(1) == 16).all()
    assert (mask.reshape(2, 2, 16) == mask.reshape(2, 2, 16)[:, :1]).all()
    plain, _ = sample_of("videomae", decoder_mask=None)
    assert set(plain) == {"video", "mask"}


@pytest.mark.parametrize(
    ("side", "ratio", "visible"), [(3, 0.75, 2), (10, 0.9, 9), (4, 0.75, 4), (5, 0.6, 10)]
)
def test_mae_rounds_the_visible_patches_down(side, ratio, visible):
    """Was wrong: the hidden ones were rounded down, so 9 patches at 0.75 left 3 visible instead of 2."""
    changes = {
        "crop": {"kind": "random_resized", "size": 8 * side},
        "mask": {"kind": "random", "ratio": ratio},
    }
    sample, _ = sample_of("mae", **changes)
    assert ((~sample["mask"]).sum(1) == visible).all()


def test_clips_of_one_sample_have_their_own_masks_and_regions():
    samples = [sample_of("mvd", seed=seed)[0] for seed in range(20)]
    assert any(not np.array_equal(*sample["mask"]) for sample in samples)
    assert any(not np.array_equal(*sample["video"][..., 1:]) for sample in samples)


@pytest.mark.parametrize("seed", range(8))
def test_teachers_see_the_same_region_at_their_size(seed):
    sample, reader = sample_of("mvd", seed=seed)
    video, teacher = sample["video"], sample["teacher_video"]
    assert teacher.shape == (2, 4, 28, 28, 3)
    assert np.array_equal(frame_numbers(video), frame_numbers(teacher))
    assert len(reader.calls) == 1
    for v in range(2):
        for channel in (
            1,
            2,
        ):  # column and row of the source at the corners of the view, up to a pixel
            ours, theirs = (
                video[v, 0, ..., channel].astype(int),
                teacher[v, 0, ..., channel].astype(int),
            )
            for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
                assert abs(ours[row, column] - theirs[row, column]) <= 3 * 1.0
    same, _ = sample_of("mvd", image=None)
    assert set(same) == {"video", "mask"}


def test_frames_of_mae_are_their_own_samples():
    sample, reader = sample_of("mae", seed=3)
    assert sample["video"].shape == (3, 1, 32, 32, 3)
    assert sample["mask"].shape == (3, 16)
    assert (sample["mask"].sum(1) == 12).all()
    numbers = frame_numbers(sample["video"])[:, 0]
    assert reader.calls == [numbers.tolist()]
    assert [number // 20 for number in numbers] == [0, 1, 2]
    regions = {sample["video"][v, 0, ..., 1:].tobytes() for v in range(3)}
    assert len(regions) == 3


def test_mae_frames_come_from_the_whole_video():
    numbers = np.concatenate(
        [frame_numbers(sample_of("mae", seed=seed)[0]["video"])[:, 0] for seed in range(400)]
    )
    assert set(numbers) == set(range(60))


def mirrored(sample):
    columns = sample["video"][0, 0, 0, :, 1].astype(int)
    return columns[0] > columns[-1]


def test_mirrors_come_only_where_they_are_allowed():
    flips = [mirrored(sample_of("supervised", seed=seed)[0]) for seed in range(60)]
    assert 15 < sum(flips) < 45
    assert not any(mirrored(sample_of("videomae", seed=seed)[0]) for seed in range(60))


def test_labels_are_carried_and_checked():
    sample, _ = sample_of("supervised")
    assert sample["label"].dtype == np.int64
    assert sample["label"].shape == ()
    assert sample["label"] == 2
    plan = OBJECTIVES["supervised"].main_plan(config_of("supervised", num_classes=2))
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match=r"has label 2, but labels must lie in 0..1 \(num_classes=2\)"
    ):
        plan(RECORD, GradientReader(60), rng, 0.0)
    with pytest.raises(ValueError, match="has no label, but supervised training needs one"):
        plan(Record(index=0, id="b", source="b.mp4"), GradientReader(60), rng, 0.0)


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_short_videos_repeat_frames_that_are_decoded_once(name, num_frames):
    sample, reader = sample_of(name, num_frames=num_frames)
    numbers = frame_numbers(sample["video"])
    if name == "mae":
        assert numbers.max() < num_frames
    else:
        limit = num_frames - 1 if name != "mvd" else max(num_frames - 2, 0)  # strict rule of MVD
        assert numbers.tolist() == [[min(k, limit // 3) * 3 for k in range(4)]] * len(numbers)
    if "teacher_video" in sample:
        assert np.array_equal(frame_numbers(sample["teacher_video"]), numbers)
    assert all(call == sorted(set(call)) for call in reader.calls)


def test_a_refused_short_video_is_a_bad_video_that_names_the_way_out():
    with pytest.raises(BadVideo) as error:
        sample_of("supervised", num_frames=9, clip={**CLIP, "short_video": "error"})
    assert "num_frames=4 with frame_stride=3 needs 10 frames, but a.mp4 has 9." in str(error.value)
    assert 'Use short_video="repeat_last"' in str(error.value)


def test_clips_can_be_chosen_by_time():
    sample, _ = sample_of("supervised", clip={**CLIP, "fps": 5.0})
    assert np.diff(frame_numbers(sample["video"])).tolist() == [[6, 6, 6]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: config_of("videomae", mask={"kind": "tube", "ratio": 0.05}),
            "hides 0 of 32 tokens",
        ),
        (lambda: config_of("mae", mask={"kind": "random", "ratio": 0.99}), "some must be hidden"),
        (lambda: config_of("videomae", crop={"size": 36}), "36 is not divisible by patch_size=8"),
        (
            lambda: config_of("mvd", clip={**CLIP, "num_frames": 5}),
            "num_frames=5 must be a positive multiple",
        ),
        (
            lambda: ClipConfig(sampling="reference", short_video="wrap"),
            "goes with sampling='constant'",
        ),
        (lambda: MaskConfig(ratio=1.0), "strictly between 0 and 1"),
        (lambda: CropConfig(flip_probability=2), r"must lie in \[0, 1\]"),
        (lambda: ImageViTConfig(image_size=30), "not divisible by patch_size"),
    ],
)
def test_refused_settings_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("name", ["cvrl", "teg", "const_cl"])
def test_the_color_of_the_second_clip_is_not_dropped_in_silence(name):
    """Was wrong: color=null left out what was asked for the second clip too; its default goes with it."""
    make = OBJECTIVES[name].config()
    second = {"law": "cvrl_second", "blur_probability": 0.0}
    with pytest.raises(ValueError, match="set second_color=null too"):
        build_config(make, {"color": None, "second_color": second})
    for content in ({}, {"second_color": None}):
        assert build_config(make, {"color": None, **content}).colors == (None, None)
