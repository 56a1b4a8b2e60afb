"""`video-ssl convert` of CARL's and HiCo's checkpoints, made up in their own naming."""

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.carl_weights import CARL_KEYS, CarlModel
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks import s3dg
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.r2plus1d import R2Plus1D, from_hico, to_hico
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.s3dg import S3DG
from video_ssl.models.networks.s3dg_config import S3DGConfig
from video_ssl.models.weights import WeightsError


def hico_file(path, **config):
    torch.manual_seed(0)
    encoder = R2Plus1D(R2Plus1DConfig(widths=(4, 4, 6, 8, 8), num_frames=16, **config)).eval()
    state = to_hico(encoder.state_dict())
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


S3DG_KEYS = Path(__file__).parents[1] / "golden" / "data" / "hico" / "s3dg_pretrain_keys.tsv"


def s3dg_file(path, drop=None):
    """A checkpoint of pretraining: every tensor of the backbone under both of its names, less those dropped."""
    torch.manual_seed(0)
    encoder = S3DG(S3DGConfig(width_divisor=4, num_frames=16)).eval()
    state = s3dg.to_hico(encoder.state_dict())
    state = {k: v for k, v in state.items() if drop is None or not k.startswith(drop)}
    state["head.mlp_tcl.topical_predictor.2.bias"] = torch.zeros(1)
    torch.save({"epoch": 3, "model_state": state, "cfg": "{}"}, path)
    return encoder


@pytest.mark.parametrize("drop", [None, "backbone.block", ("backbone.Conv", "backbone.Mixed")])
def test_s3dg_of_hico_there_and_back(tmp_path, drop):
    path = tmp_path / "checkpoint_epoch_00120.pyth"
    original = s3dg_file(path, drop)
    assert convert(path, tmp_path / "e").report.share == 1
    encoder = load_encoder(tmp_path / "e")
    assert encoder.config == original.config
    video = torch.randn(1, 3, 16, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder.clip_features(video), original.clip_features(video))
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "e"), str(tmp_path / "back.pth"), "--to", "original"]
    )
    assert done.exit_code == 0, done.output
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model_state"]
    assert back.keys() == s3dg.to_hico(original.state_dict()).keys()
    assert all(torch.equal(back[k], v) for k, v in s3dg.to_hico(original.state_dict()).items())


def test_names_of_hico_are_those_of_its_code():
    """The list of keys was written by the reference: each of the backbone, aliases included, and no other."""
    if not S3DG_KEYS.is_file():
        pytest.skip("the list of keys is not there")
    with S3DG_KEYS.open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    wanted = {r["key"]: r["shape"] for r in rows if r["key"].startswith("backbone.")}
    with torch.device("meta"):
        state = s3dg.to_hico(S3DG(S3DGConfig()).state_dict())
    found = {k: "x".join(map(str, v.shape)) or "scalar" for k, v in state.items()}
    assert found == wanted


def test_an_s3dg_without_a_block_or_with_two_opinions_is_refused(tmp_path):
    path = tmp_path / "a.pyth"
    s3dg_file(path, ("backbone.Mixed_4c", "backbone.block4.2"))
    with pytest.raises(WeightsError, match="not a whole S3D-G of HiCo"):
        convert(path, tmp_path / "e")
    s3dg_file(path)
    content = torch.load(path, weights_only=True)
    state = content["model_state"]
    state["backbone.block2.1.bn.bias"] = state["backbone.block2.1.bn.bias"] + 1
    torch.save(content, path)
    with pytest.raises(WeightsError, match="differs from its alias"):
        convert(path, tmp_path / "e")
    assert not (tmp_path / "e").exists()


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


def test_clips_of_carl_may_be_shorter_than_its_training(tmp_path):
    """Was wrong: --num-frames was taken for the range of positions of the training, so features were others."""
    path = tmp_path / "a.pth"
    original = carl_file(path, {"TRAIN": {"NUM_FRAMES": 80}})
    convert(path, tmp_path / "e", sizes=Sizes(num_frames=20))
    encoder = load_encoder(tmp_path / "e")
    assert (encoder.preprocess.num_frames, encoder.config.num_frames) == (20, 80)
    assert encoder.config == original.config


def test_what_a_carl_file_does_not_say_is_asked_for(tmp_path):
    path = tmp_path / "a.pth"
    carl_file(path, None)
    with pytest.raises(WeightsError, match="give num_frames, of convert --trained-frames"):
        convert(path, tmp_path / "e", sizes=Sizes(num_frames=240))
    convert(path, tmp_path / "e", sizes=Sizes(trained_frames=240))
    assert load_encoder(tmp_path / "e").preprocess.num_frames == 240


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "a.pyth"
    hico_file(path, preset="r2plus1d_10")
    with pytest.raises(
        WeightsError, match=r"a model of hico, .* no such form here: leave out --to huggingface"
    ):
        convert(path, tmp_path / "b", to="huggingface")
    # Was wrong: settings that a reader does not look at were ignored without a word.
    with pytest.raises(
        WeightsError, match=r"--num-heads=2, --min-share=0\.5 would .* of the family hico, .*--size"
    ):
        convert(path, tmp_path / "e", num_heads=2, min_share=0.5)
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
