"""Samplers, crops, resizing and learning rates of CVRL and TeG against their numbers: exact, or as stated."""

import re

import numpy as np

from video_ssl.clips import sampling_pairs as pairs
from video_ssl.clips.crops import crop_frames, resize_sampled, three_crop_region
from video_ssl.pretrain.schedules import ramped_cosine_schedule


def groups(g, pattern):
    return sorted({m[1] for m in (re.fullmatch(pattern, name) for name in g.names) if m})


def test_pairs_of_cvrl(cvrl_pairs):
    a = cvrl_pairs.arrays
    for i, (length, frames, stride) in enumerate(
        zip(a["seq_len"], a["num_steps"], a["stride"], strict=True)
    ):
        exchange = 0.0 if a["swap"][i] else 0.5
        clips = pairs.decreasing_pair(
            int(length),
            [a["u"][i], a["r1"][i], a["r2"][i], exchange],
            num_frames=int(frames),
            frame_stride=int(stride),
        )
        expected = a["indices"][i]
        found = np.concatenate([clip.indices for clip in clips])
        np.testing.assert_array_equal(found, expected[: 2 * frames])
        assert (expected[2 * frames :] == -1).all()


def test_clips_for_evaluation(cvrl_eval):
    a = cvrl_eval.arrays
    for name in groups(cvrl_eval, r"(\w+)/args"):
        args = a[f"{name}/args"].tolist()
        sizes = {"num_frames": args[-2], "frame_stride": args[-1]}
        if name.startswith("linspace"):
            clips = pairs.linspace_clips(args[0], num_clips=args[1], **sizes)
        elif name.startswith("middle"):
            clips = [pairs.middle_looped_clip(args[0], **sizes)]
        else:
            clips = [pairs.keyframe_clip(args[0], args[1], **sizes)]
        found = np.concatenate([clip.indices for clip in clips])
        np.testing.assert_array_equal(found, a[f"{name}/indices"])


def test_three_crops(cvrl_eval):
    a = cvrl_eval.arrays
    frames, size = a["three_crop/frames"], int(a["three_crop/crop_size"])
    for crop, expected in enumerate(
        a["three_crop/out"].reshape(3, *frames.shape[:1], size, size, 3)
    ):
        region = three_crop_region(*frames.shape[1:3], size=size, crop=crop)
        np.testing.assert_array_equal(crop_frames(frames, region), expected)


def test_resizing_of_tensorflow(tf_resize):
    a = tf_resize.arrays
    y, x, h, w = a["crop_yxhw"]
    found = resize_sampled(a["resize_in"][:, y : y + h, x : x + w], a["resize_out"].shape[1:3])
    np.testing.assert_array_equal(found, a["resize_out"])


def test_learning_rates(cvrl_lr):
    a = cvrl_lr.arrays
    for name in groups(cvrl_lr, r"(\w+)/args"):
        base, steps, warmup = a[f"{name}/args"]
        values = ramped_cosine_schedule(base, int(steps), warmup_steps=int(warmup))
        found = np.append(values, 0.0)[a[f"{name}/steps"]]  # the golden files go one step further
        np.testing.assert_allclose(found, a[f"{name}/lr"], rtol=1e-5, atol=1e-9 * base)


def test_nested_pairs_and_correspondence(teg_pairs):
    a = teg_pairs.arrays
    for name in groups(teg_pairs, r"(\d+)/args"):
        length, lf, ls, sf, ss, lp, sp = a[f"{name}/args"].tolist()
        clips = {"long_frames": lf, "long_stride": ls, "short_frames": sf, "short_stride": ss}
        for i, uniforms in enumerate(a[f"{name}/u"]):
            pair = pairs.nested_pair(length, uniforms, **clips)
            assert pair.long_start == a[f"{name}/start_long"][i]
            assert pair.short_start == a[f"{name}/start_short"][i]
            np.testing.assert_array_equal(pair.long.indices, a[f"{name}/idx_long"][i])
            np.testing.assert_array_equal(pair.short.indices, a[f"{name}/idx_short"][i])
            position = pairs.nested_correspondence(
                pair.long_start, pair.short_start, **clips, long_positions=lp, short_positions=sp
            )
            np.testing.assert_allclose(position, a[f"{name}/position"][i], atol=1e-9)
