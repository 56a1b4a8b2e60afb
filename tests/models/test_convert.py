"""`video-ssl convert`: what goes in comes out, bit for bit, in every format."""

import io
import json

import pytest
import torch
from published_maker import (
    TRAINED,
    decoder,
    head,
    hugging_face_file,
    image_vit,
    mae_file,
    mvd_file,
    prefixed,
    video,
    video_vit,
    videomae_file,
)
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.models.classifier import VideoClassifier
from video_ssl.models.encoders import EncoderError, load_encoder, save_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.converted import load_classifier
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError, read_container

OPTIONS = {"sizes": Sizes(**TRAINED), "num_heads": 2}


def finetuned():
    return {**prefixed("", video_vit(final_norm=False)), **head()}


#: Every kind of original checkpoint.
FILES = {
    "videomae": lambda: videomae_file(video_vit()),
    "mvd": lambda: mvd_file(video_vit(positions="sincos_3d")),
    "finetuned": finetuned,
    "mae": lambda: mae_file(image_vit()),
    "mae with decoder": lambda: mae_file(image_vit(), with_decoder=True),
    "mae finetuned": lambda: {**mae_file(image_vit(final_norm=False)), **head()},
    "videomae learned": lambda: {
        ("encoder.pos_embed" if k == "encoder.positions.table" else k): v
        for k, v in videomae_file(video_vit(positions="learned")).items()
    },
}


def same(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("container", ["model", "module"])
@pytest.mark.parametrize("kind", FILES)
def test_the_original_naming_comes_back_bit_for_bit(tmp_path, kind, container):
    """original -> ours -> original, through a folder of ours."""
    state = FILES[kind]()
    torch.save({container: state, "epoch": 3}, tmp_path / "a.pth")
    family = "videomae" if kind == "finetuned" else "auto"
    first = convert(tmp_path / "a.pth", tmp_path / "ours", family=family, **OPTIONS)
    assert first.report.unused == first.report.missing == ()
    # Sizes are not said again: the folder knows them.
    convert(tmp_path / "ours", tmp_path / "b.pth", to="original")
    found, place = read_container(tmp_path / "b.pth")
    assert place == container
    same(found, state)
    # As the original loader reads it: plain tensors, nothing else.
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(content) == [container]
    assert all(type(v) is torch.Tensor and v.is_contiguous() for v in content[container].values())


@pytest.mark.parametrize("kind", ["videomae", "finetuned", "encoder"])
def test_the_naming_of_hugging_face_comes_back_bit_for_bit(tmp_path, kind):
    encoder = video_vit(final_norm=kind != "finetuned")
    pixels = decoder("sincos_1d", 96, embed_bias=False) if kind == "videomae" else None
    classifier = head() if kind == "finetuned" else None
    stem = "" if kind == "encoder" else "videomae."
    state = hugging_face_file(encoder, stem, pixels=pixels, classifier=classifier)
    torch.save(state, tmp_path / "a.bin")
    convert(tmp_path / "a.bin", tmp_path / "ours", **OPTIONS)
    convert(tmp_path / "ours", tmp_path / "hub", to="huggingface")
    same(load_file(tmp_path / "hub" / "model.safetensors"), state)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    name = {"videomae": "ForPreTraining", "finetuned": "ForVideoClassification", "encoder": "Model"}
    assert config["architectures"] == ["VideoMAE" + name[kind]]
    assert config["use_mean_pooling"] is (kind == "finetuned")
    assert config["layer_norm_eps"] == 1e-6
    assert (config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]) == (
        32,
        2,
        128,
    )
    assert (config["image_size"], config["num_frames"], config["patch_size"]) == (12, 4, 4)
    assert ("decoder_hidden_size" in config) is (kind == "videomae")
    if kind == "finetuned":
        assert len(config["id2label"]) == 5
    # And back: its config.json tells the sizes.
    again = convert(tmp_path / "hub", tmp_path / "again", num_heads=2)
    assert again.model.encoder.config.grid == (2, 3, 3)
    same(
        again.model.state(),
        convert(tmp_path / "ours", tmp_path / "c.pth", to="original").model.state(),
    )


