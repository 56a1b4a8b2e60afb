"""Weights from elsewhere: containers, prefixes, reports, and files that are refused."""

import argparse
import collections
import datetime
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from video_ssl.models.checkpoint_files import read_content
from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.exchange.published import load_published
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import WeightsError, load_weights, read_checkpoint, read_state

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


class Harmless:
    """Of a class that no reader knows."""


@pytest.mark.parametrize("where", ["archive", "legacy", "bare pickle", "pickle 4", "tensor key"])
def test_a_file_that_would_run_code_is_refused_by_name_and_does_not(tmp_path, monkeypatch, where):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "ran"))
    content = {"model": linear(), "args": argparse.Namespace(lr=1.0), "x": Evil()}
    file = tmp_path / "a.pth"
    if where == "archive":
        torch.save(content, file)
    elif where == "legacy":
        torch.save(content, file, _use_new_zipfile_serialization=False)
    elif where == "tensor key":
        torch.save({"model": {**linear(), "weight": Evil()}}, file)
    else:
        file.write_bytes(pickle.dumps({"x": Evil()}, protocol=4 if "4" in where else 2))
    with pytest.raises(
        WeightsError,
        match=r"a.pth names (posix|nt).mkdir, which only code .* nothing of it was run",
    ):
        read_state(file)
    assert not (tmp_path / "ran").exists()


def test_every_unknown_name_is_listed(tmp_path):
    torch.save(
        {"model": linear(), "x": collections.ChainMap(), "y": Harmless()}, tmp_path / "a.pth"
    )
    with pytest.raises(WeightsError, match=r"names collections.ChainMap, \S*Harmless, which"):
        read_state(tmp_path / "a.pth")


def test_what_checkpoints_of_the_field_carry_is_not_built(tmp_path):
    """Numbers of numpy, paths, the command line: read over, never imported, tensors intact."""
    extra = {
        "args": argparse.Namespace(
            lr=np.float64(0.1), out=pathlib.PurePosixPath("/x").parent, epochs=3, sizes=[1, 2]
        ),
        "best": np.float64(87.2),
        "when": datetime.timedelta(seconds=1),
        "path": pathlib.Path("/tmp/x"),
        "history": np.arange(3.0),
    }
    del extra["args"].out
    torch.save({"model": linear(), **extra}, tmp_path / "a.pth")
    content = read_content(tmp_path / "a.pth")
    assert torch.equal(content["model"]["weight"], torch.ones(2, 3))
    for name in (n for n in extra if n != "args"):
        assert repr(content[name]) == "(not a tensor, not read)", name
    # Of the command line what has a plain value is kept, and no object of argparse.
    assert content["args"].options == {"epochs": 3, "sizes": [1, 2]}
    assert type(content["args"]).__module__.startswith("video_ssl.")
    assert read_checkpoint(tmp_path / "a.pth").arguments == {"epochs": 3, "sizes": [1, 2]}


def test_the_allow_list_is_given_back(tmp_path):
    before = set(map(str, torch.serialization.get_safe_globals()))
    torch.save({"model": linear()}, tmp_path / "a.pth")
    read_state(tmp_path / "a.pth")
    assert set(map(str, torch.serialization.get_safe_globals())) == before


PAGE = b"\n<!DOCTYPE html><html><body>Google Drive - quota exceeded</body></html>"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (PAGE, "is a web page, not weights"),
        (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of git-lfs"),
        (b'{"error": "not found"}', "is JSON text"),
        (b"\x1f\x8b\x08" + bytes(30), "is a packed archive"),
        (b"RIFFxxxxAVI LIST", "is no checkpoint: it begins with b'RIFFxxxx'"),
        (b"PK\x03\x04" + bytes(100), "is truncated: it begins as a PyTorch archive"),
        (b"\x80\x02}q\x00(X\x05", "is a damaged or truncated PyTorch checkpoint"),
    ],
)
def test_what_people_have_instead_of_weights(tmp_path, content, told):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=told) as error:
        read_state(tmp_path / "a.pth")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("kind", ["a.pth", "old.pth", "a.safetensors"])
def test_truncated_files(tmp_path, kind, share):
    state = {f"w{i}": torch.randn(100, 100) for i in range(4)}
    if kind == "a.safetensors":
        save_file(state, tmp_path / kind)
    else:
        torch.save(
            {"model": state}, tmp_path / kind, _use_new_zipfile_serialization=kind == "a.pth"
        )
    whole = (tmp_path / kind).read_bytes()
    assert set(read_state(tmp_path / kind)) == set(state)
    (tmp_path / kind).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        WeightsError, match=r" is truncated: | is a damaged or truncated Py"
    ) as error:
        read_state(tmp_path / kind)
    assert kind in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_safetensors_file_with_a_broken_header(tmp_path):
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": "x"}}'
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="broken safetensors header"):
        read_state(tmp_path / "a.safetensors")


def test_the_name_of_a_file_does_not_decide(tmp_path):
    save_file(linear(), tmp_path / "pytorch_model.bin")
    assert set(read_state(tmp_path / "pytorch_model.bin")) == {"weight", "bias"}
    torch.save(linear(), tmp_path / "model.safetensors")
    assert set(read_state(tmp_path / "model.safetensors")) == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore")
def test_programs_are_not_weights(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="is a TorchScript program"):
        read_state(tmp_path / "a.pt")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "a.pt2")
    with pytest.raises(WeightsError, match=r"is a program of torch.export"):
        read_state(tmp_path / "a.pt2")


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
    family = "videomae" if style == "finetuned" else "auto"
    again = load_published(
        tmp_path / f"a{suffix}", image_size=12, num_frames=4, num_heads=2, family=family
    )
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
