"""`video-ssl convert` of CARL's and HiCo's checkpoints, made up in their own naming."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.carl_weights import CARL_KEYS, CarlModel
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.weights import WeightsError


def hico_key(key):
    """The name of HiCo for one of ours: the inverse of `from_hico`."""
    layer, norm, kind = re.fullmatch(r"(.*?)\.?(conv|norm)\.(\w+)", key).groups()
    end = "_bn" if norm == "norm" else ""
    part = {"space": "1", "time": "2"}.get(layer.rsplit(".", 1)[-1], "")
    layer = layer.removesuffix(".space").removesuffix(".time")
    if layer == "stem.layers":
        return f"backbone.conv1.a{part}{end}.{kind}"
    _, stage, block, name = layer.split(".")
    place = f"backbone.conv{int(stage) + 2}.res_{int(block) + 1}."
    if name == "shortcut":
        return f"{place}short_cut{end}.{kind}"
    return f"{place}conv_branch.{name}{part}{end}.{kind}"


def hico_file(path, **config):
    torch.manual_seed(0)
    encoder = R2Plus1D(R2Plus1DConfig(widths=(4, 4, 6, 8, 8), num_frames=16, **config)).eval()
    state = {hico_key(key): value for key, value in encoder.state_dict().items()}
    assert set(from_hico(state)) == set(encoder.state_dict())
    state["head.mlp_vcl.linear_a.weight"] = torch.zeros(2, 2)
    torch.save({"epoch": 3, "model_state": state, "cfg": "{}"}, path)
    return encoder


@pytest.mark.parametrize("config", [{"preset": "r2plus1d_10"}, {"preset": "r2d3d_18"},
                                    {"preset": "r2plus1d_10", "depth": 18}])  # fmt: skip
def test_hico(tmp_path, config):
    path = tmp_path / "checkpoint_epoch_00010.pyth"
    original = hico_file(path, **config)
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "e")])
    assert done.exit_code == 0, done.output
    encoder = load_encoder(tmp_path / "e")
    assert encoder.config == original.config
    video = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder.clip_features(video), original.clip_features(video))
    how = encoder.preprocess
    assert (how.size, how.fps, how.mean, how.num_frames) == (112, 30.0, (0.45,) * 3, 16)
    report = json.loads((tmp_path / "e" / "conversion.json").read_text())
    assert (report["family"], report["unused"]) == ("hico", ["head.mlp_vcl.linear_a.weight"])


def carl_file(path, cfg):
    torch.manual_seed(0)
    config = FrameTransformerConfig(num_frames=80, num_layers=1, hidden_dim=16, ffn_dim=16, num_heads=8, embed_dim=8,
                                    fc_dims=(16, 16))  # fmt: skip
    model = CarlModel(config, 8)
    state = {}
    for key, value in model.state_dict().items():
        old, new = next(rule for rule in CARL_KEYS if key.startswith(rule[1]))
        state[old + key.removeprefix(new)] = value
    torch.save({"epoch": 1, "model_state": state, "cfg": cfg}, path)
    return model.encoder


def test_carl(tmp_path):
    path = tmp_path / "checkpoint_epoch_00299.pth"
    original = carl_file(path, {"TRAIN": {"NUM_FRAMES": 80}})
    found = convert(path, tmp_path / "e", family="carl")
    encoder = load_encoder(tmp_path / "e")
    assert encoder.config == original.config
    for key, value in original.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value), key
    assert (encoder.preprocess.num_frames, encoder.preprocess.frame_stride) == (80, 1)
    assert found.report.share == 1.0
    assert all(key.startswith("projection.") for key in found.report.unused)
    assert found.report.unused


def test_what_a_carl_file_does_not_say_is_asked_for(tmp_path):
    path = tmp_path / "a.pth"
    carl_file(path, None)
    with pytest.raises(WeightsError, match="num_frames"):
        convert(path, tmp_path / "e")
    convert(path, tmp_path / "e", sizes=Sizes(trained_frames=240))
    assert load_encoder(tmp_path / "e").preprocess.num_frames == 240


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "a.pyth"
    hico_file(path, preset="r2plus1d_10")
    with pytest.raises(
        WeightsError, match="a model of hico, which has no other form here: leave out --to original"
    ):
        convert(path, tmp_path / "b.pth", to="original")
    with pytest.raises(WeightsError, match="has not the keys of a checkpoint of carl"):
        convert(path, tmp_path / "e", family="carl")
    with pytest.raises(WeightsError, match=r"not a checkpoint of MAE, VideoMAE or MVD"):
        convert(path, tmp_path / "e", family="mvd")
    content = torch.load(path)
    del content["model_state"]["backbone.conv4.res_1.conv_branch.b2_bn.bias"]
    torch.save(content, path)
    with pytest.raises(WeightsError, match="not a whole R"):
        convert(path, tmp_path / "e")
    del content["model_state"]["backbone.conv4.res_1.conv_branch.b2.weight"]
    torch.save(content, path)
    with pytest.raises(WeightsError, match="a stage is missing"):
        convert(path, tmp_path / "e")
