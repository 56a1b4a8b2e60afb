"""The attentive probe: what a mean does not tell, tokens from a file or from the videos, clips together or apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from untrained_run import untrained_run

from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.features import FeatureError, features_from_arrays
from video_ssl.evaluate.attentive import probe
from video_ssl.evaluate.attentive.probe import AttentiveConfig, AttentiveProbe
from video_ssl.evaluate.attentive.tokens import LiveTokens, VideoTokens
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate
from video_ssl.models.encoders import load_encoder

QUICK = {
    "depth": 2,
    "num_heads": 2,
    "learning_rates": (1e-2, 3e-3),
    "weight_decays": (0.01,),
    "epochs": 12,
    "batch_size": 16,
}


class Told:
    """Tokens in memory, (videos, clips, N, D), as a source."""

    origin = "made up"

    def __init__(self, tokens):
        self.tokens = tokens.astype(np.float16)
        self.num_bytes = self.tokens.nbytes
        self.asked = []

    def of_videos(self, videos):
        self.asked += list(videos)
        return (self.tokens[video] for video in videos)


def pairs(seed, videos, clips=1):
    """Two tokens stick out of 8, alike in class 1, opposite in class 0: the mean tells neither, nor does any one."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % 2
    tokens = 0.1 * rng.normal(size=(videos, clips, 8, 8))
    for v, label in enumerate(labels):
        for c in range(clips):
            first, second = rng.permutation(8)[:2]
            sign = rng.choice([-1.0, 1.0])
            tokens[v, c, first, 0] += 2 * sign
            tokens[v, c, second, 1] += 2 * (sign if label else -sign)
            tokens[v, c, :, 0] -= tokens[v, c, :, 0].mean()
            tokens[v, c, :, 1] -= tokens[v, c, :, 1].mean()
    return labels, tokens


def given_of(*splits):
    files = []
    for number, (labels, tokens) in enumerate(splits):
        clips = tokens.shape[1]
        ids = np.repeat([f"{number}-{v}" for v in range(len(labels))], clips)
        files.append(
            features_from_arrays(
                {
                    "features": tokens.mean(2).reshape(-1, tokens.shape[-1]),
                    "labels": np.repeat(labels, clips),
                    "ids": ids,
                }
            )
        )
    return Given(*files)


def evaluated(monkeypatch, splits, *, room=2**30, num_crops=1, **settings):
    sources = dict(zip(("train", "test"), (Told(tokens) for _, tokens in splits), strict=True))
    config = AttentiveConfig(**{**QUICK, **settings})

    def tokens(self, given, split):
        layout = config.layout
        return VideoTokens(sources[split], num_crops=num_crops, layout=layout, room=room)

    monkeypatch.setattr(AttentiveProbe, "_tokens", tokens)
    return AttentiveProbe(config).evaluate(given_of(*splits)), sources


@pytest.mark.parametrize("pooler", ["vjepa2", "vjepa", "videoglue", "videoprism"])
def test_every_pooler_finds_what_single_tokens_say(monkeypatch, pooler):
    """One token of 8 says the class; so does their mean, faintly."""
    rng = np.random.default_rng(0)
    splits = []
    for videos in (90, 60):
        labels = np.arange(videos) % 3
        tokens = 0.2 * rng.normal(size=(videos, 1, 8, 8))
        tokens[np.arange(videos), 0, rng.integers(0, 8, videos), labels] += 2
        splits.append((labels, tokens))
    depth = {} if pooler == "vjepa2" else {"depth": None}
    result, _ = evaluated(monkeypatch, splits, pooler=pooler, epochs=40, **depth)
    assert result.metrics["top1"] > 0.75
    assert result.total == 60


def test_blocks_over_the_tokens_compare_them(monkeypatch):
    splits = pairs(0, 240), pairs(1, 100)
    result, _ = evaluated(monkeypatch, splits, epochs=60)
    assert result.metrics["top1"] > 0.9
    assert set(result.chosen) == {
        *("learning_rate", "weight_decay", "held_out_top1", "held_out_loss")
    }
    assert len(result.details["grid"]) == 2
    assert result.details["best_of_grid_on_test_top1"] > 0.9


