"""Launches without a cluster: profiles, plans, scripts, snapshots, decisions, and processes on this machine."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from video_ssl.code_state import NOTE, git_diff, git_state
from video_ssl.errors import AlreadyReported
from video_ssl.launch import here, jobs, launching, slurm
from video_ssl.launch import profile as profile_module
from video_ssl.launch.aftermath import job_state
from video_ssl.launch.attempts import (
    conclude,
    end_note,
    leave_note,
    note_end,
    note_start,
    progress_of,
    read_attempts,
    read_notes,
    tried_again,
)
from video_ssl.launch.batch import Batch, TaskSpec, read_batch, write_batch
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.grid import GridRun, expand
from video_ssl.launch.jobs import log_lines
from video_ssl.launch.profile import LaunchProfile, load_profile
from video_ssl.launch.results import grid_results, table_text
from video_ssl.launch.snapshot import take_snapshot
from video_ssl.launch.steps import SETTINGS, LaunchPlan, Step, plan_launch
from video_ssl.launch.task import describe
from video_ssl.pretrain.errors import Interrupted, RunError
from video_ssl.recipes import ConfigError, list_recipes, to_yaml

SLURM = LaunchProfile(executor="slurm")


# Profiles


def test_every_profile_is_valid() -> None:
    names = list(list_recipes("launch"))
    assert {"local", "slurm", "slurm_preemptible", "slurm_array"} <= set(names)
    assert all(load_profile(name) for name in names)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("node=2", "unknown key 'profile.node'.*Did you mean 'nodes'"),
        ("nodes=0", "nodes=0 must be at least 1"),
        ("nodes=two", "nodes='two'"),
        ("time_min=1", "signal_before_sec=120 is not less than the time limit, time_min=1"),
        ("memory_gib=-3", "memory_gib=-3.* must be positive"),
    ],
)
def test_a_wrong_profile_is_explained(override: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_profile("slurm", [override])


def test_two_nodes_are_not_local() -> None:
    with pytest.raises(ConfigError, match="nodes=2 with executor='local', which is this machine"):
        load_profile("local", ["nodes=2"])


@pytest.mark.parametrize(
    "override",
    ["setup=['module load cuda']", "time_min=5", "gpus_per_node=1", "sbatch={comment: x}"]
    + ["signal_before_sec=9", "exclusive=true", "array_parallelism=2", "srun=[--label]"],
)
def test_what_only_jobs_have_is_not_passed_over_here(override: str) -> None:
    """Was wrong: `local` took every field of a profile and did nothing with most of them."""
    name = override.partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"{name}=.* with executor='local', where only .*leave it out"
    ):
        load_profile("local", [override])


def test_every_field_of_a_profile_counts_here_or_is_refused() -> None:
    known = {"executor", "nodes", *profile_module._OF_ALL, *profile_module._OF_JOBS}
    assert known == {field.name for field in dataclasses.fields(LaunchProfile)}


def test_a_profile_becomes_options_of_sbatch(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    profile = load_profile(
        "slurm",
        ["nodes=2", "tasks_per_node=4", "gpus_per_node=4", "cpus_per_task=6", "memory_gib=12.5", "time_min=90"]
        + ["partition=gpu", "account=me", "qos=long", "constraint=a100", "exclude=n7", "exclusive=true"]
        + ["sbatch.reservation=mine", "srun=[--label]", "signal_before_sec=60"],
    )  # fmt: skip
    settings = slurm.parameters(
        profile, name="job", setup=["module load cuda"], dependency="afterok:7"
    )
    lines = slurm.script_text(tmp_path, settings, elements=3).splitlines()
    for option in (
        *(
            "nodes=2",
            "ntasks-per-node=4",
            "gpus-per-node=4",
            "cpus-per-task=6",
            "mem=12800M",
            "time=90",
        ),
        *("partition=gpu", "account=me", "qos=long", "constraint=a100", "exclude=n7", "exclusive"),
        *("reservation=mine", "signal=USR2@60", "requeue", "dependency=afterok:7", "array=0-2%3"),
        *("open-mode=append", "kill-on-invalid-dep=yes", "job-name=job"),
    ):
        assert f"#SBATCH --{option}" in lines, option
    (srun,) = [line for line in lines if line.startswith("srun")]
    for word in ("--kill-on-bad-exit=1", "--label", "--cpus-per-task=6", "submitit.core._submit"):
        assert word in srun
    assert lines.index("module load cuda") < lines.index(srun)


@pytest.mark.parametrize("sign", list(slurm.UNUSABLE))
def test_a_folder_that_slurm_would_misread_is_refused(
    sign: str, videos: Path, tmp_path: Path, kit: Any
) -> None:
    run = tmp_path / f"a{sign}j"
    words = ["mae/demo", f"data.table={videos}", f"run={run}"]
    with pytest.raises(LaunchError, match=r"must not have '.+' in its path.*run=\.\.\."):
        launching.launch("slurm", "pretrain", words, dry_run=True)
    assert str(run) in launching.launch("local", "pretrain", words, dry_run=True)


def test_logs_of_a_run_on_this_machine_are_those_that_it_keeps(tmp_path: Path) -> None:
    """Was wrong: after `launch local` the log of a finished run was "yet" to come, of "no jobs"."""
    (tmp_path / "launch").mkdir()
    with pytest.raises(LaunchError, match="no jobs on SLURM; what runs on this machine"):
        list(log_lines(tmp_path, rank=1))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank_1.log").write_text("step 1\nstep 2\n")
    assert [line.strip() for line in log_lines(tmp_path, rank=1)] == ["step 1", "step 2"]
    with pytest.raises(LaunchError, match="no log of process 0"):
        list(log_lines(tmp_path))


def test_no_path_is_read_twice_by_the_shell(tmp_path: Path) -> None:
    """Was wrong: the trap of the script held the path in quotes within quotes."""
    home = tmp_path / "x;touch PWNED;y's"
    plan = plan_launch("pretrain", ["mae/demo", f"run={home}"], SLURM)
    lines = launching.setup_lines(plan.steps[0], home / "launch", home / "launch" / "code-1")
    assert (
        lines.index(
            "export PYTHONSAFEPATH=1  # or a checkout in the working folder would come first"
        )
        > 0
    )
    given = [line for line in lines if "PWNED" in line]
    assert all(re.match(r"video_ssl_[a-z_]+='", line) for line in given), given
    script = "\n".join(
        [
            *lines[: lines.index("# the code as it was at the launch")],
            'printf %s "$video_ssl_batch"',
        ]
    )
    said = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert said.stdout == str(home / "launch" / "pretrain.json")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("letter", ["\n", "\r", "\t", "\0", "\x1b", "\x85", "\u2028", "\udcff"])
def test_names_with_control_characters_are_refused(letter: str, tmp_path: Path) -> None:
    """Was wrong: the second line of a run's name was a command of the batch script."""
    for where in ("run", "name", "data.table") if letter == "\n" else ("run",):
        words = ["mae/demo", f"run={tmp_path}", f"{where}=x{letter}touch PWNED"]
        with pytest.raises(ConfigError, match=f"{where}=.*holds "):
            plan_launch("pretrain", words, SLURM)
    recipe = tmp_path / "stranger.yaml"
    recipe.write_text(f"encoder: r\nout: {json.dumps(f'x{letter}y')}\n")
    with pytest.raises(ConfigError, match=r"out=.*holds "):
        plan_launch("evaluate", [str(recipe)], SLURM)
    with pytest.raises(LaunchError, match="holds "):
        plan_launch("embed", ["ENC", "videos", str(tmp_path / f"a{letter}b.arrow")], SLURM)


