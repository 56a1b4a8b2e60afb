"""Index rules of VideoMAE and MVD, and where their test views cut, against the references."""

import numpy as np
import pytest

from video_ssl.clips import crops
from video_ssl.clips.sampling import one_clip as sampling

HIGHEST = np.nextafter(1.0, 0.0)


def uniform_for(value, low, high):
    """A draw that our rule turns into `value`, of low .. high - 1."""
    return (value - low + 0.5) / (high - low)


@pytest.mark.golden("mvd/pretrain_sampling", "videomae/pretrain_sampling")
def test_pretraining_clips(golden):
    settings = golden.settings
    sizes = {"num_frames": settings["new_length"], "frame_stride": settings["new_step"]}
    num_clips = settings["num_segments"]
    rows = zip(golden["duration"].tolist(), golden["start"].tolist(), strict=True)
    found = {"randint_low_high": [], "frame_ids": []}
    for n, starts in rows:
        bounds = sampling.reference_start_bounds(n, **sizes, num_clips=num_clips)
        # The reference draws all clips of a video between the same bounds.
        found["randint_low_high"].append(bounds[0] or (-1, -1))
        uniforms = [
            0.0 if b is None else uniform_for(start, *b)
            for start, b in zip(starts, bounds, strict=True)
        ]
        clips = sampling.sample_reference_clips(n, uniforms, **sizes)
        found["frame_ids"].append(np.concatenate([clip.indices for clip in clips]))
    golden.check_all(found)


FINETUNING = ("mvd/finetune_sampling", "videomae/finetune_sampling")


def is_dense(settings) -> bool:
    return "stride" in settings


@pytest.mark.golden(*FINETUNING, cases=is_dense)
def test_dense_finetuning_clips(golden_case):
    settings = golden_case.settings
    sizes = {"num_frames": settings["clip_len"], "frame_stride": settings["stride"]}
    found = {"randint_low_high": [], "frame_ids": []}
    ends = golden_case["end_idx"].tolist()
    for n, end in zip(golden_case["duration"].tolist(), ends, strict=True):
        bounds = sampling.dense_end_bounds(n, **sizes)
        found["randint_low_high"].append(bounds or (-1, -1))
        uniform = 0.0 if bounds is None else uniform_for(end, *bounds)
        found["frame_ids"].append(sampling.reference_dense_clip(n, uniform, **sizes).indices)
    for name, values in found.items():
        golden_case.check(name, values)


@pytest.mark.golden(*FINETUNING, cases=lambda s: "segment_rule" in s and "num_views" not in s)
def test_training_clips_of_segments(golden_case):
    settings = golden_case.settings
    for uniform, draw in ((0.0, "lowest"), (HIGHEST, "highest")):
        clips = [
            sampling.sample_segment_clip(
                n, [uniform] * settings["num_frames"], rule=settings["segment_rule"]
            )
            for n in golden_case["duration"].tolist()
        ]
        golden_case.check(f"frame_ids_{draw}_draw", [clip.indices for clip in clips])


@pytest.mark.golden(*FINETUNING, cases=lambda s: "segment_rule" in s and "num_views" in s)
def test_views_of_segments(golden_case):
    settings, num_views = golden_case.settings, golden_case.settings["num_views"]
    durations = golden_case["duration"].tolist()
    found = np.full((len(durations), settings["num_segments"] * num_views), -1)
    for row, n in zip(found, durations, strict=True):
        views = sampling.segment_views(
            n,
            num_frames=settings["num_segments"],
            rule=settings["segment_rule"],
            num_clips=num_views,
        )
        for view, clip in enumerate(views):
            row[view::num_views] = clip.indices
    golden_case.check("frame_ids_all_views", found)


# Test views -----------------------------------------------------------------------------------------

TEST_VIEWS = ("mvd/test_views", "videomae/test_views")


@pytest.mark.golden(*TEST_VIEWS, cases=is_dense)
def test_frames_of_dense_test_views(golden_case):
    settings = golden_case.settings
    sizes = {"num_frames": settings["clip_len"], "frame_stride": settings["stride"]}
    found = [
        sampling.reference_dense_views(n, num_clips=settings["num_segments"], **sizes)[clip].indices
        for n, _, _, clip, _ in golden_case["n_h_w_clip_crop"].tolist()
    ]
    golden_case.check("frame_ids", found)


@pytest.mark.golden(*TEST_VIEWS, cases=lambda s: "segment_rule" in s)
def test_frames_of_test_views_of_segments(golden_case):
    settings = golden_case.settings
    options = {"num_frames": settings["num_frames"], "rule": settings["segment_rule"]}
    found = [
        sampling.segment_views(n, num_clips=settings["num_segments"], **options)[clip].indices
        for n, _, _, clip, _ in golden_case["n_h_w_clip_crop"].tolist()
    ]
    golden_case.check("frame_ids", found)


@pytest.mark.golden(*TEST_VIEWS)
def test_where_test_views_cut(golden_case):
    settings = golden_case.settings
    found = []
    for _, h, w, _, crop in golden_case["n_h_w_clip_crop"].tolist():
        region = crops.spread_crop_region(
            h, w, size=settings["short_side"], crop=crop, num_crops=settings["num_crops"]
        )
        found.append([region.top, region.left, region.height, region.width])
    golden_case.check("y0_x0_h_w", found)


@pytest.mark.golden("mvd/multiscale_crops", "videomae/multiscale_crops")
def test_multi_scale_candidates(golden_case):
    settings, (width, height) = golden_case.file.settings, golden_case.settings["image_w_h"]
    assert settings["fix_crop"]
    assert settings["more_fix_crop"]
    regions = crops.multi_scale_regions(
        height,
        width,
        size=settings["input_size"],
        scales=tuple(settings["scales"]),
        max_distort=settings["max_distort"],
    )
    sides = [[(r.width, r.height) for r in pair] for pair in regions]
    assert all(len(set(pair)) == 1 for pair in sides)
    golden_case.check("crop_w_h", [pair[0] for pair in sides])
    golden_case.check("offsets_x_y", [[(r.left, r.top) for r in pair] for pair in regions])
