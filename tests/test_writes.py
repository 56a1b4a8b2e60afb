"""No verb writes over what it reads, or over a file that is not its own; and it says so before any work."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from video_ssl.cli import main
from video_ssl.datasets.table import Table

NOTES = b"<html>My notes of three years.</html>\n"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process; returns the exit code and what stands on stderr."""

    def run_command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["video-ssl", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capfd.readouterr().err

    return run_command


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three tiny videos."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        with av.open(str(folder / f"{number}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=10, options={"crf": "30"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for index in range(6):
                picture = np.full((32, 48, 3), 40 * number + 10 * index, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            out.mux(stream.encode())
    return folder


@pytest.fixture
def ds(clips: Path, tmp_path: Path) -> Path:
    """A folder with the folder `videos`, and nothing else."""
    shutil.copytree(clips, tmp_path / "ds" / "videos")
    return tmp_path / "ds"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# transcode


@pytest.mark.parametrize("link", ["parent", "folder link", "file links", "hard links", "table"])
def test_transcode_never_writes_over_a_source(run: Run, ds: Path, tmp_path: Path, link: str):
    """Was wrong: three of three originals were replaced, exit code 0."""
    source, out = ds / "videos", tmp_path / "out"
    if link == "parent":
        out = ds
    elif link == "folder link":
        out.mkdir()
        (out / "videos").symlink_to(source)
    elif link == "table":
        rows = [{"source": f"videos/{number}.mp4"} for number in range(3)]
        Table.from_rows(rows, root=ds).save(ds / "t.arrow")
        source, out = ds / "t.arrow", tmp_path / "again"
        out.mkdir()
        (out / "videos").symlink_to(ds)  # names begin with videos/
    else:
        (out / "videos").mkdir(parents=True)
        for path in source.iterdir():
            target = out / "videos" / path.name
            os.link(path, target) if link == "hard links" else target.symlink_to(path)
    before = contents(tmp_path)
    code, told = run("transcode", source, out, "--num-workers", 1)
    assert (code, "which is read: nothing is written over a source" in told) == (2, True), told
    assert contents(tmp_path) == before


def test_names_of_transcode_stay_below_its_folder(run: Run, ds: Path, tmp_path: Path):
    """Was wrong: a source with .. was written outside OUT/videos, over the source."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    lines = [f"{tmp_path}/a/b/../../ds/videos/0.mp4 0", "../../ds/videos/1.mp4 1"]
    (tmp_path / "a" / "b" / "list.txt").write_text("\n".join(lines) + "\n")
    before = contents(tmp_path)
    code, told = run("transcode", tmp_path / "a" / "b" / "list.txt", tmp_path / "a" / "b" / "out")
    assert code == 0, told
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    made = sorted(name for name in after if name.endswith(".mp4") and name not in before)
    assert made == ["a/b/out/videos/0.mp4", "a/b/out/videos/1.mp4"]


@pytest.mark.parametrize(
    "name", ["videos/1.mp4", "table.arrow", "skipped.jsonl", ".transcode.jsonl"]
)
def test_transcode_replaces_nobodys_file(run: Run, ds: Path, tmp_path: Path, name: str):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(NOTES)
    code, told = run("transcode", ds / "videos", out, "--num-workers", 1)
    assert (code, str(out / name) in told) == (2, True), told
    assert contents(out) == {name: NOTES}


def test_transcode_replaces_only_what_it_has_written(run: Run, ds: Path, tmp_path: Path):
    command = ("transcode", ds / "videos", tmp_path / "out", "--num-workers", 1)
    assert run(*command)[0] == 0
    shutil.copy(ds / "videos" / "2.mp4", ds / "videos" / "0.mp4")
    assert run(*command)[0] == 0, "its own file, of a source that has changed"
    (tmp_path / "out" / "videos" / "0.mp4").write_bytes(NOTES)
    code, told = run(*command)
    assert (code, "0.mp4 is there already and is not as" in told) == (2, True), told
    assert (tmp_path / "out" / "videos" / "0.mp4").read_bytes() == NOTES


def test_a_video_that_was_put_in_place_of_an_unreadable_one_stays(
    run: Run, ds: Path, tmp_path: Path
):
    (ds / "videos" / "0.mp4").write_bytes(b"no video" * 99)
    command = ("transcode", ds / "videos", tmp_path / "out", "--num-workers", 1)
    assert run(*command)[0] == 0
    (tmp_path / "out" / "videos" / "0.mp4").write_bytes(NOTES)
    code, told = run(*command, "--retry")
    assert (code, "0.mp4 is there already" in told) == (2, True), told


# scan


def test_scan_does_not_write_over_its_own_table(run: Run, ds: Path, tmp_path: Path):
    """Was wrong: with one unreadable video one of two rows was left, exit code 0."""
    assert run("scan", ds / "videos", tmp_path / "t.arrow", "--num-workers", 1)[0] == 0
    (ds / "videos" / "1.mp4").write_bytes(b"no video" * 99)
    (tmp_path / "link.arrow").symlink_to("t.arrow")
    before = contents(tmp_path)
    for out in ("t.arrow", "link.arrow"):
        code, told = run("scan", tmp_path / "t.arrow", tmp_path / out, "--num-workers", 1)
        assert (code, "t.arrow, which is read" in told) == (2, True), told
    assert contents(tmp_path) == before
    assert run("scan", ds / "videos", tmp_path / "t.arrow", "--num-workers", 1)[0] == 0


@pytest.mark.parametrize("name", ["t.arrow", "t.skipped.jsonl", ".t.scan.jsonl"])
def test_scan_replaces_nobodys_file(run: Run, ds: Path, tmp_path: Path, name: str):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(NOTES)
    before = contents(tmp_path)
    code, told = run("scan", ds / "videos", tmp_path / "out" / "t.arrow", "--num-workers", 1)
    assert (code, name in told) == (2, True), told
    assert contents(tmp_path) == before


def test_scan_replaces_no_table_that_somebody_has_put_together(run: Run, ds: Path, tmp_path: Path):
    Table.from_rows([{"source": "a.mp4", "label": 3}]).save(tmp_path / "t.arrow")
    before = contents(tmp_path)
    code, told = run("scan", ds / "videos", tmp_path / "t.arrow", "--num-workers", 1)
    assert (code, "was not made by `video-ssl scan`" in told) == (2, True), told
    assert contents(tmp_path) == before


# Every other verb


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a tiny encoder that nobody has trained."""
    from video_ssl.models.config import ViTConfig
    from video_ssl.models.encoders import ENCODERS, Preprocess, save_encoder

    run = tmp_path_factory.mktemp("run")
    (run / "recipe.yaml").write_text("name: a\nobjective: {name: videomae}\ndata: {table: v}\n")
    config = ViTConfig(
        image_size=32, patch_size=16, num_frames=4, embed_dim=32, depth=1, num_heads=2
    )
    module, _, name = ENCODERS["vit"].partition(":")
    build = getattr(importlib.import_module(module), name)
    pre = Preprocess(num_frames=4, frame_stride=1, size=32)
    save_encoder(
        run / "encoder",
        build(config),
        architecture="vit",
        preprocess=pre,
        source={"objective": "videomae"},
    )
    return run
