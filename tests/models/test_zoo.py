"""pytorchvideo's networks as encoders, and their published files, made up by pytorchvideo itself."""

import json
import sys

import numpy as np
import pytest
import torch

import video_ssl
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.networks.zoo import ZooEncoder, import_pytorchvideo, slow_frames
from video_ssl.models.networks.zoo_config import ZOO, ZooConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError

pytest.importorskip("pytorchvideo")

SMALL = ("slow_r50", "i3d_r50", "slowfast_r50", "r2plus1d_r50", "x3d_s")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def whole(name, frames, size):
    """The network of pytorchvideo with a head that pools everything."""
    hub = import_pytorchvideo("pytorchvideo.models.hub")
    pools = {"head_pool": torch.nn.AdaptiveAvgPool3d} if name in ("slow_r50", "i3d_r50") else {}
    if name.startswith("x3d"):
        pools = {"input_clip_length": frames, "input_crop_size": size}
    return getattr(hub, name)(pretrained=False, **pools).eval()


@pytest.mark.parametrize("name", ["slow_r50", "i3d_r50"])
@torch.no_grad()
def test_features_are_what_the_head_of_the_original_sees(name):
    model = whole(name, 8, 64)
    encoder = ZooEncoder(ZooConfig(model=name)).eval()
    head = f"blocks.{len(encoder.blocks)}."
    encoder.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith(head)})
    video = torch.randn(2, 3, 8, 64, 64)
    seen = []
    model.blocks[-1].dropout = None
    model.blocks[-1].proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(video)
    torch.testing.assert_close(
        encoder.clip_features(video), seen[0].flatten(1), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_slowfast_shows_the_pathways_what_the_original_shows_them():
    """The slow one sees every fourth frame as pytorchvideo's transform takes them; the fast one stands behind it."""
    encoder = ZooEncoder(ZooConfig(model="slowfast_r50")).eval()
    video = torch.randn(1, 3, 16, 64, 64)
    taken = torch.linspace(0, 15, 4).long()
    assert slow_frames(16).tolist() == taken.tolist()
    pathways = [video[:, :, taken], video]
    for block in encoder.blocks:
        pathways = block(pathways)
    slow, fast = pathways
    clip, frames = encoder.features(video)
    torch.testing.assert_close(clip[:, :2048], slow.mean((2, 3, 4)))
    torch.testing.assert_close(clip[:, 2048:], fast.mean((2, 3, 4)))
    torch.testing.assert_close(frames[0, 1, 2048:], fast[0, :, 4:8].mean((1, 2, 3)))
    with pytest.raises(ValueError, match="multiple of 4 frames, not 6"):
        encoder(video[:, :, :6])


@pytest.mark.parametrize("name", ZOO)
def test_grids_positions_and_widths(name):
    known = ZOO[name]
    encoder = ZooEncoder(ZooConfig(model=name, num_frames=known.num_frames)).eval()
    for frames in (known.num_frames, 20 if "slowfast" in name else known.num_frames + 3):
        video = torch.zeros(1, 3, frames, 64, 96)
        grid = encoder.grid(video)
        places = encoder.frame_positions(frames)
        assert len(places) == grid[0]
        assert np.all(np.diff(places) > 0)
        assert 0 <= places[0] <= places[-1] <= frames - 1
    if name in SMALL:
        video = video[:, :, : known.num_frames]
        with torch.no_grad():
            tokens = encoder.tokens(video)
        assert tokens.shape == (1, np.prod(encoder.grid(video)), known.width)


@torch.no_grad()
def test_saved_and_loaded(tmp_path):
    encoder = ZooEncoder(ZooConfig(model="x3d_s", num_frames=5)).eval()
    how = VideoPreprocess(num_frames=5, frame_stride=2, size=64)
    save_encoder(
        tmp_path / "e", encoder, architecture="zoo", preprocess=how, source={"objective": "x"}
    )
    found = video_ssl.load_encoder(tmp_path / "e").eval()
    video = torch.randn(1, 3, 5, 64, 64)
    torch.testing.assert_close(found.clip_features(video), encoder.clip_features(video))
    with pytest.raises(ValueError, match="offers only its output"):
        found.features(video, layer=1)


@pytest.mark.parametrize("name", ["slow_r50", "slowfast_r50", "x3d_l"])
def test_published_files(tmp_path, name):
    """As the hub's files are: the whole network under "model_state"."""
    hub = import_pytorchvideo("pytorchvideo.models.hub")
    model = getattr(hub, name)(pretrained=False)
    torch.save({"model_state": model.state_dict()}, tmp_path / "file.pyth")
    convert(tmp_path / "file.pyth", tmp_path / "e")
    encoder = load_encoder(tmp_path / "e")
    assert encoder.config == ZooConfig(model=name, num_frames=ZOO[name].num_frames)
    own = model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in encoder.state_dict().items())
    how = encoder.preprocess
    assert (how.mean, how.std, how.fps) == ((0.45,) * 3, (0.225,) * 3, 30.0)
    assert (how.num_frames, how.frame_stride, how.size) == (
        ZOO[name].num_frames,
        ZOO[name].frame_stride,
        ZOO[name].size,
    )
    report = json.loads((tmp_path / "e" / "conversion.json").read_text())
    assert report["family"] == "pytorchvideo"
    assert report["unused"]
    assert all(".proj." in key or "blocks.5." in key for key in report["unused"])


def test_a_part_of_a_published_file_is_refused(tmp_path):
    hub = import_pytorchvideo("pytorchvideo.models.hub")
    state = hub.x3d_m(pretrained=False).state_dict()
    gone = next(key for key in state if key.startswith("blocks.3."))
    torch.save({"model_state": {k: v for k, v in state.items() if k != gone}}, tmp_path / "f.pyth")
    with pytest.raises(WeightsError, match="none of pytorchvideo's networks"):
        convert(tmp_path / "f.pyth", tmp_path / "e")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"model": "slow_r5"}, "must be one of slow_r50"),
        ({"model": "csn_r101", "num_frames": 4}, "at least 8"),
        ({"model": "slowfast_r50", "num_frames": 10}, "multiple of 4"),
    ],
)
def test_settings_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        ZooConfig(**settings)


def test_without_pytorchvideo_it_is_said_how_to_get_it(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "pytorchvideo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorchvideo", None)
    with pytest.raises(ImportError, match=r"pip install 'video_ssl\[zoo\]'"):
        ZooEncoder(ZooConfig(model="x3d_s"))


def test_no_stub_of_torchvision_stays_behind():
    import_pytorchvideo("pytorchvideo.models.hub")
    assert not any(
        name.split(".")[0] == "torchvision" and module.__spec__ is None
        for name, module in sys.modules.items()
        if module is not None
    )
