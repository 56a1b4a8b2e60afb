"""Two tables, one set of classes: matched by name in every evaluation; what does not fit is told before embedding."""

from __future__ import annotations

import importlib.util
import json
import logging

import numpy as np
import pytest
from typer.testing import CliRunner
from untrained_run import untrained_run

from video_ssl.cli import app
from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.comparison import compared
from video_ssl.evaluate.needs import told_about_classes
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate

EVALUATORS = [
    "evaluators.probe={poolings: [clip], epochs: 20, learning_rates: [0.01]}",
    "evaluators.knn={poolings: [clip]}",
    "evaluators.retrieval={}",
]


def renamed(videos, path, names, *, split="test", keep=slice(None)):
    """A table of the colored videos whose classes are numbered as `names` are."""
    table = Table.open(videos / f"{split}.arrow")
    rows = np.arange(len(table))[keep]
    columns = {
        "source": [table.record(row).source for row in rows],
        "label": [names.index(table.class_names[label]) for label in table.column("label")[rows]],
        "group": table.column("group")[rows],
    }
    return Table.from_columns(columns, class_names=names).save(path)


def words(videos, out, test, *more):
    return [
        f"encoder=pixels:{videos / 'preprocess'}@4",
        f"train={videos / 'train.arrow'}",
        f"test={test}",
        f"out={out}",
        "embed.num_workers=0",
        "device=cpu",
        *EVALUATORS,
        *more,
    ]


@pytest.fixture(scope="module", autouse=True)
def encoder(videos):
    """The folder that says what a clip must be; its network is not used."""
    untrained_run(videos / "preprocess")


def test_another_order_of_names_gives_the_same_accuracy(videos, tmp_path, caplog):
    other = tmp_path / "other.arrow"
    renamed(videos, other, ["blue", "red", "green"])
    with caplog.at_level(logging.INFO):
        expected, found = (
            evaluate(load_evaluate_recipe("probe", words(videos, tmp_path / name, table)))
            for name, table in (("a", videos / "test.arrow"), ("b", other))
        )
    for name, result in expected["encoders"]["encoder"]["results"].items():
        again = found["encoders"]["encoder"]["results"][name]
        assert again["metrics"] == result["metrics"], name
        assert again["details"].get("confusion") == result["details"].get("confusion"), name
        assert any("matched by name" in note for note in again["notes"]), name
    assert expected["encoders"]["encoder"]["results"]["probe"]["metrics"]["top1"] == 1
    assert (
        "train and test number their classes differently: they are matched by name" in caplog.text
    )


def test_results_tell_the_classes_of_every_encoder(videos, tmp_path):
    """Feature files of two makers number the same classes differently: a comparison must not take red for blue."""
    orders = {"a": ["red", "green", "blue"], "b": ["blue", "red", "green"]}
    specs = {}
    for name, order in orders.items():
        train, test = (tmp_path / f"{name}_{split}.arrow" for split in ("train", "test"))
        renamed(videos, train, order, split="train")
        renamed(videos, test, order, keep=slice(1, None))  # one of the first class is left out
        out = tmp_path / name
        made = evaluate(
            load_evaluate_recipe("probe", words(videos, out, test, f"train={train}")), quiet=True
        )
        files = made["encoders"]["encoder"]["features"]
        specs[name] = f"features:{out / files['train']},{out / files['test']}"
    settings = words(videos, tmp_path / "both", tmp_path / "a_test.arrow")
    both = [f"encoders={json.dumps(specs)}", "keep_predictions=true"]
    found = evaluate(load_evaluate_recipe("probe", [*settings, *both]), quiet=True)
    told = {name: entry["class_names"] for name, entry in found["encoders"].items()}
    assert told == {"encoder": orders["a"], **orders}
    probe = compared(found)["evaluators"]["probe"]
    assert probe["class_names"] == orders["a"]
    totals = [[own["total"] for own in probe["encoders"][name]["classes"]] for name in ("a", "b")]
    assert totals[0] == totals[1]
    assert len(set(totals[0])) == 2


def test_a_class_that_one_side_lacks_is_told_and_not_refused(videos, tmp_path, caplog):
    less = tmp_path / "less.arrow"
    table = Table.open(videos / "train.arrow")
    renamed(videos, less, ["green", "red", "blue"], split="train", keep=table.column("label") != 2)
    with caplog.at_level(logging.INFO):
        done = CliRunner().invoke(
            app,
            ["evaluate", "probe", *words(videos, tmp_path, videos / "test.arrow", f"train={less}")],
        )
    assert done.exit_code == 0, done.output
    assert "that train does not have, so that their videos count as wrong: blue" in caplog.text
    told = " ".join(done.output.split())
    assert "2 test videos are of classes that train does not have: wrong" in told


@pytest.mark.parametrize(
    ("names", "labels", "text"),
    [
        (("up", "down"), (0, 1), r"no class of test \(blue, green, red\) is in train \(down, up\)"),
        (("red",), (0,), r"all 12 videos of train are of one class \(red\)"),
    ],
)
def test_tables_that_cannot_be_evaluated_are_refused_before_a_video_is_opened(
    videos, tmp_path, names, labels, text
):
    Table.from_columns(
        {"source": [f"{i}.mp4" for i in range(12)], "label": np.resize(labels, 12)},
        class_names=names,
    ).save(tmp_path / "train.arrow")
    recipe = load_evaluate_recipe(
        "probe",
        words(videos, tmp_path / "out", videos / "test.arrow", f"train={tmp_path / 'train.arrow'}"),
    )
    with pytest.raises(FeatureError, match=text):
        evaluate(recipe, quiet=True)
    assert not list(tmp_path.glob("out/features/*"))


def test_several_classes_of_a_video_are_looked_at_too():
    """Tables that say their classes in `labels` were not looked at."""

    def table(names, *labels):
        rows = [{"source": f"{row}.mp4", "labels": found} for row, found in enumerate(labels)]
        return Table.from_rows(rows, class_names=names)

    train = table(["a", "b", "c"], [0, 1], None, [2])
    assert told_about_classes(train, table(["b", "c", "new"], [0], [1, 2])) == [
        "train and test number their classes differently: they are matched by name",
        "classes without a test video: a",
        "classes of test that train does not have, so that nothing is learned of them: new",
    ]
    with pytest.raises(FeatureError, match=r"no class of test \(new\) is in train \(a, b, c\)"):
        told_about_classes(train, table(["new"], [0]))


def test_a_missing_package_is_told_before_a_video_is_opened(videos, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "sklearn" else there(name, *a)
    )
    recipe = load_evaluate_recipe("phases", words(videos, tmp_path, videos / "test.arrow")[:-3])
    with pytest.raises(
        FeatureError, match=r"evaluators.phases needs scikit-learn: .*video_ssl\[phases\]"
    ):
        evaluate(recipe, quiet=True)
    assert not list(tmp_path.glob("features/*"))
