"""Times around a launched run: until its first step, of saving a checkpoint, and of going on (not a test).

    python tests/launch/measure_launch.py [RECIPE] [key=value ...] [--set nodes=2 ...] [--steps 60] [--every 10]

Launches a recipe on SLURM (tests/launch/slurm_cluster.py up), in a temporary run folder, lets it save and queue itself
again once on the way, and prints seconds:

    submit      until the command has returned                          to start    until process 0 began
    to step     from there until the first step was done                launch to first step: all three
    step        median time between two steps                           stall       a save holds up the training
    save        from `jobs requeue` to the end of the attempt           wait        until process 0 began again
    to step     from there until the next step was done                 resume      from the last step to the next one

The data of the recipe are made before.  Times of several runs vary; --repeat prints the median of each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from video_ssl.datasets import open_table
from video_ssl.launch.attempts import read_attempts
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.reporting import read_metrics

LIMIT_SEC = 1800


def command(*words: str) -> None:
    start = "from video_ssl.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", start, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def wait(condition: Any, run: Path) -> Any:
    end = time.monotonic() + LIMIT_SEC
    while not (found := condition()):
        ends = [row for row in read_attempts(run) if row["event"] == "end"]
        if ends and not ends[-1]["again"] and ends[-1]["outcome"] != "finished":
            raise SystemExit(f"the run has ended: {ends[-1]}")
        if time.monotonic() > end:
            raise SystemExit(f"nothing happened in {LIMIT_SEC} s in {run}")
        time.sleep(0.05)
    return found


def events(run: Path, event: str) -> list[dict[str, Any]]:
    return [row for row in read_attempts(run, "pretrain") if row["event"] == event]


def measure(given: argparse.Namespace, run: Path) -> dict[str, float]:
    """Returns name -> seconds of one run."""
    settings = [f"training.duration={given.steps}", f"training.checkpoint_every={given.every}"]
    settings += ["training.log_every=1", "optimizer.warmup=1", f"run={run}"]
    profile = [word for value in ("time_min=60", *given.set) for word in ("--set", value)]
    begin = time.time()
    words = (given.recipe, *given.overrides, *settings, *profile)
    command("launch", given.profile, "pretrain", *words)
    returned = time.time()
    rows = wait(lambda: read_metrics(run / "metrics.jsonl"), run)
    first, started = rows[0]["time"], events(run, "start")[0]["time"]
    half = given.steps // 2
    wait(lambda: len(read_metrics(run / "metrics.jsonl")) > half, run)
    asked = time.time()
    command("jobs", "requeue", str(run))
    ended = wait(lambda: events(run, "end"), run)[0]
    wait(lambda: events(run, "end")[-1]["outcome"] == "finished", run)
    again = events(run, "start")[1]["time"]
    rows = read_metrics(run / "metrics.jsonl")
    gap = {b["step"]: b["time"] - a["time"] for a, b in itertools.pairwise(rows)}
    resumed = ended["step"] + 1
    step = statistics.median(sec for number, sec in gap.items() if number not in (2, resumed))
    told = (run / "logs" / "rank_0.log").read_text(encoding="utf-8")
    saves = [float(sec) for sec in re.findall(r"checkpoint of step \d+: ([\d.]+) s", told)]
    return {
        "submit": returned - begin,
        "to start": started - returned,
        "to step": first - started,
        "launch to first step": first - begin,
        "step": step,
        "stall of a save": statistics.median(saves),
        "requeue to end": ended["time"] - asked,
        "wait": again - ended["time"],
        "start to step": next(r["time"] for r in rows if r["step"] == resumed) - again,
        "resume (all)": gap[resumed] - step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="videomae/demo")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--profile", default="slurm")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    open_table(load_pretrain_recipe(given.recipe, given.overrides).data.table)
    found: list[dict[str, float]] = []
    for _ in range(given.repeat):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(given, Path(folder) / "run"))
            size = sum(f.stat().st_size for f in Path(folder).glob("run/checkpoints/step_*/**/*"))
            saved = len(list(Path(folder).glob("run/checkpoints/step_*")))
    figures = {name: statistics.median(row[name] for row in found) for name in found[0]}
    for name, seconds in figures.items():
        print(f"{name:22} {seconds:8.2f} s")
    print(f"{'a checkpoint':22} {size / saved / 2**20:8.1f} MiB")
    print(json.dumps({"command": sys.argv, "seconds": figures}))


if __name__ == "__main__":
    main()
