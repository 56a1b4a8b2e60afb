"""Files in the place of a Swin of BEVT or Video Swin that are none, or not whole; outputs against the reference are
compared in tests/golden/test_bevt.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.swin_tables import window_of
from video_ssl.models.networks.windows import relative_index, table_rows
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError

CONFIG = SwinConfig(
    preset=None, embed_dim=4, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window=(2, 3, 3), num_frames=32
)  # fmt: skip
FIRST = "backbone.layers.0.blocks.0.attn.relative_position_"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found = {f"backbone.{k}": v for k, v in VideoSwin(CONFIG).state_dict().items()}
    index = torch.from_numpy(relative_index(CONFIG.window).copy())
    tables = [k for k in found if k.endswith("bias_table")]
    return {**found, **{k.replace("bias_table", "index"): index.clone() for k in tables}}


def saved(folder: Path, state: dict[str, Any]) -> Path:
    torch.save({"meta": {}, "state_dict": state}, folder / "file.pth")
    return folder / "file.pth"


def test_a_release_of_video_swin(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state |= {"cls_head.fc_cls.weight": torch.zeros(3, 32), "cls_head.fc_cls.bias": torch.zeros(3)}
    sizes = Sizes(num_frames=8, image_size=96)
    found = convert(saved(tmp_path, state), tmp_path / "e", sizes=sizes).model
    assert (found.family, found.num_classes, found.encoder.config.window) == (
        "video_swin",
        3,
        (2, 3, 3),
    )
    encoder = load_encoder(tmp_path / "e")
    assert (encoder.preprocess.num_frames, encoder.preprocess.size) == (8, 96)
    assert encoder.config.num_heads == (1, 1, 2, 2)
    convert(tmp_path / "e", tmp_path / "back.pth", to="original")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], v) for k, v in state.items())


def test_what_is_no_whole_swin(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    swapped = {**state, f"{FIRST}index": state[f"{FIRST}index"].T.contiguous()}
    stage = {k: v for k, v in state.items() if ".layers.3." not in k}
    lone = {k: v for k, v in state.items() if not k.endswith("layers.2.blocks.1.mlp.fc2.bias")}
    odd = {**state, f"{FIRST}bias_table": torch.zeros(12, 1)}
    twice = {**state, "norm.weight": state["backbone.norm.weight"]}
    for content, text in (
        (swapped, "is not the index of windows of (2, 3, 3)"),
        (stage, "has blocks in the stages [0, 1, 2]: a Swin here has whole ones in four"),
        (lone, "missing: layers.2.blocks.1.mlp.fc2.bias"),
        (odd, "has 12 rows, which is no table of square windows"),
        (twice, "two keys of the file would fill 'norm.weight'"),
    ):
        with pytest.raises(WeightsError, match=re.escape(text)):
            convert(saved(tmp_path, content), tmp_path / "e")
    with pytest.raises(WeightsError, match="holds no running averages"):
        convert(saved(tmp_path, state), tmp_path / "e", family="bevt_ema")
    with pytest.raises(WeightsError, match="has not the keys of a Swin"):
        convert(saved(tmp_path, {"fc.weight": torch.zeros(1)}), tmp_path / "e", family="bevt")
    assert not (tmp_path / "e").exists()


def test_an_encoder_trained_here_goes_out_with_its_decoders(tmp_path: Path) -> None:
    folder = save_encoder(
        tmp_path / "e",
        VideoSwin(CONFIG),
        architecture="swin",
        preprocess=VideoPreprocess(num_frames=32, size=96),
        source={"objective": "bevt"},
        beside={
            "decoder.safetensors": {
                "mask_token": torch.ones(1, 1, 4),
                "lm_head.bias": torch.ones(2),
            }
        },
    )
    convert(folder, tmp_path / "out.pth", to="original")
    found = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    assert torch.equal(found["backbone.mask_token"], torch.ones(1, 1, 4))
    assert torch.equal(found["cls_head.lm_head.bias"], torch.ones(2))


@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7), (1, 12, 12), (2, 2, 2), (4, 1, 1)])
def test_windows_are_told_by_their_tables(window: tuple[int, int, int]) -> None:
    d, h, w = window
    assert window_of(table_rows(window), d * h * w) == window
    assert window_of(table_rows(window), d * h * w + 1) is None
