"""Exceptions that are foreseen end in one sentence with the place and what to do; bugs end in what reports them."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from video_ssl import error_sentences
from video_ssl.clips.processes.workers import WorkerDied
from video_ssl.clips.samples import TooManyBadVideos
from video_ssl.error_sentences import EXTRAS, Foreseen, Unforeseen, printable, sentence_of
from video_ssl.errors import hide_secrets, report
from video_ssl.launch.task import describe


def raised(code: str, *, module: str = "video_ssl.made_up", **names) -> BaseException:
    """What a function of a module with this name raises when its body is `code`."""
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    namespace = {"__name__": module}
    exec(f"def act({', '.join(names)}):\n{lines}", namespace)
    try:
        namespace["act"](**names)
    except BaseException as err:
        return err
    raise AssertionError("nothing was raised")


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("code", "content", "words"),
    [
        ("import zipfile; zipfile.ZipFile(path)", b"PK\3\4 not a zip", ["BadZipFile"]),
        ("import pyarrow as pa; pa.ipc.open_file(path)", b"ARROW1\0\0 no", ["ArrowInvalid"]),
        ("import json; json.load(open(path))", '{"a": 1,\n "b" 2}', ["line 2"]),
        ("import yaml; yaml.safe_load(open(path))", "a: 1\nb: [1, 2\nc: 3", ["line 3"]),
        ("open(path, encoding='utf-8').read()", b"a\nb\nm\xfcn\n", ["line 3", "UTF-8"]),
        ("import pickle; pickle.load(open(path, 'rb'))", b"", ["Ran out of input"]),
        ("import tarfile; tarfile.open(path)", b"no tar", ["ReadError"]),
        ("import safetensors; safetensors.safe_open(path, 'np')", b"\xff" * 20, ["Safetensor"]),
        ("import json; json.load(open(path))", "[" * 200_000, ["nested too deeply"]),
        ("import PIL.Image; PIL.Image.open(path)", b"GIF", ["UnidentifiedImageError"]),
    ],
)
def test_what_a_library_says_about_a_file_names_the_file(code, content, words, tmp_path):
    path = written(tmp_path / "given.bin", content)
    told = sentence_of(raised(code, path=path))
    assert told is not None
    assert [word for word in [str(path), *words] if word not in told] == []
    assert "\n" not in told


def test_columns_of_one_name_are_told_by_the_file_that_has_them(tmp_path):
    path = written(tmp_path / "d.csv", "path,path\na,b\n")
    code = "import pyarrow.csv as c\nc.read_csv(path).column('path')"
    told = sentence_of(raised(code, path=str(path)))
    assert told is not None
    assert str(path) in told
    assert "exists 2 times" in told


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.EROFS, "choose another place"),
        (errno.EACCES, "permissions"),
        (errno.ENOSPC, "cannot be written (no space left on device"),
        (errno.EDQUOT, "cannot be written (disk quota exceeded"),
        (errno.EIO, "network"),
        (errno.ENOENT, "does not exist|no such file"),
        (errno.ENAMETOOLONG, "shorter"),
    ],
)
def test_what_the_machine_refuses_is_told_with_the_place(number, words, tmp_path):
    place = str(tmp_path / "out.arrow")
    told = sentence_of(OSError(number, os.strerror(number), place))
    assert told is not None
    assert place in told
    assert any(word in told for word in words.split("|")), told
    assert "Errno" not in told


def test_no_room_without_a_name_is_told_by_the_place_that_is_full(monkeypatch, tmp_path):
    """Was wrong: a full /dev/shm looked like a full run folder."""
    shared = "/dev/shm"
    real = os.statvfs

    def statvfs(path):
        if str(path) == shared:
            return SimpleNamespace(f_bavail=0, f_frsize=4096, f_files=10, f_favail=10)
        found = real(path)
        return SimpleNamespace(
            f_bavail=2**30, f_frsize=4096, f_files=found.f_files, f_favail=found.f_files
        )

    monkeypatch.setattr(error_sentences.os, "statvfs", statvfs)
    monkeypatch.setattr(sys, "argv", ["video-ssl", "pretrain", f"run={tmp_path / 'run'}"])
    told = sentence_of(OSError(errno.ENOSPC, "No space left on device"))
    assert told is not None
    assert shared in told
    assert str(tmp_path) not in told


def test_memory_packages_and_lost_processes():
    assert "accumulation" in sentence_of(RuntimeError("CUDA out of memory. Tried 2 GiB"))
    assert "num_workers" in sentence_of(MemoryError())
    assert "video_ssl[jax]" in sentence_of(ModuleNotFoundError("No module", name="optax.losses"))
    assert "pip install" in sentence_of(ModuleNotFoundError("No module", name="av"))
    assert sentence_of(ModuleNotFoundError("No module", name="video_ssl.cilps")) is None
    lost = RuntimeError("[gloo] Connection closed by peer [::1]:2")
    assert "other processes" in sentence_of(lost)
    assert describe(lost)[0] == "alone"


@pytest.mark.parametrize("extra", sorted(set(EXTRAS.values())))
def test_extras_that_are_named_exist(extra):
    project = Path(__file__).parent.parent / "pyproject.toml"
    named = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert extra in named


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("import numpy as np; np.zeros(3) + np.zeros(4)", "video_ssl.models.made_up"),
        ("[][1]", "video_ssl.datasets.made_up"),
        ("{}['label']", "video_ssl.datasets.made_up"),
        ("None.shape", "video_ssl.clips.made_up"),
        ("int('x')", "video_ssl.models.made_up"),
        ("assert False, 'never'", "video_ssl.made_up"),
        ("raise NotImplementedError('later')", "video_ssl.made_up"),
        ("raise ValueError('of a plan of the user')", "users_plan"),
    ],
)
def test_a_bug_is_not_dressed_up_as_a_sentence(code, module):
    """Was wrong: any ValueError, of numpy or of int(), was shown as if it told a user something."""
    assert sentence_of(raised(code, module=module)) is None


def test_numbers_of_a_file_are_told_by_the_file(tmp_path):
    path = written(tmp_path / "train.csv", "1,x")
    told = sentence_of(raised("float('x')", module="video_ssl.datasets.made_up", path=path))
    assert told is not None
    assert str(path) in told
    assert sentence_of(raised("float('x')", module="video_ssl.datasets.made_up")) is None


def test_two_files_in_reach_are_named_both_and_none_from_further_up(tmp_path):
    one, two = written(tmp_path / "a.csv", "1"), written(tmp_path / "b.csv", "x")
    err = raised("float('x')", module="video_ssl.datasets.made_up", one=one, two=two)
    assert f"{one} or {two}" in str(sentence_of(err))
    code = "def parse(text):\n    return float(text)\nparse('x')"
    assert sentence_of(raised(code, module="video_ssl.datasets.made_up", one=one)) is None


def test_what_a_raise_of_ours_says_is_what_is_told():
    assert sentence_of(raised("raise ValueError('depth=0 must be 1')")) == "depth=0 must be 1"
    assert sentence_of(raised("raise KeyError(\"no column 'a'\")")) == "no column 'a'"
    assert sentence_of(TooManyBadVideos("2 records")) == "2 records"
    assert sentence_of(WorkerDied("died")) == "died"


def test_sentences_pass_from_process_to_process_and_bugs_stay_bugs():
    assert sentence_of(pickle.loads(pickle.dumps(Foreseen("a.mp4 is full")))) == "a.mp4 is full"
    assert sentence_of(pickle.loads(pickle.dumps(Unforeseen("Traceback ...")))) is None


def test_texts_from_outside_cannot_move_the_cursor_or_fill_the_screen():
    """Was wrong: a parquet of videos printed every byte of the first one (170,157 characters)."""
    assert printable("a\x1b[2J\x9b\u202eb\nc") == "a\\x1b[2J\\x9b\\u202eb\nc"
    assert len(printable("x" * 10**6)) < 2100
    assert printable("\ud800") == "\\ud800"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://me:pw@h/a.mp4?sig=S", "https://***@h/a.mp4?***"),
        ("'s3://k:v@h/b'", "'s3://***@h/b'"),
        ("hub.token=T lr=1", "hub.token=*** lr=1"),
        ("{'DB_PASSWORD': 'V', 'a': 1}", "{'DB_PASSWORD': ***, 'a': 1}"),
        ("table.path=/data/a.csv", "table.path=/data/a.csv"),
    ],
)
def test_secrets_do_not_come_into_a_report(text, hidden):
    assert hide_secrets(text) == hidden


# The command

PATCHED = """
import sys, errno
from video_ssl import cli, cli_recipe_sheets
def act(*_):
    {code}
