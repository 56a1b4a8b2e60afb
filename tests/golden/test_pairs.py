"""Samplers, crops, resizing and learning rates of CVRL and TeG against their numbers."""

import numpy as np
import pytest

from video_ssl.clips.crops import center_region, crop_frames, resize_sampled, three_crop_region
from video_ssl.clips.sampling import two_clips as pairs
from video_ssl.pretrain.schedules import ramped_cosine_schedule


@pytest.mark.golden("const_cl/clip_sampler")
def test_pairs_of_cvrl(golden):
    expected = golden["indices"]  # its width is that of the padding
    found = np.full(expected.shape, golden.settings["padding"])
    sizes = (golden[name].tolist() for name in ("seq_len", "num_steps", "stride"))
    draws = (golden[name].tolist() for name in ("u", "r1", "r2", "swap"))
    for row, length, frames, stride, u, r1, r2, swap in zip(found, *sizes, *draws, strict=True):
        clips = pairs.decreasing_pair(
            length, [u, r1, r2, 0.0 if swap else 0.5], num_frames=frames, frame_stride=stride
        )
        indices = np.concatenate([clip.indices for clip in clips])
        row[: len(indices)] = indices
    golden.check("indices", found)


SAMPLERS = {
    "linspace": lambda s, sizes: pairs.linspace_clips(
        s["length"], num_clips=s["num_clips"], **sizes
    ),
    "middle": lambda s, sizes: [pairs.middle_looped_clip(s["length"], **sizes)],
    "keyframe": lambda s, sizes: [pairs.keyframe_clip(s["length"], s["keyframe"], **sizes)],
}


@pytest.mark.golden("const_cl/eval_samplers", cases=lambda s: s["sampler"] != "three_crop")
def test_clips_for_evaluation(golden_case):
    settings = golden_case.settings
    sizes = {"num_frames": settings["num_frames"], "frame_stride": settings["stride"]}
    clips = SAMPLERS[settings["sampler"]](settings, sizes)
    golden_case.check("indices", np.concatenate([clip.indices for clip in clips]))


@pytest.mark.golden("const_cl/eval_samplers", cases=lambda s: s["sampler"] == "three_crop")
def test_three_crops(golden_case):
    frames, size = golden_case["frames"], golden_case.settings["crop_size"]
    regions = [three_crop_region(*frames.shape[1:3], size=size, crop=crop) for crop in range(3)]
    views = [crop_frames(frames, region) for region in regions]
    golden_case.check("out", np.concatenate(views))
    center = center_region(*frames.shape[1:3], size=size)
    golden_case.check("center", crop_frames(frames, center))


@pytest.mark.golden("const_cl/augment_ops")
def test_resizing_of_tensorflow(golden):
    y, x, h, w = golden.settings["crop_yxhw"]
    size = golden["resize_out"].shape[1:3]
    found = resize_sampled(golden["resize_in"][:, y : y + h, x : x + w], size)
    golden.check("resize_out", found)


@pytest.mark.golden("const_cl/lr_schedule")
def test_learning_rates(golden_case):
    settings = golden_case.settings
    values = ramped_cosine_schedule(
        settings["lr"], settings["decay_steps"], warmup_steps=settings["warmup_steps"]
    )
    # Behind the last step the cosine has come to 0 and stays there.
    steps = np.minimum(golden_case["steps"], len(values))
    found = np.append(values, 0.0)[steps]
    golden_case.check("lr", found, units={"of_base_lr": settings["lr"]})


@pytest.mark.golden("teg/sampling")
def test_nested_pairs_and_correspondence(golden_case):
    settings = golden_case.settings
    names = ("long_frames", "long_stride", "short_frames", "short_stride")
    clips = {name: settings[name] for name in names}
    positions = {name: settings[name] for name in ("long_positions", "short_positions")}
    found = {name: [] for name in ("start_long", "start_short", "idx_long", "idx_short")}
    found["position"] = []
    for uniforms in golden_case["u"]:
        pair = pairs.nested_pair(settings["length"], uniforms, **clips)
        found["start_long"].append(pair.long_start)
        found["start_short"].append(pair.short_start)
        found["idx_long"].append(pair.long.indices)
        found["idx_short"].append(pair.short.indices)
        found["position"].append(
            pairs.nested_correspondence(pair.long_start, pair.short_start, **clips, **positions)
        )
    for name, values in found.items():
        golden_case.check(name, values)
