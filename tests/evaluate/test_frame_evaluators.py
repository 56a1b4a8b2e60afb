"""From feature files to the evaluators on frames: what is one video, what is left out, what is averaged."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.evaluators import EVALUATORS, evaluator_class
from video_ssl.evaluate.frames.frame_evaluator import FrameEvaluator
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.evaluate.frames.phase_classification import (
    PhaseClassification,
    PhasesConfig,
    phase_accuracy,
)
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.recipes import ConfigError

NAMES = [n for n in EVALUATORS if issubclass(evaluator_class(n), FrameEvaluator)]
QUICK = {
    "few_shot_phases": {"num_episodes": 3, "shots": (1, 2)},
    "frame_probe": {"epochs": 5},
    "segmentation": {"layers": 3, "width": 16, "epochs": 30, "lr": 1e-2},
}
WIDTH = 6


def row(key, clip, embs, labels, *, times=None, label=0):
    embs = np.asarray(embs, np.float32).reshape(-1, WIDTH)
    return {
        "id": key,
        "clip": clip,
        "label": label,
        "feature": np.zeros(WIDTH, np.float32),
        "frame_features": embs,
        "frame_times_sec": None if times is None else list(times),
        "frame_labels": None if labels is None else list(labels),
    }


def written(path, rows, **metadata) -> FeatureFile:
    with FeatureWriter(path, embed_dim=WIDTH, metadata=metadata) as writer:
        writer.write(rows)
    return open_features(path)


def split(path, seed, *, classes=2, videos=3, noise=0.2, **metadata):
    """Videos of some classes, each with phases of its own: 3 c, 3 c + 1, 3 c + 2 for class c."""
    rng, rows = np.random.default_rng(seed), []
    centres = np.random.default_rng(9).normal(size=(3 * classes, WIDTH))
    for v in range(classes * videos):
        label, length = v % classes, int(rng.integers(10, 20))
        phases = 3 * label + np.sort(np.r_[0, 1, 2, rng.integers(0, 3, length - 3)])
        embs = centres[phases] + noise * rng.normal(size=(length, WIDTH))
        rows.append(row(f"{seed}-{v}", 0, embs, phases, times=np.arange(length) / 5, label=label))
    return written(path, rows, **metadata)


def test_rows_become_videos(tmp_path):
    embs = np.arange(6 * WIDTH, dtype=np.float32).reshape(6, WIDTH)
    rows = [
        row("b", 1, embs[3:6], [1, 1, 2], times=[0.3, 0.4, 0.5]),  # out of order
        row("a", 0, embs[:2], [0, 0], times=[0.0, 0.1], label=1),
        row("b", 0, embs[:4] + 10, [0, 0, 0, 1], times=[0.0, 0.1, 0.2, 0.3]),
    ]
    found = frame_sequences(written(tmp_path / "a.arrow", rows))
    assert found.ids == ["b", "a"]
    assert found.classes.tolist() == [0, 1]
    # 0.3 s is shown twice: its feature is the mean
    expected = np.concatenate([embs[:3] + 10, embs[3:4] + 5, embs[4:6]])
    np.testing.assert_allclose(found.embs[0], expected)
    assert found.labels[0].tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_allclose(found.places[0], np.arange(6) / 6)


def test_frames_that_cannot_be_used_are_left_out_and_told(tmp_path):
    embs = np.ones((4, WIDTH), np.float32)
    features = written(
        tmp_path / "a.arrow",
        [
            row("a", 0, embs, [0, -1, 1, 1]),
            row("none", 0, embs, None),
            row("unlabelled", 0, embs, [-1] * 4),
            row("short", 0, embs, [0, 1]),
        ],
    )
    # a writer refuses NaN, so it is put into a file of somebody else's
    broken = features.table.to_pydict()
    broken["frame_features"][0][3][2] = math.nan
    table = type(features.table).from_pydict(broken, schema=features.table.schema)
    found = frame_sequences(FeatureFile(table))
    assert found.ids == ["a", "short"]
    assert found.labels[0].tolist() == [0, 1]
    np.testing.assert_allclose(found.places[0], [0, 0.5])  # counted before frames were left out
    assert found.labels[1].tolist() == [0, 0, 1, 1]
    assert found.notes == [
        "1 frames not finite are left out",
        "9 frames without a label are left out",
        "2 of 4 videos have no usable frame and are left out",
        "the labels of 1 clips are resampled to their frames",
    ]
    assert len(frame_sequences(FeatureFile(table), labelled=False)) == 4


def test_a_file_without_labels_or_frames_is_refused(tmp_path):
    bare = written(tmp_path / "a.arrow", [row("a", 0, np.ones((3, WIDTH)), None)])
    with pytest.raises(FeatureError, match=r"no frame with a label.*table with frame_labels"):
        frame_sequences(bare)
    with FeatureWriter(tmp_path / "b.arrow", embed_dim=WIDTH) as writer:
        writer.write([{"id": "a", "clip": 0, "feature": np.zeros(WIDTH, np.float32)}])
    with pytest.raises(FeatureError, match="no frame features; embed again"):
        frame_sequences(open_features(tmp_path / "b.arrow"))


def test_each_class_on_its_own_and_the_plain_mean(tmp_path):
    train = split(tmp_path / "a.arrow", 0)
    test = split(tmp_path / "b.arrow", 1, class_names=["bow", "kick"])
    config = PhasesConfig(fractions=(0.5, 1.0), normalize=False)
    result = PhaseClassification(config).evaluate(Given(train, test, seed=0))
    expected = []
    for label in (0, 1):
        own = [
            ([e for e, c in zip(part, q.classes, strict=True) if c == label])
            for q in (frame_sequences(train), frame_sequences(test))
            for part in (q.embs, q.labels)
        ]
        expected.append(phase_accuracy(*own).val)
    assert result.details["classes"]["bow"]["linear@100%"] == expected[0]
    assert result.details["classes"]["kick"]["linear@100%"] == expected[1]
    assert result.metrics == {
        "linear@50%": pytest.approx(
            np.mean([own["linear@50%"] for own in result.details["classes"].values()])
        ),
        "linear@100%": pytest.approx(np.mean(expected)),
    }
    together = PhaseClassification(PhasesConfig(classes="together")).evaluate(
        Given(train, test, seed=0)
    )
    assert list(together.details["classes"]) == ["all"]


@pytest.mark.parametrize("name", NAMES)
def test_every_evaluator_stands_beside_position_alone(name, tmp_path):
    cls = evaluator_class(name)
    evaluator = cls(cls.Config(**QUICK.get(name, {})))
    train, test = split(tmp_path / "a.arrow", 0), split(tmp_path / "b.arrow", 1)
    result = evaluator.evaluate(Given(train, test, seed=0))
    again = evaluator.evaluate(Given(train, test, seed=0))
    assert result.metrics == again.metrics
    alone = result.details["position_only"]
    assert set(alone) == set(result.metrics)
    assert all(np.isfinite(list(alone.values()))), alone
    assert all(np.isfinite(list(result.metrics.values()))), result.metrics
    # the encoder is worth something, and the position is not just the encoder again
    assert alone != result.metrics
    if name == "kendalls_tau":
        assert alone["tau"] > 0.95
    else:
        assert max(result.metrics.values()) > 0.5
    assert result.details["headline"]["position_only"] != ""


@pytest.mark.parametrize("name", NAMES)
def test_one_phase_one_video_one_frame_is_nan_and_no_crash(name, tmp_path):
    cls = evaluator_class(name)
    evaluator = cls(cls.Config(**QUICK.get(name, {})))
    files = [
        written(tmp_path / f"{s}.arrow", [row(s, 0, np.ones((1, WIDTH)), [0], times=[0.0])])
        for s in ("a", "b")
    ]
    result = evaluator.evaluate(Given(*files, seed=0))
    if name in ("frame_probe", "segmentation"):
        assert set(result.metrics.values()) == {1.0}
    else:
        assert all(math.isnan(value) for value in result.metrics.values())
        assert any("not defined for all" in note for note in result.notes)
        assert result.statement == "has no result on these videos"
        assert result.details["headline"]["found"] == "not defined"


def test_two_splits_without_a_common_phase(tmp_path):
    embs = np.random.default_rng(0).normal(size=(8, WIDTH))
    train = written(tmp_path / "a.arrow", [row("a", 0, embs, [0] * 4 + [1] * 4)])
    test = written(tmp_path / "b.arrow", [row("b", 0, embs, [2] * 4 + [3] * 4)])
    result = PhaseClassification(PhasesConfig(fractions=(1.0,))).evaluate(
        Given(train, test, seed=0)
    )
    assert result.metrics == {"linear@100%": 0.0}


def test_classes_that_only_one_split_has(tmp_path):
    train = split(tmp_path / "a.arrow", 0, classes=3)
    test = split(tmp_path / "b.arrow", 1, classes=2)
    result = PhaseClassification(PhasesConfig()).evaluate(Given(train, test, seed=0))
    assert list(result.details["classes"]) == ["0", "1"]
    assert "the classes 2 are in train only and are left out" in result.notes
    named = [
        split(tmp_path / f"{k}.arrow", k, classes=k, class_names=["run", "sit", "eat"][:k])
        for k in (3, 2)
    ]
    told = PhaseClassification(PhasesConfig()).evaluate(Given(*named, seed=0)).notes
    assert "the classes eat are in train only and are left out" in told
    each = PhasesConfig(classes="each")
    unknown = written(tmp_path / "c.arrow", [row("c", 0, np.ones((2, WIDTH)), [0, 1], label=None)])
    with pytest.raises(FeatureError, match="1 videos have no label"):
        PhaseClassification(each).evaluate(Given(train, unknown, seed=0))


@pytest.mark.parametrize("name", NAMES)
def test_phases_are_matched_by_name(tmp_path, name):
    """Test files that number classes and phases the other way round give the same numbers."""
    phases, classes = [f"phase {p}" for p in range(6)], ["run", "sit"]
    train = split(tmp_path / "a.arrow", 0, class_names=classes, phase_names=phases)
    same = split(tmp_path / "b.arrow", 1, class_names=classes, phase_names=phases)
    rows = same.table.select(["id", "clip", "label", "feature", "frame_times_sec"]).to_pylist()
    turned = [
        {
            **cells,
            "feature": np.asarray(cells["feature"], np.float32),
            "label": 1 - cells["label"],
            "frame_features": same.frames(number)[0],
            "frame_labels": [5 - p for p in same.table["frame_labels"][number].as_py()],
        }
        for number, cells in enumerate(rows)
    ]
    other = written(
        tmp_path / "c.arrow", turned, class_names=classes[::-1], phase_names=phases[::-1]
    )
    evaluator = evaluator_class(name)(evaluator_class(name).Config(**QUICK.get(name, {})))
    expected, found = (evaluator.evaluate(Given(train, t, seed=0)) for t in (same, other))
    assert found.metrics == pytest.approx(expected.metrics, nan_ok=True)
    assert any("number their phases differently" in note for note in found.notes)
    assert not any("number their phases differently" in note for note in expected.notes)
    short = written(tmp_path / "d.arrow", turned[:1], phase_names=["a", "b"])
    with pytest.raises(FeatureError, match="has the label 5, but there are 2 names of phases"):
        evaluator.evaluate(Given(train, short, seed=0))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("evaluators.phases.fractions=[0]", "fractions"),
        ("evaluators.phases.classifiers=[forest]", "forest"),
        ("evaluators.kendalls_tau.stride=0", "stride=0"),
        ("evaluators.frame_retrieval.ks=[]", "ks"),
        ("evaluators.phases.classes=some", "classes"),
        ("evaluators.phases.fraction=[1.0]", "Did you mean 'fractions'"),
    ],
)
def test_settings_that_cannot_be_used(override, text):
    with pytest.raises((ConfigError, ValueError), match=text):
        load_evaluate_recipe("phases", ["encoder=somewhere", override])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from video_ssl.models.networks.vit import VideoViT

    torch.manual_seed(0)
    config = ViTConfig(
        preset=None, embed_dim=16, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    folder = tmp_path_factory.mktemp("runs") / "toy"
    preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=16)
    save_encoder(
        folder / "encoder", VideoViT(config), architecture="vit", preprocess=preprocess, source={}
    )
    return folder


def test_frame_labels_travel_into_the_feature_file(videos, encoder, tmp_path):
    """The fixture's frame t is of phase t % 5; the encoder has a feature for every two frames."""
    table = Table.open(videos / "test.arrow")
    for per_frame in (True, False):
        settings = EmbedConfig(num_workers=0, per_frame=per_frame, num_clips=1 if per_frame else 2)
        out = tmp_path / f"{per_frame}.arrow"
        features = Embedder(load_encoder(encoder), settings).embed(table, out, progress=False)
        found = frame_sequences(features)
        for times, labels in zip(found.times, found.labels, strict=True):
            np.testing.assert_array_equal(np.floor(times * 10 + 1e-6).astype(int) % 5, labels)
        if per_frame:
            lengths = [table.record(v).frame_labels.size for v in range(len(table))]
            assert [len(e) for e in found.embs] == lengths


