"""HOG targets against the numbers of MaskFeat's code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.models.config import Normalization
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.objectives.shared.hog_targets import hog, hog_targets, levels_of
from video_ssl.objectives.shared.masked_config import HogConfig


def hog_config(settings):
    return HogConfig(
        bins=settings["nbins"],
        cell_px=settings["pool"],
        gaussian_window=settings["gaussian_window"],
    )


def levels(frames):
    """float32 (N, 3, H, W), whole numbers, of uint8 (N, H, W, 3)."""
    return frames.permute(0, 3, 1, 2).float()


@pytest.mark.golden("maskfeat/hog")
def test_hog(golden_case):
    settings, frames = golden_case.settings, golden_case.file.tensor(f"{golden_case.name}/frames")
    assert frames.shape[1:3] == (settings["height"], settings["width"])
    found = hog(levels(frames), hog_config(settings))
    assert found.dtype == torch.float32
    golden_case.check("hog", found, where=golden_case["stable"][:, :, None])


@pytest.mark.golden("maskfeat/hog")
def test_edges_of_the_angle_are_not_left_to_rounding(golden_case):
    """Of cells that the file does not give: the same from pixels that were normalised, and mirrored pictures (where
    gradients that are exactly 0 along x stay so) keep all of bin 0."""
    settings, frames = golden_case.settings, golden_case.file.tensor(f"{golden_case.name}/frames")
    config = hog_config(settings)
    exact = hog(levels(frames), config)
    norm = Normalization(**{k: tuple(settings[k]) for k in ("mean", "std") if settings[k]})
    pixels = to_pixels(frames[:, None])
    assert torch.equal(levels_of(pixels)[:, :, 0], levels(frames))
    assert torch.equal(levels_of(normalize(pixels, norm), norm)[:, :, 0], levels(frames))
    negative = hog(255 - levels(frames), config)
    torch.testing.assert_close(negative, exact, rtol=0, atol=1e-5)


def tokens_of_mask(coarse, grid):
    """bool (B, L): a coarse mask (B, t, h, w) or (B, h, w) on the grid of tokens, each cell a square of them."""
    moments = coarse.reshape(len(coarse), -1, *coarse.shape[-2:]).float()
    up = F.interpolate(moments, size=tuple(grid[1:]), mode="nearest")
    return up.bool().flatten(1)


def head_of(golden):
    """(prediction, block outputs, parameters by the reference's name): LayerNorm without the class token, Linear."""
    settings, params = golden.settings["head"], golden.tensors()
    block_out = golden.tensor("block_out").requires_grad_()
    for parameter in params.values():
        parameter.requires_grad_()
    x = block_out[:, int(settings["cls_token"]) :]
    weight, bias = params["transforms.0.0.weight"], params["transforms.0.0.bias"]
    x = F.layer_norm(x, x.shape[-1:], weight, bias, settings["norm_eps"])
    return x, block_out, params


@pytest.mark.golden("maskfeat/target")
def test_targets(golden):
    settings = golden.settings
    norm = Normalization(**{k: tuple(v) for k, v in settings["normalization"].items()})
    video = normalize(to_pixels(golden.tensor("frames")), norm)
    assert settings["mask"]["to_tokens"].startswith("nearest")
    mask = tokens_of_mask(golden.tensor("coarse_mask"), settings["token_grid"])
    golden.check("mask", mask)
    config = hog_config(settings["hog"])
    found = hog_targets(
        levels_of(video, norm),
        config,
        tubelet_size=settings["temporal_stride_of_targets"],
        patch_size=settings["token_stride"],
    )
    assert found.shape[1] == np.prod(settings["token_grid"])
    width = config.values_per_token(
        patch_size=settings["token_stride"], frame_size=settings["size"]
    )
    assert found.shape[2] == width == settings["head"]["out_dim"]
    stable = golden["stable"]
    golden.check("target_stable", np.where(stable, found[mask], 0), where=stable)


@pytest.mark.golden("maskfeat/target")
def test_loss_and_gradients(golden):
    """The head and the loss are the field's own; ours are in the objectives, which have a decoder before the head."""
    assert golden.settings["loss"] == {
        "weight": 1.0,
        "reduction": "mean over all masked tokens of the batch and all elements",
    }
    tokens, block_out, params = head_of(golden)
    mask = tokens_of_mask(golden.tensor("coarse_mask"), golden.settings["token_grid"])
    weight, bias = params["projections.0.weight"], params["projections.0.bias"]
    prediction = F.linear(tokens[mask], weight, bias)
    golden.check("pred", prediction.detach())
    loss = (prediction - golden.tensor("target")).square().mean()
    golden.check("loss", loss.detach())
    loss.backward()
    golden.check("grad/block_out", block_out.grad)
    golden.check_all({f"grad/{name}": p.grad for name, p in params.items()})
