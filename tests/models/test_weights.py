"""Weights from elsewhere: containers, prefixes, reports, and files that are refused."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.image_vit import ImageViT
from video_ssl.models.published import load_published
from video_ssl.models.vit import VideoViT
from video_ssl.models.weights import WeightsError, load_weights, read_state

SIZE = {"preset": None, "embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 4}
CLIP = {"num_frames": 4, "tubelet_size": 2}


def linear():
    return {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize("container", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_containers_and_wrappers_are_taken_off(tmp_path, container, prefix):
    state = {prefix + k: v for k, v in linear().items()}
    content = {container: state, "epoch": 3} if container else state
    torch.save(content, tmp_path / "a.pth")
    assert set(read_state(tmp_path / "a.pth")) == {"weight", "bias"}


def test_the_command_line_inside_a_checkpoint_is_harmless(tmp_path):
    content = {"model": linear(), "args": argparse.Namespace(lr=1.0), "epoch": 1}
    torch.save(content, tmp_path / "a.pth")
    assert set(read_state(tmp_path / "a.pth")) == {"weight", "bias"}


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "ran"))
    torch.save({"model": linear(), "x": Evil()}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError,
        match=r"a.pth names (posix|nt).mkdir, which only code .* nothing of it was run",
    ):
        read_state(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        read_state(tmp_path / "none.pth")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"not one")
        with pytest.raises(WeightsError, match="is no checkpoint: it begins with b'not one'"):
            read_state(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="holds no tensors; its keys are epoch"):
        read_state(tmp_path / "empty.pth")


def test_the_report_names_every_key():
    module = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})
    before = module["b"].weight.clone()
    state = {
        "old.weight": torch.ones(2, 3),
        "old.bias": torch.ones(2),
        "b.weight": torch.ones(5, 2),
        "gone": torch.ones(1),
        "table": torch.ones(1),
    }
    rename = (("old.", "a."), ("table", None))
    report = load_weights(module, state, rename=rename, min_share=0.5)
    assert report.matched == ("a.weight", "a.bias")
    assert report.renamed == {"old.weight": "a.weight", "old.bias": "a.bias"}
    assert report.missing == ("b.bias",)
    assert report.mismatched == ("b.weight [5, 2] instead of [2, 2]",)
    assert report.unused == ("gone", "table")
    assert report.share == 0.5
    assert torch.equal(module["a"].weight, torch.ones(2, 3))
    assert torch.equal(module["b"].weight, before)
    with pytest.raises(WeightsError, match=r"only 50% of the weights .* at least 100%"):
        load_weights(module, state, rename=rename)
    with pytest.raises(WeightsError, match=r"two keys of the file would fill 'a.bias'"):
        load_weights(module, {**state, "a.bias": torch.ones(2)}, rename=rename, min_share=0)


def save(path, state):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save({"model": state}, path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("style", ["mae", "videomae", "mvd", "finetuned"])
def test_published_encoders_come_back(tmp_path, style, suffix):
    extra = {"decoder.blocks.0.norm1.weight": torch.ones(3), "mask_token": torch.ones(1, 1, 3)}
    if style == "mae":
        module = ImageViT(ImageViTConfig(**SIZE, image_size=12))
        state = {**module.state_dict(), **extra, "pos_embed": torch.zeros(1, 10, 32)}
        state["pos_embed"][0, 1:] = module.positions()
    else:
        table = "sincos_3d" if style == "mvd" else "sincos_1d"
        config = ViTConfig(
            **SIZE, **CLIP, image_size=12, positions=table, final_norm=style != "finetuned"
        )
        module = VideoViT(config)
        own = module.state_dict()
        if style == "videomae":
            own = {f"encoder.{k}": v for k, v in own.items()}
        if style == "mvd":
            own["pos_embed"] = module.positions()[None].clone()
            own |= {
                "pos_embed_img": torch.zeros(1, 18, 32),
                "decoder_img.norm.weight": torch.ones(3),
            }
        if style == "finetuned":
            own |= {"fc_norm.weight": torch.ones(32), "head.weight": torch.ones(10, 32)}
        state = {**own, **extra}
    save(tmp_path / f"a{suffix}", state)
    again = load_published(tmp_path / f"a{suffix}", image_size=12, num_frames=4, num_heads=2)
    video = torch.randn(2, 3, 4, 12, 12)
    with torch.no_grad():
        assert torch.equal(again.tokens(video), module.tokens(video))


def test_hugging_face_files_come_back(tmp_path):
    config = ViTConfig(**SIZE, **CLIP, image_size=12, positions="sincos_1d")
    module = VideoViT(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    state = {"classifier.weight": torch.ones(3, 32), "decoder.norm.weight": torch.ones(3)}
    for key, value in module.state_dict().items():
        if key.startswith("patch_embed"):
            state[
                key.replace("patch_embed.proj", "videomae.embeddings.patch_embeddings.projection")
            ] = value
        elif key.startswith("norm"):
            state[f"videomae.layer{key}"] = value
        else:
            _, number, rest = key.split(".", 2)
            layer, kind = rest.rsplit(".", 1)
            inner = f"videomae.encoder.layer.{number}"
            if layer == "attn.qkv":
                for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    state[f"{inner}.attention.attention.{part}.weight"] = third
            elif layer == "attn":
                state[f"{inner}.attention.attention.{kind}"] = value
            else:
                state[f"{inner}.{names[layer]}.{kind}"] = value
    save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "a.safetensors")
    again = load_published(tmp_path / "a.safetensors", image_size=12, num_frames=4, num_heads=2)
    video = torch.randn(2, 3, 4, 12, 12)
    with torch.no_grad():
        assert torch.equal(again.tokens(video), module.tokens(video))


def test_published_files_that_are_something_else(tmp_path):
    torch.save(linear(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"has no patch_embed.proj.weight"):
        load_published(tmp_path / "a.pth")
    module = VideoViT(ViTConfig(**SIZE, **CLIP, image_size=12))
    torch.save(module.state_dict(), tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="embed_dim=32 has no usual one: give num_heads"):
        load_published(tmp_path / "b.pth")
