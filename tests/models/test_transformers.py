"""Equality with Hugging Face's own classes, both ways; runs where transformers is installed.

In any version from 4.57: `pip install 'video_ssl[hub]'`, or an older one into an environment of its own.
"""

import pytest
import torch
from published_maker import (
    TRAINED,
    decoder,
    head,
    image_vit,
    mae_file,
    prefixed,
    shake,
    video,
    video_vit,
    videomae_file,
)

from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.converted import load_classifier
from video_ssl.models.exchange.published import read_published
from video_ssl.models.exchange.sizes import Sizes

transformers = pytest.importorskip("transformers", reason="pip install 'video_ssl[hub]'")

OPTIONS = {"sizes": Sizes(**TRAINED), "num_heads": 2}
SETTINGS = {"image_size": 12, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2}
SETTINGS |= {"num_attention_heads": 2, "intermediate_size": 128, "layer_norm_eps": 1e-6}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
DECODER |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 64}


def theirs(name, folder, allowed=()):
    """The model that transformers makes of a folder; nothing may be missing or unexpected."""
    cls = getattr(transformers, name)
    model, told = cls.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", local_files_only=True
    )
    assert set(told["missing_keys"]) == set(allowed)
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def written(tmp_path, state, **options):
    torch.save({"model": state}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "hub", to="huggingface", **OPTIONS, **options)
    return tmp_path / "hub"


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pretraining_written(tmp_path):
    encoder, pixels = video_vit(), decoder("sincos_1d", 96, embed_bias=False)
    model = theirs("VideoMAEForPreTraining", written(tmp_path, videomae_file(encoder, pixels)))
    clips = video()
    close(model.videomae(clips.transpose(1, 2)).last_hidden_state, encoder.tokens(clips))
    hidden = torch.zeros(2, 18, dtype=torch.bool)
    hidden[:, ::2] = True
    model.decoder.norm.eps = 1e-6
    pixels.blocks[0].attn.num_heads = model.config.decoder_num_attention_heads
    keep, want = (torch.arange(18)[start::2].expand(2, -1) for start in (1, 0))
    expected = pixels(encoder(clips, keep), keep, want)
    close(model(clips.transpose(1, 2), bool_masked_pos=hidden).logits, expected)


@torch.no_grad()
def test_classifier_written(tmp_path):
    state = {**prefixed("", video_vit(final_norm=False)), **head()}
    folder = written(tmp_path, state, family="videomae")
    model = theirs("VideoMAEForVideoClassification", folder)
    convert(tmp_path / "a.pth", tmp_path / "ours", family="videomae", **OPTIONS)
    model.fc_norm.eps = 1e-6
    close(model(video().transpose(1, 2)).logits, load_classifier(tmp_path / "ours")(video()))


@torch.no_grad()
def test_encoders_written(tmp_path):
    encoder = video_vit()
    model = theirs("VideoMAEModel", written(tmp_path, prefixed("encoder.", encoder)))
    close(model(video().transpose(1, 2)).last_hidden_state, encoder.tokens(video()))
    (tmp_path / "image").mkdir()
    image = image_vit()
    pooler = ("pooler.dense.weight", "pooler.dense.bias")
    model = theirs("ViTModel", written(tmp_path / "image", mae_file(image)), pooler)
    frame = video(frames=1)
    close(model(frame[:, :, 0]).last_hidden_state, image(frame))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("VideoMAEForPreTraining", {"use_mean_pooling": False, **DECODER}),
        ("VideoMAEForVideoClassification", {"use_mean_pooling": True, "num_labels": 7}),
        ("VideoMAEModel", {"use_mean_pooling": False}),
    ],
)
@torch.no_grad()
def test_video_models_read(tmp_path, name, settings):
    config = transformers.VideoMAEConfig(**SETTINGS, num_frames=4, tubelet_size=2, **settings)
    model = shake(getattr(transformers, name)(config))
    model.save_pretrained(tmp_path)
    found = read_published(tmp_path, num_heads=2)
    assert (found.report.missing, found.report.unused) == ((), ())
    inner = getattr(model, "videomae", model)
    expected = inner(video().transpose(1, 2)).last_hidden_state
    close(found.encoder.eval().tokens(video()), expected)


@torch.no_grad()
def test_image_models_read(tmp_path):
    config = transformers.ViTMAEConfig(**SETTINGS, mask_ratio=0.0, **DECODER)
    model = shake(transformers.ViTMAEForPreTraining(config))
    model.save_pretrained(tmp_path)
    found = read_published(tmp_path, num_heads=2)
    assert (found.report.missing, found.report.unused) == ((), ())
    frame = video(frames=1)
    in_order = torch.arange(9.0).expand(2, -1)
    expected = model.vit(frame[:, :, 0], noise=in_order).last_hidden_state
    close(found.encoder.eval()(frame), expected)
