"""Dedup, as it is called: a folder with copies, parts and stretches, other codecs and sizes, and its page."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from browser import Browser, needs_browser
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.clips.upkeep import dedup, looks, split
from video_ssl.clips.upkeep.isolated import Failure
from video_ssl.clips.upkeep.journal import Journal
from video_ssl.datasets.folder import read_folder


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def scene(seed: int, num_frames: int) -> np.ndarray:
    """Pictures (T, 96, 128, 3) of boxes that drift over a ground with texture: every moment looks otherwise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]
    places, speeds = rng.uniform(0, 1, (9, 2)), rng.normal(0, 0.01, (9, 2))
    colors, sizes = rng.uniform(0, 255, (9, 3)), rng.uniform(6, 28, (9, 2))
    ground = np.kron(rng.uniform(60, 190, (12, 16, 3)), np.ones((8, 8, 1)))
    frames = np.repeat(ground[None], num_frames, axis=0)
    for t in range(num_frames):
        for place, speed, color, size in zip(places, speeds, colors, sizes, strict=True):
            cy, cx = ((place + speed * t) % 1) * (96, 128)
            frames[t][(abs(y - cy) < size[0]) & (abs(x - cx) < size[1])] = color
    return frames.clip(0, 255).astype(np.uint8)


def write(path: Path, frames: np.ndarray, *, codec: str = "libx264", half: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if half:
        frames = frames.reshape(len(frames), 48, 2, 64, 2, 3).mean(axis=(2, 4)).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.bit_rate = 400_000
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("archive") / "my vidéos"
    first, second, third, fourth = (scene(seed, 80) for seed in range(4))
    write(place / "first.mp4", first)
    write(place / "again/first copy.avi", first, codec="mpeg4", half=True)
    write(place / "second.mp4", second)
    write(place / "part of second.mp4", second[24:56])
    mixed = np.concatenate([third[:30], fourth[20:60], third[30:60]])
    write(place / "third and fourth.mp4", mixed)
    write(place / "fourth.mp4", fourth)
    write(place / "alone.mp4", scene(9, 60))
    (place / "broken.mp4").write_bytes(b"no video")
    return place


@pytest.fixture(scope="module")
def result(folder) -> Path:
    out = folder.parent / "copies"
    told = run("dedup", folder, out, "--num-workers", 1)
    assert "7 videos compared by fingerprints of their pictures: 2 copies in 1 sets" in told
    assert "1 videos could not be read and were not compared; the first: broken.mp4" in told
    return out


def found_in(out: Path) -> dict[tuple[str, str], dict]:
    content = json.loads((out / "copies.json").read_text(encoding="utf-8"))
    return {(pair["a"], pair["b"]): pair for pair in content["pairs"]}


def test_copies_parts_and_stretches_are_told_apart(result):
    content = json.loads((result / "copies.json").read_text(encoding="utf-8"))
    assert content["copies"] == [["again/first copy.avi", "first.mp4"]]
    pairs = found_in(result)
    kinds = {tuple(sorted(key)): pair["kind"] for key, pair in pairs.items()}
    assert kinds == {
        ("again/first copy.avi", "first.mp4"): "copy",
        ("part of second.mp4", "second.mp4"): "part",
        ("fourth.mp4", "third and fourth.mp4"): "stretch",
    }
    assert sorted(map(sorted, content["groups"])) == sorted(map(list, kinds))
    assert list(content["unread"]) == ["broken.mp4"]


def test_stretches_are_where_they_were_put(result):
    for (a, b), pair in found_in(result).items():
        (stretch,) = pair["stretches"]
        starts = {a: stretch["a_start_sec"], b: stretch["b_start_sec"]}
        if "second.mp4" in starts:
            assert starts["second.mp4"] - starts["part of second.mp4"] == pytest.approx(3, abs=0.26)
            assert stretch["a_end_sec"] - stretch["a_start_sec"] == pytest.approx(4, abs=0.51)
        if "fourth.mp4" in starts:
            # 5 s of it from 2.5 s on, which begin 3.75 s into the mixed one.
            assert starts["fourth.mp4"] == pytest.approx(2.5, abs=0.51)
            assert starts["third and fourth.mp4"] - starts["fourth.mp4"] == pytest.approx(
                1.25, abs=0.26
            )
            assert stretch["a_end_sec"] - stretch["a_start_sec"] == pytest.approx(5, abs=0.76)


def test_another_threshold_looks_at_nothing_again(folder, result, monkeypatch):
    before = (result / "copies.json").read_text(encoding="utf-8")
    monkeypatch.setattr(looks, "run_isolated", lambda *_, **__: iter([]))
    run("dedup", folder, result, "--num-workers", 1)
    assert (result / "copies.json").read_text(encoding="utf-8") == before
    run("dedup", folder, result, "--threshold", 0.001)
    assert len(found_in(result)) < 3
    run("dedup", folder, result, "--min-sec", 6)
    assert {pair["kind"] for pair in found_in(result).values()} == {"copy", "part"}
    run("dedup", folder, result, "--num-workers", 1)  # as it was, for the others
    assert (result / "copies.json").read_text(encoding="utf-8") == before


def test_too_little_time_and_a_crash_are_no_verdicts(folder, tmp_path, monkeypatch):
    """Was wrong: what had timed out or crashed once was never looked at again, whatever `--timeout-sec` said."""
    source = tmp_path / "videos"
    source.mkdir()
    for name in ("alone.mp4", "broken.mp4", "first.mp4"):
        shutil.copy(folder / name, source)
    reasons = [
        Failure("crashes the decoder (SIGSEGV); its process was replaced.", died=True),
        Failure("is broken for good."),
        Failure("has no time.", slow=True),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(
            looks,
            "run_isolated",
            lambda _, tasks, **__: ((row, reasons[row]) for row, _ in tasks),
        )
        run("dedup", source, tmp_path / "out", "--num-workers", 1)
    told = run("dedup", source, tmp_path / "out", "--num-workers", 1)
    assert "2 videos compared" in told
    assert "broken.mp4: is broken for good." in told


@pytest.mark.parametrize("verb", ["dedup", "split"])
def test_a_reader_without_time_says_so(folder, tmp_path, verb):
    """Was wrong of `split` still: once broken off, it kept a time-out as its verdict."""
    table = read_folder(folder).select([0, 1])
    argument = {
        "dedup": lambda record: (record, 2.0, 1e-4),
        "split": lambda record: (record, 1e-4),
    }[verb]
    function = {"dedup": dedup.LOOK, "split": split.LOOK}[verb]
    with Journal(tmp_path / "j.jsonl", {}) as journal:
        seen = looks.looks(
            function, table, journal, argument, num_workers=1, timeout_sec=60, progress=False
        )
        reasons = [entry["reason"] for _, entry in seen]
        # Not "cannot be opened as a video (Immediate exit requested)", as FFmpeg puts it.
        assert reasons == ["takes longer than 0.0001 s to read."] * 2
        assert not journal.entries


def test_features_are_compared_as_well(folder, tmp_path):
    run("embed", "pixels:8", folder, tmp_path / "f.arrow", "--per-frame", "--num-workers", 0,
        "--frame-stride", 1)  # fmt: skip
    told = run("dedup", tmp_path / "f.arrow", tmp_path / "out", "--threshold", 0.0005)
    assert "7 videos compared by features of their frames" in told
    kinds = {tuple(sorted(key)): p["kind"] for key, p in found_in(tmp_path / "out").items()}
    assert kinds[("again/first copy.avi", "first.mp4")] == "copy"
    assert kinds[("part of second.mp4", "second.mp4")] == "part"
    clips = tmp_path / "clips.npz"
    np.savez(clips, features=np.ones((2, 3)))
    assert "embed again with --per-frame" in run("dedup", clips, tmp_path / "no", code=2)
    assert not (tmp_path / "no").exists()


def test_what_is_not_ours_is_not_replaced(folder, tmp_path):
    (tmp_path / "copies.html").write_text("mine")
    assert "has copies.html already" in run("dedup", folder, tmp_path, code=2)
    assert (tmp_path / "copies.html").read_text() == "mine"
    assert "threshold=2.0 must lie" in run("dedup", folder, tmp_path, "--threshold", 2, code=2)


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_shows_both_sides(result, width, dark):
    with Browser(width, 1000, dark=dark) as browser:
        browser.open(result / "copies.html")
        assert browser.eval("document.querySelectorAll('.twins').length") == 3
        assert browser.eval("document.querySelectorAll('button.moving').length") == 6
        assert browser.eval("document.documentElement.scrollWidth") <= width
        browser.click(".twins .moving")
        assert browser.eval("document.querySelectorAll('[aria-pressed=true]').length") == 1
        links = browser.eval("[...document.querySelectorAll('.twins a')].map(a => a.href)")
        assert len(links) == 6
        assert all(link.startswith("file:///") for link in links)
        assert browser.errors == []
