"""The command line: one screen of help, and mistakes that end in one sentence, no traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

VERBS = [
    "pretrain",
    "evaluate",
    "embed",
    "align",
    "search",
    "recipes",
    "data",
    "bench",
    "scan",
    "transcode",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "video_ssl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_help_is_one_screen_and_names_every_verb():
    done = run("--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    assert [verb for verb in VERBS if verb not in done.stdout] == []


def test_help_starts_without_torch():
    code = (
        "import sys\nsys.argv = ['video-ssl', '--help']\n"
        "try:\n    from video_ssl.cli import main; main()\n"
        "except SystemExit:\n    pass\nsys.exit(3 * ('torch' in sys.modules or 'jax' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_ctrl_c_while_the_command_is_loaded_ends_in_a_sentence():
    """Was wrong: loading takes a second or more, and Ctrl-C in it printed the traceback of an import."""
    code = (
        "import runpy, sys\n"
        "class CtrlC:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'pydantic': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, CtrlC)\n"
        "runpy.run_module('video_ssl', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("stopped by Ctrl-C")
    assert "Traceback" not in done.stderr


def test_the_installed_command_begins_where_the_module_does():
    script = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert script == {"video-ssl": "video_ssl.__main__:main"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate"], ["probe", "encoder=RUN"]),
        (["bench"], ["step", "loader", "readers", "decoders"]),
        (["convert"], ["pytorchvideo"]),
    ],
)
def test_help_speaks_of_this_verb(arguments, words):
    """Was wrong: `evaluate` offered a recipe and a setting of `pretrain`, `convert` left out a family."""
    told = run(*arguments, "--help").stdout
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "mvd/dmeo"], "Did you mean 'mvd/demo'?"),
        (["pretrain", "mvd/demo", "optimizer.base_lrr=1"], "Did you mean 'base_lr'?"),
        (["pretrain", "mvd/demo", "objective.name=mvdd"], "Did you mean 'mvd'?"),
        (["pretrain", "mvd/demo", "fast"], "'fast' has no key and value"),
        (["pretrain", "mvd/demo", "data.table=/no/such/folder"], "/no/such/folder"),
        (["evaluate", "demo", "encoder=/no/such/run"], "/no/such/run"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, tmp_path):
    extra = [f"run={tmp_path / 'run'}"] if arguments[0] == "pretrain" else [f"out={tmp_path}"]
    done = run(*arguments, *extra)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_lists_every_room():
    listed = run("recipes").stdout
    assert "mvd/demo" in listed
    assert "demo" in listed
