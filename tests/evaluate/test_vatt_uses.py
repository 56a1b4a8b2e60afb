"""The three encoders of a VATT run, of torch and of flax, are embedded, asked both ways, and searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_common

from video_ssl.embed.embed_videos import embed_table
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.explore.search import search
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.vatt import VattAudio, VattText, VattVideo
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattHeadsConfig,
    VattTextConfig,
    VattVideoConfig,
)
from video_ssl.models.preprocess_config import SoundPreprocess, TextPreprocess, VideoPreprocess

SIZES = {"preset": None, "embed_dim": 16, "depth": 1, "ffn_dim": 24, "num_heads": 2}
HEADS = VattHeadsConfig(sound_dim=12, text_dim=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vatt"
    torch.manual_seed(0)
    words, rate = toy_common.WORDS, toy_common.RATE
    parts = {
        "encoder": (
            VattVideo(
                VattVideoConfig(**SIZES, heads=HEADS, patch_size=8, num_frames=4, image_size=16)
            ),
            VideoPreprocess(num_frames=4, frame_stride=2, size=16),
        ),
        "encoders/sound": (
            VattAudio(VattAudioConfig(**SIZES, heads=HEADS, patch_samples=100, num_samples=1600)),
            SoundPreprocess(rate=rate, num_samples=1600),
        ),
        "encoders/text": (
            VattText(VattTextConfig(**SIZES, heads=HEADS, vocab_size=len(words), word_dim=10)),
            TextPreprocess(vocabulary=words, length=4),
        ),
    }
    for place, (encoder, preprocess) in parts.items():
        save_encoder(
            folder / place,
            encoder,
            architecture=encoder.config.architecture,
            preprocess=preprocess,
            source={"objective": "vatt"},
        )
    return folder


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_common.squares_table(tmp_path_factory.mktemp("squares"))


def test_the_demo_evaluation_by_both_frameworks(run, squares, tmp_path):
    pytest.importorskip("jax")
    words = [
        f"encoder={run}",
        f"test={squares}",
        f"out={tmp_path}",
        "embed.num_workers=0",
        "embed.num_clips=2",
        "device=cpu",
    ]
    found = evaluate(
        load_evaluate_recipe("demo_text", [*words, "encoders.flax=flax:{encoder}"]), quiet=True
    )
    assert list(found["encoders"]) == ["encoder", "untrained", "flax"]
    results, others = (found["encoders"][name]["results"] for name in ("encoder", "flax"))
    assert set(results) == {"text_to_video", "video_to_text", "sound_to_video", "video_to_sound"}
    for way, result in results.items():
        assert result["metrics"] == others[way]["metrics"]
        assert 0 <= result["metrics"]["R@1"] <= result["metrics"]["R@5"] <= 1
    assert "guessing gives" in found["summary"]


@pytest.mark.parametrize("kind", ["", "flax:"])
def test_features_with_cells_and_moments_are_of_one_width(run, squares, tmp_path, kind):
    """Was wrong: with `embed.cells=2`, as `evaluate demo` has it, moments were four times as wide as the clip's
    feature, and writing them ended the evaluation that goes with vatt/demo."""
    if kind:
        pytest.importorskip("jax")
    settings = {"num_workers": 0, "cells": 2, "frames": True}
    file = embed_table(f"{kind}{run}", str(squares), tmp_path / "f.arrow", **settings)
    assert file.embed_dim == 16
    assert file.frames(0)[0].shape[1] == 16


def test_words_and_sounds_are_looked_for(run, squares, tmp_path):
    archive = tmp_path / "f.arrow"
    embedded = embed_table(str(run), str(squares), archive, num_workers=0)
    told = embed_table(f"{run}/encoders/text", str(squares), tmp_path / "t.arrow", num_workers=0)
    found = search(None, archive, text="A red square.", k=6, moments_per_video=1, quiet=True)
    query = told.vectors("common_text")[0]  # the caption of the first video is the same text
    rows = embedded.vectors("common_text")
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    best = {key: cosines[embedded.ids == key].max() for key in dict.fromkeys(embedded.ids)}
    expected = sorted(best, key=lambda key: -best[key])
    assert [moment["id"] for moment in found["moments"]] == expected
    assert 1 - found["moments"][0]["cost"] == pytest.approx(best[expected[0]], abs=1e-5)
    toy_common.write_wav(tmp_path / "tone.wav", "red")
    heard = search(None, archive, sound=tmp_path / "tone.wav", k=6, quiet=True)
    assert len(heard["moments"]) == 6


@pytest.mark.parametrize("sense", ["", "/encoders/sound"])
def test_the_linear_protocols_of_pictures_and_of_sound(run, squares, tmp_path, sense):
    other = toy_common.squares_table(tmp_path)
    words = [
        f"encoder={run}{sense}",
        f"train={squares}",
        f"test={other}",
        f"out={tmp_path / 'out'}",
        "embed.num_workers=0",
        "device=cpu",
        "evaluators.bottleneck_probe.epochs=3",
    ]
    found = evaluate(load_evaluate_recipe("vatt_linear", words), quiet=True)
    assert list(found["encoders"]) == ["encoder", "untrained"]
    for entry in found["encoders"].values():
        assert set(entry["results"]) == {"bottleneck_probe", "svm"}
        assert entry["results"]["svm"]["total"] == (5 if sense else 6)  # one video is mute
    assert found["encoders"]["encoder"]["results"]["svm"]["metrics"]["top1"] == 1.0
