"""`video-ssl predict`: from an evaluation or a fine-tuning to labels of new videos, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from colored_videos import COLORS, write_video
from safetensors.numpy import save_file
from typer.testing import CliRunner
from untrained_run import untrained_run

from video_ssl.cli import app
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.embed.command import embed
from video_ssl.embed.features import open_features
from video_ssl.evaluate.accuracy import accuracy
from video_ssl.evaluate.heads import HeadError, read_head
from video_ssl.evaluate.predict import predict
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.evaluate.predictions import columns
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.files import OutputError
from video_ssl.models.classifier_folder import MERGES, Protocol, load_classifier
from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess

NAMES = ["red", "green", "blue"]
QUICK = PredictConfig(num_workers=0)
EVALUATORS = (
    "evaluators={probe: {poolings: [clip, concat_2], epochs: 40, learning_rates: [0.01]}, "
    "attentive: {pooler: vjepa, num_heads: 2, learning_rates: [0.01], weight_decays: [0.01], epochs: 40}}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("my 'own' runs") / "toy run")


@pytest.fixture(scope="module")
def evaluated(run, videos):
    """The results of probe and attentive probe, in RUN/evaluate/probe."""
    words = [f"encoder={run}", f"train={videos / 'train.arrow'}", f"test={videos / 'test.arrow'}"]
    more = ["embed.num_workers=0", "device=cpu", "keep_predictions=true", EVALUATORS]
    return evaluate(load_evaluate_recipe("probe", [*words, *more]), quiet=True)


@pytest.fixture(scope="module")
def heads(run, evaluated):
    return run / "evaluate" / "probe" / "heads"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three new videos, in folders with names of all sorts."""
    folder = tmp_path_factory.mktemp("new, \"quoted\" & 'odd'")
    for name, color in zip(("a b.mp4", "c,d.mp4", "ü'\".mp4"), COLORS.values(), strict=True):
        write_video(folder / name, 20, color, seed=77)
    return folder


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("evaluator", ["probe", "attentive"])
def test_the_test_videos_get_the_labels_that_the_evaluation_gave_them(
    evaluated, heads, videos, tmp_path, evaluator
):
    """Catches another head, pooling, standardisation or order of classes than the one that was measured."""
    result = evaluated["encoders"]["encoder"]["results"][evaluator]
    given = result["details"]["predictions"]
    told = predict(
        heads / f"encoder-{evaluator}",
        str(videos / "test.arrow"),
        tmp_path / "p.json",
        config=QUICK,
    )
    content = json.loads((tmp_path / "p.json").read_text())
    assert [v["id"] for v in content["videos"]] == given["id"]
    assert [v["label"] for v in content["videos"]] == [NAMES[c] for c in given["predicted"]]
    assert len(set(given["predicted"])) > 1
    assert content["classes"] == NAMES
    for answer, video in zip(told.answers, content["videos"], strict=True):
        assert answer.whole.shares.sum() == pytest.approx(1, abs=1e-5)
        assert video["score"] == pytest.approx(answer.whole.shares.max())
        assert [t["score"] for t in video["top"]] == sorted(answer.whole.shares, reverse=True)
        assert len(video["clips"]) == (2 if evaluator == "probe" else 0)
    assert evaluated["encoders"]["encoder"]["heads"][evaluator] == f"heads/encoder-{evaluator}"


