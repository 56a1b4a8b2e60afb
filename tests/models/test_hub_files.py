"""Files of DINOv2's, timm's and V-JEPA 2's own codes, and folders of transformers, through `video-ssl convert`.

The files are made of the library's models by the inverse of the names, written here by hand after those codes.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from hub_maker import MODELS, library, make_model
from typer.testing import CliRunner

import video_ssl
from video_ssl.cli import app
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.weights import WeightsError

transformers = library()
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
#: The keys of a DINOv2 of one block, of its own code; `*` are weight and bias.
DINOV2_KEYS = """patch_embed.proj.* blocks.0.norm1.* blocks.0.attn.qkv.*
blocks.0.attn.proj.* blocks.0.ls1.gamma blocks.0.norm2.* blocks.0.mlp.fc1.* blocks.0.mlp.fc2.* blocks.0.ls2.gamma
norm.*"""
VJEPA2_KEYS = """patch_embed.proj.* blocks.0.norm1.* blocks.0.attn.qkv.* blocks.0.attn.proj.* blocks.0.norm2.*
blocks.0.mlp.fc1.* blocks.0.mlp.fc2.* norm.*"""


def clips(frames: int = 4, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, frames, side, side, 3), dtype=np.uint8)


def listed(text: str, blocks: int = 2) -> set[str]:
    names = {key.replace("*", end) for key in text.split() for end in ("weight", "bias")}
    return {name.replace("blocks.0", f"blocks.{n}") for name in names for n in range(blocks)}


def joined(state: dict, place: str) -> torch.Tensor:
    """Queries, keys and values of the library's attention as rows of one matrix."""
    return torch.cat([state[place.format(part)] for part in "qkv"])


def dinov2_state(model) -> dict[str, torch.Tensor]:
    """The weights of a Dinov2Model under the keys of DINOv2's code."""
    state, found = model.state_dict(), {}
    for key, value in state.items():
        if re.search(r"attention\.[kv]_proj", key):
            continue
        if "q_proj" in key:
            value, key = (
                joined(state, key.replace("q_proj", "{}_proj")),
                key.replace("q_proj", "qkv"),
            )
        for old, new in (
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("embeddings.", ""),
            ("encoder.layer.", "blocks."),
            ("attention.o_proj", "attn.proj"),
            ("attention.", "attn."),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("layernorm.", "norm."),
        ):
            key = key.replace(old, new)
        found[key] = value
    return found


def vjepa2_state(model) -> dict[str, torch.Tensor]:
    state, found = model.encoder.state_dict(), {}
    for key, value in state.items():
        if re.search(r"attention\.(key|value)\.", key):
            continue
        if "attention.query" in key:
            parts = [state[key.replace("query", part)] for part in ("query", "key", "value")]
            value, key = torch.cat(parts), key.replace("query", "qkv")
        key = key.replace("embeddings.patch_embeddings", "patch_embed").replace(
            "attention.", "attn."
        )
        key = re.sub(r"^layer\.", "blocks.", key)
        found[re.sub(r"^layernorm\.", "norm.", key)] = value
    return found


@torch.no_grad()
def tokens(encoder, given: np.ndarray) -> np.ndarray:
    """Of the same numbers, whatever the encoder's own mean and deviation are."""
    x = torch.from_numpy(given).permute(0, 4, 1, 2, 3) / 100 - 1
    return encoder.outputs(x, ["tokens"])["tokens"].numpy()


@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers"])
def test_dinov2_from_its_own_code(name, tmp_path):
    """Features equal those of the same model from its folder; keys are those that the code writes."""
    model = make_model(name, tmp_path / "hub")
    state = dinov2_state(model)
    alone = {"cls_token", "pos_embed", "mask_token"}
    if name == "dinov2_with_registers":
        alone.add("register_tokens")
    assert set(state) == listed(DINOV2_KEYS) | alone
    torch.save(state, tmp_path / "dinov2.pth")
    done = convert(tmp_path / "dinov2.pth", tmp_path / "ours", num_heads=2)
    assert done.report.unused == ()
    found, own = load_encoder(tmp_path / "ours"), load_encoder(f"hub:{tmp_path / 'hub'}")
    np.testing.assert_allclose(tokens(found, clips()), tokens(own, clips()), **CLOSE)
    pre = found.preprocess
    assert (pre.size, pre.resize_to, pre.kernel) == (224, 256, "bicubic")