def test_images_in_the_naming_of_hugging_face(tmp_path):
    encoder = image_vit()
    torch.save({"model": mae_file(encoder)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "hub", to="huggingface", **OPTIONS)
    found = load_file(tmp_path / "hub" / "model.safetensors")
    expected = hugging_face_file(encoder, "", bias="linear")
    expected["embeddings.position_embeddings"] = mae_file(encoder)["pos_embed"]
    same(found, expected)
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["model_type"] == "vit"


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.4, 0.5)}


@pytest.mark.parametrize(
    "how",
    [
        {},
        HALF,
        {"stretch": True, "kernel": "bicubic"},
        {"resize_to": 16, **HALF},
    ],
)
@pytest.mark.parametrize("kind", ["vit", "image_vit"])
def test_frames_go_to_hugging_face_and_back(tmp_path, kind, how):
    """Was wrong: mean, deviation and scaling of a folder of Hugging Face were not read, nor our scaling written."""
    encoder = video_vit() if kind == "vit" else image_vit()
    preprocess = VideoPreprocess(num_frames=4 if kind == "vit" else 16, size=12, **how)
    save_encoder(tmp_path / "a", encoder, architecture=kind, preprocess=preprocess, source={})
    convert(tmp_path / "a", tmp_path / "hub", to="huggingface")
    done = convert(tmp_path / "hub", tmp_path / "b", num_heads=2)
    assert load_encoder(tmp_path / "b").preprocess == preprocess
    assert done.notes == ()


def test_frames_of_a_folder_of_hugging_face(tmp_path):
    save_encoder(
        tmp_path / "a",
        image_vit(),
        architecture="image_vit",
        preprocess=VideoPreprocess(size=12),
        source={},
    )
    convert(tmp_path / "a", tmp_path / "hub", to="huggingface")
    file = tmp_path / "hub" / "preprocessor_config.json"
    said = {**json.loads(file.read_text()), "image_processor_type": "ViTImageProcessor"}
    file.write_text(
        json.dumps({**said, "size": 12, "do_center_crop": False, "image_mean": [0.5] * 3})
    )
    convert(tmp_path / "hub", tmp_path / "b", num_heads=2, sizes=Sizes(image_size=20))
    found = load_encoder(tmp_path / "b").preprocess
    assert (found.size, found.stretch, found.mean) == (20, True, (0.5, 0.5, 0.5))
    file.write_text(json.dumps({**said, "do_rescale": False}))
    with pytest.raises(EncoderError, match=r"preprocessor_config\.json: do_rescale=False"):
        convert(tmp_path / "hub", tmp_path / "c", num_heads=2)
    file.unlink()
    done = convert(tmp_path / "hub", tmp_path / "d", num_heads=2)
    assert "hub has no preprocessor_config.json: mean and deviation of ImageNet" in done.notes[0]


# Folders of ours ------------------------------------------------------------------------------------


