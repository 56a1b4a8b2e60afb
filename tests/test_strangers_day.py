"""A stranger's day: 75 odd files in class folders, and the lines of the README as they are written there.

The lines are taken from README.md itself; only the folder is another, one objective is trained in place of MVD's three
stages, and `SET` makes network and training small.  Every line runs in a shell, in the order of the README.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser, needs_browser
from strangers_folder import AGAIN, BROKEN, CLASSES, COPY, make_strangers_folder

import video_ssl
from video_ssl.datasets.table import Table

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "training.scale=0.01",
    "objective.encoder={preset: null, embed_dim: 32, depth: 2, num_heads: 2}",
    "objective.decoder={embed_dim: 16, depth: 1, num_heads: 2}",
    "objective.clip={num_frames: 8, frame_stride: 1, num_clips: 2}",
    "objective.crop.size=32",
    "loader.num_workers=1",
]
#: Of the fine-tuning: clips as the small encoder has them.
SMALL_TUNING = [
    "training.scale=0.1",
    "objective.clip={num_frames: 8, frame_stride: 1}",
    "objective.crop.size=32",
    "loader.num_workers=1",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]


def readme_lines() -> list[str]:
    """The commands of README's "Your own videos", without what is said about them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Your own videos\n.*?```bash\n(.*?)```", text, re.DOTALL)
    assert block
    return [re.split(r"\s+# ", line)[0] for line in block[1].splitlines()]


class Day:
    """The stranger's folder of work: a checkout's Makefile and recipes, videos, and what commands have said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos = make_strangers_folder(folder / "meine Vidéos")
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        for room in ("pretrain", "evaluate"):
            (folder / room).symlink_to(ROOT / room)
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        (folder / ".venv" / ".ready").touch()

    def run(self, line: str, **environment: str) -> str:
        """Returns all that a line has said; it must succeed, and no traceback is ever seen."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )
        assert "Traceback" not in done.stdout, f"{line}\n{done.stdout}"
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    return Day(tmp_path_factory.mktemp("a stranger"))


@pytest.fixture(scope="module")
def said(day):
    """Verb -> what it said, of all lines of the README in their order."""
    found = {}
    for line in readme_lines():
        shown = line.replace("/my/videos", shlex.quote(str(day.videos)))
        shown = shown.replace("make pretrain-mvd", "make pretrain-videomae")
        verb = "make" if line.startswith("make ") else shlex.split(line)[1]
        if verb == "pretrain":
            shown = f"{shown} {shlex.join(SMALL_TUNING)}"
        found[verb] = day.run(shown, SET=shlex.join(SMALL))
    return found


def test_the_readme_goes_from_scan_to_report(said):
    order = "scan transcode split make compare pretrain embed report"
    assert list(said) == order.split()


def test_scan_names_what_is_broken_and_sums_up_what_is_odd(day, said):
    for name in BROKEN:
        assert name in said["scan"]
    table = Table.open(day.folder / "videos.arrow")
    assert len(table) == 72
    assert set(table.class_names) == set(CLASSES)
    for odd in ("av1 (", "one frame only: 1", "turned (shown upright)", COPY):
        assert odd in said["scan"]


def test_split_keeps_copies_together_and_every_class_on_both_sides(day, said):
    sides = {side: Table.open(day.folder / "parts" / f"{side}.arrow") for side in ("train", "test")}
    assert sum(len(table) for table in sides.values()) == 72
    assert 10 <= len(sides["test"]) <= 20
    for table in sides.values():
        assert {*table.column("label").tolist()} == set(range(len(CLASSES)))
    names = {
        side: {Path(i).name.rpartition(".")[0] for i in table.column("id") if "pfel" in i}
        for side, table in sides.items()
    }
    copies = {"00", COPY.removesuffix(".mp4"), AGAIN.removesuffix(".mp4")}
    assert copies <= names["train"] or copies <= names["test"]


def test_a_short_training_leaves_an_encoder_and_says_how_long_it_takes(day, said):
    assert "encoder in " in said["make"]
    encoder = video_ssl.load_encoder(day.folder / "runs" / "mine")
    found = encoder(day.videos / "jumping jack" / "01.mp4")
    assert found.clip.shape == (32,)
    assert len(found.frames) == len(found.times_sec) > 8


def test_compare_puts_the_encoder_beside_what_has_learned_nothing(day, said):
    (file,) = (day.folder / "runs" / "compare").rglob("results.json")
    results = json.loads(file.read_text())
    assert results["videos"]["test"] + results["videos"]["train"] == 72
    assert len(results["encoders"]) == 3  # runs/mine, untrained, pixels
    assert (file.parent / "compare.html").is_file()
    assert "guess" in said["compare"]


def test_fine_tuning_keeps_its_classes_and_says_its_accuracy(day, said):
    row = json.loads((day.folder / "runs/classes/metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= row["val_top1"] <= 1
    assert "mean of the classes" in said["pretrain"]
    kept = json.dumps(
        [json.loads(f.read_text()) for f in (day.folder / "runs/classes/encoder").glob("*.json")]
    )
    for name in CLASSES:
        assert json.dumps(name)[1:-1] in kept


def test_dedup_finds_the_copy_and_the_copy_that_was_coded_again(day, said):
    day.run(".venv/bin/video-ssl dedup videos.arrow copies")
    found = (day.folder / "copies" / "copies.json").read_text()
    for name in ("00.mp4", COPY, AGAIN):
        assert json.dumps(name)[1:-1] in found


def test_features_know_every_video_that_can_be_read(day, said):
    features = video_ssl.open_features(day.folder / "features.arrow")
    assert len({*features.ids.tolist()}) == 72
    assert {Path(entry["source"]).name for entry in features.skipped} == set(BROKEN)
    _, times = features.frames_of("jumping jack/01.mp4")
    assert times[0] == 0


@needs_browser
def test_pages_open_without_a_fault_on_a_desk_and_on_a_phone(day, said):
    """explore, search, report: nothing wider than the screen, no error, nothing fetched, pictures on the first two."""
    day.run(".venv/bin/video-ssl explore features.arrow page.html --max-videos 6")
    clip = shlex.quote(str(day.videos / "Äpfel schälen" / COPY))
    asked = f"search {clip} --in features.arrow --encoder runs/mine -k 5"
    day.run(f".venv/bin/video-ssl {asked} --page found.html --out found.json")
    found = json.loads((day.folder / "found.json").read_text())
    assert any(Path(moment["id"]).name == "00.mp4" for moment in found["moments"][:3])
    (compared,) = (day.folder / "runs" / "compare").rglob("compare.html")
    for page in ("page.html", "found.html", "runs/mine/report.html", compared):
        for width in (1280, 390):
            with Browser(width=width, height=900) as browser:
                browser.open(day.folder / page)
                assert browser.eval("document.documentElement.scrollWidth") <= width, (page, width)
                assert browser.errors == [], page
                assert not [url for url in browser.requests if url.startswith("http")]
        if page in ("page.html", "found.html"):
            assert "data:image/" in (day.folder / page).read_text()
