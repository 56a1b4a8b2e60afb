"""Words over an archive that a CLIP or a SigLIP of transformers has embedded, against the library's own two towers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_common
from hub_maker import library, make_model, tokenizer
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.explore.search import search
from video_ssl.models.encoders import EncoderError, load_encoder
from video_ssl.models.exchange.convert import convert

transformers = library()


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return toy_common.squares_table(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def archive(request, videos, tmp_path_factory):
    """(feature file, folder of the model, the library's model, its name)."""
    folder = tmp_path_factory.mktemp("an archive's") / request.param
    model = make_model(request.param, folder, seed=1, text=True)
    out = folder.parent / "f.arrow"
    run("embed", f"hub:{folder}", str(videos), str(out), "--num-clips", "1", "--num-workers", "0")
    return out, folder, model, request.param


@torch.no_grad()
def test_what_comes_first_is_what_the_librarys_towers_say(archive, tmp_path):
    """Text features and the order of all videos by the library: catches another padding or length of texts, a missing
    projection, and vectors of another column."""
    out, _, model, name = archive
    ids = tokenizer(name)(["red square"], padding="max_length", max_length=16)["input_ids"]
    text = model.get_text_features(input_ids=torch.tensor(ids)).pooler_output[0].numpy()
    features = open_features(out)
    vectors = features.vectors("common_text")
    cosine = vectors @ text / np.linalg.norm(vectors, axis=1) / np.linalg.norm(text)
    found = tmp_path / "found.json"
    run("search", "--in", str(out), "--text", "red square", "-k", "6", "--out", str(found))
    moments = json.loads(found.read_text())["moments"]
    assert [m["id"] for m in moments] == [features.ids[row] for row in np.argsort(-cosine)]
    assert [1 - m["cost"] for m in moments] == pytest.approx(np.sort(cosine)[::-1], abs=1e-5)


def test_the_tower_of_texts_alone(archive):
    _, folder, model, _ = archive
    reader = load_encoder(f"hub_text:{folder}")
    ids = reader.preprocess.ids(
        ["red", "a blue square that is running and running and running away"]
    )
    assert ids.shape == (2, 16)
    with torch.no_grad():
        expected = model.get_text_features(input_ids=torch.from_numpy(ids)).pooler_output
    found = reader.outputs_of_arrays(ids, ["common_text"])["common_text"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert reader.output_dim("common_text") == expected.shape[1]


def test_what_cannot_be_asked(archive, tmp_path):
    out, *_ = archive
    with pytest.raises(FeatureError, match="has no words"):
        search(None, out, text="  ", quiet=True)
    found = search(None, out, text="red " * 40, quiet=True)
    assert any(re.match(r"only the first 16 of \d+ tokens", note) for note in found["notes"])
    (tmp_path / "w.wav").write_bytes(b"")
    with pytest.raises(FeatureError, match="no vectors in a space shared with sound"):
        search(None, out, sound=tmp_path / "w.wav", quiet=True)
    other = tmp_path / "other"
    make_model("clip", other, seed=5, text=True)
    with pytest.raises(FeatureError, match="embedded by another encoder"):
        search(None, out, text="red", encoder=f"hub:{other}", quiet=True)


def test_a_model_without_a_tower_of_texts_or_a_tokenizer(videos, tmp_path):
    make_model("dinov2", tmp_path / "dino")
    with pytest.raises(EncoderError, match="has no tower of texts: only CLIP and SigLIP"):
        load_encoder(f"hub_text:{tmp_path / 'dino'}")
    make_model("clip", tmp_path / "clip")
    with pytest.raises(EncoderError, match="has no tokenizer, so it cannot be asked by text"):
        load_encoder(f"hub_text:{tmp_path / 'clip'}")
    tokenizer().save_pretrained(tmp_path / "clip")
    settings = tmp_path / "clip" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(EncoderError, match="asks for code of its own"):
        load_encoder(f"hub_text:{tmp_path / 'clip'}")
    settings.write_text(json.dumps(content))
    config = tmp_path / "clip" / "config.json"
    said = json.loads(config.read_text())
    said["text_config"]["vocab_size"] = 20
    config.write_text(json.dumps(said))
    with pytest.raises(EncoderError, match="do not belong together"):
        load_encoder(f"hub_text:{tmp_path / 'clip'}")


def test_a_converted_model_asks_the_texts_where_it_came_from(archive, videos, tmp_path):
    _, folder, *_ = archive
    convert(folder, tmp_path / "ours")
    out = tmp_path / "f.arrow"
    run("embed", str(tmp_path / "ours"), str(videos), str(out), "--num-workers", "0")
    assert search(None, out, text="red", quiet=True)["moments"]


RECIPE = """
name: told
train: null
test: {test}
encoders: {{encoder: "{{encoder}}", untrained: "untrained:{{encoder}}"}}
embed: {{num_clips: 1, frames: false}}
evaluators: {{text_to_video: {{captions: 1}}}}
"""


@torch.no_grad()
def test_zero_shot_numbers(archive, videos, tmp_path):
    """`evaluate` finds the tower of texts by itself, also of the untrained model; the rank of the true video is that by
    the library's own vectors.  Catches captions that are read as by another tokenizer, or the wrong partner."""
    _, folder, model, name = archive
    recipe = tmp_path / "told.yaml"
    recipe.write_text(RECIPE.format(test=videos))
    run("evaluate", str(recipe), f"encoder=hub:{folder}", f"out={tmp_path / 'out'}")
    results = json.loads((tmp_path / "out" / "results.json").read_text())["encoders"]
    assert set(results) == {"encoder", "untrained"}
    features = open_features(archive[0])
    vectors = features.vectors("common_text")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ranks = []
    for row, key in enumerate(features.ids):
        color = re.sub(r"\d", "", key)
        if key != "blue5":  # which has no caption
            ids = tokenizer(name)(
                [f"A {color} square."], padding="max_length", max_length=16, truncation=True
            )
            text = model.get_text_features(input_ids=torch.tensor(ids["input_ids"])).pooler_output[
                0
            ]
            cosine = unit @ text.numpy()
            ranks.append(1 + int((cosine > cosine[row]).sum()))
    metrics = results["encoder"]["results"]["text_to_video"]["metrics"]
    assert metrics["R@1"] == pytest.approx(np.mean(np.array(ranks) == 1))
    assert metrics["MedR"] == np.median(ranks)


def test_siglips_own_tokenizer(tmp_path):
    """Of SentencePiece, which the library does not bring: its tokens are those of the library."""
    spm = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["a red square", "a blue square is running", "the red dog"] * 20))
    spm.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=35,
        minloglevel=2,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        hard_vocab_limit=False,
    )
    own = transformers.SiglipTokenizer(vocab_file=str(tmp_path / "spiece.model"))
    make_model("siglip", tmp_path / "m")
    own.save_pretrained(tmp_path / "m")
    ids = load_encoder(f"hub_text:{tmp_path / 'm'}").preprocess.ids(["A red Square!"])
    expected = own(["A red Square!"], padding="max_length", truncation=True, max_length=16)
    assert ids.tolist() == expected["input_ids"]
    assert len(set(ids[0].tolist())) > 2


def test_compare_takes_baselines_of_a_model(monkeypatch, tmp_path):
    """`compare hub:NAME untrained: pixels:`: the kinds go with the model; catches a name that lost its `hub:`."""
    from video_ssl.compare import encoders as comparing

    asked = {}

    def evaluate(settings):
        asked.update(settings.encoders)
        raise FeatureError("enough")

    monkeypatch.setattr(comparing, "evaluate", evaluate)
    with pytest.raises(FeatureError, match="enough"):
        comparing.compare(
            ["hub:a/model", "untrained:", "pixels:", "train=t", "test=u", f"out={tmp_path}"]
        )
    assert list(asked.values()) == ["hub:a/model", "untrained:hub:a/model", "pixels:hub:a/model"]
