"""R(2+1)D and R2D3D: published sizes, shapes in time and space, and what an encoder promises.

The numbers of the reference are in tests/golden/test_hico.py.
"""

import numpy as np
import pytest
import torch

from video_ssl.models.encoders import build_encoder, load_encoder, save_encoder
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.supervised.config import Config
from video_ssl.recipes import ConfigError, build_config, to_plain

TINY = {"preset": None, "depth": 10, "widths": (4, 4, 6, 6, 8), "block": "r2plus1d"}


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return R2Plus1D(R2Plus1DConfig(**{**TINY, **changes})).eval()


@pytest.mark.parametrize(
    ("preset", "count"), [("r2plus1d_10", 14_365_477), ("r2d3d_18", 14_057_536)]
)
def test_published_networks_have_the_published_number_of_parameters(preset, count):
    # papers/hico.md section 3.2
    with torch.device("meta"):
        encoder = R2Plus1D(R2Plus1DConfig(preset=preset))
    assert sum(p.numel() for p in encoder.parameters()) == count


@pytest.mark.parametrize("block", ["r2plus1d", "r2d3d"])
@pytest.mark.parametrize("stem", ["r2plus1d", "r2d3d"])
@pytest.mark.parametrize("size", [(8, 32, 32), (16, 48, 64), (5, 33, 47)])
def test_the_grid_is_that_of_the_map_and_positions_fit_it(block, stem, size):
    encoder = tiny(block=block, stem=stem)
    video = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert tuple(encoder(video).shape[2:]) == encoder.grid(video)
        clip, frames = encoder.features(video, cells=2)
    assert frames.shape == (1, encoder.grid(video)[0], encoder.output_dim("clip", cells=2))
    assert clip.shape == (1, encoder.output_dim("clip", cells=2))
    assert len(encoder.frame_positions(size[0])) == encoder.grid(video)[0]


@pytest.mark.parametrize("strides", [(1, 2, 2, 2), (1, 1, 2, 2), (1, 2, 1, 2)])
def test_a_feature_answers_most_to_the_frame_at_its_position(strides):
    encoder = tiny(time_strides=strides, seed=1).double()
    video = torch.randn(1, 3, 24, 16, 16, dtype=torch.float64, requires_grad=True)
    positions = encoder.frame_positions(24)
    frames = encoder.frame_features(video)
    for j in range(1, frames.shape[1] - 1):
        (gradient,) = torch.autograd.grad(frames[0, j].square().sum(), video, retain_graph=True)
        weight = gradient.square().sum((0, 1, 3, 4))
        reach = torch.nonzero(weight).flatten()
        inside = reach.min() > 0 and reach.max() < 23
        if inside:  # what is seen lies symmetrically around the position
            assert (reach.min() + reach.max()).item() / 2 == positions[j]
        assert weight.argmax().item() == pytest.approx(positions[j], abs=np.prod(strides) / 2)


def test_a_row_of_a_batch_is_that_clip_alone():
    encoder = tiny()
    video = torch.randn(3, 3, 8, 32, 32)
    with torch.no_grad():
        together = encoder.clip_features(video)
        alone = torch.cat([encoder.clip_features(row[None]) for row in video])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_saved_and_loaded_with_its_running_statistics(tmp_path):
    encoder = tiny(num_frames=8)
    encoder.train()(torch.randn(4, 3, 8, 32, 32))
    encoder.eval()
    preprocess = VideoPreprocess(num_frames=8, size=32)
    save_encoder(tmp_path / "e", encoder, architecture="r2plus1d", preprocess=preprocess, source={})
    loaded = load_encoder(tmp_path / "e")
    assert loaded.config == encoder.config
    assert loaded.num_frames == 8
    video = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(loaded.clip_features(video), encoder.clip_features(video))
    fresh = load_encoder(f"untrained:{tmp_path / 'e'}")
    assert not torch.equal(fresh.clip_features(video), encoder.clip_features(video))


def test_tokens_cannot_be_left_out():
    with pytest.raises(ValueError, match="cannot keep only some tokens"):
        tiny().tokens(torch.randn(1, 3, 8, 32, 32), keep=torch.zeros(1, 2, dtype=torch.long))


def test_keys_of_heads_are_left_out():
    state = {
        "backbone.conv1.a1.weight": torch.zeros(1),
        "backbone.conv3.res_2.short_cut_bn.running_mean": torch.zeros(1),
        "backbone.conv5.res_1.conv_branch.b2_bn.bias": torch.zeros(1),
        "head.out.weight": torch.zeros(1),
    }
    assert set(from_hico(state)) == {
        "stem.layers.space.conv.weight",
        "stages.1.1.shortcut.norm.running_mean",
        "stages.3.0.b.time.norm.bias",
    }


# Settings -----------------------------------------------------------------------------------------


def supervised(encoder):
    section = {"num_classes": 3, "crop": {"size": 32}, "encoder": encoder}
    return build_config(Config, section, "objective")


def test_an_objective_takes_either_encoder():
    config = supervised({"architecture": "r2plus1d", "preset": "r2d3d_18"})
    assert isinstance(config.encoder, R2Plus1DConfig)
    assert config.encoder.num_frames == config.clip.num_frames
    assert supervised({"preset": "S"}).encoder.image_size == 32
    assert supervised(to_plain(config.encoder)).encoder == config.encoder


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        ({"architecture": "r2plus2d"}, r"architecture='r2plus2d'.*Did you mean 'r2plus1d'"),
        ({"architecture": "r2plus1d", "patch_size": 8}, "unknown key 'objective.encoder.patch"),
        ({"widths": [1, 2, 3, 4, 5]}, "unknown key 'objective.encoder.widths'"),
        ({**TINY, "architecture": "r2plus1d", "depth": None}, "depth is not set: give a preset"),
        ({"architecture": "r2plus1d", "time_kernels": [3, 3, 2, 3]}, "must be odd"),
        ({"architecture": "r2plus1d", "widths": [8, 8, 0, 8, 8]}, "5 numbers of at least 1"),
        ({"architecture": "r2plus1d", "num_frames": 8}, "but clip.num_frames=16"),
    ],
)
def test_refused_settings_say_why(encoder, text):
    with pytest.raises(ConfigError, match=text):
        supervised(encoder)


def test_built_by_its_architecture():
    assert isinstance(build_encoder(R2Plus1DConfig(**TINY)), R2Plus1D)
