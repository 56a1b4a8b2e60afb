"""`video-ssl convert` of folders of ours: the classifier, and what is known of the training, stay what they are."""

import json

import numpy as np
import pytest
import torch
from published_maker import image_vit, video, video_vit

from video_ssl.models import architecture_of
from video_ssl.models.classifier_folder import CLASSIFIER_WEIGHTS, Protocol, load_classifier
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.converted import load_classifier as load_whole
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.r2plus1d import R2Plus1D
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError, read_container

CLIPS = VideoPreprocess(num_frames=4, frame_stride=2, size=12, resize_to=16)
SOURCE = {"objective": "supervised", "data": "my:train", "steps": 7, "recipe": "supervised/mine"}
NAMES = ("run", "jump", "swim")


def trained(folder, encoder, *, normed=False, preprocess=CLIPS, class_names=NAMES, **protocol):
    """An encoder folder as a fine-tuning leaves it."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"weight": (3, encoder.embed_dim), "bias": (3,)}
    if normed:
        shapes |= {"norm.weight": (encoder.embed_dim,), "norm.bias": (encoder.embed_dim,)}
    head = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    settings = {"clips": 2, "labels": "my:train", "validation": {"accuracy": 0.5}, **protocol}
    save_encoder(
        folder,
        encoder,
        architecture=architecture_of(encoder),
        preprocess=preprocess,
        source=SOURCE,
        beside={CLASSIFIER_WEIGHTS: head},
        protocol=Protocol(class_names=class_names, num_classes=3, **settings),
    )
    return folder


def small_swin():
    sizes = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    return VideoSwin(SwinConfig(preset=None, window=(2, 2, 2), num_frames=4, **sizes)).eval()


#: Of every kind of network with a reader of its own.
ENCODERS = {
    "cnn": lambda: R2Plus1D(
        R2Plus1DConfig(preset="r2plus1d_10", widths=(4, 4, 6, 8, 8), num_frames=4)
    ),
    "swin": small_swin,
    "vit": lambda: video_vit(final_norm=True),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_classifier_stays_what_it_was(tmp_path, kind):
    """Was wrong: ours -> ours made a new classifier.json (4 clips, no names, features of any length), and that of a
    ViT was lost: predictions were others without a word."""
    folder = trained(
        tmp_path / "a", ENCODERS[kind](), unit_length=True, crops=3, size=16, pooling="mean"
    )
    done = convert(folder, tmp_path / "b")
    before, after = load_classifier(folder), load_classifier(tmp_path / "b")
    assert after.protocol == before.protocol
    features = np.random.default_rng(0).normal(size=(2, before.weight.shape[1])) * 3
    np.testing.assert_array_equal(after.shares(features), before.shares(features))
    assert done.parts["classifier"] == before.weight.size + 3
    assert {"classifier.weight", "classifier.bias"} <= set(done.report.matched)


def test_what_was_found_with_other_clips_does_not_stay(tmp_path):
    folder = trained(tmp_path / "a", video_vit(), crops=3, size=16)
    convert(folder, tmp_path / "b", sizes=Sizes(image_size=24))
    found = load_classifier(tmp_path / "b").protocol
    assert (found.crops, found.size, found.validation) == (3, None, {})
    assert load_encoder(tmp_path / "b").preprocess.resize_to == 32
    convert(folder, tmp_path / "c", frame_stride=8)
    found = load_classifier(tmp_path / "c").protocol
    assert (found.size, found.validation) == (16, {})


@pytest.mark.parametrize("kind", ["clips", "images"])
def test_a_head_on_the_mean_of_the_patches_has_a_place_elsewhere(tmp_path, kind):
    """Was wrong: convert of a ViT that was fine-tuned here lost its classifier in all formats without a word."""
    encoder = video_vit(final_norm=False) if kind == "clips" else image_vit(final_norm=False)
    folder = trained(tmp_path / "a", encoder, normed=True)
    kept = load_classifier(folder)
    done = convert(folder, tmp_path / "b.pth", to="original")
    state, _ = read_container(tmp_path / "b.pth")
    np.testing.assert_array_equal(state["head.weight"], kept.weight)
    np.testing.assert_array_equal(state["fc_norm.weight"], kept.norm[0])
    assert done.notes == ()
    sizes, family = Sizes(trained_size=12, trained_frames=4), "videomae"
    options = {"family": family} if kind == "clips" else {}
    convert(tmp_path / "b.pth", tmp_path / "again", sizes=sizes, num_heads=2, **options)
    clip = video(frames=4)
    with torch.no_grad():
        features = encoder.clip_features(clip).numpy()
        logits = load_whole(tmp_path / "again")(clip)
    shares = np.stack([kept.shares(row[None]) for row in features])
    np.testing.assert_allclose(logits.softmax(1).numpy(), shares, atol=1e-5)


def test_a_head_on_the_mean_of_the_patches_goes_to_hugging_face_and_into_programs(tmp_path):
    """Was wrong: the names of the classes were lost on the way, a pipeline of transformers said LABEL_0."""
    folder = trained(tmp_path / "a", video_vit(final_norm=False), normed=True)
    convert(folder, tmp_path / "hub", to="huggingface")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["architectures"] == ["VideoMAEForVideoClassification"]
    assert config["id2label"] == {"0": "run", "1": "jump", "2": "swim"}
    assert config["label2id"] == {"run": 0, "jump": 1, "swim": 2}
    done = convert(folder, tmp_path / "a.pt2", to="export")
    assert set(done.differences) == {"clip", "frames", "logits"}
    assert done.notes == ()


@pytest.mark.parametrize("names", [(), ("run", "run", "swim")])
def test_classes_without_a_name_of_their_own_are_numbered_for_hugging_face(tmp_path, names):
    folder = trained(tmp_path / "a", video_vit(final_norm=False), normed=True, class_names=names)
    convert(folder, tmp_path / "hub", to="huggingface")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    last = names[-1] if names else "LABEL_2"
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": last}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, last: 2}


@pytest.mark.parametrize(("to", "out"), [("original", "o.pth"), ("huggingface", "hub")])
def test_a_head_that_has_no_place_elsewhere_is_named(tmp_path, to, out):
    folder = trained(tmp_path / "a", video_vit())  # on the mean behind the final norm
    done = convert(folder, tmp_path / out, to=to)
    assert done.notes == (f"{to} has no place for classifier: left out.",)
    if to == "huggingface":
        config = json.loads((tmp_path / "hub" / "config.json").read_text())
        assert config["architectures"] == ["VideoMAEModel"]
        assert "id2label" not in config


def test_a_head_on_the_class_token_is_that_of_a_file_without_fc_norm(tmp_path):
    folder = trained(tmp_path / "a", image_vit(), pooling="cls")
    assert convert(folder, tmp_path / "b.pth", to="original").notes == ()
    state, _ = read_container(tmp_path / "b.pth")
    np.testing.assert_array_equal(state["head.bias"], load_classifier(folder).bias)
    assert "fc_norm.weight" not in state


@pytest.mark.parametrize(("kind", "unit_length"), [("cnn", False), ("swin", True)])
def test_a_head_that_another_network_has_no_place_for_is_named(tmp_path, kind, unit_length):
    """Was wrong: HiCo's form lost it without a word, BEVT's held one that is not of features of length 1."""
    folder = trained(tmp_path / "a", ENCODERS[kind](), unit_length=unit_length)
    done = convert(folder, tmp_path / "b.pth", to="original")
    assert done.notes == ("original has no place for classifier: left out.",)
    assert not [key for key in read_container(tmp_path / "b.pth")[0] if "fc_cls" in key]


def test_the_card_still_says_how_an_encoder_was_trained(tmp_path):
    """Was wrong: the card of a converted encoder of ours claimed another objective and had lost data, steps, recipe."""
    folder = trained(tmp_path / "a", video_vit())
    convert(folder, tmp_path / "b", sizes=Sizes(image_size=24))
    source = load_encoder(tmp_path / "b").source
    assert {key: source[key] for key in SOURCE} == SOURCE
    assert source["converted from"] == "a"
    assert "interpolated from 2x3x3" in source["positions"]
    lines = (tmp_path / "b" / "README.md").read_text().splitlines()
    assert {"- objective: supervised", "- data: my:train", "- recipe: supervised/mine"} <= set(
        lines
    )
    convert(tmp_path / "b", tmp_path / "c", sizes=Sizes(image_size=12))
    source = load_encoder(tmp_path / "c").source
    assert source["converted from"] == "a", "not the folder in between"
    assert "as trained" in source["positions"]
    save_encoder(tmp_path / "d", video_vit(), architecture="vit", preprocess=CLIPS, source={})
    convert(tmp_path / "d", tmp_path / "e")
    assert load_encoder(tmp_path / "e").source["objective"] == "not recorded"


# Settings that are given ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cnn", "swin"])
def test_sizes_are_honoured_where_the_network_takes_them(tmp_path, kind):
    """Was wrong: --size and --num-frames were ignored without a word for every network of ours but the ViTs."""
    folder = trained(tmp_path / "a", ENCODERS[kind](), preprocess=VideoPreprocess(size=32))
    convert(folder, tmp_path / "b", sizes=Sizes(image_size=64, num_frames=8))
    before, after = load_encoder(folder), load_encoder(tmp_path / "b")
    assert (after.preprocess.size, after.preprocess.num_frames, after.config.num_frames) == (
        (64, 8, 8)
    )
    clip = video(1, 8, 64)
    assert torch.equal(after.clip_features(clip), before.clip_features(clip))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"family": "mvd"}, "--family=mvd"),
        ({"num_heads": 4}, "--num-heads=4"),
        ({"min_share": 0.5}, "--min-share=0.5"),
        ({"sizes": Sizes(trained_size=24, trained_frames=8)}, "--trained-size=24, --trained-fr"),
        ({"sizes": Sizes(table="recompute")}, "--table=recompute"),
    ],
)
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_settings_that_would_change_nothing_are_refused(tmp_path, kind, given, told):
    folder = trained(tmp_path / "a", ENCODERS[kind]())
    if kind == "vit" and "table" in told:
        convert(folder, tmp_path / "b", **given)
        return
    follows = "--size, --num-frames" + (", --table" if kind == "vit" else "")
    with pytest.raises(
        WeightsError,
        match=f"{told}.* would change nothing: a is an encoder of ours, .*{follows}\\.",
    ):
        convert(folder, tmp_path / "b", **given)
    assert not (tmp_path / "b").exists()


def test_the_encoder_of_a_step_is_converted(tmp_path, monkeypatch):
    """Was wrong: `convert RUN@N` was refused as not there, though it names an encoder wherever one is named."""
    folder = trained(tmp_path / "run" / "exports" / "step_5", video_vit())
    asked = []

    def encoder_of_step(run, step):
        asked.append((run, step))
        return folder

    monkeypatch.setattr("video_ssl.pretrain.export.encoder_of_step", encoder_of_step)
    done = convert(tmp_path / "run@5", tmp_path / "b")
    assert asked == [(tmp_path / "run", 5)]
    assert done.source.endswith("run@5")
    assert load_encoder(tmp_path / "b").source["converted from"] == "run@5"
    with pytest.raises(WeightsError, match=r"there is no .*gone@5"):
        convert(tmp_path / "gone@5", tmp_path / "c")


# Files of others, whose reading is told as well -------------------------------------------------------


def test_heads_that_are_not_the_usual_ones_are_said(tmp_path):
    """Was wrong: the usual heads of a width overrode what config.json says, so features came back others."""
    encoder = video_vit(embed_dim=192, num_heads=12, depth=1)
    save_encoder(tmp_path / "a", encoder, architecture="vit", preprocess=CLIPS, source={})
    convert(tmp_path / "a", tmp_path / "hub", to="huggingface")
    done = convert(tmp_path / "hub", tmp_path / "b")
    clip = video()
    assert torch.equal(
        load_encoder(tmp_path / "b").clip_features(clip), encoder.clip_features(clip)
    )
    assert done.notes == ()
    done = convert(tmp_path / "a", tmp_path / "b.pth", to="original")
    (note,) = done.notes
    assert "does not say its heads, and this encoder has 12, not 3" in note
    assert "--num-heads 12 reads it back" in note


@pytest.mark.parametrize("positions", ["sincos_3d", "learned"])
def test_a_model_of_clips_with_a_class_token_comes_back(tmp_path, positions):
    """Was wrong: a row for the class token was taken off tables of MVD's code, which have none."""
    encoder = video_vit(positions=positions, cls_token=True)
    state = {**encoder.state_dict()}
    state["pos_embed"] = state.pop("positions.table", encoder.positions()[None])
    torch.save({"model": state}, tmp_path / "a.pth")
    sizes = Sizes(trained_size=12, trained_frames=4)
    convert(tmp_path / "a.pth", tmp_path / "b", sizes=sizes, num_heads=2)
    loaded = load_encoder(tmp_path / "b")
    assert loaded.config.positions == positions
    assert torch.equal(loaded.clip_features(video()), encoder.clip_features(video()))
    if positions == "sincos_3d":
        convert(tmp_path / "b", tmp_path / "b.pth", to="original")
        again = read_container(tmp_path / "b.pth")[0]
        assert again.keys() == state.keys()
        assert again["pos_embed"].shape == state["pos_embed"].shape


@pytest.mark.parametrize(
    "key", ["norm_pre.weight", "reg_token", "dist_token", "attn_pool.q.weight"]
)
def test_weights_that_form_features_are_not_left_out(tmp_path, key):
    """Was wrong: norms, registers and pools of timm's ViTs were only counted as unused."""
    state = {**image_vit().state_dict(), key: torch.ones(1, 4, 32)}
    torch.save(state, tmp_path / "a.pth")
    options = {"sizes": Sizes(trained_size=12), "num_heads": 2}
    with pytest.raises(WeightsError, match=f"has 1 weights that its features .*: {key}"):
        convert(tmp_path / "a.pth", tmp_path / "b", **options)
    done = convert(tmp_path / "a.pth", tmp_path / "b", min_share=0.99, **options)
    assert done.report.unused == (key,)