def test_how_often_the_head_is_right_is_said_where_classes_are_known(
    evaluated, heads, videos, tmp_path, caplog
):
    """Nothing said it: the accuracy of a fine-tuned run on all views of a test set had to be counted by hand."""
    caplog.set_level("INFO")
    out = tmp_path / "p.json"
    result = evaluated["encoders"]["encoder"]["results"]["probe"]["metrics"]
    table = open_table(videos / "test.arrow")
    told = predict(heads / "encoder-probe", str(videos / "test.arrow"), out, config=QUICK)
    assert told.accuracy.top1 == result["top1"]
    assert told.accuracy.videos == len(table)
    assert told.accuracy.strange == 0
    assert json.loads(out.read_text())["accuracy"]["top1"] == result["top1"]
    assert f"right: {100 * result['top1']:.1f} % (top-1), 100.0 % (top-5)" in caplog.text
    # Names decide, not numbers; one class is of another world, and one video's is not known.
    names = ["blue", "plaid", "red", "green"]
    records = [table.record(i) for i in range(len(table))]
    rows = [{"id": r.id, "source": r.source, "label": names.index(NAMES[r.label])} for r in records]
    rows[0]["label"], rows[1]["label"] = None, 1
    Table.from_rows(rows, class_names=names).save(tmp_path / "renamed.arrow")
    again = predict(heads / "encoder-probe", str(tmp_path / "renamed.arrow"), out, config=QUICK)
    best = [int(answer.whole.shares.argmax()) for answer in told.answers]
    right = [b == r.label for b, r in zip(best, records, strict=True)]
    assert again.accuracy.top1 == pytest.approx(sum(right[2:]) / (len(table) - 1))
    assert again.accuracy.strange == 1
    assert "1 of them are of classes that the head does not know" in caplog.text
    # Names of folders need not be classes.
    Table.from_rows(rows, class_names=["2021", "2022", "2023", "2024"]).save(
        tmp_path / "years.arrow"
    )
    years = predict(heads / "encoder-probe", str(tmp_path / "years.arrow"), out, config=QUICK)
    assert years.accuracy is None
    assert "accuracy" not in json.loads(out.read_text())


def test_the_mean_over_classes_weighs_rare_ones_alike():
    shares = {f"{i}": np.eye(3)[0] for i in range(4)}
    labels = {"0": 0, "1": 0, "2": 0, "3": 2}
    found = accuracy(shares, labels, ours=NAMES, theirs=NAMES)
    assert (found.top1, found.top5, found.mean_class) == (0.75, 1.0, 0.5)
    assert accuracy(shares, {"0": -1}, ours=NAMES, theirs=NAMES) is None


def test_a_folder_of_new_videos_in_every_kind_of_file(heads, clips, tmp_path):
    head = heads / "encoder-probe"
    words = ["predict", str(head), str(clips)]
    for name in ("o.csv", "o.parquet", "o.json"):
        more = [str(tmp_path / name), "--num-workers", "0", "--top-k", "2", "--device", "cpu"]
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.output
    table = rows_of(tmp_path / "o.csv")
    assert list(table[0]) == columns(2)
    sources = [row["source"] for row in table]
    assert sorted(sources) == sorted(str(path) for path in clips.iterdir())
    # classes are colors, and the files are in the order of their names
    by_source = {row["source"]: row["label"] for row in table}
    assert [by_source[str(clips / n)] for n in ("a b.mp4", "c,d.mp4", "ü'\".mp4")] == NAMES
    for row in table:
        assert float(row["score"]) > float(row["score_2"]) > 0
        assert row["label"] != row["label_2"]
        assert (float(row["start_sec"]), float(row["end_sec"])) == pytest.approx((0.0, 1.9))
        assert row["reason"] == ""
    same = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["label"] for row in same] == [row["label"] for row in table]
    assert [row["score"] for row in same] == pytest.approx([float(r["score"]) for r in table])
    content = json.loads((tmp_path / "o.json").read_text())
    assert [v["label"] for v in content["videos"]] == [row["label"] for row in table]
    for video in content["videos"]:
        assert [clip["start_sec"] for clip in video["clips"]] == pytest.approx([0.0, 1.3])