def test_the_choice_is_blind_to_the_test(monkeypatch):
    labels, tokens = pairs(1, 40)
    one, _ = evaluated(monkeypatch, (pairs(0, 80), (labels, tokens)))
    two, _ = evaluated(monkeypatch, (pairs(0, 80), (1 - labels, tokens)))
    assert one.chosen == two.chosen
    assert one.details["grid"] == two.details["grid"]
    assert one.metrics["top1"] == pytest.approx(1 - two.metrics["top1"])


def test_what_is_held_out_is_only_judged(monkeypatch):
    settings = {"refit": False, "room": 0, "epochs": 5}
    result, sources = evaluated(monkeypatch, (pairs(0, 50), pairs(1, 20)), **settings)
    times = np.bincount(sources["train"].asked, minlength=50)
    assert (times == 1).sum() == result.details["held_out_videos"] == 10
    assert np.sort(times)[10] >= 5


def test_a_head_in_a_grid_is_the_head_alone(monkeypatch):
    splits = pairs(0, 60), pairs(1, 40)
    grid, _ = evaluated(monkeypatch, splits, refit=False)
    alone, _ = evaluated(monkeypatch, splits, refit=False, learning_rates=(1e-2,))
    assert grid.details["grid"][0] == alone.details["grid"][0]


def test_tokens_that_do_not_fit_are_asked_for_again(monkeypatch):
    splits = pairs(0, 40), pairs(1, 20)
    kept, sources = evaluated(monkeypatch, splits)
    assert sorted(sources["train"].asked) == list(range(40))
    assert "kept in memory" in kept.details["tokens"]["train"]
    again, sources = evaluated(monkeypatch, splits, room=100)
    assert len(sources["train"].asked) > 10 * 40
    assert "anew whenever they are needed" in again.details["tokens"]["train"]
    assert again.metrics == kept.metrics
    assert again.details["grid"] == kept.details["grid"]


def test_clips_stand_together_or_apart_and_crops_are_views():
    tokens = np.arange(6 * 2 * 3).reshape(1, 6, 2, 3)  # 3 windows of 2 crops
    laid = {}
    for layout in ("together", "apart"):
        source = VideoTokens(Told(tokens), num_crops=2, layout=layout, room=10**6)
        ((videos, batch),) = source.batches([0], 4)
        assert videos == [0]
        laid[layout] = batch[0].astype(int)
    assert np.array_equal(laid["apart"], tokens[0])
    assert laid["together"].shape == (2, 6, 3)
    for crop in range(2):
        assert np.array_equal(laid["together"][crop], np.concatenate(tokens[0, crop::2]))


def test_videos_of_different_lengths_are_refused():
    source = Told(np.zeros((2, 2, 2, 3)))
    source.of_videos = lambda videos: iter([np.zeros((2, 2, 3)), np.zeros((3, 2, 3))])
    tokens = VideoTokens(source, num_crops=1, layout="together", room=0)
    with pytest.raises(FeatureError, match=r"different numbers of clips.*embed.num_clips, without"):
        list(tokens.batches([0, 1], 4))


# On videos ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


def recipe(run, videos, out, embed=None, **settings):
    return EvaluateRecipe(
        encoders={"a": str(run)},
        train=str(videos / "train.arrow"),
        test=str(videos / "test.arrow"),
        evaluators={"attentive": {**QUICK, "epochs": 3, **settings}},
        embed=EmbedConfig(num_workers=0, **(embed or {})),
        out=str(out),
        device="cpu",
    )


def test_tokens_of_a_file_and_of_the_videos_give_the_same(run, videos, tmp_path):
    embed = {"num_clips": 2, "num_crops": 3, "crop": "spread"}
    live = evaluate(recipe(run, videos, tmp_path / "live", embed), quiet=True)
    again = evaluate(recipe(run, videos, tmp_path / "again", embed, memory_gib=0), quiet=True)
    files = []
    for split in ("train", "test"):
        out = tmp_path / f"{split}.arrow"
        settings = {"num_workers": 0, "outputs": ("clip", "tokens"), **embed}
        embed_table(str(run), str(videos / f"{split}.arrow"), out, device="cpu", **settings)
        files.append(str(out))
    stored = evaluate(
        replace(
            recipe(run, videos, tmp_path / "stored"),
            encoders={"a": f"features:{files[0]},{files[1]}"},
        ),
        quiet=True,
    )
    found = [x["encoders"]["a"]["results"]["attentive"] for x in (live, again, stored)]
    assert [x["metrics"] for x in found] == [found[0]["metrics"]] * 3
    assert [x["details"]["grid"] for x in found] == [found[0]["details"]["grid"]] * 3
    told = [x["details"]["tokens"]["train"] for x in found]
    assert "made by the encoder from the videos, kept in memory" in told[0]
    assert "anew" in told[1]
    assert "read from the feature file" in told[2]
    assert json.loads((tmp_path / "live" / "results.json").read_text())["summary"]


