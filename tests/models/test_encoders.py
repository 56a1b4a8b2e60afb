"""Encoder folders: the round trip, the baselines, and the text of every error."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import video_ssl
from video_ssl.models import NETWORKS, Network
from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.encoder_folder import FORMAT, read_config
from video_ssl.models.encoders import (
    EncoderError,
    load_encoder,
    save_encoder,
)
from video_ssl.models.exchange.converted import read_folder
from video_ssl.models.exchange.export_names import original_state, write_hugging_face
from video_ssl.models.exchange.published import read_published
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.torch_encoder import TorchEncoder
from video_ssl.models.weights import WeightsError, read_state

PREPROCESS = VideoPreprocess(num_frames=4, frame_stride=2, size=16)
SMALL = {
    "preset": None,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "image_size": 8,
}
SOURCE = {"objective": "toy", "data": "demo:train", "steps": 7}


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    width: int = 6
    layers: tuple[int, ...] = (3,)


class ToyEncoder(TorchEncoder, nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        self.num_frames = 4
        self.linear = nn.Linear(3, config.width)
        self.register_buffer("table", torch.ones(2), persistent=False)

    def outputs(self, inputs, names, *, cells=1, layer=None, pooling="mean") -> dict[str, Tensor]:
        self.check_outputs(names, layer=layer, pooling=pooling)
        moments = self.linear(inputs.mean(dim=(3, 4)).transpose(1, 2))
        found = {"clip": moments.mean(1), "moments": moments}
        return {name: found[name] for name in names}

    def frame_positions(self, num_frames: int) -> np.ndarray:
        return np.arange(num_frames, dtype=np.float64)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyEncoder:
    module = types.ModuleType("toy_encoder_module")
    module.ToyEncoder, module.ToyConfig = ToyEncoder, ToyConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_encoder_module", module)
    toy = Network(config="toy_encoder_module:ToyConfig", torch="toy_encoder_module:ToyEncoder")
    monkeypatch.setitem(NETWORKS, "toy", toy)
    return ToyEncoder(ToyConfig(width=5, layers=(1, 2)))


@pytest.fixture
def saved(toy: ToyEncoder, tmp_path: Path) -> Path:
    return save_encoder(
        tmp_path / "run" / "encoder", toy, architecture="toy", preprocess=PREPROCESS, source=SOURCE
    )


def test_round_trip_gives_the_same_features_configuration_and_preprocessing(toy, saved):
    video = torch.randn(2, 3, 4, 8, 8)
    for spec in (saved, str(saved), saved.parent):
        loaded = load_encoder(spec)
        for name, value in toy.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        # To rounding: some processors take another kernel for weights that learn, or that lie elsewhere in memory.
        torch.testing.assert_close(loaded.frame_features(video), toy.frame_features(video))
        assert loaded.config == toy.config
        assert loaded.preprocess == PREPROCESS
        assert loaded.source == SOURCE
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    assert video_ssl.load_encoder(saved).fingerprint == loaded.fingerprint


def test_card_tells_how_it_was_trained_and_names_what_is_unknown(saved):
    card = (saved / "README.md").read_text()
    for words in ("objective: toy", "data: demo:train", "steps: 7", "recipe: not recorded"):
        assert words in card
    assert "4 frames, every 2nd frame" in card
    assert "licence" in card.lower()


def test_saving_again_replaces_the_encoder_and_leaves_no_other_files(toy, saved):
    with torch.no_grad():
        toy.linear.weight.add_(1.0)
    save_encoder(saved, toy, architecture="toy", preprocess=PREPROCESS, source=SOURCE)
    assert torch.equal(load_encoder(saved).linear.weight, toy.linear.weight)
    assert [p.name for p in saved.parent.iterdir()] == ["encoder"]


def test_a_failed_save_leaves_the_old_encoder(toy, saved):
    before = load_encoder(saved).fingerprint
    with pytest.raises(TypeError):
        save_encoder(
            saved, toy, architecture="toy", preprocess=PREPROCESS, source={"steps": object()}
        )
    assert load_encoder(saved).fingerprint == before
    assert [p.name for p in saved.parent.iterdir()] == ["encoder"]


def test_a_folder_with_other_content_is_never_overwritten(toy, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(EncoderError, match="not overwritten"):
        save_encoder(tmp_path, toy, architecture="toy", preprocess=PREPROCESS, source=SOURCE)
    assert (tmp_path / "thesis.tex").is_file()


def test_weights_that_are_not_finite_are_not_saved(toy, tmp_path):
    with torch.no_grad():
        toy.linear.weight[0, 0] = float("nan")
    with pytest.raises(EncoderError, match=r"linear\.weight"):
        save_encoder(tmp_path / "e", toy, architecture="toy", preprocess=PREPROCESS, source=SOURCE)


def test_untrained_depends_on_its_seed_only_and_leaves_the_generator_alone(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_encoder(f"untrained:{saved}@3")
    assert torch.equal(torch.rand(3), expected)
    again = load_encoder(f"untrained:{saved.parent}@3")
    other = load_encoder(f"untrained:{saved}")
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
    assert not torch.equal(first.linear.weight, load_encoder(saved).linear.weight)
    assert first.preprocess == PREPROCESS
    torch.manual_seed(3)
    assert torch.equal(ToyEncoder(ToyConfig(width=5)).linear.weight, first.linear.weight)


def test_pixels_borrow_the_clips_of_an_encoder(saved):
    assert load_encoder("pixels").config == PixelsConfig(num_frames=16, size=16)
    assert load_encoder("pixels:8").config.size == 8
    borrowed = load_encoder(f"pixels:{saved}@4")
    assert borrowed.preprocess == PREPROCESS
    assert borrowed.config == PixelsConfig(num_frames=4, size=4)
    with pytest.raises(EncoderError, match="size 32 cannot be made of clips of 16 px"):
        load_encoder(f"pixels:{saved}@32")


@pytest.mark.parametrize("grey", [False, True])
def test_pixels_are_block_means_in_frame_row_column_order(grey):
    encoder = PixelEncoder(PixelsConfig(num_frames=3, size=2, grey=grey))
    video = torch.arange(2 * 3 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 3, 4, 6)
    features = encoder.frame_features(video)
    slow = video.numpy().reshape(2, 3, 3, 2, 2, 2, 3).mean(axis=(4, 6))  # B C T 2 2
    if grey:
        slow = slow.mean(axis=1, keepdims=True)
    slow = np.moveaxis(slow, 2, 1).reshape(2, 3, -1)
    np.testing.assert_allclose(features.numpy(), slow, rtol=1e-6)
    np.testing.assert_allclose(encoder.clip_features(video).numpy(), slow.mean(1), rtol=1e-6)
    assert features.shape[-1] == encoder.embed_dim
    assert encoder.frame_positions(3).tolist() == [0.0, 1.0, 2.0]


def test_fingerprint_changes_with_weights_and_with_preprocessing(toy, saved, tmp_path):
    first = load_encoder(saved).fingerprint
    other = VideoPreprocess(num_frames=4, frame_stride=3, size=16)
    save_encoder(tmp_path / "b", toy, architecture="toy", preprocess=other, source=SOURCE)
    with torch.no_grad():
        toy.linear.bias[0] += 1e-6
    save_encoder(tmp_path / "c", toy, architecture="toy", preprocess=PREPROCESS, source=SOURCE)
    marks = {first, *(load_encoder(tmp_path / x).fingerprint for x in "bc")}
    assert len(marks) == 3


@pytest.mark.parametrize(
    ("config", "architecture", "fingerprint"),
    [
        (ViTConfig(**SMALL, num_frames=2), "vit", "b6dd8ebf56e49265"),
        (ImageViTConfig(**SMALL), "image_vit", "2eef06389b6347cf"),
    ],
)
def test_fingerprints_of_before_there_were_stems_stand(config, architecture, fingerprint):
    """Feature files name the fingerprint of their encoder: a setting that came later must not make them stale."""
    network = VideoViT if architecture == "vit" else ImageViT
    module, other = network(config), network(replace(config, stem="conv"))
    for encoder in (module, other):
        for parameter in encoder.parameters():
            parameter.data.fill_(0.5)
        encoder.architecture = architecture
        encoder.preprocess = VideoPreprocess(num_frames=2, size=8)
    assert module.fingerprint == fingerprint != other.fingerprint


def test_an_encoder_with_a_stem_of_convolutions_is_saved_and_loaded(tmp_path):
    config = ViTConfig(**SMALL, num_frames=2, stem="conv")
    module = VideoViT(config).eval()
    preprocess = VideoPreprocess(num_frames=2, size=8)
    folder = save_encoder(
        tmp_path / "encoder", module, architecture="vit", preprocess=preprocess, source=SOURCE
    )
    loaded = load_encoder(folder)
    video = torch.randn(2, 3, 2, 8, 8)
    assert loaded.config == config
    torch.testing.assert_close(loaded.tokens(video), module.tokens(video))
    assert loaded.layer_of("patch_embed.convs.0.weight") == 0
    model = read_folder(folder)
    for write in (original_state, lambda m: write_hugging_face(tmp_path / "hub", m, preprocess)):
        with pytest.raises(WeightsError, match=r"stem of convolutions.*eep our format"):
            write(model)
    file = folder / "model.safetensors"
    with pytest.raises(WeightsError, match=r"has no patch_embed\.proj\.weight"):
        read_published(file)


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("place", [0.8, 0.9, 1.0])
def test_a_flipped_bit_in_the_weights_is_found(saved, place):
    """Was wrong: an encoder with a flipped bit gave features."""
    flip(saved / "model.safetensors", place)
    with pytest.raises(
        EncoderError, match=r"is damaged: model.safetensors is not what was written.*Copy or save"
    ):
        load_encoder(saved)
    with pytest.raises(EncoderError, match="is damaged"):
        read_state(saved / "model.safetensors")  # named by itself, as objective.init.file is
    (saved.parent / "checkpoints").mkdir()
    with pytest.raises(EncoderError, match=r"remove .*encoder and start its run again"):
        load_encoder(saved)


@pytest.mark.parametrize("spec", ["{}", "untrained:{}", "pixels:{}@4"])
def test_a_configuration_that_was_changed_is_not_taken(saved, spec):
    """Was wrong: a flipped bit in a mean or a stride gave other features without a word."""
    file = saved / "config.json"
    text = file.read_text()
    assert '"frame_stride": 2' in text
    file.write_text(text.replace('"frame_stride": 2', '"frame_stride": 3'))
    with pytest.raises(EncoderError, match=r'was changed by hand.*remove its line "checksum"'):
        load_encoder(spec.format(saved))
    lines = [line for line in file.read_text().splitlines() if '"checksum"' not in line]
    file.write_text("\n".join(lines))
    assert load_encoder(spec.format(saved)).preprocess.frame_stride == 3


def test_an_encoder_of_an_earlier_version_still_opens(saved, caplog):
    content = json.loads((saved / "config.json").read_text())
    for key in ("crc32", "bytes", "checksum"):
        del content[key]
    (saved / "config.json").write_text(json.dumps(content))
    caplog.set_level("INFO")
    load_encoder(saved)
    assert "earlier version, without checksums" in caplog.text


def edit_config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    content.pop("checksum", None)  # as folders of earlier versions, and those changed by hand
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


def test_a_setting_that_once_stood_in_folders_is_passed_over(saved):
    config = json.loads((saved / "config.json").read_text())["config"]
    edit_config(saved, config={**config, "checkpoint_blocks": True})
    load_encoder(saved)


def test_a_path_that_is_not_there_names_the_nearest(saved):
    near = saved.parent.with_name("rum")
    with pytest.raises(EncoderError, match=r"has no rum\. Did you mean 'run'\?.*untrained:PATH"):
        load_encoder(near)
    with pytest.raises(EncoderError, match="Did you mean 'untrained'"):
        load_encoder(f"untraned:{saved}")


def test_a_folder_without_encoder_tells_what_is_there(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(EncoderError, match=r"there is checkpoints/, metrics\.jsonl"):
        load_encoder(tmp_path)


def test_a_file_is_refused_whatever_it_is(saved, tmp_path):
    pickle = tmp_path / "checkpoint.pth"
    torch.save({"a": torch.zeros(1)}, pickle)
    for file in (pickle, saved / "model.safetensors"):
        with pytest.raises(EncoderError, match="is a file, but an encoder is a folder"):
            load_encoder(file)


def test_truncated_weights_are_named(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(EncoderError, match=r"model\.safetensors is not a complete safetensors"):
        load_encoder(saved)


def test_pickled_weights_under_the_right_name_are_refused(saved):
    torch.save({"linear.weight": torch.zeros(5, 3)}, saved / "model.safetensors")
    with pytest.raises(EncoderError, match="not a complete safetensors"):
        load_encoder(saved)


def test_unknown_architecture_names_the_nearest(toy, saved):
    edit_config(saved, architecture="vitt")
    with pytest.raises(EncoderError, match=r"'vitt'; there are .*Did you mean 'vit'"):
        load_encoder(saved)
    with pytest.raises(EncoderError, match="Did you mean 'toy'"):
        save_encoder(saved, toy, architecture="toi", preprocess=PREPROCESS, source={})


def test_weights_that_do_not_fit_are_listed(toy, saved):
    edit_config(saved, config={"width": 9})
    with pytest.raises(EncoderError, match=r"2 mismatched: linear\.bias \[5\] instead of \[9\]"):
        load_encoder(saved)
    edit_config(saved, config={"width": 5})
    toy.linear = nn.Linear(3, 5, bias=False)
    toy.extra = nn.Linear(2, 2, bias=False)
    other = save_encoder(
        saved.parent / "other", toy, architecture="toy", preprocess=PREPROCESS, source={}
    )
    with pytest.raises(EncoderError, match=r"1 missing: linear\.bias; 1 unexpected: extra\.weight"):
        load_encoder(other)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "timm"}, "does not describe a video_ssl encoder"),
        ({"config": {"widht": 5}}, "unknown key 'config.widht'.*Did you mean 'width'"),
        ({"preprocess": {"size": 0}}, "size=0 must be at least 1"),
    ],
)
def test_configurations_that_cannot_be_used(saved, changes, text):
    edit_config(saved, **changes)
    with pytest.raises(EncoderError, match=text):
        load_encoder(saved)


def test_a_config_that_is_not_json(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"config\.json is not readable as JSON"):
        load_encoder(saved)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fps": 12.5}, "every 2nd frame of the video at 12.5 frames a second, 16 x 16"),
        ({"sampling": "segments"}, "4 frames, one from each of as many parts of the video, 16 x"),
        ({"sampling": "seconds"}, "at 30 frames a second, whatever the rate of the file"),
    ],
)
def test_card_says_which_frames_make_a_clip(toy, tmp_path, settings, words):
    preprocess = VideoPreprocess(num_frames=4, frame_stride=2, size=16, **settings)
    save_encoder(tmp_path / "e", toy, architecture="toy", preprocess=preprocess, source=SOURCE)
    assert words in (tmp_path / "e" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architecture": ["vit"]}, r"config\.json: architecture=\['vit'\] must be a name"),
        ({"architecture": 1}, "must be a name"),
        ({"config": True}, r"config=True must be keys and values"),
        ({"preprocess": "text"}, r"preprocess='text' must be keys and values"),
        ({"source": [1]}, r"source=\[1\] must be keys and values"),
    ],
)
def test_a_configuration_of_other_kinds_is_refused_by_key(tmp_path, changes, told):
    """Was wrong: `unhashable type: 'list'`, `'bool' object is not iterable`."""
    content = {"format": FORMAT, "architecture": "vit", "config": {}, "preprocess": {}, **changes}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(EncoderError, match=told):
        read_config(tmp_path)


def test_a_wrong_folder_is_told_where_further_encoders_lie(tmp_path: Path) -> None:
    """The list of what may be given lacked the further encoders of a run, where slips are likeliest."""
    with pytest.raises(EncoderError, match="RUN/encoders/NAME"):
        load_encoder(tmp_path / "encoders" / "stils")