def test_clips_of_a_long_video_each_with_its_own_window(heads, tmp_path):
    """Catches clips in another order than their times, and windows of other clips."""
    write_video(tmp_path / "long.mp4", 60, COLORS[0], then=COLORS[2])
    config = PredictConfig(stride_sec=0.7, each="clip", num_workers=0)
    predict(heads / "encoder-probe", str(tmp_path / "long.mp4"), tmp_path / "o.csv", config=config)
    table = rows_of(tmp_path / "o.csv")
    starts, ends = ([float(row[f"{name}_sec"]) for row in table] for name in ("start", "end"))
    assert starts == sorted(starts)
    assert len(starts) >= 8
    np.testing.assert_allclose(np.subtract(ends, starts), 0.6)  # 4 frames, 2 apart, 10 a second
    labels = {row["label"]: [] for row in table}
    for row, start, end in zip(table, starts, ends, strict=True):
        if end < 3 or start >= 3:
            labels[row["label"]].append(start < 3)
    assert set(labels) == {"red", "blue"}
    assert all(labels["red"])
    assert not any(labels["blue"])


def test_broken_videos_are_named_with_their_reason(heads, videos, tmp_path, caplog):
    for name in ("o.csv", "o.json"):
        predict(
            heads / "encoder-probe", str(videos / "broken.arrow"), tmp_path / name, config=QUICK
        )
    table = rows_of(tmp_path / "o.csv")
    assert len(table) == 6
    assert {row["id"]: bool(row["reason"]) for row in table if not row["label"]} == {
        "broken1": True,
        "broken4": True,
    }
    content = json.loads((tmp_path / "o.json").read_text())
    assert [entry["id"] for entry in content["unreadable"]] == ["broken1", "broken4"]
    assert "broken1.mp4" in caplog.text
    broken = PredictConfig(num_workers=0, strict=True)
    with pytest.raises(ValueError, match=r"broken1\.mp4 cannot be read"):
        predict(
            heads / "encoder-probe", str(videos / "broken.arrow"), tmp_path / "s.csv", config=broken
        )
    assert not (tmp_path / "s.csv").exists()


def test_features_that_are_there_already_and_features_that_are_kept(
    heads, evaluated, run, videos, tmp_path, caplog
):
    files = evaluated["encoders"]["encoder"]["features"]
    stored = run / "evaluate" / "probe" / files["test"]
    head, test = heads / "encoder-probe", str(videos / "test.arrow")
    first = predict(head, f"features:{stored}", tmp_path / "a.json", config=QUICK)
    kept = tmp_path / "kept.arrow"
    second = predict(head, test, tmp_path / "b.json", features=kept, config=QUICK)
    assert len(open_features(kept)) == 12
    caplog.set_level("INFO")
    third = predict(head, test, tmp_path / "c.json", features=kept, config=QUICK)
    assert "is complete already" in caplog.text
    for other in (second, third):
        for a, b in zip(first.answers, other.answers, strict=True):
            np.testing.assert_allclose(a.whole.shares, b.whole.shares, atol=1e-5)
    with pytest.raises(HeadError, match="reads tokens, which the encoder makes of videos"):
        predict(heads / "encoder-attentive", f"features:{stored}", tmp_path / "d.json")


def test_features_that_were_made_otherwise_are_refused(heads, run, videos, tmp_path):
    """Another pooling or crop gave other labels without a word: same encoder, same width, other numbers."""
    test, words = str(videos / "test.arrow"), {"device": "cpu", "num_workers": 0}
    for name, settings in (("max", {"pooling": "max"}), ("stride", {"frame_stride": 1})):
        embed(str(run), test, tmp_path / f"{name}.arrow", **words, num_clips=2, **settings)
        with pytest.raises(
            HeadError, match=f"embedded otherwise.*{name if name == 'stride' else 'pooling'}"
        ):
            predict(
                heads / "encoder-probe", f"features:{tmp_path / name}.arrow", tmp_path / "o.csv"
            )
    embed(str(run), test, tmp_path / "more.arrow", **words, num_clips=5)  # a head of single clips
    told = predict(
        heads / "encoder-probe", f"features:{tmp_path / 'more.arrow'}", tmp_path / "o.csv"
    )
    assert len(told.answers) == 6


