"""What every evaluator promises, and one from outside the library that asks for tokens, the encoder and the videos."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, is_dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from untrained_run import untrained_run

from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError, features_from_arrays
from video_ssl.evaluate import run as run_module
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.evaluators import EVALUATORS, evaluator_class, figure_of, title_of
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.results_table import results_table
from video_ssl.evaluate.run import evaluate
from video_ssl.pretrain.processes import Processes


@dataclass(frozen=True, kw_only=True)
class SpreadConfig:
    labels: bool = False
    frame_labels: bool = False
    output: str = "tokens"
    videos: bool = True


class Spread:
    """How far tokens lie from their mean, and how many frames the videos have."""

    Config = SpreadConfig
    title = "spread of tokens"
    figures: ClassVar = {"spread": Figure(title="spread", unit="px", digits=3)}
    seen: ClassVar[list] = []

    def __init__(self, config):
        self.config = config

    @property
    def needs(self):
        config = self.config
        return Needs(
            outputs=("clip", config.output),
            labels=config.labels,
            frame_labels=config.frame_labels,
            encoder=config.videos,
            reader=config.videos,
        )

    def evaluate(self, given):
        self.seen.append(given)
        tokens = given.test.read("tokens", range(len(given.test))).astype(np.float32)
        frames = 0
        for index in range(len(given.tables.get("test", ()))):
            with given.open(given.tables["test"].record(index)) as reader:
                frames += reader.info.num_frames
        return Result(
            metrics={"spread": float(tokens.std()), "frames": frames / 1000},
            correct=0,
            total=len(tokens),
            chance=float("nan"),
            statement=f"spreads its tokens by {tokens.std():.3f} px",
            details={"headline": {"found": "x", "position_only": "y"}, "num_classes": 1},
        )


@pytest.fixture
def spread(monkeypatch):
    module = types.ModuleType("spread_of_tokens")
    module.Spread = Spread
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(EVALUATORS, "spread", "spread_of_tokens:Spread")
    Spread.seen.clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


def recipe(run, videos, out, **changes):
    settings = {
        "encoders": {"a": str(run), "b": f"untrained:{run}@1"},
        "train": str(videos / "train.arrow"),
        "test": str(videos / "test.arrow"),
        "evaluators": {"spread": {}},
        "out": str(out),
        "device": "cpu",
    }
    return EvaluateRecipe(**{**settings, **changes})


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_keeps_its_promise(name):
    cls = evaluator_class(name)
    assert is_dataclass(cls.Config)
    evaluator = cls(cls.Config())
    assert evaluator.needs.outputs[0] == "clip"
    assert title_of(name) == cls.title != ""
    assert all(isinstance(figure, Figure) for figure in cls.figures.values())


@pytest.mark.parametrize("name", EVALUATORS)
def test_evaluators_compute_where_the_evaluation_does(name):
    """Was wrong: on a machine with a GPU probes were trained and labels carried on its CPU, and nothing said so."""
    assert getattr(evaluator_class(name).Config(), "device", "auto") == "auto"


def test_the_device_of_an_evaluator_is_its_own_of_several():
    features = features_from_arrays({"features": np.eye(2)})
    second = Context(train=features, test=features, device=torch.device("cuda", 1))
    assert [device_of(s, second) for s in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    here = replace(second, device=torch.device("cpu"))
    assert [device_of(s, here) for s in ("auto", "cpu", "cuda:1")] == ["cpu", "cpu", "cuda:1"]
    assert device_of("cpu", Given(features, features)) == "cpu"


def test_a_statement_has_a_headline():
    """Was wrong: one evaluator had none, which came out when the sentences about all results were written."""
    numbers = {"metrics": {"a": 1.0}, "correct": 1, "total": 1, "chance": float("nan")}
    with pytest.raises(ValueError, match=r"'sees it' needs details\['headline'\] with metric and"):
        Result(**numbers, statement="sees it", details={"headline": {"metric": "a"}})
    Result(**numbers)


def test_who_must_be_alone_is_refused_under_several_processes(run, videos, tmp_path):
    """Was wrong: fine-tuning under torchrun ended in an error of its runs, after everything was embedded."""
    asked = recipe(run, videos, tmp_path / "o", evaluators={"knn": {}, "finetune": {}})
    with pytest.raises(FeatureError, match=r"evaluators\.finetune is for one process.* are 2"):
        run_module._evaluate(asked, Processes(0, 2, torch.device("cpu")), quiet=True)
    assert not (tmp_path / "o").exists()


def test_needs_follow_the_settings():
    def needs(name, **settings):
        cls = evaluator_class(name)
        return cls(cls.Config(**settings)).needs

    assert needs("probe").outputs == ("clip", "moments")
    assert needs("probe", poolings=("clip",)).outputs == ("clip",)
    assert needs("probe").processes
    assert not needs("knn").processes
    assert needs("retrieval").outputs == ("clip",)
    assert needs("phases").frame_labels
    assert not needs("kendalls_tau").frame_labels
    assert needs("phases", classes="each").labels
    assert not needs("phases").labels


def test_an_evaluator_from_outside_gets_what_it_asks_for(
    spread, run, videos, tmp_path, monkeypatch, capsys
):
    opened = []
    original = run_module.open_encoder
    monkeypatch.setattr(run_module, "open_encoder", lambda *a: opened.append(a[0]) or original(*a))
    results = evaluate(recipe(run, videos, tmp_path, evaluators={"spread": {}, "knn": {}}))
    assert opened == [str(run), f"untrained:{run}@1"]  # each once
    first, second = Spread.seen
    assert first.encoder.architecture == "vit"
    assert first.encoder.fingerprint != second.encoder.fingerprint
    assert first.test.outputs["tokens"].grid == (2, 2, 2)
    assert set(first.tables) == {"train", "test"}
    total = sum(12 + 3 * (v % 4) for v in range(6))  # of the videos of test
    assert results["encoders"]["a"]["results"]["spread"]["metrics"]["frames"] == total / 1000
    printed = capsys.readouterr().out
    assert "spread (px)" in printed
    assert str(results_table(results).title).endswith("in percent where no unit stands")
    assert "(spread of tokens)" in printed
    assert figure_of("progression", "R2@50%").written(-13.994) == "-13.99"  # was "-1399.4", a share
    assert figure_of("progression", "R2@50%").head == "R2@50%"
    assert figure_of("spread", "spread").written(0.12345) == "0.123"
    assert figure_of("spread", "frames").title == "frames"


def test_an_evaluator_that_asks_for_nothing_gets_features_only(spread, run, videos, tmp_path):
    evaluate(recipe(run, videos, tmp_path, evaluators={"spread": {"videos": False}}), quiet=True)
    assert [(given.encoder, given.tables) for given in Spread.seen] == [(None, {})] * 2


@pytest.mark.parametrize(
    ("settings", "changes", "text"),
    [
        (
            {"output": "flow"},
            {},
            r"evaluators\.spread needs the output 'flow', but the encoder 'a'",
        ),
        ({"frame_labels": True}, {"test": "bare"}, r"spread needs labels of frames.*of test has"),
        ({"labels": True}, {"test": "bare"}, r"spread needs the class.*6 of 6 videos of test"),
        ({}, {"encoders": {"f": "features"}}, r"needs an encoder, but encoders\.f names feature"),
        ({"videos": False}, {"encoders": {"f": "features"}}, r"'tokens', but .*f\.npz has clip"),
    ],
)
def test_what_an_evaluator_will_not_get_is_told_before_anything_is_embedded(
    spread, run, videos, tmp_path, settings, changes, text
):
    table = Table.open(videos / "test.arrow")
    sources = [table.record(index).source for index in range(len(table))]
    Table.from_columns({"id": table.column("id"), "source": sources}).save(tmp_path / "bare.arrow")
    np.savez(tmp_path / "f.npz", features=np.eye(4), labels=np.arange(4))
    files = f"features:{tmp_path / 'f.npz'},{tmp_path / 'f.npz'}"
    places = {"bare": str(tmp_path / "bare.arrow"), "features": files}
    changes = {
        key: {k: places[v] for k, v in value.items()} if isinstance(value, dict) else places[value]
        for key, value in changes.items()
    }
    with pytest.raises(FeatureError, match=text):
        evaluate(
            recipe(run, videos, tmp_path, evaluators={"spread": settings}, **changes), quiet=True
        )
    assert not list(tmp_path.glob("features/*"))


def test_moments_that_the_recipe_leaves_out_are_told(run, videos, tmp_path):
    from video_ssl.embed.config import EmbedConfig

    asked = recipe(run, videos, tmp_path, evaluators={"probe": {}}, embed=EmbedConfig(frames=False))
    with pytest.raises(FeatureError, match=r"evaluators\.probe needs the output 'moments'"):
        evaluate(asked, quiet=True)


def test_the_table_of_known_evaluators_is_in_percent():
    result = {
        "metrics": {"top1": 0.5, "top5": 1.0},
        "details": {"top1_interval_95": [0.244, 0.756]},
        "chance": 0.25,
    }
    results = {
        "name": "n",
        "recipe": {"test": "t"},
        "encoders": {"e": {"results": {"probe": result}}},
    }
    table = results_table(results)
    assert table.title == "n, tested on t, in percent"
    assert [str(column.header) for column in table.columns] == [
        "encoder",
        "probe\ntop-1",
        "probe\ntop-5",
    ]
    assert [list(column.cells) for column in table.columns][1] == ["50.0 (24-76)", "25.0"]
