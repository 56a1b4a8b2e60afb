"""How files are written: whole or not at all, never over a source or somebody's file, and swept where a writer died."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from video_ssl import files
from video_ssl.clips.processes.shared_memory import new_prefix
from video_ssl.files import (
    OutputError,
    claim_file,
    folder_aside,
    made_by,
    remove_leftovers,
    temporary_name,
    write_atomically,
    write_json_lines,
    written_aside,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")
    with contextlib.suppress(RuntimeError), written_aside(path) as aside:
        aside.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    write_json_lines(path, [{"a": 1}, {"a": 2}])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n'
    assert names(tmp_path) == ["x.json"]


def test_names_of_any_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".json")
    write_atomically(path, "{}")
    assert names(tmp_path) == [path.name]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    for content in ("old", "new"):
        with folder_aside(folder) as aside:
            (aside / "config.json").write_text(content)
    with contextlib.suppress(RuntimeError), folder_aside(folder) as aside:
        (aside / "config.json").write_text("half")
        raise RuntimeError
    assert (folder / "config.json").read_text() == "new"
    assert names(tmp_path) == ["encoder"]


def test_only_what_dead_writers_have_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from video_ssl.files import temporary_name\n"
        "path = temporary_name(Path(sys.argv[1])); path.write_text('half'); print(path, flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        [*command, str(tmp_path / "a.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        living = other.stdout.readline().decode().strip()
        remove_leftovers(tmp_path)
        assert os.path.exists(living)
        other.kill()
    (tmp_path / ".hidden").write_text("a user's")
    (tmp_path / "a.1.tmp").write_text("a user's")
    remove_leftovers(tmp_path, ["b.json"])
    assert os.path.exists(living)
    remove_leftovers(tmp_path, ["a.json"])
    assert names(tmp_path) == [".hidden", "a.1.tmp"]


def test_a_writer_whose_number_was_given_to_another_process_is_dead(tmp_path: Path) -> None:
    mine = temporary_name(tmp_path / "a.json")
    mine.write_text("being written")
    before = Path(str(mine).replace(".tmp", "9.tmp"))  # the same number, begun at another time
    before.write_text("half")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [mine.name]


def test_a_writer_on_another_machine_is_dead_after_a_day_or_when_the_folder_is_held(
    tmp_path: Path,
) -> None:
    old, new = (tmp_path / f".{name}.deadbeef-{os.getpid()}-1.tmp" for name in "ab")
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [new.name]
    remove_leftovers(tmp_path, held=True)
    assert names(tmp_path) == []


def test_a_folder_moved_aside_by_a_crash_between_two_renames_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".encoder.deadbeef-1-1.old").mkdir()
    (tmp_path / ".encoder.deadbeef-1-1.old" / "config.json").write_text("whole")
    remove_leftovers(tmp_path, held=True)
    assert (tmp_path / "encoder" / "config.json").read_text() == "whole"


def test_folders_among_temporary_files_go_with_the_process_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: video_ssl-workers-* stayed in the temporary folder after every kill."""
    code = (
        "from video_ssl.clips.processes.in_flight import InFlightBoard\n"
        "from video_ssl.clips.processes.shared_memory import new_prefix\n"
        "print(InFlightBoard().folder, new_prefix(), flush=True); input()"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "video_ssl-workers-of-somebody").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        folder, word = other.stdout.readline().decode().split()
        segment = Path("/dev/shm", f"{word}abc")
        segment.write_bytes(b"a batch")
        with files.temporary_folder("test") as mine:
            assert os.path.isdir(folder)
            new_prefix()
            assert segment.exists()
            assert mine.parent == tmp_path
        other.kill()
    with files.temporary_folder("test") as mine:
        assert names(tmp_path) == sorted([mine.name, "video_ssl-workers-of-somebody"])
    new_prefix()
    assert not segment.exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [("/disk/run/metrics.jsonl", "/disk/run/metrics.jsonl"), (None, "/dev/shm"), (7, "/dev/shm")],
)
def test_the_place_that_is_full_is_named(
    name: str | int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: the run folder was said to be full where shared memory was."""
    monkeypatch.setattr(files, "_has_no_room", lambda place: str(place) == "/dev/shm")
    err = OSError(errno.ENOSPC, "No space left on device", name)
    assert files.full_place(err, Path("/disk/run")) == Path(told)
    monkeypatch.setattr(files, "_has_no_room", lambda place: False)  # a quota
    assert files.full_place(OSError(errno.EDQUOT, ""), Path("/disk/run")) == Path("/disk/run")


def test_too_many_open_files_are_no_reason_to_go_elsewhere() -> None:
    told = files.unwritable("a.json", OSError(errno.EMFILE, "Too many open files"))
    assert told == (
        "a.json cannot be written (too many open files): allow more open files (`ulimit -n 8192`), or use fewer "
        "processes."
    )


def marked(path: Path, maker: str) -> Path:
    """A file of the kind of its name that says who has made it."""
    mark = files.made(maker)
    if path.suffix == ".arrow":
        schema = pa.schema([("id", pa.string())], metadata={files.MADE_BY: mark})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema):
            pass
    elif path.suffix == ".pth":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", "x")
            archive.comment = json.dumps({files.MADE_BY: mark}).encode()
    elif path.suffix == ".html":
        path.write_text(f"<!doctype html><head>{files.page_mark(maker)}</head><body></body>")
    else:
        path.write_text(json.dumps({files.MADE_BY: mark, "rows": []}, indent=2))
    return path


@pytest.mark.parametrize("kind", [".arrow", ".pth", ".html", ".json", ".jsonl"])
def test_only_what_the_same_verb_has_made_is_replaced(tmp_path: Path, kind: str) -> None:
    ours = marked(tmp_path / f"ours{kind}", "scan")
    assert made_by(ours) == "scan"
    assert claim_file(ours, "scan") == ours
    with pytest.raises(OutputError, match="not made by `video-ssl embed`"):
        claim_file(ours, "embed")
    theirs = tmp_path / f"theirs{kind}"
    for content in (b"notes", b"ARROW1\0\0" + b"\xff" * 99, b"PK\3\4" + b"\0" * 99, b'"made_by"'):
        theirs.write_bytes(content)
        with pytest.raises(OutputError, match="not replaced"):
            claim_file(theirs, "scan")


def test_a_page_that_quotes_the_mark_is_not_ours(tmp_path: Path) -> None:
    page = tmp_path / "notes.html"
    page.write_text(f"<html><body><pre>{files.page_mark('report')}</pre></body></html>")
    assert made_by(page) is None


@pytest.mark.parametrize("link", ["same", "dots", "symbolic", "hard", "parent"])
def test_a_source_is_never_written_by_whatever_name(tmp_path: Path, link: str) -> None:
    (tmp_path / "in").mkdir()
    source = marked(tmp_path / "in" / "t.arrow", "scan")
    target = tmp_path / "out.arrow"
    if link == "same":
        target = source
    elif link == "dots":
        target = tmp_path / "in" / ".." / "in" / "t.arrow"
    elif link == "symbolic":
        target.symlink_to(source)
    elif link == "hard":
        os.link(source, target)
    else:
        (tmp_path / "linked").symlink_to(tmp_path / "in")
        target = tmp_path / "linked" / "t.arrow"
    with pytest.raises(OutputError, match=r"t\.arrow, which is read"):
        claim_file(target, "scan", sources=["s3://bucket/a.mp4", source])


def test_a_link_counts_as_what_it_points_to(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "new.arrow"
    (tmp_path / "out.arrow").symlink_to(target)
    target.parent.mkdir()
    assert claim_file(tmp_path / "out.arrow", "scan") == target
    target.write_text("a user's")
    with pytest.raises(OutputError, match=r"a link to .*new\.arrow"):
        claim_file(tmp_path / "out.arrow", "scan")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("folder", "is a folder"),
        ("pipe", "is no regular file"),
        ("protected.json", "is protected"),
        ("file/x.json", r"cannot be written \(not a directory\)"),
        ("/proc/nowhere/x.json", r"/proc/nowhere/x.json cannot be written \("),
        ("a" * 300 + ".json", r"cannot be written \(file name too long\)"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_work(
    tmp_path: Path, place: str, told: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    marked(tmp_path / "protected.json", "search").chmod(0o444)
    before = names(tmp_path)
    with pytest.raises(OutputError, match=told):
        claim_file(tmp_path / place, "search")
    assert names(tmp_path) == before


def test_a_folder_that_is_not_there_yet_may_be_written(tmp_path: Path) -> None:
    assert claim_file(tmp_path / "a" / "b" / "c.json", "search") == tmp_path / "a" / "b" / "c.json"
    assert names(tmp_path) == []