def test_an_attentive_head_of_stored_tokens_gets_those_again(run, videos, tmp_path):
    """It was shown all tokens of the encoder where it had learned from the means of parts of the frame."""
    few = {"device": "cpu", "num_workers": 0, "num_clips": 2, "tokens_side": 1}
    for split in ("train", "test"):
        place = tmp_path / f"{split}.arrow"
        embed(str(run), str(videos / f"{split}.arrow"), place, outputs=("clip", "tokens"), **few)
    spec = f"features:{tmp_path / 'train.arrow'},{tmp_path / 'test.arrow'}"
    words = [f"encoders.encoder={spec}", "device=cpu", "keep_predictions=true"]
    words += [f"train={videos / 'train.arrow'}", f"test={videos / 'test.arrow'}"]
    base = load_evaluate_recipe("probe", [*words, f"out={tmp_path / 'o'}", EVALUATORS])
    own = {"attentive": base.evaluators["attentive"]}
    found = evaluate(replace(base, evaluators=own), quiet=True)
    given = found["encoders"]["encoder"]["results"]["attentive"]["details"]["predictions"]
    head = tmp_path / "o" / "heads" / "encoder-attentive"
    assert read_head(head).settings["tokens"] == "stored"
    test = str(videos / "test.arrow")
    of_file = predict(head, f"features:{tmp_path / 'test.arrow'}", tmp_path / "a.csv")
    of_videos = predict(head, test, tmp_path / "b.csv", encoder=str(run), config=QUICK)
    for told in (of_file, of_videos):
        labels = [int(answer.whole.shares.argmax()) for answer in told.answers]
        assert labels == given["predicted"]
    for a, b in zip(of_file.answers, of_videos.answers, strict=True):
        np.testing.assert_allclose(a.whole.shares, b.whole.shares, atol=1e-3)


def test_a_folder_that_is_not_there_yet_is_made(heads, videos, tmp_path):
    """All was computed, and lost when the file could not be written."""
    out = tmp_path / "new" / "folder" / "o.csv"
    predict(heads / "encoder-probe", str(videos / "test.arrow"), out, config=QUICK)
    assert len(rows_of(out)) == 6


def test_heads_of_an_earlier_evaluation_do_not_stay(run, videos, tmp_path):
    """`predict OUT` took the head of other classes that an evaluation before had left there."""
    words = [f"encoder={run}", f"train={videos / 'train.arrow'}", f"test={videos / 'test.arrow'}"]
    words += ["embed.num_workers=0", "device=cpu", f"out={tmp_path / 'o'}"]
    quick = "evaluators={probe: {poolings: [clip], epochs: 2, learning_rates: [0.01]}}"
    evaluate(load_evaluate_recipe("probe", [*words, quick]), quiet=True)
    mine = tmp_path / "o" / "heads" / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("not of video_ssl")
    assert (tmp_path / "o/heads/encoder-probe/head.json").is_file()
    without = replace(
        load_evaluate_recipe("probe", words), evaluators={"knn": {"poolings": ["clip"]}}
    )
    evaluate(without, quiet=True)
    assert sorted(path.name for path in (tmp_path / "o/heads").iterdir()) == ["mine"]
    assert (mine / "notes.txt").is_file()


def test_a_head_of_another_encoder_is_refused(heads, run, videos, tmp_path):
    other = tmp_path / "other"
    torch.manual_seed(5)
    config = ViTConfig(
        preset=None, embed_dim=32, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    save_encoder(
        other / "encoder",
        VideoViT(config),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=2, size=16),
        source={},
    )
    with pytest.raises(HeadError, match=r"made for another encoder \(fingerprint .*--encoder"):
        predict(
            heads / "encoder-probe",
            str(videos / "test.arrow"),
            tmp_path / "o.csv",
            encoder=str(other),
            config=QUICK,
        )
    assert not (tmp_path / "o.csv").exists()
    # Features of it have the same width: only the fingerprint tells them apart.
    theirs = tmp_path / "theirs.arrow"
    embed(str(other), str(videos / "test.arrow"), theirs, num_workers=0)
    with pytest.raises(HeadError, match=r"made for another encoder \(fingerprint"):
        predict(heads / "encoder-probe", f"features:{theirs}", tmp_path / "o.csv", config=QUICK)
    assert not (tmp_path / "o.csv").exists()
    moved = tmp_path / "moved"
    shutil.copytree(run / "encoder", moved / "encoder")
    done = predict(
        heads / "encoder-probe",
        str(videos / "test.arrow"),
        tmp_path / "o.csv",
        encoder=str(moved),
        config=QUICK,
    )
    assert len(done.answers) == 6