@pytest.mark.parametrize("key", ["sbatch", "comment"])
def test_a_profile_cannot_break_a_line_of_the_script(key: str) -> None:
    setting = {"sbatch": {"comment": "x\ntouch PWNED"}}
    profile = LaunchProfile(
        executor="slurm", **(setting if key == "sbatch" else {"account": "a\nb"})
    )
    with pytest.raises(LaunchError, match="a line break"):
        slurm.parameters(profile, name="n", setup=[], dependency=None)
    with pytest.raises(ConfigError, match="no name of a variable"):
        load_profile("slurm", ["environment={'X=1; touch PWNED; Y': 1}"])
    lines = load_profile(
        "slurm", ["setup=['module load a\\n\\techo b']"]
    ).setup  # commands may have lines
    assert lines == ("module load a\\n\\techo b",)


def test_what_slurm_says_of_a_job_is_not_taken_from_its_paths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = "JobId=7 JobName=x UserId=a Restarts=0 JobState=RUNNING RunTime=00:00:05 TimeLimit=00:10:00 "
    told += "StdOut=/data/my Restarts=9 JobState=COMPLETED/launch/7.out"
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, told, "")
    )
    assert job_state("7", "0") == "RUNNING"


# Grids and plans


def test_a_grid_has_every_combination_once() -> None:
    runs = expand(["optimizer.base_lr=1e-3,3e-4", "seed=0,1,2", "x=[1,2]"])
    assert len(runs) == len({run.name for run in runs}) == 6
    assert runs[1] == GridRun(
        "optimizer.base_lr=1e-3__seed=1",
        ["optimizer.base_lr=1e-3", "seed=1", "x=[1,2]"],
        {"optimizer.base_lr": "1e-3", "seed": "1"},
    )
    assert expand(["a=1", "b=[1,2]"]) == [GridRun("", ["a=1", "b=[1,2]"])]
    assert expand([]) == [GridRun("", [])]


@pytest.mark.parametrize(
    "values",
    [
        ["g/猫", "g/犬"],
        ["g/a b", "g/a+b", "g/a_b", "g/a__b"],
        ["Sample", "sample"],
        ["a" * 300, "a" * 299 + "b"],
        ["..", "../..", "."],
        ["'a,b'", "'a;b'"],
        ["straße", "strasse"],
        ["it's", '"b, c"'],
        ["[new] vids", "*.tar", "@x", "$(x)", "-"],
    ],
)
def test_runs_of_a_grid_have_folders_of_their_own(values: list[str], tmp_path: Path) -> None:
    """Was wrong: everything but ASCII became one `_`, so two values shared a folder and one was never trained."""
    runs = expand([f"data.table={','.join(values)}", "seed=1,2"])
    assert len({run.name.casefold() for run in runs}) == 2 * len(values)
    assert len({run.overrides[0] for run in runs}) == len(values)
    for run in runs:
        (tmp_path / run.name / "launch").mkdir(parents=True)
        (tmp_path / run.name / "launch" / SETTINGS).write_text(to_yaml(run.settings))
    assert len(list(tmp_path.iterdir())) == 2 * len(values)
    told = [row["data.table"] for row in grid_results(tmp_path)]
    assert sorted(told) == sorted(run.settings["data.table"] for run in runs)


