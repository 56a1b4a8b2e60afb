"""`make` takes the CPU build of torch where there is no GPU, and the plain one where its index cannot be reached."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

#: Stands for every python: notes what it is asked for, and cannot reach the indexes in UNREACHABLE.
NOTES = """import json, os, sys
print("WORDS " + json.dumps(sys.argv[1:]), flush=True)
sys.exit(1 if os.environ.get("UNREACHABLE") in sys.argv else 0)
"""
#: By a shell: the first line of a script cannot name an interpreter whose path has a space.
PYTHON = f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", NOTES])} "$@"\n'


def made(folder: Path, *variables: str, gpu: bool = False, **environment: str) -> list[list[str]]:
    """What pip is asked for when make makes the environment; `gpu`: there is an nvidia-smi that finds one."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name, text in (
        ("python", PYTHON),
        ("nvidia-smi", f"#!/bin/sh\n{'echo GPU 0' if gpu else 'exit 9'}\n"),
    ):
        file = folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    (folder / ".venv").mkdir(exist_ok=True)
    done = subprocess.run(
        ["make", ".venv/.ready", "BIN=bin", "PYTHON=bin/python", *variables],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / ".venv" / ".ready").is_file()
    lines = [json.loads(x[6:]) for x in done.stdout.splitlines() if x.startswith("WORDS ")]
    return [words for words in lines if words[:3] == ["-m", "pip", "install"]]


INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize("variables", [(), ("TORCH=cpu",)])
def test_without_a_gpu_it_is_the_cpu_build(tmp_path, variables):
    torch, rest = made(tmp_path, *variables)
    assert torch[-1] == "torch"
    assert torch[torch.index("--index-url") + 1] == INDEX
    assert rest[-2:] == ["--editable", ".[dev]"]
    assert "--index-url" not in rest


@pytest.mark.parametrize(("variables", "gpu"), [((), True), (("TORCH=cuda",), False)])
def test_with_a_gpu_or_on_demand_it_is_the_usual_one(tmp_path, variables, gpu):
    torch, _ = made(tmp_path, *variables, gpu=gpu)
    assert torch[-1] == "torch"
    assert "--index-url" not in torch


def test_where_the_index_cannot_be_reached_it_is_the_usual_one(tmp_path):
    asked, torch, rest = made(tmp_path, UNREACHABLE=INDEX)
    assert INDEX in asked
    assert torch[-1] == "torch"
    assert INDEX not in torch
    assert rest[-1] == ".[dev]"


def test_another_build_is_refused_with_those_that_there_are(tmp_path):
    done = subprocess.run(
        ["make", "-n", "help", "TORCH=gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "TORCH=gpu is no build of torch: give cpu or cuda" in done.stderr
