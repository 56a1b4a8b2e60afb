"""Runs of a tokenizer that learns with the eyes of a frozen network, from its recipe to its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.objectives.tokenizer.objective import Objective
from video_ssl.pretrain.checkpoint_folders import newest_checkpoint
from video_ssl.pretrain.dry_run import describe_start
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe, recipe_to_dict
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.checkpoints import load_state
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.recipes import ConfigError, to_yaml

WORDS = {"vq_tokenizer": "{width: 4, dim: 3, vocab_size: 7, architecture: vq_tokenizer}"}
WORDS["discrete_vae"] = "{width: 4, vocab_size: 7, architecture: discrete_vae}"
SHORT = [
    *("training.global_batch_size=2", "training.device=cpu", "training.log_every=1"),
    *("training.checkpoint_every=1", "optimizer.warmup=1", "loader.num_workers=0"),
]


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a small MAE, trained for two steps where it is a stage."""
    vit = "{preset: null, embed_dim: 16, depth: 2, num_heads: 2, patch_size: 16}"
    changes = ["duration=2", "global_batch_size=2", "checkpoint_every=1", "log_every=1"]
    recipe = load_pretrain_recipe(
        "mae/demo",
        [
            *(f"training.{text}" for text in changes),
            *("objective.crop.size=32", f"objective.encoder={vit}", "optimizer.warmup=1"),
            "objective.decoder={embed_dim: 16, depth: 1, num_heads: 2}",
        ],
    )
    file = tmp_path_factory.mktemp("eyes") / "mae.yaml"
    file.write_text(to_yaml({**recipe_to_dict(recipe), "evaluate": None}))
    return file


def words_recipe(videos: Path, run: Path, kind: str, *changes: str) -> PretrainRecipe:
    base = {"vq_tokenizer": "tokenizer/demo", "discrete_vae": "tokenizer/discrete"}[kind]
    sizes = [f"objective.encoder={WORDS[kind]}", "objective.crop.size=32", "training.duration=4"]
    settings = [*SHORT, *sizes, f"data.table={videos}", f"run={run}", "evaluate=null", *changes]
    return load_pretrain_recipe(base, settings)


def seen_by(eyes: Path) -> str:
    return f"objective.perceptual={{source: {{recipe: {eyes}}}, weight: 2.0}}"


def state_of(run: Path) -> dict[str, Any]:
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    return load_state(checkpoint)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kind", WORDS)
def test_killed_and_resumed_equals_uninterrupted_and_no_weight_of_it_is_kept(
    kind: str, eyes: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_torch(words_recipe(videos, tmp_path / "straight", kind, seen_by(eyes)))
    recipe = words_recipe(videos, tmp_path / "resumed", kind, seen_by(eyes))
    whole = Objective.after_step

    def after_step(self: Any, progress: float) -> None:
        whole(self, progress)
        if progress == 0.5:
            raise Killed

    monkeypatch.setattr(Objective, "after_step", after_step)
    with pytest.raises(Killed):
        run_torch(recipe)
    monkeypatch.undo()
    torch.rand(100)  # the state of the generator does not matter
    run_torch(recipe)
    run_torch(words_recipe(videos, tmp_path / "plain", kind))

    straight, resumed, plain = (
        state_of(tmp_path / name) for name in ("straight", "resumed", "plain")
    )
    assert same(straight["objective"], resumed["objective"])
    assert straight["objective"].keys() == plain["objective"].keys()
    assert not same(straight["objective"], plain["objective"])
    assert straight["optimizer"].keys() == plain["optimizer"].keys()
    files = [
        load_file(tmp_path / name / "encoder/model.safetensors") for name in ("straight", "plain")
    ]
    assert files[0].keys() == files[1].keys()
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "resumed")]
    terms = [[row["loss_perceptual"] for row in run] for run in rows]
    assert terms[0] == terms[1]
    assert len(terms[0]) == 4
    assert all(0 < term < 2 for term in terms[0])
    assert "loss_perceptual" not in read_metrics(tmp_path / "plain/metrics.jsonl")[0]


def test_without_it_a_run_of_before_goes_on(videos: Path, tmp_path: Path) -> None:
    """A recipe in a folder that knows nothing of the setting is the same recipe."""
    recipe = words_recipe(videos, tmp_path / "run", "vq_tokenizer")
    run_torch(recipe.replace(training=recipe.training))
    kept = tmp_path / "run" / "recipe.yaml"
    lines = kept.read_text().splitlines(keepends=True)
    left = [line for line in lines if line.strip() != "perceptual: null"]
    assert len(left) == len(lines) - 1
    kept.write_text("".join(left))
    assert "is finished" in "\n".join(describe_start(recipe))


def test_a_dry_run_tells_the_stage(eyes: Path, videos: Path, tmp_path: Path) -> None:
    recipe = words_recipe(videos, tmp_path / "run", "vq_tokenizer", seen_by(eyes))
    told = "\n".join(describe_start(recipe))
    stage = tmp_path / "run" / "stages" / "perceptual"
    assert f"{recipe.name}/perceptual: mae (torch) in {stage}" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("{run: runs/nowhere}", EncoderError, r"no encoder 'runs/nowhere'"),
        ("{file: nowhere.pth}", RunError, r"needs 'perceptual' .*no file nowhere\.pth"),
        (
            "{recipe: cvrl/demo}",
            ConfigError,
            r"stage perceptual .*cvrl is trained by flax, but tokenizer by torch: .*by `run`",
        ),
    ],
)
def test_a_source_that_cannot_be_used_is_told_before_anything_is_trained(
    source: str, error: type[Exception], text: str, videos: Path, tmp_path: Path
) -> None:
    setting = f"objective.perceptual.source={source}"
    recipe = words_recipe(videos, tmp_path / "run", "vq_tokenizer", setting)
    with pytest.raises(error, match=text):
        run_torch(recipe)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_mistake_on_the_command_line_is_one_sentence(videos: Path, tmp_path: Path) -> None:
    words = ["tokenizer/patches", "objective.perceptual.source.run=runs/mae", f"run={tmp_path}"]
    done = CliRunner().invoke(app, ["pretrain", *words, f"data.table={videos}"])
    assert done.exit_code == 2
    assert "architecture=patch_words" in done.output
