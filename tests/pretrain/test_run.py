"""Whole runs on tiny videos: exactness, equivalences, what is left behind and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import video_ssl
from video_ssl.clips.samples import TooManyBadVideos
from video_ssl.objectives.videomae.objective import Objective
from video_ssl.pretrain.checkpoint_folders import list_checkpoints, newest_checkpoint
from video_ssl.pretrain.errors import CheckpointError, RunError
from video_ssl.pretrain.lengths import check_batch
from video_ssl.pretrain.recipe import TrainingConfig, load_pretrain_recipe
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.checkpoints import load_state
from video_ssl.pretrain.torch_loop.loop import gradients_of, seed_step
from video_ssl.pretrain.torch_loop.run import build_objective, run_torch
from video_ssl.recipes import ConfigError, load_yaml, to_yaml

TIMES = ("time", "clips_per_sec", "data_wait_share", "host_memory_gib")


def assert_same_bits(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    different = [k for k in one if not torch.equal(one[k], two[k])]
    assert not different


def assert_close(one: dict[str, Any], two: dict[str, Any], tolerance: float) -> None:
    assert one.keys() == two.keys()
    worst = max((one[k] - two[k]).abs().max().item() for k in one)
    assert worst < tolerance


def moved(one: dict[str, Any], two: dict[str, Any]) -> float:
    return max((one[k] - two[k]).abs().max().item() for k in one)


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int, num_steps: int) -> None:
    """The run ends without a word right after optimizer step number `step`."""

    whole = Objective.after_step

    def after_step(self: Any, progress: float) -> None:
        whole(self, progress)
        if round(progress * num_steps) == step:
            raise Killed

    monkeypatch.setattr(Objective, "after_step", after_step)


def test_a_run_leaves_what_it_promises(videos: Path, tmp_path: Path, helpers: Any) -> None:
    run = tmp_path / "run"
    recipe = helpers.recipe(videos, run, training__duration="20 epochs")
    result = run_torch(recipe)
    rows = read_metrics(run / "metrics.jsonl")
    assert result.steps == 60
    assert [row["step"] for row in rows] == list(range(4, 61, 4))
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert rows[-1] == result.metrics
    assert {"lr", "grad_norm", "feature_std", "effective_rank", "clips_per_sec"} <= rows[0].keys()
    assert [c.step for c in list_checkpoints(run / "checkpoints")] == [56, 60]
    assert load_yaml(run / "recipe.yaml")["objective"]["name"] == "videomae"
    assert "step 60/60" in (run / "logs" / "rank_0.log").read_text()
    encoder = video_ssl.load_encoder(run)
    trained = {
        k.removeprefix("encoder."): v
        for k, v in helpers.weights(run).items()
        if k.startswith("encoder.")
    }
    assert_same_bits(trained, encoder.state_dict())
    assert encoder.preprocess.num_frames == 4


def test_a_finished_run_is_not_repeated(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = helpers.recipe(videos, tmp_path / "run", training__duration=3)
    first = run_torch(recipe)
    monkeypatch.setattr(Objective, "forward", None)  # would fail
    assert run_torch(recipe) == first
    shutil.rmtree(tmp_path / "run" / "encoder")  # exported again from the last checkpoint
    assert run_torch(recipe) == first
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()


@pytest.mark.parametrize("killed_at", [1, 3, 4, 7, 11])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(
    killed_at: int,
    videos: Path,
    tmp_path: Path,
    helpers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stochastic depth is on, so this also shows that every step draws from its own generator; a weight that warms up
    goes on where it was."""
    extra = {
        "training__ema": {"decay": 0.5, "final_decay": 0.9},
        "training__grad_clip": 0.1,
        "objective__target": "hog",
        "objective__visible_weight": 1.0,
        "objective__visible_warmup": [0.1, 0.9],
        "objective__encoder__stem": "conv",
    }
    run_torch(helpers.recipe(videos, tmp_path / "straight", **extra))
    recipe = helpers.recipe(videos, tmp_path / "resumed", **extra)
    kill_after(monkeypatch, killed_at, 12)
    with pytest.raises(Killed):
        run_torch(recipe)
    monkeypatch.undo()
    torch.rand(100)  # the state of the generator does not matter
    run_torch(recipe)
    assert_same_bits(helpers.weights(tmp_path / "straight"), helpers.weights(tmp_path / "resumed"))
    final = [video_ssl.load_encoder(tmp_path / name) for name in ("straight", "resumed")]
    assert_same_bits(final[0].state_dict(), final[1].state_dict())
    one, two = (read_metrics(tmp_path / n / "metrics.jsonl") for n in ("straight", "resumed"))
    assert [without(row) for row in one] == [without(row) for row in two]
    starts = json.loads((tmp_path / "resumed" / "environment.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [
        0,
        killed_at // 4 * 4 if killed_at % 4 else killed_at - 4,
    ]


def without(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in TIMES}


def test_the_number_of_workers_changes_nothing(videos: Path, tmp_path: Path, helpers: Any) -> None:
    for workers in (0, 2):
        recipe = helpers.recipe(
            videos, tmp_path / str(workers), loader__num_workers=workers, training__duration=6
        )
        run_torch(recipe)
    assert_same_bits(helpers.weights(tmp_path / "0"), helpers.weights(tmp_path / "2"))


def test_the_seed_changes_everything(videos: Path, tmp_path: Path, helpers: Any) -> None:
    for seed in (0, 1):
        run_torch(helpers.recipe(videos, tmp_path / str(seed), seed=seed, training__duration=2))
    assert moved(helpers.weights(tmp_path / "0"), helpers.weights(tmp_path / "1")) > 0.01


def test_accumulation_equals_the_whole_batch(videos: Path, tmp_path: Path, helpers: Any) -> None:
    """SGD, because AdamW turns rounding of tiny gradients into steps; the weights move by more than 0.05."""
    common = {
        "objective__encoder__drop_path": 0.0,
        "objective__decoder__drop_path": 0.0,
        "optimizer__name": "sgd",
        "optimizer__base_lr": 0.3,
        "training__duration": 8,
    }
    for parts in (1, 2, 4):
        run = tmp_path / str(parts)
        run_torch(helpers.recipe(videos, run, **common, training__accumulation=parts))
    one, two, four = (helpers.weights(tmp_path / name) for name in "124")
    assert_close(one, two, 1e-5)
    assert_close(one, four, 1e-5)
    start = build_objective(helpers.recipe(videos, tmp_path / "x", **common)).state_dict()
    assert moved(start, one) > 0.05


def test_the_average_is_what_is_exported(videos: Path, tmp_path: Path, helpers: Any) -> None:
    run = tmp_path / "run"
    run_torch(helpers.recipe(videos, run, training__ema={"decay": 0.9}, training__duration=5))
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    state = load_state(checkpoint)
    exported = video_ssl.load_encoder(run).state_dict()
    for name, value in exported.items():
        average = state["average"].get(f"encoder.{name}")
        if average is not None:  # fixed tables are no parameters
            assert torch.equal(average, value)
    weights = {k: state["objective"][k] for k in state["average"]}
    assert moved(weights, state["average"]) > 1e-3


def test_a_decay_of_zero_is_no_average(videos: Path, tmp_path: Path, helpers: Any) -> None:
    run_torch(helpers.recipe(videos, tmp_path / "run", training__ema={"decay": 0.0}))
    checkpoint = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    state = load_state(checkpoint)
    for name, average in state["average"].items():
        torch.testing.assert_close(average, state["objective"][name], rtol=0, atol=1e-7)


def test_bfloat16_computes_alike_and_keeps_float32(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        run_torch(helpers.recipe(videos, run, training__precision=precision, training__duration=4))
    one, two = (read_metrics(tmp_path / p / "metrics.jsonl")[-1]["loss"] for p in ("fp32", "bf16"))
    assert one == pytest.approx(two, rel=0.02)
    assert one != two
    assert {v.dtype for v in helpers.weights(tmp_path / "bf16").values()} == {torch.float32}


def test_clipping_bounds_the_norm_and_reports_it_before(helpers: Any, videos: Path) -> None:
    objective = build_objective(helpers.recipe(videos, Path("x")))
    batch = {
        "video": torch.randint(0, 256, (4, 1, 4, 32, 32, 3), dtype=torch.uint8),
        "mask": (torch.arange(32) % 16 < 12).expand(4, 1, 32),
    }
    norms = {}
    for clip in (None, 1e-3):
        objective.zero_grad()
        seed_step(0, 0, 0)
        training = TrainingConfig(duration=1, global_batch_size=4, grad_clip=clip)
        outcome = gradients_of(objective, batch, training)
        grads = [p.grad for p in objective.parameters() if p.grad is not None]
        norms[clip] = (outcome.grad_norm.item(), torch.nn.utils.get_total_norm(grads).item())
    assert norms[None][0] == norms[None][1] == norms[1e-3][0]
    assert norms[1e-3][1] == pytest.approx(1e-3, rel=1e-3)


def test_a_longer_run_is_a_change_that_must_be_wanted(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    run = tmp_path / "run"
    run_torch(helpers.recipe(videos, run, training__duration=4))
    longer = helpers.recipe(videos, run, training__duration=6, training__log_every=1)
    with pytest.raises(RunError, match=r"training\.duration: 6 <- 4"):
        run_torch(longer)
    assert run_torch(longer, allow_changes=True).steps == 6
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 6
    with pytest.raises(CheckpointError, match="past the end"):
        run_torch(helpers.recipe(videos, run, training__duration=5), allow_changes=True)


def test_a_run_goes_on_with_another_optimizer(videos: Path, tmp_path: Path, helpers: Any) -> None:
    """And is then known by that recipe, as it was given: not with the batch that the 12 videos fill."""
    lengths = {"training__duration": 2, "training__checkpoint_every": 2}
    lengths |= {"training__global_batch_size": 16, "training__shrink_batch": True}
    run_torch(helpers.recipe(videos, tmp_path / "run", optimizer__name="sgd", **lengths))
    lars = helpers.recipe(
        videos, tmp_path / "run", optimizer__name="lars", **{**lengths, "training__duration": 3}
    )
    assert run_torch(lars, allow_changes=True).steps == 3
    log = (tmp_path / "run" / "logs" / "rank_0.log").read_text(encoding="utf-8")
    assert "holds the state of another optimizer (sgd: momentum_buffer): lars begins with" in log
    assert run_torch(lars).steps == 3


def test_other_data_or_another_model_is_not_resumed_in_silence(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(videos, mine)
    recipe = helpers.recipe(mine, tmp_path / "run")
    kill_after(monkeypatch, 6, 12)
    with pytest.raises(Killed):
        run_torch(recipe)
    monkeypatch.undo()
    helpers.write_video(mine / "new.mp4", seed=20)
    with pytest.raises(CheckpointError, match="13 records now and had 12"):
        run_torch(recipe)
    wider = helpers.recipe(mine, tmp_path / "run", objective__encoder__embed_dim=48)
    with pytest.raises(CheckpointError, match=r"another architecture[\s\S]*mismatched"):
        run_torch(wider, allow_changes=True)
    assert run_torch(recipe, allow_changes=True).steps == 12


def test_a_change_that_is_refused_leaves_the_folder_as_it_was(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """Was wrong: --allow-changes wrote the other recipe and removed finished.json before it was refused, and then the
    run's own recipe counted as the changed one."""
    run = tmp_path / "run"
    own = helpers.recipe(videos, run, training__duration=4)
    run_torch(own)

    def contents() -> dict[str, bytes]:
        files = {p.relative_to(run).as_posix(): p for p in run.rglob("*") if p.is_file()}
        return {name: p.read_bytes() for name, p in files.items() if not name.startswith("logs/")}

    before = contents()
    for changes, text in (
        ({"objective__encoder__embed_dim": 48}, "another architecture"),
        ({"training__duration": 2}, "past the end"),
        ({"training__duration": 6, "optimizer__warmup": 50}, "does not fit"),
    ):
        other = helpers.recipe(videos, run, **{"training__duration": 4, **changes})
        with pytest.raises(ValueError, match=text):
            run_torch(other, allow_changes=True)
        assert contents() == before
    assert run_torch(own).steps == 4


def test_a_refused_start_does_not_stand_in_the_way_of_the_corrected_recipe(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="warmup of 50 steps does not fit"):
        run_torch(helpers.recipe(videos, run, training__duration=2, optimizer__warmup="50 steps"))
    assert run_torch(helpers.recipe(videos, run, training__duration=2)).steps == 2
    with pytest.raises(RunError, match=r"training\.duration: 3 <- 2"):
        run_torch(helpers.recipe(videos, run, training__duration=3))


def mvd_with_a_teacher(
    helpers: Any, videos: Path, folder: Path, *, inner: Any = None, **changes: Any
) -> Any:
    """A recipe of MVD in folder/run, whose video teacher is trained first, with folder/inner.yaml."""
    file = folder / "inner.yaml"
    content = helpers.tiny(
        Path("nowhere"), Path("nowhere"), **{"training__duration": 2, **(inner or {})}
    )
    file.write_text(to_yaml(content), encoding="utf-8")
    objective = {
        **content["objective"],
        "name": "mvd",
        "video": {"source": {"recipe": str(file)}},
        "encoder": {**content["objective"]["encoder"], "embed_dim": 32, "positions": "sincos_3d"},
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "image": None,
    }
    return helpers.recipe(videos, folder / "run", objective=objective, **changes)


def test_a_path_that_was_mistyped_does_not_lock_the_folder(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """The table can be read, but none of the videos that it names is there: found out by the first step."""
    lost, run = tmp_path / "lost.csv", tmp_path / "run"
    lost.write_text("path\n" + "".join(f"/nowhere/{i}.mp4\n" for i in range(8)), encoding="utf-8")
    with pytest.raises(TooManyBadVideos, match="nowhere"):
        run_torch(helpers.recipe(lost, run, training__duration=2))
    assert run_torch(helpers.recipe(videos, run, training__duration=2)).steps == 2
    assert load_yaml(run / "recipe.yaml")["data"]["table"] == str(videos)
    assert not (run / "skipped.jsonl").exists()


def test_a_recipe_is_fixed_from_the_first_checkpoint_on(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    settings = {"training__log_every": 1}
    first = helpers.recipe(videos, run, optimizer__base_lr=1e-2, **settings)
    second = helpers.recipe(videos, run, optimizer__base_lr=1e-3, **settings)
    for steps, recipe in ((3, first), (6, second)):  # checkpoints are made every 4 steps
        kill_after(monkeypatch, steps, 12)
        with pytest.raises(Killed):
            run_torch(recipe)
        monkeypatch.undo()
    before = run / "attempts" / "1"
    assert load_yaml(before / "recipe.yaml")["optimizer"]["base_lr"] == 1e-2
    assert [row["step"] for row in read_metrics(before / "metrics.jsonl")] == [1, 2]
    with pytest.raises(RunError, match=r"optimizer\.base_lr: 0\.01 <- 0\.001"):
        run_torch(first)
    assert run_torch(second).steps == 12
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [*range(1, 13)]
    alone = run_torch(
        helpers.recipe(videos, tmp_path / "alone", optimizer__base_lr=1e-3, **settings)
    )
    assert_same_bits(helpers.weights(run), helpers.weights(alone.folder))


def test_a_stage_without_a_checkpoint_does_not_lock_its_folder_either(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training__duration": 2}
    kill_after(monkeypatch, 1, 2)  # of the teacher
    with pytest.raises(Killed):
        run_torch(mvd_with_a_teacher(helpers, videos, tmp_path, seed=4, **settings))
    monkeypatch.undo()
    corrected = mvd_with_a_teacher(helpers, videos, tmp_path, seed=5, **settings)
    assert run_torch(corrected).steps == 2
    stage = tmp_path / "run" / "stages" / "video"
    assert load_yaml(stage / "recipe.yaml")["seed"] == 5
    for name in (
        "finished.json",
        "checkpoints",
        "encoder",
    ):  # of the student; its teacher is trained
        (tmp_path / "run" / name).rename(tmp_path / name)
    with pytest.raises(
        RunError, match=r"stages/video was started with another recipe[\s\S]*seed: 6"
    ):
        run_torch(mvd_with_a_teacher(helpers, videos, tmp_path, seed=6, **settings))
    assert run_torch(corrected).steps == 2


def test_a_batch_that_cannot_be_shared(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = helpers.recipe(videos, tmp_path, training__accumulation=2)
    check_batch(recipe, 2)
    with pytest.raises(
        RunError, match=r"4 cannot be divided among 3 processes x .*=2: use a multiple of 6"
    ):
        check_batch(recipe, 3)


@pytest.mark.parametrize(
    ("name", "changes", "processes", "text"),
    [
        # Was wrong: each of the two divisions alone left groups of 2 whole, both together one video of them.
        ("carl/penn_action_weak", ["data.balance.classes=1"], 2, "in each of 4 parts"),
        # Was wrong: a lone view has no other one to go to; the loss was 0, and the weights decayed.
        ("tcc/pouring", [], 1, "gets 1 record of a step .* frames.num_views=1"),
        ("tcc/pouring", ["objective.pairs=label", "objective.frames.num_views=2"], 1, "its label"),
        ("carl/penn_action_weak", ["data.balance=null"], 2, "weak pairs videos of one label"),
        ("hico/demo", ["training.global_batch_size=4"], 2, "hico tells videos apart"),
    ],
)
def test_a_part_of_a_batch_that_nothing_can_be_learnt_from(
    name: str, changes: list[str], processes: int, text: str
) -> None:
    check_batch(load_pretrain_recipe(name, changes), processes)
    with pytest.raises(RunError, match=text):
        check_batch(load_pretrain_recipe(name, [*changes, "training.accumulation=2"]), processes)


def test_a_failed_save_ends_the_run(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from video_ssl.pretrain.torch_loop import checkpoints

    recipe = helpers.recipe(videos, tmp_path / "run")
    write = checkpoints._write_state

    def full_at_8(path: Path, state: Any) -> str:
        if "step_8" in str(path):
            raise OSError(28, "No space left on device")
        return write(path, state)

    monkeypatch.setattr(checkpoints, "_write_state", full_at_8)
    with pytest.raises(CheckpointError, match=r"step 8 could not be written.*step 4 is untouched"):
        run_torch(recipe)
    monkeypatch.undo()
    assert [c.step for c in list_checkpoints(tmp_path / "run" / "checkpoints")] == [4]
    assert run_torch(recipe).steps == 12


def test_a_scale_shortens_every_stage_and_every_length_of_it(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    """The teacher's lengths are in steps, the student's in epochs of 12 videos in batches of 4."""
    inner = {"training__duration": "40 steps", "optimizer__warmup": "21 steps"}
    lengths = {"training__duration": "10 epochs", "training__checkpoint_every": "4 epochs"}
    recipe = mvd_with_a_teacher(
        helpers,
        videos,
        tmp_path,
        inner=inner,
        training__scale=0.1,
        training__log_every=10,
        **lengths,
    )
    assert run_torch(recipe).steps == 3
    run = tmp_path / "run"
    teacher = read_metrics(run / "stages" / "video" / "metrics.jsonl")
    assert [row["step"] for row in teacher] == [1, 2, 3, 4]  # log_every=4, rounded up
    # A warm-up of 3 steps: 0, half, all; then the cosine.
    assert [row["lr"] / 1e-2 for row in teacher] == pytest.approx([0, 0.5, 1, 1])
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2, 3]
    assert [c.step for c in list_checkpoints(run / "checkpoints")] == [2, 3]
    with pytest.raises(RunError, match=r"training\.scale: 1\.0 <- 0\.1"):
        run_torch(mvd_with_a_teacher(helpers, videos, tmp_path, inner=inner, **lengths))
    with pytest.raises(ConfigError, match=r"scale=2000 must be more than 0 and at most 1000"):
        helpers.recipe(videos, run, training__scale=2000)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training__probe": {"table": "nowhere.csv"}}, "no table nowhere.csv"),
        ({"training__probe": {"table": "VIDEOS"}}, "needs the class of every video"),
        ({"validation": {"table": "nowhere.csv"}}, "this objective has none"),
        ({"training__duration": 2, "optimizer__warmup": 50}, "warmup of 50 steps does not fit"),
        ({"data__mix": {"nowhere.csv": 1.0}}, "no table nowhere.csv"),
        ({"objective__image": {"source": {"file": "nowhere.pth"}}}, "no file nowhere.pth"),
    ],
)
def test_mistakes_of_a_run_are_told_before_its_stages_are_trained(
    videos: Path, tmp_path: Path, helpers: Any, changes: dict[str, Any], text: str
) -> None:
    """Was wrong: what is not of the stages was looked at when they had been trained, for a week perhaps."""
    if "training__probe" in changes:
        table = changes["training__probe"]["table"].replace("VIDEOS", str(videos))
        changes = {"training__probe": {"table": table}}
    with pytest.raises(ValueError, match=text):
        run_torch(mvd_with_a_teacher(helpers, videos, tmp_path, **changes))
    assert not (tmp_path / "run" / "stages").exists()


def test_data_that_are_to_be_generated_are_no_mistake_and_are_not_made_by_the_look_ahead(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage makes them; they are checked when the run opens them."""

    def prepare_stages(*_: Any) -> None:
        raise Killed

    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("video_ssl.pretrain.run.prepare_stages", prepare_stages)
    changes = {"data__table": "demo:train", "training__probe": {"table": "demo:val"}}
    with pytest.raises(Killed):
        run_torch(mvd_with_a_teacher(helpers, videos, tmp_path, **changes))
    assert not (tmp_path / "data").exists()


def test_a_run_whose_stages_are_finished_says_everything_once(
    videos: Path, tmp_path: Path, helpers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: what is looked at before the stages was looked at, and told, twice where none was left to train."""
    changes = {"training__shrink_batch": True, "training__global_batch_size": 16}
    recipe = mvd_with_a_teacher(helpers, videos, tmp_path, training__duration=2, **changes)
    run_torch(recipe)
    (tmp_path / "run" / "finished.json").unlink()
    with caplog.at_level("INFO"):
        caplog.clear()
        run_torch(recipe)
    told = [line for line in caplog.messages if "8 make a step in place of" in line]
    assert len(told) == 1


def test_stages_come_first_and_are_not_repeated(videos: Path, tmp_path: Path, helpers: Any) -> None:
    recipe = mvd_with_a_teacher(helpers, videos, tmp_path, training__duration=3)
    result = run_torch(recipe)
    stage = tmp_path / "run" / "stages" / "video"
    teacher = stage / "encoder" / "model.safetensors"
    assert load_yaml(stage / "recipe.yaml")["data"]["table"] == str(videos)
    assert "loss_video" in result.metrics
    written = teacher.stat().st_mtime_ns
    (tmp_path / "run" / "finished.json").unlink()
    run_torch(recipe)
    assert teacher.stat().st_mtime_ns == written