def test_what_names_no_head_is_told(heads, run, videos, tmp_path):
    test, out = str(videos / "test.arrow"), tmp_path / "o.csv"
    with pytest.raises(HeadError, match=r"has 2 heads: name one of them.*encoder-attentive"):
        predict(run, test, out)
    with pytest.raises(HeadError, match=r"no head .*nowhere"):
        predict(tmp_path / "nowhere", test, out)
    bare = untrained_run(tmp_path / "bare")
    with pytest.raises(HeadError, match=r"no classifier.*and no head of an evaluation"):
        predict(bare, test, out)
    with pytest.raises(ValueError, match=r"must end in \.json, \.csv, \.parquet"):
        predict(heads / "encoder-probe", test, tmp_path / "o.txt")
    config = PredictConfig(stride_sec=1.0)
    with pytest.raises(ValueError, match="leave them out"):
        predict(heads / "encoder-attentive", test, out, config=config)
    # Was wrong: a head that judges the clips of a video together wrote a table without a single row.
    with pytest.raises(HeadError, match=r"no row for each clip.*attentive\.clips=apart"):
        predict(heads / "encoder-attentive", test, out, config=PredictConfig(each="clip"))
    with pytest.raises(ValueError, match="give one of them"):
        PredictConfig(stride_sec=1.0, num_clips=2)
    with pytest.raises(ValueError, match="top_k=0"):
        PredictConfig(top_k=0)


@pytest.mark.parametrize("name", ["o.csv", "o.json", "o.parquet"])
def test_only_its_own_files_are_replaced(heads, clips, tmp_path, name):
    out = tmp_path / name
    out.write_text("id,source\nmine,too\n")
    with pytest.raises(OutputError, match="was not made by `video-ssl predict`"):
        predict(heads / "encoder-probe", str(clips), out, config=QUICK)
    assert out.read_text() == "id,source\nmine,too\n"
    out.unlink()
    for top_k in (3, 1):
        config = PredictConfig(num_workers=0, top_k=top_k)
        predict(heads / "encoder-probe", str(clips), out, config=config)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda f: (f / "head.json").write_text("{}"), "does not describe a head"),
        (lambda f: (f / "head.json").write_text("no json"), "not readable as JSON"),
        (
            lambda f: (f / "head.json").write_text(
                (f / "head.json").read_text().replace('"red"', '"rot"')
            ),
            "was changed or damaged",
        ),
        (lambda f: (f / "head.safetensors").unlink(), r"head\.safetensors"),
        (
            lambda f: save_file({"weight": np.zeros((2, 2), np.float32)}, f / "head.safetensors"),
            "is not what was written",
        ),
        (lambda f: (f / "head.safetensors").write_bytes(b"\x80\x04."), "is not what was written"),
    ],
)
def test_damaged_heads_are_refused(heads, clips, tmp_path, harm, text):
    folder = tmp_path / "head"
    shutil.copytree(heads / "encoder-probe", folder)
    assert read_head(folder).class_names == tuple(NAMES)
    harm(folder)
    with pytest.raises(HeadError, match=text):
        predict(folder, str(clips), tmp_path / "o.csv", config=QUICK)


