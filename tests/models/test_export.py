"""Programs of torch.export: the features of the encoder, without the library."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from published_maker import (
    TRAINED,
    head,
    image_vit,
    mae_file,
    prefixed,
    video,
    video_vit,
    videomae_file,
)
from torch import nn

from video_ssl.models.classifier import VideoClassifier
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.export_program import Features, compare, write_program
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.weights import WeightsError


def exported(tmp_path, state, family="auto", **sizes):
    torch.save({"model": state}, tmp_path / "a.pth")
    options = {"sizes": Sizes(**{**TRAINED, **sizes}), "num_heads": 2, "family": family}
    return convert(tmp_path / "a.pth", tmp_path / "a.pt2", to="export", **options)


def test_features_of_any_batch_in_a_process_without_the_library(tmp_path):
    """Also at a size that needs an interpolated table."""
    encoder = video_vit()
    done = exported(tmp_path, videomae_file(encoder), image_size=16, table="interpolate")
    assert done.notes == ("export has no place for decoder: left out.",)
    assert set(done.differences) == {"clip", "frames"}
    clips = video(5, 4, 16)
    torch.save(clips, tmp_path / "clips.pt")
    code = (
        "import sys, torch; folder = sys.argv[1]\n"
        "program = torch.export.load(folder + '/a.pt2').module()\n"
        "found = program(torch.load(folder + '/clips.pt'))\n"
        "assert not any(name.startswith('video_ssl') for name in sys.modules)\n"
        "torch.save({k: v.detach() for k, v in found.items()}, folder + '/found.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "found.pt")
    wanted = dict(zip(("clip", "frames"), encoder.features(clips), strict=True))
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", ["mean", "first_token"])
def test_a_classifier_gives_logits_too(tmp_path, readout):
    encoder = video_vit(final_norm=readout == "first_token")
    own = {k: v for k, v in head().items() if readout == "mean" or k.startswith("head.")}
    done = exported(tmp_path, {**prefixed("", encoder), **own}, family="videomae")
    assert set(done.differences) == {"clip", "frames", "logits"}
    # The encoder is written once: 4 bytes a parameter, and the program itself.
    big = sum(p.numel() for p in encoder.parameters()) * 4
    weights = zipfile.ZipFile(tmp_path / "a.pt2").infolist()
    assert big < sum(e.file_size for e in weights if "/weights/" in e.filename) < 1.2 * big
    model = VideoClassifier(encoder.config, num_classes=5, readout=readout).eval()
    model.load_state_dict({**prefixed("encoder.", encoder), **own})
    extra = {"video_ssl.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    found = program(video(3))
    torch.testing.assert_close(found["logits"], model(video(3)), atol=1e-5, rtol=1e-5)
    for name, value in zip(("clip", "frames"), encoder.features(video(3)), strict=True):
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
    note = json.loads(extra["video_ssl.json"])
    assert note["clip"] == [4, 12, 12]
    assert note["outputs"] == {
        "clip": ["batch", 32],
        "frames": ["batch", 2, 32],
        "logits": ["batch", 5],
    }
    assert note["preprocess"]["mean"] == [0.485, 0.456, 0.406]


def test_the_norm_of_a_distilled_encoder(tmp_path):
    encoder = video_vit(final_norm=False)
    norm = {k: v for k, v in head().items() if k.startswith("fc_norm")}
    exported(tmp_path, {**prefixed("", encoder), **norm}, family="videomae")
    model = VideoClassifier(encoder.config, num_classes=0).eval()
    model.load_state_dict({**prefixed("encoder.", encoder), **norm})
    found = torch.export.load(tmp_path / "a.pt2").module()(video())
    torch.testing.assert_close(found["pooled"], model(video()), atol=1e-5, rtol=1e-5)


def test_images(tmp_path):
    encoder = image_vit()
    exported(tmp_path, mae_file(encoder), num_frames=3)
    found = torch.export.load(tmp_path / "a.pt2").module()(video(2, 3))
    torch.testing.assert_close(
        found["frames"], encoder.frame_features(video(2, 3)), atol=1e-5, rtol=1e-5
    )


class Fickle(nn.Module):
    """Gives something else to a program than in person."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1))

    def features(self, clips):
        if not torch.compiler.is_compiling():
            clips = clips + 1
        frames = clips.mean((3, 4)).transpose(1, 2) + self.shift
        return frames.mean(1), frames


class Unclear(nn.Module):
    """Decides by its data, which no program can."""

    def features(self, clips):
        return (clips.mean((2, 3, 4)), clips) if clips.sum() > 0 else (clips, clips)


def test_a_program_that_differs_is_not_left_behind(tmp_path):
    with pytest.raises(WeightsError, match=r"'clip' differs by 1.00e"):
        write_program(tmp_path / "a.pt2", Fickle(), clip_shape=(2, 4, 4), note={})
    with pytest.raises(WeightsError, match=r"torch.export cannot write this encoder"):
        write_program(tmp_path / "a.pt2", Unclear(), clip_shape=(2, 4, 4), note={})
    assert not list(tmp_path.iterdir())


def test_a_program_of_other_weights_is_told_apart(tmp_path):
    encoder = video_vit()
    write_program(tmp_path / "a.pt2", encoder, clip_shape=(4, 12, 12), note={})
    assert compare(tmp_path / "a.pt2", Features(encoder), (4, 12, 12))["clip"] < 1e-5
    with torch.no_grad():
        encoder.norm.bias += 0.01
    with pytest.raises(WeightsError, match=r"differs by 1.00e-02"):
        compare(tmp_path / "a.pt2", Features(encoder), (4, 12, 12))