def test_label_arrays_of_another_length_are_resampled_when_embedding(videos, encoder, tmp_path):
    table = Table.open(videos / "test.arrow")
    rows = []
    for v in range(2):
        record = table.record(v)
        count = record.frame_labels.size
        half = np.arange(count // 2) if v == 0 else np.arange(2 * count)
        rows.append(
            {
                "id": record.id,
                "source": record.source,
                "fps": 10.0,
                "num_frames": count,
                "frame_labels": half,
            }
        )
    settings = EmbedConfig(num_workers=0, per_frame=True)
    embedder = Embedder(load_encoder(encoder), settings)
    found = frame_sequences(embedder.embed(Table.from_rows(rows), tmp_path / "a.arrow"))
    assert found.labels[0].tolist() == [t // 2 for t in range(len(found.labels[0]))]
    assert found.labels[1].tolist() == [2 * t for t in range(len(found.labels[1]))]


def uneven_video(path, gaps):
    """12 frames at milliseconds 0, gaps[0], gaps[0] + gaps[1], ..."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(np.cumsum([0, *gaps]).tolist()):
            picture = np.full((32, 48, 3), 10 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("per_frame", [True, False])
def test_labels_belong_to_frames_whatever_the_rate(encoder, tmp_path, per_frame):
    """A file of variable rate, whole and as a segment; no row says a rate."""
    gaps = [40, 40, 400, 40, 40, 40, 200, 40, 40, 40, 40]
    uneven_video(tmp_path / "uneven.mp4", gaps)
    rows = [
        {"id": "whole", "source": "uneven.mp4", "frame_labels": np.arange(12)},
        {"id": "part", "source": "uneven.mp4", "start_sec": 0.48, "frame_labels": np.arange(3, 12)},
    ]  # fmt: skip
    settings = EmbedConfig(num_workers=0, per_frame=per_frame, frame_stride=1)
    table = Table.from_rows(rows, root=tmp_path)
    found = frame_sequences(
        Embedder(load_encoder(encoder), settings).embed(table, tmp_path / "a.arrow")
    )
    shown = np.cumsum([0, *gaps]) / 1000
    for ours, labels, first in zip(found.times, found.labels, (0, 3), strict=True):
        expected = np.searchsorted(shown, ours + 1e-6, side="right") - 1
        assert labels.tolist() == expected.tolist()
        if per_frame:
            assert labels.tolist() == list(range(first, 12))


def test_the_demo_recipe_prints_position_alone(videos, encoder, tmp_path, capsys):
    recipe = load_evaluate_recipe(
        "demo_frames",
        [
            f"encoder={encoder}",
            f"train={videos / 'train.arrow'}",
            f"test={videos / 'test.arrow'}",
            f"out={tmp_path}",
            "embed.num_workers=0",
            "device=cpu",
            "encoders.pixels=pixels:{encoder}@4",
            "evaluators.phases.fractions=[1.0]",
        ],
    )
    results = evaluate(recipe)
    printed = capsys.readouterr().out
    table = printed.split("The frozen")[0]
    assert "position" in table
    assert "…" not in table
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    assert "the same network untrained" in printed
    assert "position alone" in printed
    assert "mean over 3 classes" in printed
    stored = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(stored["encoders"]["encoder"]["results"]) == [
        "phases",
        "progression",
        "kendalls_tau",
        "frame_retrieval",
    ]
    assert results["encoders"]["pixels"]["results"]["phases"]["details"]["position_only"]


def test_feature_files_of_anybody_are_evaluated(tmp_path, capsys):
    """No encoder and no videos: arrays with frame labels, here as npz."""
    names = []
    for name, seed in (("train", 0), ("test", 1)):
        rng = np.random.default_rng(seed)
        labels = np.sort(rng.integers(0, 3, (4, 12)), axis=1)
        embs = np.eye(3)[labels] + 0.1 * rng.normal(size=(4, 12, 3))
        names.append(str(tmp_path / f"{name}.npz"))
        ids = [f"{name}{v}" for v in range(4)]
        np.savez(
            names[-1],
            features=embs.mean(axis=1),
            ids=ids,
            frame_features=embs.astype(np.float32),
            frame_labels=labels,
        )
    overrides = [f"encoder=features:{names[0]},{names[1]}", f"out={tmp_path}"]
    results = evaluate(load_evaluate_recipe("phases", overrides))
    assert results["encoders"]["encoder"]["results"]["phases"]["metrics"]["linear@100%"] > 0.9
    assert "An encoder with the given features names the phase of" in capsys.readouterr().out
    overrides[0] = f"encoder=features:{names[0]}"
    with pytest.raises(FeatureError, match="must name two files"):
        evaluate(load_evaluate_recipe("phases", overrides))