def test_a_name_does_not_depend_on_its_neighbours() -> None:
    names = {run.settings["a"]: run.name for run in expand(["a=x,y,Y"])}
    assert names["x"] == "a=x"
    assert names["y"] == next(r.name for r in expand(["a=Y,y"]) if r.settings["a"] == "y")


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("t='my,vids',others", ["my,vids", "others"]),
        ('t="my,vids"', ["my,vids"]),
        ("t='kept'", ["'kept'"]),  # no comma: nothing was to be kept together
        ("t=it's here,b", ["it's here", "b"]),
        ("t= [a,b] c ", [" [a,b] c "]),
    ],
)
def test_quotes_keep_a_comma_in_a_value(override: str, values: list[str]) -> None:
    assert [run.overrides[0].partition("=")[2] for run in expand([override])] == values


def test_a_grid_of_equal_runs_is_refused(tmp_path: Path) -> None:
    """Was wrong: `seed=0,1 seed=2` trained the same twice, under names that lie."""
    for words in (["seed=0,1", "seed=2"], ["optimizer.base_lr=1e-3,0.001"]):
        with pytest.raises(LaunchError, match="two runs of the grid are one"):
            plan_launch("pretrain", ["mae/demo", f"run={tmp_path}", *words], SLURM)


@pytest.mark.parametrize("override", ["a=1,1", "a=1,", "run=a,b", "a=,", "a='x,y", "a=[1,2"])
def test_a_wrong_grid(override: str) -> None:
    with pytest.raises(LaunchError):
        expand([override])


def test_a_chain_has_a_job_for_every_stage_and_the_evaluation(tmp_path: Path) -> None:
    plan = plan_launch("pretrain", ["mvd/demo", f"run={tmp_path / 'r'}"], SLURM, chain=True)
    assert [(s.name, s.after, s.how) for s in plan.steps] == [
        ("stage-image", (), "afterok"),
        ("stage-video", (), "afterok"),
        ("pretrain", ("stage-image", "stage-video"), "afterok"),
        ("evaluate", ("pretrain",), "afterok"),
    ]
    assert [Path(step.tasks[0].run) for step in plan.steps] == [
        tmp_path / "r" / "stages" / "image",
        tmp_path / "r" / "stages" / "video",
        tmp_path / "r",
        tmp_path / "r",
    ]
    assert all(Path(s.tasks[0].arguments[0]) in plan.files for s in plan.steps[:3])
    assert plan.steps[3].tasks[0].arguments == ("demo", f"encoder={tmp_path / 'r'}")
    assert len(plan_launch("pretrain", ["mvd/demo"], SLURM).steps) == 1


def test_a_stage_waits_for_what_it_takes_from_another(tmp_path: Path) -> None:
    """BEVT's stage of pictures wants the tokenizer that the run trains."""
    plan = plan_launch("pretrain", ["bevt/demo", f"run={tmp_path / 'r'}"], SLURM, chain=True)
    assert [(s.name, s.after) for s in plan.steps[:3]] == [
        ("stage-tokenizer", ()),
        ("stage-init", ("stage-tokenizer",)),
        ("pretrain", ("stage-tokenizer", "stage-init")),
    ]
    written = plan.files[tmp_path / "r" / "stages" / "init" / "launch" / "pretrain.yaml"]
    assert written["objective"]["tokenizer"]["stage"] == "tokenizer"


def test_a_grid_ends_in_a_table(tmp_path: Path) -> None:
    words = ["mvd/demo", f"run={tmp_path}", "seed=0,1"]
    plan = plan_launch("pretrain", words, SLURM, chain=True)
    assert [(s.name, len(s.tasks), s.how) for s in plan.steps] == [
        ("pretrain", 2, "afterok"),
        ("evaluate", 2, "aftercorr"),
        ("results", 1, "afterany"),
    ]
    assert [Path(task.run).name for task in plan.steps[0].tasks] == ["seed=0", "seed=1"]


def test_several_evaluations_are_jobs_of_their_own_and_the_table_waits_for_all(
    tmp_path: Path,
) -> None:
    """Two files of one name were one job, whose file was written twice; the table waited for the last one only."""
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(str(tmp_path / name / "x.yaml"))
        content = {
            "name": f"of_{name}",
            "encoders": {"encoder": "{encoder}"},
            "evaluators": {"knn": {}},
        }
        Path(files[-1]).write_text(to_yaml(content))
    words = ["mvd/demo", f"run={tmp_path / 'r'}", f"evaluate={json.dumps(files)}", "seed=0,1"]
    plan = plan_launch("pretrain", words, SLURM, chain=True)
    assert [(s.name, s.after) for s in plan.steps] == [
        ("pretrain", ()),
        ("evaluate-x", ("pretrain",)),
        ("evaluate-x-2", ("pretrain",)),
        ("results", ("evaluate-x", "evaluate-x-2")),
    ]
    assert [s.tasks[0].arguments[0] for s in plan.steps[1:3]] == files


def test_the_progress_of_one_of_several_evaluations_is_seen(tmp_path: Path) -> None:
    """It was looked for in checkpoints, so that a job which went on was given up."""
    journal = tmp_path / "evaluate" / "x" / "features" / "a.arrow.partial" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n" * 10)
    assert progress_of(tmp_path, "evaluate") == progress_of(tmp_path, "evaluate-x") == 30


