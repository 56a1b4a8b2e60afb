"""Encoders of sound and text: what their folders hold, how they come back, what the card says, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_senses

from video_ssl.checksums import SEAL
from video_ssl.models import NETWORKS
from video_ssl.models.encoder_config import EncoderConfig, SoundEncoderConfig
from video_ssl.models.encoders import EncoderError, build_encoder, load_encoder, save_encoder
from video_ssl.models.preprocess_config import (
    MODALITIES,
    PREPROCESS,
    SoundPreprocess,
    TextPreprocess,
    VideoPreprocess,
    described,
)
from video_ssl.recipes import ConfigError, build_config

SOUND = SoundPreprocess(rate=16, num_samples=32, hop=16)
TEXT = TextPreprocess(vocabulary=("<pad>", "<unk>", "a", "dog", "übt"), length=4)
CONFIGS = {"sound": toy_senses.SoundConfig(), "text": toy_senses.TextConfig()}


@pytest.fixture(autouse=True)
def senses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, network in toy_senses.NETWORKS.items():
        monkeypatch.setitem(NETWORKS, name, network)


def saved(folder: Path, preprocess: Any) -> tuple[Any, Path]:
    torch.manual_seed(0)
    encoder = build_encoder(CONFIGS[preprocess.modality])
    architecture = encoder.config.architecture
    source = {"objective": "toy"}
    return encoder, save_encoder(
        folder / "encoder", encoder, architecture=architecture, preprocess=preprocess, source=source
    )


def test_an_encoder_of_sound_comes_back_and_takes_what_is_heard(tmp_path):
    encoder, folder = saved(tmp_path, SOUND)
    back = load_encoder(folder)
    assert back.preprocess == SOUND
    assert back.modality == "sound"
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 32)).astype(np.float32)
    found = back.outputs_of_arrays(sound, back.output_names)
    wanted = encoder.linear(torch.from_numpy(sound).reshape(2, 4, 8)).detach().numpy()
    np.testing.assert_allclose(found["moments"], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["clip"], wanted.mean(1), rtol=1e-5)
    t, h, w = back.token_grid(sound.shape[1:])
    assert found["tokens"].shape == (2, t * h * w, back.output_dim("tokens"))
    assert back.frame_positions(32).tolist() == [3.5, 11.5, 19.5, 27.5]
    with pytest.raises(
        ValueError, match=r"sound is torch.float64 \(2, 32\), but must be torch.float32"
    ):
        back.outputs_of_arrays(sound.astype(np.float64), ["clip"])


def test_an_encoder_of_text_comes_back_with_its_words(tmp_path):
    encoder, folder = saved(tmp_path, TEXT)
    assert (folder / "vocabulary.txt").read_text(encoding="utf-8").split() == list(TEXT.vocabulary)
    back = load_encoder(folder)
    assert back.preprocess == TEXT
    ids = back.preprocess.ids(["A dog!", "Who übt a-dog here today"])
    assert ids.tolist() == [[2, 3, 0, 0], [1, 4, 1, 1]]
    wanted = encoder.words.weight.detach().numpy()[ids]
    np.testing.assert_array_equal(back.outputs_of_arrays(ids, ["moments"])["moments"], wanted)


def test_words_are_as_they_are_written_where_the_encoder_says_so():
    cased = TextPreprocess(vocabulary=("<pad>", "<unk>", "Dog"), length=2, lower_case=False)
    assert cased.ids(["Dog dog"]).tolist() == [[2, 1]]


def test_other_words_make_another_encoder(tmp_path):
    _, folder = saved(tmp_path, TEXT)
    other = TextPreprocess(vocabulary=("<pad>", "<unk>", "a", "cat", "übt"), length=4)
    _, changed = saved(tmp_path / "b", other)
    assert load_encoder(folder).fingerprint != load_encoder(changed).fingerprint


def test_what_the_cards_say(tmp_path):
    _, folder = saved(tmp_path, SOUND)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# Sound encoder `toy_sound`, objective: toy" in card
    assert "2 s of sound: 32 samples of one channel, 16 a second, in -1..1." in card
    assert "begin every 1 s." in card
    assert "tokens (B, L, D)" in card
    _, folder = saved(tmp_path, TEXT)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# Text encoder `toy_text`" in card
    assert "4 words, in lower case and without punctuation" in card
    assert "`vocabulary.txt` (5 words;" in card
    assert "one for a text and one for every word" in card


@pytest.mark.parametrize("change", ["missing", "damaged", "num_words"])
def test_a_vocabulary_that_is_not_whole_is_told(tmp_path, change):
    _, folder = saved(tmp_path, TEXT)
    words = folder / "vocabulary.txt"
    if change == "missing":
        words.unlink()
        told = r"has no vocabulary.txt, the words of its encoder"
    elif change == "damaged":
        words.write_text(words.read_text(encoding="utf-8").replace("dog", "cat"), encoding="utf-8")
        told = r"is damaged: vocabulary.txt"
    else:
        content = json.loads((folder / "config.json").read_text())
        del content["preprocess"]["num_words"]
        (folder / "config.json").write_text(json.dumps(content))
        told = r"preprocess lacks 'num_words'"
    with pytest.raises(EncoderError, match=told):
        load_encoder(folder)


def test_a_folder_from_before_modalities_is_one_of_video(tmp_path):
    pixels = load_encoder("pixels:4")
    folder = save_encoder(
        tmp_path / "e", pixels, architecture="pixels", preprocess=VideoPreprocess(), source={}
    )
    content = json.loads((folder / "config.json").read_text())
    for key in ("modality", "outputs", SEAL):
        content.pop(key, None)
    (folder / "config.json").write_text(json.dumps(content))
    assert load_encoder(folder).preprocess == VideoPreprocess()
    content["modality"] = "smell"
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(EncoderError, match="modality='smell' must be one of video, sound, text"):
        load_encoder(folder)


def test_what_does_not_go_together_is_refused(tmp_path):
    encoder = build_encoder(CONFIGS["sound"])
    with pytest.raises(
        EncoderError, match="'toy_sound' sees sound, but its preprocess is one of text"
    ):
        save_encoder(tmp_path / "e", encoder, architecture="toy_sound", preprocess=TEXT, source={})
    _, folder = saved(tmp_path, SOUND)
    with pytest.raises(EncoderError, match=r"needs an encoder of videos, but .* is one of sound"):
        load_encoder(f"pixels:{folder}")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SoundPreprocess(rate=0, num_samples=8), "rate=0 must be at least 1"),
        (lambda: SoundPreprocess(rate=8, num_samples=8, hop=0), "hop=0 must be at least 1"),
        (lambda: TextPreprocess(vocabulary=("a",), length=3), "one for unknown words"),
        (
            lambda: TextPreprocess(vocabulary=("a", "b c"), length=3),
            "word 1 of .* 'b c', is empty or",
        ),
        (lambda: TextPreprocess(vocabulary=("a", "b", "a"), length=3), "has 'a' twice"),
    ],
)
def test_settings_that_cannot_be_are_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_every_modality_has_its_settings_and_they_are_json():
    assert tuple(PREPROCESS) == MODALITIES
    for preprocess in (VideoPreprocess(), SOUND, TEXT):
        assert PREPROCESS[preprocess.modality] is type(preprocess)
        assert "dog" not in json.dumps(described(preprocess))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    sound: SoundEncoderConfig = field(default_factory=toy_senses.SoundConfig)
    video: EncoderConfig | None = None


def test_a_recipe_chooses_a_network_by_what_it_sees():
    found = build_config(Recipe, {"sound": {"architecture": "toy_sound", "width": 3}})
    assert found.sound == toy_senses.SoundConfig(width=3)
    with pytest.raises(ConfigError, match=r"architecture='toy_sound': allowed are .'vit'"):
        build_config(Recipe, {"video": {"architecture": "toy_sound"}})
