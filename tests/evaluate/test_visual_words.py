"""Tokenizers on pictures that they have not seen: shares by hand from files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from colored_videos import make_table
from typer.testing import CliRunner
from untrained_run import untrained_run

from video_ssl.cli import app
from video_ssl.datasets import open_table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate
from video_ssl.evaluate.visual_words import VisualWordsConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.tokenizers.config import DalleConfig, PatchWordsConfig
from video_ssl.models.tokenizers.dvae import DalleEncoder
from video_ssl.models.tokenizers.patch_words import PatchWords

PLAIN = VideoPreprocess(num_frames=1, frame_stride=1, size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
#: A word for each of the three colors of the videos, and one that is nowhere.
WORDS = [[0.8, 0.2, 0.2], [0.2, 0.8, 0.2], [0.2, 0.2, 0.8], [1.0, 1.0, 1.0]]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    make_table(tmp_path, "train", 3, seed=0)
    make_table(tmp_path, "test", 6, seed=50, broken=(5,))
    return tmp_path


def squares_run(folder: Path) -> Path:
    network = PatchWords(PatchWordsConfig(vocab_size=4))
    with torch.no_grad():
        network.squares.copy_(torch.tensor(WORDS).repeat_interleave(64, dim=1))
    save_encoder(
        folder / "encoder",
        network,
        architecture="patch_words",
        preprocess=PLAIN,
        source={"objective": "tokenizer"},
    )
    return folder


def recipe(tables: Path, encoder: str, **settings: object) -> EvaluateRecipe:
    return EvaluateRecipe(
        encoders={"encoder": encoder},
        train=str(tables / "train.arrow"),
        test=str(tables / "test.arrow"),
        embed=EmbedConfig(num_clips=1, frames=False, num_workers=0),
        evaluators={"visual_words": settings},
        out=str(tables / "out"),
        device="cpu",
    )


def central_squares(table: Path, places: int) -> np.ndarray:
    """The central 32 px of `places` frames of every readable video, decoded by hand, in [0, 1]."""
    found = []
    for record in (open_table(table).record(row) for row in range(6)):
        if record.id == "test5":
            continue
        with av.open(record.source) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        wanted = ((np.arange(places) + 0.5) * len(frames) / places).astype(int)
        found += [frames[place][:, 8:40] for place in wanted]
    return np.stack(found) / 255


def test_shares_and_pictures_are_those_by_hand(tables: Path) -> None:
    """Five videos that can be read: two red, two green, one blue; the sixth is named and left out."""
    run = squares_run(tables / "run")
    found = evaluate(recipe(tables, str(run), per_video=2), quiet=True)
    result = found["encoders"]["encoder"]["results"]["visual_words"]
    metrics = result["metrics"]
    assert metrics["words_used"] == 0.75
    assert metrics["most_frequent"] == pytest.approx(0.4)
    shares = np.array([0.4, 0.4, 0.2])
    entropy = -(shares * np.log(shares)).sum()
    assert metrics["perplexity"] == pytest.approx(np.exp(entropy) / 4)
    assert metrics["noise_agreement"] == 1
    pictures = central_squares(tables / "test.arrow", 2)
    colors = np.array(WORDS)[np.repeat([0, 1, 2, 0, 1], 2)][:, None, None]
    by_hand = -10 * np.log10(np.square(pictures - colors).mean())
    assert metrics["psnr_db"] == pytest.approx(by_hand, abs=0.02)
    assert result["details"]["cells"] == 5 * 2 * 16
    assert "1 videos could not be read: test5" in " ".join(result["notes"])
    loud = evaluate(recipe(tables, str(run), per_video=2, noise=400.0), quiet=True)
    metrics = loud["encoders"]["encoder"]["results"]["visual_words"]["metrics"]
    assert 0.2 < metrics["noise_agreement"] < 0.9
    assert metrics["psnr_db"] == pytest.approx(by_hand, abs=0.02)  # of the pictures without noise


def test_a_tokenizer_that_only_encodes_has_no_pictures(tables: Path) -> None:
    save_encoder(
        tables / "dalle" / "encoder",
        DalleEncoder(DalleConfig(width=8, vocab_size=11)),
        architecture="dalle",
        preprocess=PLAIN,
        source={"objective": "tokenizer"},
    )
    found = evaluate(recipe(tables, str(tables / "dalle")), quiet=True)
    result = found["encoders"]["encoder"]["results"]["visual_words"]
    assert "psnr_db" not in result["metrics"]
    assert "only encodes" in " ".join(result["notes"])


def test_the_command_says_it_in_a_sentence(tables: Path) -> None:
    words = [
        "evaluate",
        "visual_words",
        f"encoder={squares_run(tables / 'run')}",
        f"train={tables / 'train.arrow'}",
        f"test={tables / 'test.arrow'}",
        f"out={tables / 'out'}",
        "device=cpu",
        "embed.num_workers=0",
    ]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "uses 75.0 % of its 4 words on pictures of 5 videos" in " ".join(said.output.split())
    written = json.loads((tables / "out" / "results.json").read_text())
    assert (
        written["encoders"]["encoder"]["results"]["visual_words"]["metrics"]["words_used"] == 0.75
    )


def test_what_has_no_words_is_refused_before_anything_is_embedded(tables: Path) -> None:
    run = untrained_run(tables / "vit", width=16)
    with pytest.raises(
        FeatureError, match="words of a tokenizer, and the encoder 'encoder' has none"
    ):
        evaluate(recipe(tables, str(run)), quiet=True)
    assert not list((tables / "out").rglob("*.arrow"))


@pytest.mark.parametrize("settings", [{"per_video": 0}, {"size": 0}, {"noise": -1.0}])
def test_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        VisualWordsConfig(**settings)  # type: ignore[arg-type]