def test_shards_are_single_processes_and_merged_at_the_end(tmp_path: Path) -> None:
    profile = LaunchProfile(executor="slurm", nodes=2, tasks_per_node=4, gpus_per_node=4, shards=3)
    plan = plan_launch("embed", ["ENC", "videos", str(tmp_path / "o.arrow"), "--hop", "4"], profile)
    shards, merge = plan.steps
    assert [task.arguments[-2:] for task in shards.tasks] == [
        ("--shard", f"{k}/3") for k in range(3)
    ]
    assert (shards.profile.world_size, shards.profile.gpus_per_node) == (1, 1)
    assert merge.after == ("embed",)


def test_an_evaluation_gets_every_process_alone_and_after_a_training(tmp_path: Path) -> None:
    profile = LaunchProfile(
        executor="slurm", nodes=2, tasks_per_node=4, gpus_per_node=4, cpus_per_task=2
    )
    plan = plan_launch("evaluate", ["probe", "encoder=RUN", f"out={tmp_path}"], profile)
    assert [(step.name, step.profile) for step in plan.steps] == [("evaluate", profile)]
    assert plan.home == tmp_path
    words = ["mae/demo", f"run={tmp_path / 'run'}"]
    chain = plan_launch("pretrain", words, profile, chain=True)
    assert [(step.name, step.profile) for step in chain.steps] == [
        ("pretrain", profile),
        ("evaluate", profile),
    ]


def test_what_an_evaluation_has_embedded_is_its_progress(tmp_path: Path) -> None:
    """Of one on its own, and of the evaluation of a run; otherwise a lost process would count as one in vain."""
    for place in (tmp_path / "one", tmp_path / "two" / "evaluate" / "probe"):
        home = tmp_path / place.relative_to(tmp_path).parts[0]
        assert progress_of(home, "evaluate") == 0
        journal = place / "features" / "a.arrow.shards" / "0-of-2.arrow.partial" / "journal.jsonl"
        journal.parent.mkdir(parents=True)
        journal.write_text("12345")
        assert progress_of(home, "evaluate") == 5
        (place / "features" / "a.arrow").write_text("123456789")
        assert progress_of(home, "evaluate") == 14


@pytest.mark.parametrize(
    ("verb", "words", "text"),
    [
        ("pretrian", ["a"], "Did you mean 'pretrain'"),
        ("pretrain", [], "say what"),
        ("embed", ["a", "b"], "these three come first"),
        ("embed", ["a", "b", "c.arrow", "--shard", "0/2"], "divides by itself"),
    ],
)
def test_wrong_words(verb: str, words: list[str], text: str) -> None:
    with pytest.raises(LaunchError, match=text):
        plan_launch(verb, words, SLURM)


# Without SLURM


