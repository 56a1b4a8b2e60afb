"""The probe with a bottleneck, the support vector machine, and the probe of several classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError, features_from_arrays
from video_ssl.evaluate.bottleneck_probe import (
    BottleneckProbe,
    BottleneckProbeConfig,
    Layers,
    fit_bottleneck,
)
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.multilabel_probe import MultilabelProbe, MultilabelProbeConfig
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.svm import Svm, SvmConfig
from video_ssl.evaluate.videos import MATCHED

CENTRES = np.random.default_rng(3).normal(size=(4, 6))


def made(seed, videos, *, clips=2, noise=0.3, classes=4, shuffled=False, prefix=""):
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % classes
    x = CENTRES[np.repeat(labels, clips)] + noise * rng.normal(size=(videos * clips, 6)) + 5.0
    shown = rng.permutation(labels) if shuffled else labels
    return features_from_arrays(
        {
            "features": x.astype(np.float32),
            "labels": np.repeat(shown, clips),
            "ids": np.repeat([f"{prefix}{seed}-{v}" for v in range(videos)], clips),
        }
    )


def quick(**changes):
    return BottleneckProbeConfig(**{"width": 16, "dropout": 0.5, "epochs": 60, "penalty": 0.01,
                                    "learning_rate": 0.01, **changes})  # fmt: skip


PROBES = [
    (BottleneckProbe, quick()),
    (Svm, SvmConfig(cost=0.1)),
    (Svm, SvmConfig(cost=0.1, standardise=False)),
]


@pytest.mark.parametrize(("probe", "config"), PROBES)
def test_classes_are_told_apart_and_chance_is_chance(probe, config):
    given = Given(train=made(0, 40), test=made(1, 40), keep_predictions=True)
    assert probe(config).evaluate(given).metrics["top1"] == 1.0
    assert probe(config).evaluate(given) == probe(config).evaluate(given)
    mixed = Given(train=made(0, 40, shuffled=True), test=made(1, 40, shuffled=True))
    assert probe(config).evaluate(mixed).metrics["top1"] < 0.6


@pytest.mark.parametrize(("probe", "config"), PROBES)
def test_two_classes_and_a_class_that_train_lacks(probe, config):
    given = Given(train=made(0, 20, classes=2), test=made(1, 20, classes=2))
    assert probe(config).evaluate(given).metrics["top1"] == 1.0
    result = probe(config).evaluate(Given(train=made(0, 20, classes=2), test=made(1, 20)))
    assert result.metrics["top1"] <= 0.5
    assert "10 test videos are of classes that train does not have: wrong" in result.notes
    with pytest.raises(FeatureError, match="one class only"):
        probe(config).evaluate(Given(train=made(0, 20, classes=1), test=made(1, 20)))


def test_the_loss_of_the_bottleneck_against_loops():
    rng = np.random.default_rng(0)
    x, w1, b1, w2, b2 = (rng.normal(size=s) for s in ((3, 4), (4, 5), 5, (5, 2), 2))
    kept, labels = rng.integers(0, 2, (3, 5)) / 0.5, [1, 0, 1]
    total = 0.0
    for i in range(3):
        middle = [
            (sum(x[i, d] * w1[d, m] for d in range(4)) + b1[m]) * kept[i, m] for m in range(5)
        ]
        logits = [sum(middle[m] * w2[m, k] for m in range(5)) + b2[k] for k in range(2)]
        total += math.log(sum(math.exp(z) for z in logits)) - logits[labels[i]]
    expected = total / 3 + 0.1 * sum(w**2 for w in w2.ravel())
    layers = Layers(*(torch.from_numpy(np.asarray(a)) for a in (w1, b1, w2, b2)))
    found = layers.loss(torch.from_numpy(x), torch.tensor(labels), torch.from_numpy(kept), 0.1)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_first_step_of_adam_is_the_learning_rate():
    rows, labels = CENTRES.astype(np.float32), np.arange(4)
    config = quick(epochs=1, dropout=0.0, batch_size=4, learning_rate=1e-3)
    after = fit_bottleneck(rows, labels, 4, config, torch.Generator().manual_seed(0))
    assert after.b2.detach().abs().max() <= 1e-3
    assert (after.b2.detach().abs() > 0.9e-3).all()
    bound = math.sqrt(6 / (6 + 16)) + 1e-3
    assert after.w1.detach().abs().max() <= bound
    assert after.w1.detach().abs().max() > 0.8 * bound


def several(features, classes):
    """A context whose tables say the classes of the videos of two feature files."""
    tables = {}
    for split, file in features.items():
        ids = list(dict.fromkeys(file.ids.tolist()))
        rows = [
            {"id": key, "source": f"{key}.mp4", "labels": classes(split, v)}
            for v, key in enumerate(ids)
        ]
        tables[split] = Table.from_rows(rows, class_names=["a", "b", "c", "d", "even"])
    return Context(**features, tables=tables, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "evaluator",
    [
        lambda device: LinearProbe(ProbeConfig(poolings=("clip",), epochs=1, device=device)),
        lambda device: LinearProbe(
            ProbeConfig(poolings=("clip",), epochs=1, held_out_share=0.0, device=device)
        ),
        lambda device: BottleneckProbe(quick(epochs=1, device=device)),
        lambda device: MultilabelProbe(MultilabelProbeConfig(epochs=1, device=device)),
    ],
    ids=["probe", "probe_without_choice", "bottleneck_probe", "multilabel_probe"],
)
def test_probes_are_trained_on_the_device_of_the_evaluation(evaluator):
    """Was wrong: on the CPU, whatever the evaluation ran on. torch's device "meta" computes nothing, which is told
    where numbers are wanted of it: so it shows on every machine that the device is taken."""
    there = replace(
        several({"train": made(0, 8), "test": made(1, 8)}, lambda _, v: [v % 4]),
        device=torch.device("meta"),
    )
    with pytest.raises(NotImplementedError, match="meta"):
        evaluator("auto").evaluate(there)
    assert evaluator("cpu").evaluate(there).total == 8


def test_several_classes_at_once():
    files = {"train": made(0, 40), "test": made(1, 40)}
    context = several(files, lambda _, v: [v % 4, 4] if v % 2 == 0 else [v % 4])
    found = MultilabelProbe(MultilabelProbeConfig(learning_rate=0.05)).evaluate(context)
    assert found.metrics["mAP"] > 0.98
    assert found.metrics["AUC"] > 0.99
    assert found.chance == pytest.approx((4 * 0.25 + 0.5) / 5)
    assert found.details["num_classes"] == 5
    rng = np.random.default_rng(0)
    draws = {"train": rng.integers(0, 5, 40), "test": rng.integers(0, 5, 40)}
    mixed = several(files, lambda split, v: [int(draws[split][v])])
    assert MultilabelProbe(MultilabelProbeConfig()).evaluate(mixed).metrics["AUC"] < 0.7


def named(table, names):
    """The rows of a table with other names of classes, and so other numbers."""
    rows = [
        {
            "id": record.id,
            "source": record.source,
            "labels": sorted(names.index(table.class_names[label]) for label in record.labels),
        }
        for record in (table.record(row) for row in range(len(table)))
    ]
    return Table.from_rows(rows, class_names=names)


def test_several_classes_are_matched_by_name():
    """Each table numbers its names in sorted order; where test lacked a class, its numbers were taken for those of
    train: mAP fell from 1.0 to 0.5 without a word."""
    files = {"train": made(0, 40), "test": made(1, 40)}
    probe = MultilabelProbe(MultilabelProbeConfig(learning_rate=0.05))

    def classes(split, v):
        own = [v % 4, 4] if v % 2 == 0 else [v % 4]
        return own if split == "train" else [label for label in own if label]

    context = several(files, classes)
    expected = probe.evaluate(context)
    less = named(context.tables["test"], ["b", "c", "d", "even"])
    found = probe.evaluate(replace(context, tables={**context.tables, "test": less}))
    assert found.metrics == expected.metrics
    assert found.metrics["mAP"] > 0.98
    assert MATCHED in found.notes
    assert MATCHED not in expected.notes
    new = named(several(files, lambda _, v: [v % 4]).tables["test"], ["a", "b", "c", "d", "new"])
    rows = [{"id": less.record(0).id, "source": "x.mp4", "labels": [4]}, *new.arrow.to_pylist()[1:]]
    new = Table.from_rows(rows, class_names=["a", "b", "c", "d", "new"])
    found = probe.evaluate(replace(context, tables={**context.tables, "test": new}))
    assert len(found.details["average_precision"]) == 6, "a class of test alone is not one of train"
    assert np.isnan(found.details["average_precision"][4])


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_class_without_a_name_cannot_be_matched_by_name(side):
    """A class 5 of train that had no name had the number that a name of test alone got."""
    files = {"train": made(0, 40), "test": made(1, 40)}
    context = several(files, lambda split, v: [5 if (split, v) == (side, 3) else v % 4])
    other = "test" if side == "train" else "train"
    rows = [{**row, "labels": [0]} for row in context.tables[other].arrow.to_pylist()]
    tables = {**context.tables, other: Table.from_rows(rows, class_names=["new", "a"])}
    with pytest.raises(FeatureError, match="row 4 has the class 5, but there are 5 names"):
        MultilabelProbe(MultilabelProbeConfig(epochs=1)).evaluate(replace(context, tables=tables))
    for split, names in (("train", ["a", "b", "c", "d"]), ("test", ["b", "a", "c", "d"])):
        files[split].metadata = {"class_names": names[:3] if split == side else names}
    with pytest.raises(FeatureError, match="has the label 3, but there are 3 names of classes"):
        Svm(SvmConfig(cost=0.1)).evaluate(Given(train=files["train"], test=files["test"]))


def test_classes_that_nothing_can_be_told_of():
    files = {"train": made(0, 8), "test": made(1, 8)}
    context = several(files, lambda _, v: [4] if v % 2 else [0, 4])
    found = MultilabelProbe(MultilabelProbeConfig(epochs=5)).evaluate(context)
    assert found.details["num_classes"] == 1
    assert found.notes[0] == "4 of 5 classes are of no test video, or of all: left out"
    with pytest.raises(FeatureError, match="no class can be judged"):
        MultilabelProbe(MultilabelProbeConfig(epochs=1)).evaluate(several(files, lambda *_: [4]))
    with pytest.raises(FeatureError, match="has a class: fill the column labels"):
        MultilabelProbe(MultilabelProbeConfig(epochs=1)).evaluate(several(files, lambda *_: []))


@pytest.mark.parametrize(
    ("config", "changes", "text"),
    [
        (BottleneckProbeConfig, {"dropout": 1.0}, r"dropout=1\.0 must be at least 0 and below 1"),
        (BottleneckProbeConfig, {"width": 0}, "width=0 must be at least 1"),
        (SvmConfig, {"cost": 0.0}, r"cost=0\.0 must be above 0"),
        (MultilabelProbeConfig, {"epochs": 0}, "epochs=0 and batch_size=256 must be at least 1"),
    ],
)
def test_settings(config, changes, text):
    with pytest.raises(ValueError, match=text):
        config(**changes)


def test_what_is_kept_is_scaled_up(monkeypatch):
    """Over many draws the middle has the size that it has without dropout."""
    seen = []
    original = Layers.loss

    def noted(self, rows, labels, kept, penalty):
        seen.append(kept)
        return original(self, rows, labels, kept, penalty)

    monkeypatch.setattr(Layers, "loss", noted)
    rows, labels = np.repeat(CENTRES, 50, axis=0), np.repeat(np.arange(4), 50)
    fit_bottleneck(rows, labels, 4, quick(dropout=0.9), torch.Generator().manual_seed(0))
    kept = torch.cat(seen)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)
    assert sorted(kept.unique().tolist()) == pytest.approx([0.0, 10.0], rel=1e-5)