def test_codes_of_frames_are_those_of_the_frames_that_are_shown(run, videos, tmp_path):
    """Catches codes of the clip in place of the video, of another moment, and of one crop only."""
    embed = EmbedConfig(num_workers=0, num_clips=2, num_crops=2, crop="even", frames=False)
    features = embed_table(
        str(run), str(videos / "test.arrow"), tmp_path / "f.arrow", device="cpu",
        num_workers=0, num_clips=2, num_crops=2, crop="even", frames=False,
    )  # fmt: skip
    tables = {"test": Table.open(videos / "test.arrow")}
    encoder = load_encoder(run)
    cpu = torch.device("cpu")
    given = Context(
        train=features, test=features, device=cpu, encoder=encoder, tables=tables, settings=embed
    )
    plain, coded = (
        next(LiveTokens(given, "test", features, frame_positions=on).of_videos([0]))
        for on in (False, True)
    )
    assert plain.shape == (4, 8, 16)  # 2 windows x 2 squares; 2 moments of 4 places
    rates = 10000.0 ** -(np.arange(8) / 8)
    for clip, first in enumerate((0, 0, 5, 5)):  # 12 frames, windows of 7: from 0 and from 5
        for token in range(8):
            frame = first + 4 * (token // 4)  # a moment is two frames, two apart
            code = np.concatenate([np.sin(frame * rates), np.cos(frame * rates)])
            off = coded[clip, token].astype(float) - plain[clip, token].astype(float)
            np.testing.assert_allclose(off, code, atol=5e-3)
    with pytest.raises(FeatureError, match="frame_positions needs the numbers of frames"):
        probe._source_of(Given(features, features), "test", features, frame_positions=True)


@pytest.mark.parametrize("thin", [{"tokens_side": 1}, {"tokens_every": 2}])
def test_a_part_of_the_tokens_is_not_asked_for_in_vain(run, videos, tmp_path, thin):
    """Was wrong: the head read all tokens of the encoder, and results.json said that it had read a part of them."""
    with pytest.raises(FeatureError, match=r"attentive reads all tokens.*name features:TRAIN,TEST"):
        evaluate(recipe(run, videos, tmp_path, thin), quiet=True)
    assert not list(tmp_path.glob("features/*"))


def test_heads_are_trained_where_the_evaluation_runs(monkeypatch, caplog):
    """Was wrong: on the CPU, whatever `device=` of the evaluation said, and without a word."""
    caplog.set_level("INFO")
    result, _ = evaluated(monkeypatch, (pairs(0, 20), pairs(1, 8)), epochs=1, device="cpu")
    assert result.details["device"] == "cpu"
    assert "2 heads are trained on cpu" in caplog.text


def test_features_without_tokens_are_refused(run, videos, tmp_path):
    np.savez(tmp_path / "f.npz", features=np.eye(4), labels=np.arange(4))
    wrong = replace(
        recipe(run, videos, tmp_path),
        encoders={"f": f"features:{tmp_path / 'f.npz'},{tmp_path / 'f.npz'}"},
    )
    with pytest.raises(FeatureError, match=r"needs tokens, but .*f\.npz has clip only.*--outputs"):
        evaluate(wrong, quiet=True)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"pooler": "videoglue", "depth": 2}, "is one attention: leave it out"),
        ({"learning_rates": ()}, "must be positive numbers"),
        ({"num_heads": 0}, "num_heads=0 must be at least 1"),
        ({"warmup_epochs": 20}, "warmup_epochs=20 must lie in"),
        ({"memory_gib": -1}, "must not be negative"),
        ({"grad_clip": 0}, "grad_clip=0 must be positive"),
    ],
)
def test_settings_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        AttentiveConfig(**settings)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"num_heads=5 does not divide the width 16.*\[1, 2, 4"):
        probe.head_maker(AttentiveConfig(num_heads=5), 16, 3)()
