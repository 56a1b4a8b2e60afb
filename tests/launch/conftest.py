"""Tiny videos and recipes, a command that cannot hang, and the question whether a SLURM is there."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_runs

from video_ssl.recipes import to_yaml

# Drop path draws per process, so a single process would train otherwise.
TRAINING = {
    "objective__encoder__drop_path": 0.0,
    "optimizer__name": "sgd",
    "optimizer__base_lr": 0.3,
    "training__global_batch_size": 8,
    "training__duration": 120,
    "training__checkpoint_every": 1000,
    "training__log_every": 1,  # means over the steps since a resume would not be comparable
}


@functools.cache
def missing_slurm() -> str:
    """Why there is no SLURM to test on; empty if there is one."""
    if shutil.which("sinfo") is None:
        return "SLURM is not installed; as root: python tests/launch/slurm_cluster.py up"
    if importlib.util.find_spec("submitit") is None:
        return "submitit is not installed: pip install 'video_ssl[slurm]'"
    try:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True, timeout=5
        )
    except subprocess.TimeoutExpired:
        return "sinfo does not answer"
    if done.returncode or len(set(done.stdout.split())) < 2:
        return f"no SLURM with two nodes answers: {done.stderr.strip() or done.stdout.strip()}"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = os.environ.get("VIDEO_SSL_REQUIRE_SLURM")
    for item in items:
        if item.get_closest_marker("slurm") and missing_slurm() and not wanted:
            item.add_marker(pytest.mark.skip(reason=missing_slurm()))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos of 32 x 32 px and 12 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(12):
        tiny_runs.write_video(folder / f"{i:02}.mp4", seed=i)
    return folder


class Kit:
    """What the tests of launches have in common."""

    weights = staticmethod(tiny_runs.Helpers.weights)

    @staticmethod
    def recipe(videos: Path, run: Path, **changes: Any) -> Path:
        """The file of a tiny recipe that trains in RUN."""
        file = run.with_suffix(".yaml")
        content = tiny_runs.tiny(videos, run, **{**TRAINING, **changes})
        file.write_text(to_yaml(content), encoding="utf-8")
        return file

    @staticmethod
    def command(*words: Any, code: int = 0, limit_sec: float = 600) -> str:
        """What `video-ssl WORDS` prints; it must end with `code`."""
        start = "from video_ssl.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", start, *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_sec,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    @staticmethod
    def attempts(run: Path) -> list[dict[str, Any]]:
        file = run / "attempts.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [json.loads(line) for line in lines if line]  # a full disk leaves empty ones

    @classmethod
    def outcomes(cls, run: Path) -> list[str]:
        return [row["outcome"] for row in cls.attempts(run) if row["event"] == "end"]

    @classmethod
    def over(cls, run: Path) -> bool:
        """Whether the latest attempt has ended for good, and not well."""
        last = (cls.attempts(run) or [{"event": "start"}])[-1]
        return last["event"] == "end" and not last["again"] and last["outcome"] != "finished"

    @classmethod
    def wait(cls, condition: Callable[[], Any], run: Path, limit_sec: float = 600) -> Any:
        """Waits until a condition holds; on failure shows everything about the run."""
        end, over_since = time.monotonic() + limit_sec, None
        while not (found := condition()):
            now = time.monotonic()
            over_since = (over_since or now) if cls.over(run) else None
            assert now < end, cls.story(run)
            assert over_since is None or now < over_since + 15, cls.story(run)  # nothing can come
            time.sleep(0.1)
        return found

    @classmethod
    def story(cls, run: Path) -> str:
        logs = "\n".join(
            f"== {f.name}\n{f.read_text()[-3000:]}" for f in sorted(run.glob("launch/*.out"))
        )
        return f"{cls.attempts(run)}\n{cls.command('jobs', 'status', run)}\n{logs}"

    @staticmethod
    def steps(run: Path) -> int:
        """Steps in metrics.jsonl."""
        file = run / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        try:
            return int(json.loads(lines[-1])["step"]) if lines else 0
        except ValueError:
            return 0


class Cluster:
    """What the tests on a real SLURM have in common."""

    # The signal comes up to a minute before it is due, so limits are long where they are not the subject.
    SHORT = ("--set", "time_min=10", "--set", "signal_before_sec=30", "--set", "lost_after_sec=20")
    TWO = ("--set", "nodes=2", *SHORT)

    @staticmethod
    def run(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    @classmethod
    def submit(cls, script: str, *options: str) -> str:
        """A job on all of both nodes."""
        common = ("sbatch", "--parsable", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", script)
        return cls.run(*common, *options).strip()

    @classmethod
    def state(cls, job: str) -> str:
        return cls.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").split("\n")[0]

    @staticmethod
    def processes(run: Path, rank: int) -> list[psutil.Process]:
        """The process of a rank of the jobs of a run, as on a node of its own."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            ours = words[1:4] == ["-u", "-m", "submitit.core._submit"]
            if ours and words[-1] == str(run / "launch"):
                try:
                    place = process.environ().get("SLURM_PROCID")
                except psutil.Error:
                    continue
                if place == str(rank):
                    found.append(process)
        return found

    @staticmethod
    def launch(*words: Any) -> str:
        """The number of the first job."""
        return Kit.command("launch", *words).split(":")[0].removeprefix("job ")


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """Ends what a test has left on the cluster."""
    yield
    jobs = Cluster.run("squeue", "-h", "-o", "%A").split()
    if jobs:
        subprocess.run(["scancel", *set(jobs)], timeout=30)


@pytest.fixture(scope="session")
def cluster() -> type[Cluster]:
    return Cluster


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit
