"""How VATT takes words, frames and sound out of a video, against the numbers of its reference."""

import numpy as np
import pytest
import torch

from video_ssl.clips.config import ClipConfig
from video_ssl.clips.crops import center_region, crop_frames, resize_sampled, short_side_size
from video_ssl.clips.sampling.clip_rules import training_rule, window_rule
from video_ssl.clips.sampling.dmvr import number_of_starts, offset_in_step
from video_ssl.clips.sampling.two_clips import looped_clip
from video_ssl.models.encoders_flax import normalize_pixels
from video_ssl.models.preprocess import to_model_input
from video_ssl.models.preprocess_config import TextPreprocess, VideoPreprocess
from video_ssl.objectives.vatt.sample_config import SampleConfig


@pytest.mark.golden("vatt/misc", cases=lambda settings: "max_words" in settings)
def test_words_of_sentences(golden_case):
    words, length = tuple(golden_case["vocab"].tolist()), golden_case.settings["max_words"]
    tokenizer = TextPreprocess(vocabulary=words, length=length)
    golden_case.check("ids", tokenizer.ids(golden_case["sentences"].tolist()))


def is_sampling(settings) -> bool:
    return {"length", "num_steps", "stride"} <= set(settings)


@pytest.mark.golden("vatt/misc", cases=is_sampling)
def test_windows_of_a_test(golden_case):
    """The number of windows stands in the name of an array only."""
    settings = golden_case.settings
    shape = {"num_frames": settings["num_steps"], "frame_stride": settings["stride"]}
    numbers = {"middle": 1} | {n: int(n[8:]) for n in golden_case.gives("linspace*")}
    for name, count in numbers.items():
        rule = window_rule("dmvr", num_clips=count, fps=25.0, **shape)
        clips = rule(settings["length"])
        golden_case.check(name, np.concatenate([clip.indices for clip in clips]))


@pytest.mark.golden("vatt/misc", cases=is_sampling)
def test_clips_of_a_training(golden_case):
    """Both ends of the draw; and where the offset is given in shares, as sound follows its frames."""
    settings, length = golden_case.settings, golden_case.settings["length"]
    shape = {"num_frames": settings["num_steps"], "frame_stride": settings["stride"]}
    starts = number_of_starts(length, **shape)
    golden_case.check("random_max_offset_exclusive", starts)
    for uniform, expected in ((0.0, 0), (np.nextafter(1.0, 0.0), starts - 1)):
        config = ClipConfig(sampling="dmvr", **shape)
        (clip,) = training_rule(config, np.array([[uniform]]), fps=25.0, name="video")(length)
        assert clip.indices[0] == expected
        wanted = looped_clip(length, expected, **shape)
        np.testing.assert_array_equal(clip.indices, wanted.indices)
        np.testing.assert_array_equal(clip.valid, wanted.valid)
    for name in golden_case.gives("prop*"):
        offset = offset_in_step(float(name[4:]), length)
        golden_case.check(name, looped_clip(length, offset, **shape).indices)


@pytest.mark.golden("vatt/misc", cases=lambda settings: "central_crop" in settings)
def test_frames(golden_case):
    """Resized, cut, and normalised in flax and in torch by the objective's own statistics."""
    frames, settings = golden_case["in"], golden_case.settings
    short, side = settings["resize_smallest"], settings["central_crop"]
    size = short_side_size(*frames.shape[1:3], short)
    golden_case.check(f"resize_smallest_{short}", resize_sampled(frames, size))
    middle = center_region(*frames.shape[1:3], size=side)
    golden_case.check(f"central_crop_{side}", crop_frames(frames, middle))
    statistics = SampleConfig().normalization
    preprocess = VideoPreprocess(mean=statistics.mean, std=statistics.std)
    golden_case.check("normalize_zero_centered", normalize_pixels(frames, preprocess))
    pixels = to_model_input(torch.from_numpy(frames.copy())[None], statistics)
    golden_case.check("normalize_zero_centered", pixels[0].movedim(0, -1))