def test_a_converted_folder_is_an_encoder_folder(tmp_path):
    encoder = video_vit(positions="sincos_3d")
    torch.save({"model": mvd_file(encoder)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "ours", frame_stride=2, **OPTIONS)
    loaded = load_encoder(tmp_path / "ours")
    assert torch.equal(loaded.clip_features(video()), encoder.clip_features(video()))
    assert loaded.preprocess == VideoPreprocess(num_frames=4, frame_stride=2, size=12)
    assert loaded.source["objective"] == "mvd"
    assert loaded.source["converted from"] == "a.pth"
    assert "converted from: a.pth" in (tmp_path / "ours" / "README.md").read_text()
    kept = load_file(tmp_path / "ours" / "decoder.safetensors")
    assert {key.split(".")[1] for key in kept} == {"image", "video"}


@pytest.mark.parametrize("readout", ["mean", "first_token"])
@pytest.mark.parametrize("kind", ["clips", "images"])
def test_a_classifier_keeps_its_head(tmp_path, kind, readout):
    whole = readout == "first_token"
    if kind == "clips":
        encoder, clip = video_vit(final_norm=whole), video()
        state = {**prefixed("", encoder), **head()}
    else:
        encoder, clip = image_vit(final_norm=whole), video(frames=1)
        state = {**mae_file(encoder), **head()}
    if readout == "first_token":
        state = {k: v for k, v in state.items() if not k.startswith("fc_norm.")}
    torch.save({"module": state}, tmp_path / "a.pth")
    family = "videomae" if kind == "clips" else "auto"
    convert(tmp_path / "a.pth", tmp_path / "ours", family=family, **OPTIONS)
    model = VideoClassifier(encoder.config, num_classes=5, readout=readout).eval()
    model.load_state_dict(
        {**prefixed("encoder.", encoder), **{k: v for k, v in state.items() if k in head()}}
    )
    loaded = load_classifier(tmp_path / "ours")
    assert torch.equal(loaded(clip), model(clip))
    assert torch.equal(
        load_encoder(tmp_path / "ours").clip_features(clip), encoder.clip_features(clip)
    )
    torch.save({"model": videomae_file(video_vit())}, tmp_path / "b.pth")
    convert(tmp_path / "b.pth", tmp_path / "headless", **OPTIONS)
    with pytest.raises(EncoderError, match="keeps no head"):
        load_classifier(tmp_path / "headless")


@pytest.mark.parametrize("kind", ["sincos_1d", "sincos_3d", "learned"])
def test_an_encoder_of_ours_for_other_clips_and_back(tmp_path, kind):
    """A formula is interpolated from the clips it was made for, so going back loses nothing."""
    encoder = video_vit(positions=kind)
    clip = {"num_frames": 4, "size": 12}
    save_encoder(
        tmp_path / "a",
        encoder,
        architecture="vit",
        preprocess=VideoPreprocess(**clip),
        source={"objective": "videomae"},
    )
    convert(tmp_path / "a", tmp_path / "b", sizes=Sizes(image_size=20, num_frames=8))
    big = load_encoder(tmp_path / "b")
    assert (big.preprocess.size, big.preprocess.num_frames) == (20, 8)
    # The same as letting the first encoder see such clips, which interpolates on the fly.
    torch.testing.assert_close(
        big.tokens(video(1, 8, 20)), encoder.tokens(video(1, 8, 20)), atol=1e-5, rtol=1e-5
    )
    back = convert(tmp_path / "b", tmp_path / "c", sizes=Sizes(image_size=12, num_frames=4))
    small = load_encoder(tmp_path / "c")
    if kind == "learned":
        assert "interpolated from 4x5x5" in back.model.table
    else:
        assert "as trained" in back.model.table
        assert torch.equal(small.tokens(video()), encoder.tokens(video()))


# The report -----------------------------------------------------------------------------------------


def test_the_report_is_printed_and_lies_beside(tmp_path):
    state = {**videomae_file(video_vit()), "teacher.weight": torch.ones(2)}
    del state["encoder.norm.bias"]
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"only 98% .*missing: encoder.norm.bias; .* unused: teacher.weight"
    ):
        convert(tmp_path / "a.pth", tmp_path / "no", **OPTIONS)
    assert not (tmp_path / "no").exists()
    done = convert(tmp_path / "a.pth", tmp_path / "ours", min_share=0.95, **OPTIONS)
    content = json.loads((tmp_path / "ours" / "conversion.json").read_text())
    assert content["missing"] == ["encoder.norm.bias"]
    assert content["unused"] == ["teacher.weight"]
    assert content["share"] == pytest.approx(48 / 49)
    assert content["renamed"]["encoder_to_decoder.weight"] == "decoder.embed.weight"
    assert content["parts"]["encoder"] == sum(p.numel() for p in video_vit().parameters())
    console = Console(width=200, file=io.StringIO())
    console.print(done.table())
    text = console.file.getvalue()
    for words in ("encoder.norm.bias", "teacher.weight", "98.0%", "sincos_1d, 2x3x3 tokens"):
        assert words in text
    file = convert(tmp_path / "ours", tmp_path / "b.pth", to="original")
    assert json.loads((tmp_path / "b.pth.json").read_text())["to"] == "original"
    assert file.written == ("b.pth", "b.pth.json")