def test_dinov2_from_timm(tmp_path):
    """timm calls registers reg_token, keeps positions of patches alone, and has no mask token."""
    model = make_model("dinov2_with_registers", tmp_path / "hub")
    with torch.no_grad():
        model.embeddings.position_embeddings[:, 0] = 0  # timm adds it to the class token
    state = dinov2_state(model)
    state["reg_token"] = state.pop("register_tokens")
    state["pos_embed"] = state["pos_embed"][:, 1:]
    del state["mask_token"]
    torch.save(state, tmp_path / "timm.pth")
    convert(tmp_path / "timm.pth", tmp_path / "ours", num_heads=2)
    found = load_encoder(tmp_path / "ours")
    x = torch.randn(2, 3, 1, 32, 32)
    with torch.no_grad():
        expected = model(pixel_values=x[:, :, 0]).last_hidden_state[:, 4:]
        np.testing.assert_allclose(found.outputs(x, ["tokens"])["tokens"], expected, **CLOSE)


def test_vjepa2_from_its_own_code(tmp_path):
    """The averaged encoder is taken, not the other; the sizes that do not show in the weights are asked for."""
    model = make_model("vjepa2", tmp_path / "hub")
    state = vjepa2_state(model)
    assert set(state) == listed(VJEPA2_KEYS)
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    other = {key: torch.zeros_like(value) for key, value in wrapped.items()}
    torch.save({"encoder": other, "target_encoder": wrapped, "epoch": 3}, tmp_path / "vitl.pt")
    sizes = Sizes(image_size=32, num_frames=4)
    convert(tmp_path / "vitl.pt", tmp_path / "ours", num_heads=2, sizes=sizes)
    found, own = load_encoder(tmp_path / "ours"), load_encoder(f"hub:{tmp_path / 'hub'}")
    np.testing.assert_allclose(tokens(found, clips()), tokens(own, clips()), **CLOSE)
    assert (found.preprocess.num_frames, found.preprocess.size) == (4, 32)


def test_files_that_are_none_or_not_whole(tmp_path):
    model = make_model("dinov2", tmp_path / "hub")
    state = dinov2_state(model)
    torch.save({k: v for k, v in state.items() if "blocks.1.norm1" not in k}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="not whole for DINOv2: 2 missing"):
        convert(tmp_path / "a.pth", tmp_path / "a", num_heads=2)
    torch.save(state | {"blocks.0.attn.extra": torch.zeros(3)}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"weights that no DINOv2 has: blocks\.0\.attn\.extra"):
        convert(tmp_path / "b.pth", tmp_path / "b", num_heads=2)
    torch.save({"a": torch.zeros(3)}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="has not the keys of a file of DINOv2"):
        convert(tmp_path / "c.pth", tmp_path / "c", family="hub")
    torch.save(state, tmp_path / "d.pth")
    with pytest.raises(WeightsError, match="give --num-heads"):
        convert(tmp_path / "d.pth", tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "abcd")


@pytest.mark.parametrize("name", ["dinov3", "clip", "siglip2", "vjepa2"])
def test_a_folder_becomes_one_of_ours_with_its_licence(name, tmp_path):
    """`video-ssl convert FOLDER NEW`: the same features and fingerprint, the licence in the card, embedded by path."""
    make_model(name, tmp_path / "hub")
    (tmp_path / "hub" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    out = tmp_path / "ours"
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "hub"), str(out)])
    assert done.exit_code == 0, done.output
    # Was wrong: the list of what was left out was empty, whatever else the folder held.
    left = json.loads((out / "conversion.json").read_text())["unused"]
    outside = {"clip": "text_model.", "siglip2": "text_model.", "vjepa2": "predictor."}.get(name)
    if outside is None:
        assert left == []
    else:
        assert any(key.startswith(outside) for key in left)
        assert not any(key.startswith(("vision_model.", "encoder.")) for key in left)
    found, own = load_encoder(out), load_encoder(f"hub:{tmp_path / 'hub'}")
    assert found.fingerprint == own.fingerprint
    np.testing.assert_array_equal(tokens(found, clips()), tokens(own, clips()))
    card = (out / "README.md").read_text()
    assert 'license: "cc-by-nc-4.0"' in card
    assert "says of its licence: cc-by-nc-4.0" in " ".join(card.split())
    assert load_encoder(f"untrained:{out}").fingerprint != own.fingerprint
    video = np.zeros((8, 40, 50, 3), np.uint8)
    assert video_ssl.features_of_video(found, video, video_fps=10, frame_stride=1).frames.shape[1]


def test_folders_of_vit_and_videomae_stay_networks_of_ours(tmp_path):
    """As before; `--family hub` makes towers of transformers of them."""
    make_model("videomae", tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "ours", num_heads=2, family="videomae")
    assert load_encoder(tmp_path / "ours").architecture == "vit"
    convert(tmp_path / "hub", tmp_path / "theirs", family="hub")
    assert load_encoder(tmp_path / "theirs").architecture == "hub"
    assert MODELS["videomae"][2]["num_frames"] == load_encoder(tmp_path / "theirs").num_frames
