"""`evaluate finetune`: runs on parts of the labels, from given weights and from scratch, and what they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from untrained_run import untrained_run

from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError, features_from_arrays
from video_ssl.evaluate import finetune
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.finetune import Finetune, FinetuneConfig
from video_ssl.evaluate.predict import judged
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.evaluate.predictions import Answer, Predictions, Span
from video_ssl.evaluate.recipe import EvaluateRecipe, load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.recipes import load_yaml

SETTINGS = {
    "objective.clip": {"num_frames": 4, "frame_stride": 2, "num_clips": 1},
    "objective.crop": {"size": 16},
    "loader.num_workers": 0,
    "training.global_batch_size": 4,
    "optimizer": {"base_lr": 3e-3, "lr_scaling": "none", "warmup": "2 steps"},
}


def recipe_of(run, videos, out, **changes):
    settings = {"shares": [0.25, 1.0], "steps": 30, "settings": SETTINGS}
    base = load_evaluate_recipe("finetune", [f"encoder={run}"])
    return replace(
        base,
        train=str(videos / "train.arrow"),
        test=str(videos / "test.arrow"),
        evaluators={"finetune": settings},
        embed=replace(base.embed, num_workers=0),
        out=str(out),
        device="cpu",
        **changes,
    )


def test_parts_of_the_labels_from_given_weights_and_from_scratch(videos, tmp_path):
    """Catches runs on other videos than the part, from other weights than the encoder's, and accuracies of others."""
    run = untrained_run(tmp_path / "my 'own' run")
    out = tmp_path / "out"
    found = evaluate(recipe_of(run, videos, out), quiet=True)["encoders"]
    assert list(found) == ["encoder", "scratch"]
    runs = set()
    for name, entry in found.items():
        result = entry["results"]["finetune"]
        assert list(result["metrics"]) == ["finetune 25 %", "finetune 100 %", "finetune area"]
        assert result["metrics"]["finetune 100 %"] == 1.0  # the classes are colors
        for point, count in zip(result["details"]["curve"], (3, 12), strict=True):
            (draw,) = point["draws"]
            settings = load_yaml(f"{draw['run']}/recipe.yaml")
            table = Table.open(settings["data"]["table"])
            assert len(table) == draw["labels"] == count
            assert sorted(table.column("label").tolist()) == sorted([0, 1, 2] * (count // 3))
            assert settings["objective"]["init"]["run"] == str(
                out / "files" / name / "finetune" / "start"
            )
            told = judged(
                draw["run"],
                str(videos / "test.arrow"),
                device="cpu",
                config=PredictConfig(num_workers=0, num_clips=2),
            )
            names = ["red", "green", "blue"]
            right = sum(
                names[int(a.whole.shares.argmax())] == names[int(a.id[4:]) % 3]
                for a in told.answers
            )
            assert right == draw["correct"]
            assert draw["top1"] == right / 6
            runs.add(draw["run"])
    assert len(runs) == 4
    kept = {run: _times(run) for run in runs}
    again = evaluate(recipe_of(run, videos, out), quiet=True)["encoders"]
    assert json.dumps(again["encoder"]["results"]) == json.dumps(found["encoder"]["results"])
    assert {run: _times(run) for run in runs} == kept  # nothing was trained again


def test_numbers_of_classes_count_where_one_table_has_no_names(videos, tmp_path):
    """All test videos were wrong, and the probe beside it right: a number was compared with a name."""
    run = untrained_run(tmp_path / "run")
    test = Table.open(videos / "test.arrow")
    rows = [
        {"id": r.id, "source": r.source, "label": r.label}
        for r in (test.record(n) for n in range(len(test)))
    ]
    Table.from_rows(rows).save(tmp_path / "numbers.arrow")
    recipe = recipe_of(run, videos, tmp_path / "o")
    settings = {"shares": [1.0], "steps": 30, "settings": SETTINGS}
    recipe = replace(
        recipe,
        test=str(tmp_path / "numbers.arrow"),
        encoders={"encoder": str(run)},
        evaluators={"finetune": settings},
    )
    result = evaluate(recipe, quiet=True)["encoders"]["encoder"]["results"]["finetune"]
    assert result["metrics"]["finetune 100 %"] == 1.0
    assert not [note for note in result["notes"] if "count as wrong" in note]


def test_what_only_one_of_two_readings_can_read(videos, tmp_path, monkeypatch):
    """Was wrong: a video that only the run could read was a KeyError after the training; one that only the features
    have was not there any more, and no note said so."""
    train, test = (Table.open(videos / f"{split}.arrow") for split in ("train", "test"))
    ids, labels = (test.column(name) for name in ("id", "label"))
    features = [
        features_from_arrays({"features": np.eye(len(t)), "labels": t, "ids": i})
        for t, i in ((train.column("label"), train.column("id")), (labels[1:], ids[1:]))
    ]
    span = {"start_sec": 0.0, "end_sec": 1.0}
    told = Predictions(
        class_names=("red", "green", "blue"),
        answers=[
            Answer(id=key, source="", whole=Span(**span, shares=np.eye(3)[label]))
            for key, label in zip(ids[:-1], labels[:-1], strict=True)
        ],
        unreadable=[{"id": ids[-1], "source": "x", "reason": "gone"}],
        parts="clips",
        about={},
    )
    monkeypatch.setattr(finetune, "_saved", lambda encoder, place: (place, "0"))
    monkeypatch.setattr(finetune, "judged", lambda *a, **k: told)
    monkeypatch.setattr(Finetune, "_trained", lambda *a: tmp_path / "finetune" / "run")
    given = Context(
        train=features[0],
        test=features[1],
        device=torch.device("cpu"),
        encoder=torch.nn.Linear(1, 1),
        tables={"train": train, "test": test},
        folder=tmp_path,
    )
    (tmp_path / "finetune").mkdir()
    result = Finetune(FinetuneConfig(shares=(1.0,))).evaluate(given)
    assert (result.correct, result.total) == (5, 5)
    assert f"1 test videos could not be read by the fine-tuned runs: {ids[-1]}" in result.notes


def _times(run):
    """When the checkpoints and the weights of a run were written."""
    files = [*Path(run).glob("checkpoints/**/*"), Path(run) / "encoder" / "model.safetensors"]
    return {str(file): file.stat().st_mtime_ns for file in files}


def test_what_cannot_be_fine_tuned(videos, tmp_path):
    run = untrained_run(tmp_path / "run")
    pixels = {"pixels": f"pixels:{run}@4"}
    with pytest.raises(FeatureError, match="cannot be fine-tuned: leave it out"):
        evaluate(replace(recipe_of(run, videos, tmp_path / "o"), encoders=pixels), quiet=True)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shares": (2.0,)}, "up to 1"),
        ({"steps": 0}, "steps=0"),
        ({"settings": {"run": "x"}}, "settings has run, which follows from the evaluation"),
    ],
)
def test_settings_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        FinetuneConfig(**settings)


def test_the_recipe_is_that_of_the_demo():
    recipe = load_evaluate_recipe("finetune", ["encoder=x"])
    assert isinstance(recipe, EvaluateRecipe)
    assert recipe.encoders == {"encoder": "{encoder}", "scratch": "untrained:{encoder}"}
    assert recipe.evaluators["finetune"]["shares"] == [0.01, 0.05, 0.1, 1.0]
