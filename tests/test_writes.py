"""No verb writes over what it reads, or over a file that is not its own; and it says so before any work."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from video_ssl.cli import main
from video_ssl.datasets.table import Table
from video_ssl.embed.embed_videos import embed_table

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


# Every verb


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a tiny encoder."""
    from video_ssl.models.config import ViTConfig
    from video_ssl.models.encoders import save_encoder
    from video_ssl.models.networks.vit import VideoViT
    from video_ssl.models.preprocess_config import VideoPreprocess

    run = tmp_path_factory.mktemp("trained")
    (run / "recipe.yaml").write_text("objective: {name: videomae}\ndata: {table: v}\n")
    config = ViTConfig(
        preset=None, embed_dim=32, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=16)
    save_encoder(
        run / "encoder", VideoViT(config), architecture="vit", preprocess=preprocess, source={}
    )
    return run


@pytest.fixture(scope="module")
def features(trained: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "f.arrow"
    names = [f"{number}.mp4" for number in range(3)]
    rows = [{"id": name, "source": str(clips / name), "label": 0} for name in names]
    table = Table.from_rows(rows).save(path.with_name("table.arrow"))
    embed_table(str(trained), str(table.path), path, per_frame=True, num_workers=0)
    return path


@dataclass(frozen=True)
class Verb:
    """A command line, and what it writes; `{}` are the folders of the fixtures.

    `files` are all files that it must not replace where somebody else has made them; `again` says whether it replaces
    its own.
    """

    command: str
    files: tuple[str, ...]
    again: bool = True
    slow: bool = False


VERBS = {
    "embed": Verb(
        "embed {run} {clips} {out}/f.arrow --num-workers 0", ("f.arrow", "f.arrow.partial/a")
    ),
    "embed restart": Verb(
        "embed {run} {clips} {out}/f.arrow --num-workers 0 --restart", ("f.arrow",)
    ),
    "embed shard": Verb(
        "embed {run} {clips} {out}/f.arrow --num-workers 0 --shard 0/2", ("f.arrow",)
    ),
    "retrieve": Verb("retrieve {features} {features} --out {out}/r.json", ("r.json",), again=False),
    "search": Verb("search 0.mp4 --in {features} --out {out}/s.json", ("s.json",)),
    "align": Verb(
        "align 0.mp4 1.mp4 --in {features} --out {out}",
        ("path.csv", "path.json", "path.npz", "path.png", "aligned.mp4"),
    ),
    "sync": Verb(
        "sync {clips}/0.mp4 {clips}/0.mp4 --by motion --out {out}/s.json --video {out}/v.mp4",
        ("s.json", "v.mp4"),
        again=False,  # so short a clip has no offset; tests/explore/test_sync.py replaces both
    ),
    "explore": Verb("explore {features} {out}/e.html", ("e.html",)),
    "explore encoder": Verb(
        "explore {run} {out}/e.html --table {clips}",
        ("e.html", "e.features.arrow", "e.videos.arrow"),
    ),
    "report": Verb("report {run} {out}/r.html", ("r.html",)),
    "export": Verb("export {run} --out {out}/new", ("new", "new/a"), again=False),
    "convert": Verb("convert {run} {out}/new", ("new", "new/a"), again=False),
    "convert huggingface": Verb(
        "convert {run} {out}/new --to huggingface", ("new", "new/a"), again=False
    ),
    "convert original": Verb(
        "convert {run} {out}/w.pth --to original", ("w.pth", "w.pth.json"), again=False
    ),
    "convert export": Verb(
        "convert {run} {out}/w.pt2 --to export", ("w.pt2", "w.pt2.json"), again=False, slow=True
    ),
    "data build": Verb(
        "data build {clips} {out}",
        (
            *("train.arrow", "train.build.json", "dataset_info.json", "features.json"),
            "videos-train.array_record-00000-of-00001",
        ),
    ),
    "data demo": Verb(
        "data demo {out} --size tiny --num-workers 2",
        (
            *("demo.json", "train.arrow", "phases_val.arrow", ".demo.begun.json"),
            "videos/train/train-00000.mp4",
        ),
        slow=True,
    ),
    "data vocabulary": Verb("data vocabulary {clips} {out}/w.txt", ("w.txt",), again=False),
    "scan": Verb("scan {clips} {out}/t.arrow --num-workers 1", ("t.arrow", "t.skipped.jsonl")),
    "transcode": Verb(
        "transcode {clips} {out} --num-workers 1",
        ("table.arrow", "skipped.jsonl", "videos/0.mp4", "videos"),
    ),
    "evaluate": Verb("evaluate demo encoder={run} out={out}", ("results.json",), again=False),
    "pretrain": Verb(
        "pretrain videomae/demo data.table={clips} run={out}",
        ("recipe.yaml", "environment.json", "metrics.jsonl", "encoder/config.json", ".lock"),
        again=False,
    ),
    "launch": Verb(
        "launch local pretrain videomae/demo data.table={clips} run={out}",
        ("launch/jobs.jsonl", "launch/pretrain.json", "launch/pretrain.yaml", "recipe.yaml"),
        again=False,
    ),
    "launch embed": Verb(
        "launch local embed {run} {clips} {out}/f.arrow", ("f.arrow",), again=False
    ),
    "jobs results": Verb("jobs results {out}", ("results.json", "results.md")),
    "bench loader": Verb(
        "bench loader videomae/demo data.table={clips} --json {out}/b.json",
        ("b.json",),
        again=False,
    ),
    "bench step": Verb("bench step videomae/demo --out {out}/s.json", ("s.json",), again=False),
    "bench evaluate": Verb("bench evaluate --out {out}/e.json", ("e.json",), again=False),
    "bench all": Verb("bench all --out {out}/all.md", ("all.md",), again=False),
    "bench readers": Verb(
        "bench readers {out} --out {out}/r.json",
        ("r.json", "speed_340x256_gop12.mp4", "bench-readers.json"),
        again=False,
    ),
}


@pytest.fixture
def command(
    trained: Path, clips: Path, features: Path, tmp_path: Path
) -> Callable[[str], list[str]]:
    out = tmp_path / "out"
    out.mkdir()

    def filled(text: str, place: Path = out) -> list[str]:
        places = {"run": trained, "clips": clips, "features": features, "out": place}
        return [part.format(**places) for part in text.split()]

    return filled


EACH = [(name, file) for name, verb in VERBS.items() for file in verb.files]


@pytest.mark.parametrize(("name", "file"), EACH)
@pytest.mark.parametrize("link", [False, True])
def test_nobodys_file_is_replaced(
    run: Run, command: Callable[[str], list[str]], tmp_path: Path, name: str, file: str, link: bool
):
    """Was wrong: report, explore, retrieve, search, align, build, demo and launch wrote over anybody's files."""
    path, notes = tmp_path / "out" / file, tmp_path / "notes"
    path.parent.mkdir(parents=True, exist_ok=True)
    notes.write_bytes(NOTES)
    path.symlink_to(notes) if link else path.write_bytes(NOTES)
    before = contents(tmp_path)
    code, told = run(*command(VERBS[name].command))
    assert code == 2, told
    assert Path(file).name in told.partition("\n")[0] or path.parent.name in told, told
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", VERBS)
def test_a_place_that_cannot_be_written_is_told_in_one_sentence(
    run: Run, command: Callable[..., list[str]], name: str
):
    """Was wrong: [Errno 30] with the name of an inner file, or after hours of work the advice to make room."""
    nowhere = Path("/proc/nowhere")
    code, told = run(*command(VERBS[name].command, nowhere))
    assert (code, "cannot be written (" in told, "/proc/nowhere" in told) == (2, True, True), told


@pytest.mark.parametrize("name", [n for n, verb in VERBS.items() if verb.again and not verb.slow])
def test_what_the_same_verb_has_made_is_replaced(
    run: Run, command: Callable[[str], list[str]], tmp_path: Path, name: str
):
    for _ in range(2):
        code, told = run(*command(VERBS[name].command))
        assert code == 0, told
    left = [path for path in contents(tmp_path) if path.endswith((".tmp", ".partial"))]
    assert left == []


def test_explore_keeps_the_table_that_it_was_given(
    run: Run, trained: Path, features: Path, tmp_path: Path
):
    """Was wrong: `explore RUN val.html --table val.arrow` wrote features of 2 of 24 videos over val.arrow."""
    shutil.copy(features.with_name("table.arrow"), tmp_path / "val.arrow")
    before = contents(tmp_path)
    command = ["explore", trained, tmp_path / "val.html", "--table", tmp_path / "val.arrow"]
    code, told = run(*command, "--max-videos", 2)
    assert code == 0, told
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before == {"val.html", "val.features.arrow", "val.videos.arrow"}
    assert run(*command, "--max-videos", 3)[0] == 0, "other features in place of its own"
    shutil.copy(features, tmp_path / "val.features.arrow")  # somebody's, made by embed
    code, told = run(*command)
    assert (code, "val.features.arrow is there already" in told) == (2, True), told


def test_build_does_not_write_over_its_own_table(run: Run, ds: Path, tmp_path: Path):
    """Was wrong: `data build ds ds` removed ds/train.arrow, which it was reading."""
    rows = [{"source": f"videos/{number}.mp4"} for number in range(3)]
    Table.from_rows(rows, root=ds).save(ds / "train.arrow")
    before = contents(ds)
    code, told = run("data", "build", ds, ds)
    assert (code, "train.arrow, which is read" in told) == (2, True), told
    assert contents(ds) == before


def test_align_does_not_write_over_a_video_that_it_reads(
    run: Run, clips: Path, features: Path, tmp_path: Path
):
    command = ["align", "0.mp4", "1.mp4", "--in", features, "--out", tmp_path]
    assert run(*command)[0] == 0
    shutil.copy(clips / "0.mp4", tmp_path / "mine.mp4")
    (tmp_path / "aligned.mp4").unlink()
    os.link(tmp_path / "mine.mp4", tmp_path / "aligned.mp4")
    before = contents(tmp_path)
    code, told = run(*command[:1], tmp_path / "mine.mp4", *command[2:])
    assert (code, "mine.mp4, which is read" in told) == (2, True), told
    assert contents(tmp_path) == before


def test_an_encoder_folder_with_somebodys_notes_is_not_replaced(trained: Path, tmp_path: Path):
    """Was wrong: the whole folder went, whatever lay beside the weights."""
    from video_ssl.models.encoders import EncoderError, load_encoder, save_encoder

    folder = tmp_path / "encoder"
    shutil.copytree(trained / "encoder", folder)
    encoder = load_encoder(folder)
    about = {"architecture": "vit", "preprocess": encoder.preprocess, "source": {}}
    save_encoder(folder, encoder, **about)
    (folder / "notes.txt").write_bytes(NOTES)
    with pytest.raises(EncoderError, match=r"notes\.txt, which is no part of an encoder"):
        save_encoder(folder, encoder, **about)
    assert (folder / "notes.txt").read_bytes() == NOTES