def test_sbatch_missing(
    videos: Path, tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is written; the dry run works all the same."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    file, run = kit.recipe(videos, tmp_path / "run"), tmp_path / "run"
    with pytest.raises(LaunchError, match=r"sbatch is not on the PATH.*--dry-run"):
        launching.launch("slurm", "pretrain", [str(file)])
    assert not run.exists()
    text = launching.launch("slurm", "pretrain", [str(file)], dry_run=True)
    assert "#SBATCH --time=1440" in text
    assert f"--output={run}/launch/%j_0_log.out" in text
    assert not run.exists()


def begun(run: Path, recipe: dict[str, Any]) -> None:
    """A folder in which a recipe has trained something."""
    (run / "checkpoints" / "step_4").mkdir(parents=True)
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    (run / ".lock").write_text("")


def test_another_recipe_is_refused_before_anything_is_submitted(
    videos: Path, tmp_path: Path, kit: Any
) -> None:
    """Was wrong: the job was submitted and then refused, and RUN/launch/pretrain.yaml was no longer that of the run."""
    run = tmp_path / "run"
    words = [str(kit.recipe(videos, run))]
    plan = plan_launch("pretrain", words, SLURM)
    begun(run, plan.files[run / "launch" / "pretrain.yaml"])
    launching._claim(plan, run / "launch")
    launching._claim(plan_launch("pretrain", [*words, "training.keep=7"], SLURM), run / "launch")
    other = plan_launch("pretrain", [*words, "optimizer.base_lr=0.1"], SLURM)
    with pytest.raises(LaunchError, match=r"optimizer.base_lr: 0.1 <- 0.3\n.*run=\.\.\.$"):
        launching._claim(other, run / "launch")


@pytest.mark.parametrize("chain", [False, True])
def test_another_recipe_of_a_stage_is_refused_too(chain: bool, tmp_path: Path) -> None:
    words = ["mvd/demo", f"run={tmp_path / 'r'}"]
    stage = tmp_path / "r" / "stages" / "video"
    file = stage / "launch" / "pretrain.yaml"
    before = plan_launch("pretrain", [*words, "seed=5"], SLURM, chain=True).files[file]
    begun(stage, before)
    plan = plan_launch("pretrain", words, SLURM, chain=chain)
    with pytest.raises(LaunchError, match=r"stages/video has been trained .*\n  seed: 0 <- 5"):
        launching._claim(plan, tmp_path / "r" / "launch")


def launched_before(home: Path, *rows: tuple[str, str]) -> None:
    """A folder from which jobs (number, step) were submitted."""
    (home / "launch").mkdir(parents=True)
    lines = [json.dumps({"id": number, "name": name}) for number, name in rows]
    (home / "launch" / launching.JOBS).write_text("\n".join(lines) + "\n")


def test_a_run_of_a_cluster_goes_on_here_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: squeue was asked also for `local`, so the run could not go on where there is none."""
    launched_before(tmp_path, ("7", "pretrain"))
    note_start(tmp_path, "pretrain", job="7", nodes="n1")
    monkeypatch.setenv("PATH", str(tmp_path))
    launching.refuse_running(tmp_path, here=True)
    assert "cannot be asked here (no squeue): see that job 7 has ended" in caplog.text
    with pytest.raises(LaunchError, match="squeue is not on the PATH"):
        launching.refuse_running(tmp_path, here=False)
    told = jobs.status(tmp_path).splitlines()
    assert told[0].startswith("SLURM cannot be asked here about job 7: squeue is not on the PATH")
    assert "pretrain attempt 1 on n1, job 7" in told[1]


def asked_of_slurm(monkeypatch: pytest.MonkeyPatch, states: dict[str, str]) -> list[list[str]]:
    """Jobs are in these states; returns the commands that SLURM gets, of which those about job "9" fail."""
    commands: list[list[str]] = []

    def ask(command: list[str]) -> str:
        commands.append(command)
        if command[-1] == "9":
            raise LaunchError("no such job")
        return ""

    monkeypatch.setattr(
        jobs, "job_infos", lambda ids: [slurm.JobInfo(i, states[i], "", "", "") for i in ids]
    )
    monkeypatch.setattr(jobs, "ask", ask)
    return commands


def test_jobs_of_earlier_launches_are_not_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: every job ever launched was queued again, those that SLURM has forgotten too, whose refusal was the
    end of it."""
    launched_before(tmp_path, ("1", "pretrain"), ("2", "evaluate"), ("3", "pretrain"))
    states = {"1": "FAILED", "2": "UNKNOWN", "3": "FAILED"}
    commands = asked_of_slurm(monkeypatch, states)
    assert jobs.requeue(tmp_path) == "queued again: 3"
    assert commands == [["scontrol", "requeue", "3"]]
    states["3"] = "UNKNOWN"
    with pytest.raises(LaunchError, match=r"SLURM has forgotten job 3, 2\. Launch it again\."):
        jobs.requeue(tmp_path)


def test_a_job_that_slurm_does_not_queue_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched_before(tmp_path, ("9", "a"), ("3", "b"), ("4", "c"))
    commands = asked_of_slurm(monkeypatch, {"9": "FAILED", "3": "RUNNING", "4": "TIMEOUT"})
    with pytest.raises(LaunchError, match="job 9 again: no such job\nqueued again: 3, 4"):
        jobs.requeue(tmp_path)
    assert ["scancel", "--signal=USR2", "3"] in commands


def test_jobs_of_nothing(tmp_path: Path, kit: Any) -> None:
    assert "nothing was launched there" in kit.command("jobs", "status", tmp_path, code=2)


# Code


def test_a_snapshot_is_the_code_of_now_and_runs_alone(tmp_path: Path) -> None:
    folder = take_snapshot(tmp_path)
    assert take_snapshot(tmp_path) == folder  # equal code is not copied twice
    note = json.loads((folder / NOTE).read_text())
    assert Path(note["source"]).name == "video_ssl"
    code = (
        "import video_ssl, video_ssl.recipes as r, sys\n"
        "print(video_ssl.__file__); print(r.find_recipe('mvd/demo', 'pretrain'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.splitlines()
    assert all(line.startswith(str(folder)) for line in told)


def test_git_state_names_what_differs(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    assert (git_state(tmp_path), git_diff(tmp_path)) == (None, "")
    git("init")
    (tmp_path / "a.py").write_text("1\n")
    git("add", "a.py")
    git("commit", "-m", "first")
    (tmp_path / "a.py").write_text("2\n")
    (tmp_path / "b.py").write_text("3\n")
    state, patch = git_state(tmp_path), git_diff(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["changed_files"] == [" M a.py"]
    assert state["untracked_files"] == ["b.py"]
    assert "-1\n+2\n" in patch


# Ends


def notes(*outcomes: str) -> list[dict[str, str]]:
    return [{"outcome": o, "reason": "why", "rank": str(i)} for i, o in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "code", "state", "expected"),
    [
        (["finished", "finished"], 0, "", "finished"),
        (["preempted", "killed"], 137, "RUNNING", "preempted"),
        (["alone", "killed"], 137, "RUNNING", "lost"),
        (["killed", "killed"], 137, "RUNNING", "lost"),
        (["killed", "killed"], 137, "CANCELLED", "cancelled"),
        (["killed"], 137, "TIMEOUT", "preempted"),
        (["failed", "alone"], 1, "RUNNING", "failed"),
        (["stopped", "stopped"], 143, "RUNNING", "stopped"),
    ],
)
def test_how_an_attempt_ended(outcomes: list[str], code: int, state: str, expected: str) -> None:
    assert conclude(notes(*outcomes), exit_code=code, job_state=state)[0] == expected


class JaxRuntimeError(RuntimeError):
    """Has the name of jax's."""


@pytest.mark.parametrize(
    ("err", "outcome"),
    [
        (Interrupted(signal.SIGUSR2, "x"), "preempted"),
        (Interrupted(signal.SIGTERM, "x"), "stopped"),
        (RunError("the recipe changed"), "failed"),
        (RuntimeError("[gloo/transport] Connection closed by peer [127.0.0.1]:1"), "alone"),
        (RuntimeError("shapes do not fit"), "failed"),
        (JaxRuntimeError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer"), "alone"),
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"), "alone"),
        (ValueError("a.mp4: reading timed out"), "failed"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), "failed"),
    ],
)
def test_how_a_process_ended(err: BaseException, outcome: str) -> None:
    assert describe(err)[0] == outcome


def history(*attempts: tuple[Any, ...], now: int = 0) -> list[dict[str, Any]]:
    """Rows of attempts (step at the start, outcome, job "7", again True), and the start of the one that ends now."""
    rows: list[dict[str, Any]] = []
    for step, outcome, *more in attempts:
        job, again = (*more, *("7", True)[len(more) :])
        rows.append({"event": "start", "step": step, "job": job})
        if outcome:
            rows.append({"event": "end", "outcome": outcome, "job": job, "again": again})
    return [*rows, {"event": "start", "step": now, "job": "7"}]


@pytest.mark.parametrize(
    ("outcome", "rows", "now", "again"),
    [
        ("preempted", history((0, "preempted"), now=5), 9, True),
        (
            "preempted",
            history((0, "preempted"), (5, "preempted"), now=9),
            12,
            False,
        ),  # max_requeues=2
        ("lost", history(), 0, True),
        ("lost", history((0, "lost")), 0, True),
        ("lost", history((0, "lost"), (0, "lost")), 0, False),  # max_failures=2 in vain
        ("lost", history((0, "lost"), (0, "")), 0, False),  # nobody was left to note an end
        ("lost", history((0, "lost"), (0, "lost")), 4, True),  # the last one got further
        ("lost", history((0, "lost"), (4, "lost"), now=4), 4, True),
        ("lost", history((0, "lost"), (4, "lost"), (4, "lost"), now=4), 4, False),
        ("failed", history(), 0, False),
        ("cancelled", history(), 0, False),
        ("finished", history(), 0, False),
        # Was wrong: every start counted, whatever had become of it and whichever launch it was of.
        ("preempted", history((0, "lost"), (0, "lost"), (0, "lost")), 4, True),
        ("preempted", history(*[(0, "preempted", "6")] * 5), 4, True),
        ("lost", history((0, "preempted"), (0, "preempted")), 0, True),
        ("lost", history(*[(0, "lost", "6")] * 5), 0, True),
        ("lost", history((0, "lost"), (0, "lost", "7", False)), 0, True),  # jobs requeue
        ("lost", history((0, "failed", "7", False), (0, "stopped", "7", False)), 0, True),
    ],
)
def test_who_is_tried_again(
    outcome: str, rows: list[dict[str, Any]], now: int, again: bool
) -> None:
    decided, why = tried_again(rows, outcome, job="7", step=now, max_requeues=2, max_failures=2)
    assert decided == again
    if not again and outcome in ("lost", "preempted"):
        assert "is reached" in why


def test_an_attempt_that_never_began_counts_too() -> None:
    """Was wrong: attempts whose processes died before they could note their start were repeated for ever."""
    ends = [{"event": "end", "outcome": "lost", "job": "7", "again": True}] * 2
    words: dict[str, Any] = {"job": "7", "step": 0, "max_requeues": 9}
    assert tried_again(ends, "lost", max_failures=3, **words)[0]
    assert not tried_again(ends, "lost", max_failures=2, **words)[0]


def test_the_history_tells_tasks_apart_and_survives_a_cut_line(tmp_path: Path) -> None:
    assert note_start(tmp_path, "embed 0/2", job="1_0", nodes="n1") == 1
    assert note_start(tmp_path, "embed 1/2", job="1_1", nodes="n2") == 1
    note_end(tmp_path, "embed 0/2", job="1_0", outcome="lost", reason="x", again=True)
    assert note_start(tmp_path, "embed 0/2", job="1_0", nodes="n1") == 2
    with open(tmp_path / "attempts.jsonl", "a") as file:
        file.write('{"event": "sta')
    assert [row["attempt"] for row in read_attempts(tmp_path, "embed 0/2")] == [1, 1, 2]
    assert len(read_attempts(tmp_path)) == 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_end_is_told_where_the_disk_or_the_quota_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Full is what holds as long as the room that was kept has not been given up."""
    original = Path.write_text

    def full(path: Path, *words: Any, **more: Any) -> int:
        if list(tmp_path.rglob(".room")):
            raise OSError(number, os.strerror(number))
        return original(path, *words, **more)

    note_start(tmp_path, "pretrain", job="1", nodes="n1")
    (room,) = tmp_path.rglob(".room")
    assert room.stat().st_size == 2**18
    monkeypatch.setattr(Path, "write_text", full)
    note = end_note(tmp_path, "1", "pretrain", "0", 0)
    leave_note(note, "failed", "no space")
    assert read_notes([note]) == [{"outcome": "failed", "reason": "no space", "rank": "0"}]
    note_start(tmp_path, "pretrain", job="1", nodes="n1")
    assert room.is_file()


def test_room_that_is_free_only_after_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, synced = Path.write_text, []

    def full(path: Path, *words: Any, **more: Any) -> int:
        if not synced:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return original(path, *words, **more)

    note_start(tmp_path, "pretrain", job="1", nodes="n1")
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(os, "sync", lambda: synced.append(1))
    note = end_note(tmp_path, "1", "pretrain", "0", 0)
    leave_note(note, "failed", "no space")
    assert read_notes([note])[0]["reason"] == "no space"
    assert len(synced) == 1


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "3", '{"id": 3}', "\x00"])
def test_a_damaged_line_of_the_jobs_is_passed_over(tmp_path: Path, line: str, caplog: Any) -> None:
    """Was wrong: a line cut short by a full disk ended every later command in a traceback."""
    (tmp_path / "launch").mkdir()
    good = json.dumps({"id": "7", "name": "pretrain"})
    (tmp_path / "launch" / launching.JOBS).write_text(f"{good}\n{line}\n{good}\n")
    assert [job["id"] for job in launching.read_jobs(tmp_path)] == ["7", "7"]
    assert "has a damaged line" in caplog.text


def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    task = TaskSpec(name="a", verb="pretrain", arguments=("x", "y=1"), run="r")
    batch = Batch(tasks=(task,), max_requeues=1, max_failures=2, lost_after_sec=3.0)
    assert read_batch(write_batch(tmp_path / "b" / "batch.json", batch)) == batch


def test_the_table_has_what_differs_and_what_came_out(tmp_path: Path) -> None:
    for name, loss in (("lr=1", 0.5), ("lr=2", 0.25)):
        run = tmp_path / name
        run.mkdir()
        (run / "finished.json").write_text(json.dumps({"steps": 7, "metrics": {"loss": loss}}))
        place = run / "evaluate" / "demo"
        place.mkdir(parents=True)
        scores = {
            "encoders": {"encoder": {"results": {"probe": {"metrics": {"top1": loss + 0.1}}}}}
        }
        (place / "results.json").write_text(json.dumps(scores))
    (tmp_path / "lr=3").mkdir()
    assert table_text(grid_results(tmp_path)).splitlines() == [
        "| lr | state | steps | loss | demo/probe |",
        "|---|---|---|---|---|",
        "| 1 | finished | 7 | 0.5 | 0.6 |",
        "| 2 | finished | 7 | 0.25 | 0.35 |",
        "| 3 | not ended |  |  |  |",
    ]


# On this machine


@pytest.mark.slow
def test_local_processes_start_again_when_one_is_killed(
    videos: Path, tmp_path: Path, kit: Any
) -> None:
    run = tmp_path / "run"
    file = kit.recipe(videos, run, training__checkpoint_every=10)
    start = "from video_ssl.cli import main; main()"
    words = ["launch", "local", "pretrain", str(file), "--set", "tasks_per_node=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", start, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 300
    while kit.steps(run) < 12:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    ranks = [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "video_ssl.launch.task" in p.cmdline() and p.environ().get("RANK") == "1"
    ]
    ranks[-1].kill()
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert kit.outcomes(run) == ["lost", "finished"]
    assert [row["step"] for row in kit.attempts(run) if row["event"] == "start"][1] >= 10
    assert kit.steps(run) == 120


def fake_tasks(monkeypatch: pytest.MonkeyPatch, codes: dict[str, str]) -> None:
    """In place of the tasks of a launch Python runs `codes[step index]`."""

    def command(step: Step, batch: Path, index: int) -> list[str]:
        return [sys.executable, "-c", codes[f"{step.name} {index}"]]

    monkeypatch.setattr(here, "local_command", command)


def plan_of(home: Path, *steps: tuple[str, int, tuple[str, ...], str], **profile: Any) -> Any:
    """A plan of steps (name, number of tasks, after, how)."""
    local = LaunchProfile(executor="local", **profile)
    made = [
        Step(
            name=name,
            tasks=tuple(
                TaskSpec(name=name, verb="pretrain", arguments=(), run=str(home / str(index)))
                for index in range(count)
            ),
            profile=local,
            after=after,
            how=how,
        )
        for name, count, after, how in steps
    ]
    return LaunchPlan(home, made, {})


def test_one_failing_run_does_not_end_a_grid_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: later runs, their evaluations and the table were never made."""
    grid = plan_of(
        tmp_path,
        ("pretrain", 3, (), "afterok"),
        ("evaluate", 3, ("pretrain",), "aftercorr"),
        ("alone", 1, ("pretrain",), "afterok"),
        ("results", 1, ("evaluate",), "afterany"),
    )
    steps = ("pretrain 0", "pretrain 1", "pretrain 2", "evaluate 0", "evaluate 2", "results 0")
    codes = {name: f"open({str(tmp_path / name)!r}, 'w')" for name in steps}
    codes["pretrain 1"] += "; raise SystemExit(3)"
    codes["evaluate 2"] += "; raise SystemExit(4)"
    fake_tasks(monkeypatch, codes)
    with pytest.raises(LaunchError) as caught:
        here.run_here(grid, tmp_path / "launch")
    assert [name for name in steps if not (tmp_path / name).is_file()] == []
    said = str(caught.value).splitlines()
    assert "2 tasks" in said[0]
    assert f"pretrain has ended with exit code 3; see {tmp_path / '1'}" in said[1]
    assert f"evaluate has ended with exit code 4; see {tmp_path / '2'}" in said[2]


def test_what_is_lost_again_and_again_is_not_called_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: after max_requeues + max_failures + 1 rounds the launch said "finished", however they had ended."""
    run = tmp_path / "0"
    meta = f"{str(run / 'checkpoints')!r} + f'/step_{{n}}/meta.json'"
    code = (
        "import os, pathlib, sys\n"
        "n = int(os.environ['VIDEO_SSL_ATTEMPT'].rpartition('-')[2])\n"
        f"place = pathlib.Path({meta})\n"
        "if n < 4: place.parent.mkdir(parents=True); place.write_text('{}')\n"
        "sys.exit(9 if n < 6 else 0)"
    )
    fake_tasks(monkeypatch, {"pretrain 0": code})
    one = plan_of(tmp_path, ("pretrain", 1, (), "afterok"), max_requeues=0, max_failures=2)
    with pytest.raises(LaunchError, match="pretrain has ended with exit code 9"):
        here.run_here(one, tmp_path / "launch")
    ends = [row for row in read_attempts(run) if row["event"] == "end"]
    assert [row["again"] for row in ends] == [True] * 5 + [False]


STOPPED = """
import os, pathlib, signal, sys, time
def end(number, _):
    pathlib.Path({mark!r}).write_text(str(int(number)))
    os._exit({code})
signal.signal(signal.{number}, end)
pathlib.Path({ready!r}).touch()
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "code", "expected"), [("SIGINT", 9, 130), ("SIGTERM", 9, 143), ("SIGTERM", 0, 0)]
)
def test_a_launch_that_is_stopped_takes_its_processes_with_it_and_starts_nothing(
    number: str, code: int, expected: int, tmp_path: Path
) -> None:
    """Was wrong: what ended without a word after Ctrl-C was started again; after SIGTERM processes went on alone."""
    ready, mark = tmp_path / "ready", tmp_path / "mark"
    child = STOPPED.format(mark=str(mark), ready=str(ready), code=code, number=number)
    code_of_launch = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import test_launch as t; from video_ssl.errors import one_sentence; from video_ssl.launch import here\n"
        "home = Path(sys.argv[2]); here.local_command = lambda *_: [sys.executable, '-c', sys.argv[3]]\n"
        "with one_sentence(): here.run_here(t.plan_of(home, ('pretrain', 1, (), 'afterok')), home / 'launch')\n"
    )
    words = [str(Path(__file__).parent), str(tmp_path), child]
    launch = subprocess.Popen(
        [sys.executable, "-c", code_of_launch, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while not ready.is_file():
        assert launch.poll() is None, launch.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    if number == "SIGINT":  # a terminal sends it to all
        os.killpg(launch.pid, signal.SIGINT)
    else:
        launch.terminate()
    said, _ = launch.communicate(timeout=300)
    assert launch.returncode == expected, said
    assert mark.read_text() == str(int(signal.Signals[number]))
    (row,) = read_attempts(tmp_path / "0")
    outcome = "stopped" if code else "finished"
    assert (row["outcome"], row["again"]) == (outcome, False)
    assert number in row["reason"] or not code


STANDS = """
import os, pathlib, sys, time
if sys.argv[0] == "-c":  # the verb, which the task starts with `python -c`
    pathlib.Path({mark!r}).write_text(str(os.getpid()))
    time.sleep(600)
"""


def test_a_signal_to_the_task_alone_ends_its_verb(tmp_path: Path) -> None:
    """Was wrong: with the task gone the verb went on alone, beside the next attempt that wrote the same file.

    It stands before it has a handler of its own.
    """
    mark = tmp_path / "verb"
    (tmp_path / "sitecustomize.py").write_text(STANDS.format(mark=str(mark)))
    run = tmp_path / "run"
    words = ("encoder", "videos", "o.arrow")
    spec = TaskSpec(name="embed", verb="embed", arguments=words, run=str(run))
    batch = Batch(tasks=(spec,), max_requeues=0, max_failures=0, lost_after_sec=60)
    file = write_batch(tmp_path / "batch.json", batch)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = tmp_path / "said"  # no pipe: a verb that is left over would keep it open
    with said.open("w") as log:
        task = subprocess.Popen(
            [sys.executable, "-m", "video_ssl.launch.task", str(file), "0"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + 300
    while not (mark.is_file() and mark.read_text()):
        assert task.poll() is None, said.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    verb = psutil.Process(int(mark.read_text()))
    try:
        assert verb.ppid() == task.pid
        task.terminate()
        assert task.wait(timeout=300) == 143, said.read_text()
        assert not verb.is_running()
    finally:
        if verb.is_running():
            verb.kill()
    (note,) = read_notes([end_note(run, "local", "embed", "0", 0)])
    assert note["outcome"] == "stopped"
    assert "what was written counts" in note["reason"]


def test_a_grid_that_is_stopped_begins_no_further_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run that was on its way came to its end all the same."""
    stop = f"import os, signal; os.kill({os.getpid()}, signal.SIGINT)"
    fake_tasks(monkeypatch, {"pretrain 0": stop})
    with pytest.raises(AlreadyReported) as caught:
        here.run_here(plan_of(tmp_path, ("pretrain", 2, (), "afterok")), tmp_path / "launch")
    assert caught.value.code == 130
    assert [row["outcome"] for row in read_attempts(tmp_path / "0")] == ["finished"]


@pytest.mark.slow
def test_torchrun_ends_with_a_signal_without_a_traceback(tmp_path: Path) -> None:
    """Was wrong: a launch of two processes that was stopped printed torchrun's own traceback."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    words = ["-m", "video_ssl.launch.torchrun", "--standalone", "--nproc-per-node=2", str(script)]
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    ready = 0
    while ready < 2:
        line = process.stdout.readline()
        assert line
        ready += line == "ready\n"
    process.terminate()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert "Traceback" not in said
