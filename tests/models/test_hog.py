"""Histograms of oriented gradients as encoders: what of a clip they keep, and what not.

Their numbers are compared in tests/golden/test_hog.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.embed.open_encoder import open_encoder, without_flax
from video_ssl.models.baselines import BASELINES, HOG
from video_ssl.models.encoders import EncoderError, load_encoder, save_encoder
from video_ssl.models.networks.hog import HogEncoder
from video_ssl.models.networks.hog_config import SHOWS, HogConfig
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import SoundPreprocess, VideoPreprocess

PREPROCESS = VideoPreprocess(num_frames=4, frame_stride=2, size=32)


def hog(shows: str, num_frames: int = 4) -> HogEncoder:
    return HogEncoder(HogConfig(shows=shows, num_frames=num_frames, size=32, reach=1))


def clip(num_frames: int = 4) -> torch.Tensor:
    return torch.randn(2, 3, num_frames, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_encoder(
        tmp_path / "run" / "encoder",
        PixelEncoder(PixelsConfig(num_frames=4, size=2)),
        architecture="pixels",
        preprocess=PREPROCESS,
        source={},
    )


def test_each_kind_keeps_what_it_says():
    video = clip()
    each = hog("each").frame_features(video)
    assert each.shape == (2, 4, 9 * 4 * 9)
    for row in range(4):
        alone = hog("frame", 1).clip_features(video[:, :, row : row + 1])
        torch.testing.assert_close(each[:, row], alone)
    middle, bag, order, window = (
        hog(shows).frame_features(video) for shows in ("frame", "bag", "order", "window")
    )
    torch.testing.assert_close(middle, each[:, 2:3])
    torch.testing.assert_close(bag, each.mean(1, keepdim=True))
    torch.testing.assert_close(order, torch.cat(each.unbind(1), dim=1)[:, None])
    rows = [(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)]
    wanted = [torch.cat([each[:, t] for t in row], dim=1) for row in rows]
    torch.testing.assert_close(window, torch.stack(wanted, dim=1))


def test_order_counts_where_it_is_said_to():
    video = clip()
    back = video.flip(2)
    for shows, same in (("bag", True), ("order", False), ("differences", False)):
        a, b = (hog(shows).clip_features(x) for x in (video, back))
        assert torch.allclose(a, b, atol=1e-6) is same, shows


def test_differences_see_what_moves_and_nothing_else():
    still = clip()[:, :, :1].repeat(1, 1, 4, 1, 1)
    assert hog("differences").clip_features(still).abs().max() == 0
    moved = still.clone()
    moved[:, :, 2:] = moved[:, :, 2:].roll(3, dims=-1)
    found = hog("differences").clip_features(moved).unflatten(1, (3, -1)).norm(dim=2)
    assert (found[:, 1] > 1).all()
    assert found[:, [0, 2]].abs().max() == 0


def test_neither_brightness_nor_contrast_counts():
    video = clip()
    found, changed = (hog("order").clip_features(x) for x in (video, 0.3 * video + 2))
    torch.testing.assert_close(found, changed, atol=1e-4, rtol=0)


def test_larger_frames_are_averaged_first():
    video = clip()
    large = video.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    torch.testing.assert_close(
        hog("bag").clip_features(large), hog("bag").clip_features(video), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shows", SHOWS)
def test_moments_lie_where_they_show(shows):
    encoder = hog(shows)
    found = encoder.frame_positions(4).tolist()
    wanted = {"frame": [2.0], "each": [0.0, 1.0, 2.0, 3.0], "window": [0.0, 1.0, 2.0, 3.0]}
    assert found == wanted.get(shows, [1.5])
    assert encoder.frame_features(clip()).shape == (2, len(found), encoder.embed_dim)
    assert encoder.frames_stand_alone is (shows == "each")


def test_every_kind_has_a_name_and_borrows_the_clips_of_an_encoder(saved):
    names = [name for name in BASELINES if name.startswith(HOG)]
    assert [name.removeprefix(HOG) for name in names] == list(SHOWS)
    for name in names:
        encoder = load_encoder(f"{name}:{saved}")
        assert encoder.preprocess == PREPROCESS
        assert encoder.config == HogConfig(shows=name.removeprefix(HOG), num_frames=4, size=32)
        assert encoder.source == {
            "objective": f"none ({BASELINES[name]})",
            "clips of": str(saved),
        }
    assert load_encoder(f"hog_bag:{saved}@16").config.size == 16
    marks = {load_encoder(f"{name}:{saved}").fingerprint for name in names}
    assert len(marks) == len(names)
    assert open_encoder(f"hog_bag:flax:{saved}").architecture == "hog"
    assert without_flax("hog_bag:flax:runs/a@16") == "hog_bag:runs/a@16"


def test_what_cannot_be_opened_is_told(saved, tmp_path):
    with pytest.raises(EncoderError, match="names no encoder: write hog_bag:RUN"):
        load_encoder("hog_bag:")
    with pytest.raises(EncoderError, match="of size 64 cannot be made of clips of 32 px"):
        load_encoder(f"hog_bag:{saved}@64")
    with pytest.raises(EncoderError, match=r"grid=4 must be at least 2, and at most size=3"):
        load_encoder(f"hog_bag:{saved}@3")
    with pytest.raises(EncoderError, match=r"Did you mean 'hog_order'.*Allowed are"):
        load_encoder(f"hog_ordr:{saved}")


def test_sound_has_no_frames(saved, monkeypatch):
    from video_ssl.models import encoders

    monkeypatch.setattr(
        encoders, "read_preprocess", lambda *_: SoundPreprocess(rate=16, num_samples=32)
    )
    with pytest.raises(EncoderError, match="needs an encoder of videos"):
        load_encoder(f"hog_bag:{saved}")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shows": "all"}, "shows='all' must be one of frame, bag, order"),
        ({"shows": "differences", "num_frames": 1}, "num_frames=1 must be at least 2"),
        ({"orientations": 0}, "orientations=0 must be at least 1"),
        ({"reach": -1}, "reach=-1 at least 0"),
        ({"grid": 1}, "grid=1 must be at least 2"),
    ],
)
def test_settings_that_mean_nothing(settings, text):
    with pytest.raises(ValueError, match=text):
        HogConfig(**settings)


def test_a_frame_without_edges_gives_nothing_and_no_nan():
    encoder = hog("bag")
    encoder.preprocess = PREPROCESS
    found = encoder.outputs_of_arrays(np.full((1, 4, 32, 32, 3), 7, np.uint8), ["clip"])["clip"]
    assert np.abs(found).max() == 0