def test_segments_of_a_classifier_of_phases(run, videos, tmp_path):
    """Frame labels of the fixture go 0, 1, .. 4 in turn; the names are those of the table, and times follow frames."""
    words = [f"encoder={run}", f"train={videos / 'train.arrow'}", f"test={videos / 'test.arrow'}"]
    more = [
        "embed.num_workers=0",
        "device=cpu",
        f"out={tmp_path / 'e'}",
        "evaluators={phases: {fractions: [1.0], classes: together}}",
    ]
    evaluate(load_evaluate_recipe("phases", [*words, *more]), quiet=True)
    out = tmp_path / "o.json"
    told = predict(tmp_path / "e", str(videos / "test.arrow"), out, config=QUICK)
    assert told.class_names == ("0", "1", "2", "3", "4")
    head = read_head(tmp_path / "e" / "heads" / "encoder-phases")
    found = open_features(next((tmp_path / "e" / "features").glob("encoder-test-*.arrow")))
    for answer in told.answers:
        frames, times = found.frames_of(answer.id)
        unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
        labels = (unit @ head.weights["weight"].T + head.weights["bias"]).argmax(1)
        bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist()]
        assert [p.start_sec for p in answer.parts] == pytest.approx(times[bounds].tolist())
        assert [int(p.shares.argmax()) for p in answer.parts] == labels[bounds].tolist()
        ends = [p.end_sec for p in answer.parts]
        assert ends[:-1] == [p.start_sec for p in answer.parts[1:]]
        assert ends[-1] == pytest.approx(times[-1])
    predict(tmp_path / "e", str(videos / "test.arrow"), tmp_path / "o.csv", config=QUICK)
    assert len(rows_of(tmp_path / "o.csv")) == sum(len(a.parts) for a in told.answers)


@pytest.mark.parametrize(
    ("crops", "size", "average", "center"),
    [
        (1, None, "softmax", 1.0),
        (2, 24, "softmax", 1.0),
        (2, None, "logits", 1.0),
        (1, None, "logits", 0.5),
    ],
)
def test_a_fine_tuned_classifier(videos, tmp_path, caplog, crops, size, average, center):
    """Its shares are those of `classifier_folder`: the mean of the softmax of its clips, or the softmax of the mean."""
    torch.manual_seed(1)
    config = ViTConfig(
        preset=None, embed_dim=32, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    save_encoder(
        tmp_path / "fine tuned" / "encoder",
        VideoViT(config),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=2, size=16),
        source={},
        beside={"classifier.safetensors": {"weight": torch.randn(3, 32), "bias": torch.randn(3)}},
        protocol=Protocol(
            class_names=tuple(NAMES),
            num_classes=3,
            clips=3,
            crops=crops,
            size=size,
            center_share=center,
            merge=MERGES[average],
        ),
    )
    out = tmp_path / "o.json"
    told = predict(tmp_path / "fine tuned", str(videos / "test.arrow"), out, config=QUICK)
    classifier = load_classifier(tmp_path / "fine tuned")
    kept = tmp_path / "k.arrow"
    predict(tmp_path / "fine tuned", str(videos / "test.arrow"), out, features=kept, config=QUICK)
    found = open_features(kept)
    assert found.metadata["settings"]["center_share"] == center
    assert len(told.answers) == 6
    assert ("found on squares of 24 px" in caplog.text) == (size == 24)
    for answer in told.answers:
        own = found.features[found.ids == answer.id]
        assert len(own) == 3 * crops  # was one square of each clip, however many the accuracy is of
        assert len(answer.parts) == 3
        np.testing.assert_allclose(answer.whole.shares, classifier.shares(own), atol=1e-6)
        scores = own @ classifier.weight.T + classifier.bias
        shares = np.exp(scores.mean(0) if average == "logits" else scores)
        shares = shares / shares.sum(-1, keepdims=True)
        expected = shares if average == "logits" else shares.mean(0)
        np.testing.assert_allclose(answer.whole.shares, expected, rtol=1e-4)
    # An evaluation of the same run leaves a head of other classes, of its frozen features.
    other = tmp_path / "fine tuned/evaluate/probe/heads/encoder-probe"
    other.mkdir(parents=True)
    (other / "head.json").write_text("{}")
    again = predict(tmp_path / "fine tuned", str(videos / "test.arrow"), out, config=QUICK)
    assert again.class_names == tuple(NAMES)
    with pytest.raises(HeadError, match="brings its own encoder"):
        predict(tmp_path / "fine tuned", str(videos), out, encoder="x", config=QUICK)
