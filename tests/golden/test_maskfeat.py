"""HOG targets against the numbers of MaskFeat's code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.clips.config import ClipConfig, CropConfig, MaskConfig
from video_ssl.models.config import DecoderConfig, Normalization, ViTConfig
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.objectives.shared.hog_targets import hog, levels_of
from video_ssl.objectives.shared.masked_config import HogConfig
from video_ssl.objectives.videomae.config import Config
from video_ssl.objectives.videomae.objective import Objective


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


def objective_of(golden):
    """VideoMAE with these targets; its decoder ends in MaskFeat's head, LayerNorm and Linear."""
    settings = golden.settings
    config = Config(
        clip=ClipConfig(num_frames=settings["frames"]),
        crop=CropConfig(size=settings["size"]),
        mask=MaskConfig(kind="random", ratio=0.5),
        encoder=ViTConfig(
            preset=None,
            embed_dim=settings["head"]["width"],
            depth=1,
            num_heads=1,
            patch_size=settings["token_stride"],
            tubelet_size=settings["temporal_stride_of_targets"],
        ),
        decoder=DecoderConfig(embed_dim=settings["head"]["width"], depth=1, num_heads=1),
        target="hog",
        hog=hog_config(settings["hog"]),
    )
    assert config.encoder.grid == tuple(settings["token_grid"])
    assert config.values_per_token() == settings["head"]["out_dim"]
    return Objective(config)


@pytest.mark.golden("maskfeat/target")
def test_targets(golden):
    settings, objective = golden.settings, objective_of(golden)
    assert settings["mask"]["to_tokens"].startswith("nearest")
    mask = tokens_of_mask(golden.tensor("coarse_mask"), settings["token_grid"])
    golden.check("mask", mask)
    every = torch.arange(mask.shape[1]).expand(mask.shape)
    found = objective.targets(to_pixels(golden.tensor("frames")), every)
    stable = golden["stable"]
    golden.check("target_stable", np.where(stable, found[mask], 0), where=stable)


@pytest.mark.golden("maskfeat/target")
def test_loss_and_gradients(golden):
    assert golden.settings["loss"] == {
        "weight": 1.0,
        "reduction": "mean over all masked tokens of the batch and all elements",
    }
    objective, params = objective_of(golden), golden.tensors()
    decoder = objective.decoder
    assert decoder.norm.eps == golden.settings["head"]["norm_eps"]
    decoder.norm.load_state_dict(part(params, "transforms.0.0."))
    decoder.head.load_state_dict(part(params, "projections.0."))
    block_out = golden.tensor("block_out").requires_grad_()
    mask = tokens_of_mask(golden.tensor("coarse_mask"), golden.settings["token_grid"])
    tokens = block_out[:, int(golden.settings["head"]["cls_token"]) :]
    # Samples have other numbers of hidden tokens: they go through as one.
    prediction = decoder.head(decoder.norm(tokens[mask]))[None]
    golden.check("pred", prediction[0].detach())
    hidden = torch.ones(1, prediction.shape[1], dtype=torch.bool)
    target, wanted = golden.tensor("target")[None], torch.arange(prediction.shape[1])[None]
    loss = objective.pixel_loss(prediction, target, hidden, wanted)
    golden.check("loss", loss.detach())
    loss.backward()
    golden.check("grad/block_out", block_out.grad)
    for prefix, layer in (("transforms.0.0.", decoder.norm), ("projections.0.", decoder.head)):
        golden.check_all({f"grad/{prefix}{k}": p.grad for k, p in layer.named_parameters()})


def part(params, prefix):
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
