"""HiCo against the numbers of its reference.  Tolerances are those of the files' README."""

import torch

from video_ssl.models.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.r2plus1d_config import R2Plus1DConfig


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