cli_recipe_sheets.recipe_list = act
sys.argv = ["video-ssl", *{arguments}]
cli.main()
"""


def command(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`video-ssl recipes`, which does this."""
    program = PATCHED.format(code=code, arguments=list(arguments or ["recipes"]))
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )


def test_a_bug_shows_a_traceback_and_how_to_report_it():
    done = command("[][1]", "recipes", VIDEO_SSL_LOG="INFO")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "IndexError" in done.stderr
    for word in ("report it", "video_ssl 0.", "numpy", "command: video-ssl recipes", "recipe.yaml"):
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["recipes", "--debug"], {}),
        (["--debug", "recipes"], {}),
        (["recipes"], {"VIDEO_SSL_DEBUG": "1"}),
    ],
)
def test_debug_shows_where_and_the_sentence(arguments, environment):
    code = "raise OSError(errno.EROFS, 'Read-only file system', '/ro/o.arrow')"
    plain = command(code)
    assert plain.returncode == 2
    assert plain.stderr.count("\n") == 1
    assert plain.stderr.startswith("error: /ro/o.arrow: read-only file system; ")
    shown = command(code, *arguments, **environment)
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith(plain.stderr)


def test_ctrl_c_is_one_line():
    done = command("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C.\n")


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (["embed", "runs/mine", "videos", "f.arrow"], True),
        (["--debug", "data", "build", "videos", "packed"], True),
        (["data", "check", "ucf101"], False),
        (["bench", "step", "mvd/demo"], False),
        ([], False),
    ],
)
def test_only_what_keeps_its_work_says_that_it_goes_on(words, goes_on, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["video-ssl", *words])
    assert report(KeyboardInterrupt()) == 130
    told = capsys.readouterr().err
    assert told.startswith("stopped by Ctrl-C")
    assert ("the same command goes on from what is finished" in told) == goes_on