def test_the_command(tmp_path):
    torch.save({"model": videomae_file(video_vit())}, tmp_path / "a.pth")
    words = ["--num-heads", "2", "--trained-size", "12", "--trained-frames", "4", "--size", "20"]
    paths = [str(tmp_path / "a.pth"), str(tmp_path / "o")]
    result = CliRunner().invoke(app, ["convert", *paths, *words])
    assert result.exit_code == 0, result.output
    assert "matched" in result.output
    assert load_encoder(tmp_path / "o").config.table_size is None  # computed anew, as VideoMAE does
    paths[1] = str(tmp_path / "p")
    result = CliRunner().invoke(app, ["convert", *paths, *words, "--table", "interpolate"])
    assert result.exit_code == 0, result.output
    assert load_encoder(tmp_path / "p").config.table_size == 12


# What a format cannot hold, and places that are taken -----------------------------------------------


@pytest.mark.parametrize(
    ("changes", "to", "told"),
    [
        ({"positions": "sincos_3d"}, "huggingface", "its positions are sincos_3d"),
        ({"layer_scale": 0.1}, "huggingface", "layer scale"),
        ({"cosine_attention": True}, "huggingface", "cosine attention"),
        ({"table_size": 20}, "huggingface", "its positions are interpolated"),
        ({"table_size": 20}, "original", "such files carry no table"),
        ({"qkv_bias": "full"}, "original", "learns biases of queries and values alone"),
        ({"cls_token": True}, "original", "has no class token"),
    ],
)
def test_models_without_a_place_elsewhere(tmp_path, changes, to, told):
    save_encoder(
        tmp_path / "a",
        video_vit(**changes),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, size=12),
        source={},
    )
    with pytest.raises(WeightsError, match=told):
        convert(tmp_path / "a", tmp_path / ("b.pth" if to == "original" else "b"), to=to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_parts_without_a_place_are_named(tmp_path):
    torch.save({"model": mae_file(image_vit(), with_decoder=True)}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "hub", to="huggingface", **OPTIONS)
    assert done.notes == ("huggingface has no place for decoder: left out.",)


@pytest.mark.parametrize(
    ("to", "name"), [("ours", "o"), ("huggingface", "o"), ("original", "o.pth")]
)
def test_no_result_is_there_without_its_note(tmp_path, monkeypatch, to, name):
    """Was wrong: a kill between the two left a result that a second call refused to complete."""
    torch.save({"model": FILES["videomae"]()}, tmp_path / "a.pth")
    with monkeypatch.context() as patch:
        patch.setattr("video_ssl.models.exchange.convert.write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(tmp_path / "a.pth", tmp_path / name, to=to, **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    convert(tmp_path / "a.pth", tmp_path / name, to=to, **OPTIONS)
    note = tmp_path / (f"{name}.json" if to == "original" else f"{name}/conversion.json")
    assert json.loads(note.read_text())["out"] == str(tmp_path / name)


def test_mistakes_are_told(tmp_path):
    torch.save({"model": videomae_file(video_vit())}, tmp_path / "a.pth")
    for out, options, told in (
        ("x", {"to": "hf"}, "--to=hf must be one of ours, original"),
        ("x", {"family": "vit"}, "--family=vit must be one of auto"),
        ("x", {"min_share": 2.0}, "--min-share=2.0 must lie in"),
        ("x", {"to": "original"}, r"must end with .pth or .pt or .bin"),
        ("x.pth", {}, "writes a folder, but .*x.pth is the name of a file"),
        ("a.pth", {"to": "original"}, "exists and is not overwritten"),
        ("", {}, "exists and is not overwritten"),
    ):
        with pytest.raises(WeightsError, match=told):
            convert(tmp_path / "a.pth", tmp_path / out, **{**OPTIONS, **options})
    with pytest.raises(WeightsError, match=r"there is no .*gone.pth"):
        convert(tmp_path / "gone.pth", tmp_path / "x")
    pixels = PixelEncoder(PixelsConfig(num_frames=4, size=4))
    save_encoder(
        tmp_path / "p", pixels, architecture="pixels", preprocess=VideoPreprocess(), source={}
    )
    with pytest.raises(WeightsError, match="holds a 'pixels' encoder; only the ViTs"):
        convert(tmp_path / "p", tmp_path / "x.pth", to="original")
