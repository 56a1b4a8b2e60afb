"""`make test` runs every test there is, in several processes, and what fails in one of them fails it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN_ALL = Path(__file__).with_name("run_all.py")
GOOD = "def test_good(): pass\n"


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    """Tests that pass: in a folder, in another below it, beside the folders, and among those of SLURM."""
    for name in (
        "launch/test_a",
        "clips/test_b",
        "bench/deep/test_c",
        "test_d",
        "test_strangers_day",
    ):
        file = tmp_path / "tests" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(GOOD)
    shutil.copy(RUN_ALL, tmp_path / "tests")
    return tmp_path / "tests"


def start(tests: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(tests / "run_all.py"), "--import-mode=importlib", *arguments],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tests,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(tests: Path, *arguments: str, code: int) -> str:
    process = start(tests, *arguments)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == code, out
    return out


def test_every_test_file_of_ours_is_in_one_part() -> None:
    spec = importlib.util.spec_from_file_location("run_all", RUN_ALL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_all"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    parts = module.parts(RUN_ALL.parent)
    paths = [path for part in parts.values() for path in part]
    files = [
        file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])
    ]
    assert sorted(files) == sorted(RUN_ALL.parent.rglob("test_*.py"))
    assert {module.WAITING, *module.LONGEST} <= set(parts), "a name that is no part any more"


def test_all_pass_and_each_is_run_once(tests: Path) -> None:
    out = said(tests, code=0)
    for part in ("launch", "clips", "bench", "test_*.py", "test_strangers_day.py"):
        assert out.count(f"== tests/{part}: passed after 0:") == 1
    assert out.count("1 passed") == 5
    assert "== all tests: passed" in out


def test_what_fails_anywhere_fails_and_is_named_at_the_end(tests: Path) -> None:
    bad = ("launch/test_a.py", "bench/deep/test_c.py", "test_d.py")
    for name in bad:
        (tests / name).write_text("def test_bad(): assert 1 == 2\n")
    out = said(tests, code=1)
    named = out.rpartition("== all tests: FAILED")[2]
    assert [f"{name}::test_bad" in named for name in bad] == [True, True, True]
    assert out.count("1 passed") == 2


def test_a_process_that_dies_without_a_word_fails(tests: Path) -> None:
    (tests / "clips" / "test_b.py").write_text("import os\ndef test_dies(): os._exit(9)\n")
    assert "FAILED tests/clips with exit code 9" in said(tests, code=1)


def test_arguments_that_leave_no_test_in_some_parts_and_in_all(tests: Path) -> None:
    (tests / "clips" / "test_b.py").write_text("def test_other(): pass\n")
    assert "1 passed" in said(tests, "-k", "other", code=0)
    said(tests, "-k", "nothing_is_called_so", code=5)


def test_stopped_it_leaves_no_process(tests: Path, tmp_path: Path) -> None:
    """Nor one whose test has taken the signal for its own."""
    pids = tmp_path / "pids"
    pids.mkdir()
    sleeps = (
        "import os, pathlib, signal, time\n"
        "def test_it():\n"
        "    signal.signal(signal.SIGTERM, lambda *_: None)\n"
        f"    pathlib.Path({str(pids)!r}, str(os.getpid())).touch()\n"
        "    time.sleep(300)\n"
    )
    for name in ("launch/test_a.py", "clips/test_b.py"):
        (tests / name).write_text(sleeps)
    process = start(tests)
    limit = time.monotonic() + 300
    while len(list(pids.iterdir())) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 143, out
    assert "tests/clips: stopped" in out
    for file in pids.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name), 0)