def test_a_pipe_that_breaks_elsewhere_is_not_taken_for_the_end_of_the_output():
    """Was wrong: exit code 1 without a word."""
    done = command("raise BrokenPipeError(errno.EPIPE, 'Broken pipe')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_output_that_nobody_reads_ends_in_silence():
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "video_ssl", "recipes"],
        stdout=writes,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_videos_that_are_none_end_in_one_sentence(num_workers, tmp_path):
    """Was wrong: 73 lines, most of them of grain."""
    listed = no_videos(tmp_path)
    done = pretrain(tmp_path, f"data.table={listed}", f"loader.num_workers={num_workers}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "x.mp4: " in done.stderr


def no_videos(folder: Path) -> Path:
    for name in ("x.mp4", "y.mp4"):
        written(folder / name, "no video")
    return written(folder / "l.txt", "x.mp4 0\ny.mp4 1\n")


SMALL = [
    "training.duration=1",
    "training.global_batch_size=2",
    "evaluate=null",
    "optimizer.warmup=0",
]


def pretrain(folder: Path, *overrides: str, launch: tuple[str, ...] = ()):
    words = [*launch, "pretrain", "videomae/demo", *SMALL, f"run={folder / 'run'}", *overrides]
    return subprocess.run(
        [sys.executable, "-m", "video_ssl", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_the_first_process_of_torchrun_has_the_word(monkeypatch, capsys):
    """Was wrong: as many sentences (73 lines each) as processes."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of this test")
    monkeypatch.setenv("MASTER_PORT", "29400")
    assert report(Foreseen("a.mp4 is full")) == 2
    code = (
        "import os, sys; from video_ssl import errors; os.getppid = lambda: int(sys.argv[1]); "
        "sys.exit(errors.report(MemoryError()))"
    )
    say = [sys.executable, "-c", code, str(os.getppid())]
    other = subprocess.run(say, capture_output=True, text=True, check=False)
    assert (other.returncode, other.stderr) == (2, "")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    later = subprocess.run(say, capture_output=True, text=True, check=False)
    assert (later.returncode, later.stderr.count("error: ")) == (2, 1)
    assert capsys.readouterr().err == "error: a.mp4 is full\n"


@pytest.mark.slow
def test_two_processes_say_it_once(tmp_path):
    """Was wrong: every process a traceback, then torchrun's own page."""
    listed = no_videos(tmp_path)
    two = ("launch", "local", "--set", "tasks_per_node=2")
    done = pretrain(tmp_path, f"data.table={listed}", "loader.num_workers=0", launch=two)
    assert done.returncode == 2
    told = done.stdout + done.stderr
    assert "Traceback" not in told
    assert "ChildFailedError" not in told
    assert told.count("x.mp4: ") == 1
    attempts = (tmp_path / "run/attempts.jsonl").read_text().splitlines()
    reason = json.loads(attempts[-1])["reason"]
    assert "2 records in a row" in reason
    assert "x.mp4: " in reason
