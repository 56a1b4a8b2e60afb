"""HiCo against the numbers of its reference.  Tolerances are those of the files' README."""

import numpy as np
import torch
import torch.nn.functional as F

from video_ssl.clips import time_sampling
from video_ssl.clips.crops import crop_frames, inner_square
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig


def network_of(g):
    params = g.params()
    factored = "backbone.conv1.a1.weight" in params
    config = R2Plus1DConfig(
        preset="r2plus1d_10" if factored else "r2d3d_18",
        depth=18 if any(".res_2." in key for key in params) else 10,
        widths=tuple(g["num_filters"].tolist()),
        num_frames=g["video_uint8"].shape[1],
    )
    encoder = R2Plus1D(config)
    backbone = from_hico(params)
    assert len(backbone) == sum(key.startswith("backbone.") for key in params)
    encoder.load_state_dict(backbone, strict=True)
    return encoder.eval(), params


def test_resnets(golden, hico_resnet):
    g = hico_resnet
    encoder, params = network_of(g)
    pixels = g["video_uint8"].permute(0, 4, 1, 2, 3)
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        encoder.to(dtype)
        x = encoder.stem(((pixels.double() / 255 - 0.45) / 0.225).to(dtype))
        for number, stage in enumerate([None, *encoder.stages], 1):
            x = x if stage is None else stage(x)
            assert list(x.shape) == g[f"eval_conv{number}_shape"].tolist()
            expected = g[f"eval_conv{number}_mean"]
            golden.close(x.mean((0, 2, 3, 4)), expected, rtol * expected.abs().max().item())
        golden.close(x, g["eval_map"], rtol * g["eval_map"].abs().max().item())
        video = ((pixels.double() / 255 - 0.45) / 0.225).to(dtype)
        clip, frames = encoder.features(video)
        golden.close(clip, g["eval_pooled"], rtol * g["eval_pooled"].abs().max().item())
        golden.close(frames, g["eval_map"].mean((3, 4)).transpose(1, 2), rtol * 10)
        head = clip @ params["head.out.weight"].to(dtype).T + params["head.out.bias"].to(dtype)
        golden.close(head.softmax(-1), g["eval_probs"], rtol)


# The test crop ------------------------------------------------------------------------------------


def test_the_test_crop(golden, hico_eval_crop):
    g = hico_eval_crop
    size, share = int(g["size"]), int(g["test_scale"]) / 256
    for name in (n for n in g.names if n.endswith(("/cc", "/ll", "/rr"))):
        case, place = name.split("/")
        frames = g[f"{case}/clip_uint8"]
        places = {"cc": "center", "ll": "left", "rr": "right"}
        region = inner_square(frames.shape[1], frames.shape[2], share, places[place])
        cut = (
            torch.from_numpy(crop_frames(frames.numpy(), region)).permute(3, 0, 1, 2).float() / 255
        )
        # The reference scales floats without averaging; ours averages, so only the region is compared.
        found = F.interpolate(cut, size=(size, size), mode="bilinear", align_corners=False)
        golden.close(found, g[name], 1e-6)


# Sampling in seconds ------------------------------------------------------------------------------

#: Settings of the cases, from the README beside the files: (bounds or distance in seconds, topical).
INTERVALS = {
    "hico": ((0.0, 1.0), True),
    "simclr_no_limit": (None, False),
    "vcl_fixed": (1.0, False),
    "vcl_fixed_tcl": (0.5, True),
}


def test_intervals(hico_intervals):
    g = hico_intervals
    length = time_sampling.clip_seconds(16, 4)
    names = [name.split("/")[0] for name in g.names if name.endswith("/intervals")]
    for name in names:
        rows = [g.arrays[f"{name}/{k}"] for k in ("duration", "progress", "uniforms", "intervals")]
        for duration, progress, uniforms, expected in zip(*rows, strict=True):
            if f"{name}/max_dis" in g:
                bounds = tuple(g.arrays[f"{name}/max_dis"])
                assert g.arrays[f"{name}/topic_max_dis"] == -1
                found = time_sampling.paired_intervals(
                    duration,
                    uniforms,
                    clip_sec=length,
                    max_distance_sec=time_sampling.gradual_distance(progress, bounds),
                )
            else:
                reach, topical = INTERVALS[name]
                if isinstance(reach, tuple):
                    reach = time_sampling.gradual_distance(progress, reach)
                found = time_sampling.chained_intervals(
                    duration, uniforms, clip_sec=length, max_distance_sec=reach, topical=topical
                )
            np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)


def test_the_reach_of_gradual_sampling(hico_intervals):
    g = hico_intervals
    tables = {"max_dis_0_1": (0, 1), "max_dis_0_1p5": (0, 1.5), "max_dis_0p5_3": (0.5, 3)}
    for name in (n for n in g.names if n.startswith("table/max_dis")):
        bounds = tables[name.removeprefix("table/")]
        found = [
            time_sampling.gradual_distance(p, bounds) for p in g.arrays["table/progress"].tolist()
        ]
        np.testing.assert_allclose(found, g.arrays[name], atol=1e-12, rtol=0)


def test_frames_of_intervals_and_views(hico_frames):
    g = hico_frames
    for name in sorted({n.split("/")[0] for n in g.names}):
        frames = int(g[f"{name}/num_frames"])
        lengths, rates = g.arrays[f"{name}/vid_length"].tolist(), g.arrays[f"{name}/fps"].tolist()
        for i, expected in enumerate(g.arrays[f"{name}/index"].tolist()):
            if name == "pretrain":
                interval = tuple(g.arrays["pretrain/interval"][i].tolist())
                clip = time_sampling.interval_clip(
                    lengths[i], rates[i], interval, num_frames=frames
                )
            else:
                views = time_sampling.seconds_views(
                    lengths[i],
                    rates[i],
                    num_clips=int(g[f"{name}/num_clips"][i]),
                    num_frames=frames,
                    frame_stride=int(g[f"{name}/sampling_rate"]),
                )
                clip = views[int(g[f"{name}/clip_idx"][i])]
            assert clip.indices.tolist() == expected


def test_videos_in_segments(hico_segments):
    g = hico_segments
    videos = time_sampling.segment_names(str(line) for line in g["lines"])
    for root in ("hacs", "k400full"):
        assert list(videos) == g[f"{root}/samples"].tolist()
        files = [
            time_sampling.segment_file(name, *s) for name, all_ in videos.items() for s in all_
        ]
        folder = "" if "k400" in root else "training/"
        assert [folder + file for file in files] == g[f"{root}/paths"].tolist()
    counts = g.arrays["decode/frames_per_segment"]
    for interval, segment, frame in zip(
        g.arrays["decode/clips"], g.arrays["decode/segment"], g.arrays["decode/frame"], strict=True
    ):
        found = time_sampling.segment_clip(
            counts, float(g["decode/fps"]), tuple(interval.tolist()), num_frames=len(segment)
        )
        assert found[0].tolist() == segment.tolist()
        assert found[1].tolist() == frame.tolist()
