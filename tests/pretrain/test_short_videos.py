"""Videos too short for two clips are left out before the training where the table knows it, counted and named; data of
which too few videos are left are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from video_ssl.clips.samples import TooManyBadVideos
from video_ssl.clips.too_short import what_helps
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.lengths import check_batch, check_data
from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe
from video_ssl.pretrain.run import open_streams
from video_ssl.pretrain.short_videos import known_seconds
from video_ssl.pretrain.start import run_recipe


def recipe_of(table: Path, run: Path, *more: str) -> PretrainRecipe:
    """HiCo on clips of 0.4 s, a step and no more."""
    return load_pretrain_recipe(
        "hico/small",
        [
            f"data.table={table}",
            f"run={run}",
            "objective.clip={num_frames: 4, frame_stride: 2, fps: 20, num_clips: 3}",
            "objective.crop.size=32",
            "objective.encoder={preset: null, depth: 10, widths: [2, 2, 2, 2, 4], block: r2plus1d}",
            "training.global_batch_size=4",
            "training.duration=2 steps",
            "training.checkpoint_every=2 steps",
            "training.device=cpu",
            "optimizer.warmup=1 steps",
            "loader.num_workers=0",
            *more,
        ],
    )


@pytest.fixture
def mixed(videos: Path, tmp_path: Path) -> Path:
    """A scanned table of six videos, of which two last a quarter of a second."""
    folder = tmp_path / "some videos"
    folder.mkdir()
    for place, path in enumerate(sorted(videos.iterdir())[:4]):
        shutil.copy(path, folder / f"long{place}{path.suffix}")
    write_short(folder)
    table = tmp_path / "scanned.arrow"
    scan_table(open_table(str(folder)), table, progress=False)
    return table


def write_short(folder: Path) -> None:
    """Two videos of a quarter of a second."""
    for name in ("short0", "short1"):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=20)
            stream.width = stream.height = 64
            for _ in range(5):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def test_they_are_left_out_of_a_scanned_table_and_are_not_bad_videos(
    mixed: Path, tmp_path: Path
) -> None:
    """Was wrong: they were drawn, skipped when read, and counted as broken: above max_bad_share the training ended."""
    recipe = recipe_of(mixed, tmp_path / "run", "loader.max_bad_share=0")
    run_recipe(recipe)
    (log,) = (tmp_path / "run" / "logs").iterdir()
    said = log.read_text()
    assert "2 of 6 videos are left out, as they are shorter than the 0.80 s" in said
    assert "short0" in said
    assert "short1" in said
    assert "hico on 4 records of" in said
    assert not (tmp_path / "run" / "skipped.jsonl").exists()


def test_nothing_left_says_what_to_do(mixed: Path, tmp_path: Path) -> None:
    recipe = recipe_of(mixed, tmp_path / "run", "objective.clip.frame_stride=200")
    with pytest.raises(RunError, match=r"every video is shorter than the 80\.00 s"):
        run_recipe(recipe)


def test_a_folder_of_short_videos_says_what_helps(tmp_path: Path) -> None:
    """Was wrong: "Remove or repair these files", of files that are whole."""
    write_short(tmp_path)
    with pytest.raises(TooManyBadVideos) as caught:
        run_recipe(recipe_of(tmp_path, tmp_path / "run"))
    text = str(caught.value)
    assert "short0.mp4: too short: it lasts 0.25 s, and clips of 0.40 s need twice that" in text
    assert "Remove" not in text
    assert "ake longer videos, or shorter clips (lower objective.clip.num_frames" in text


@pytest.mark.parametrize(
    "reasons", [["cannot be opened"], ["too short: a"], ["too short: a", "cannot be opened"]]
)
def test_what_helps_names_files_that_are_broken_and_clips_that_are_too_long(
    reasons: list[str],
) -> None:
    text = what_helps(reasons)
    assert ("Remove or repair" in text) == ("cannot be opened" in reasons)
    assert ("ake longer videos" in text) == ("too short: a" in reasons)


def test_a_video_alone_is_refused_by_an_objective_that_tells_videos_apart(
    videos: Path, mixed: Path, tmp_path: Path
) -> None:
    """Was wrong: it trained on batches of one and the same video, or asked for a larger batch, which does nothing."""
    first = sorted(videos.iterdir())[0]
    once, twice = tmp_path / "once.csv", tmp_path / "twice.csv"
    once.write_text(f"path\n{first}\n", encoding="utf-8")
    twice.write_text(f"path\n{first}\n{first}\n", encoding="utf-8")
    one_long = tmp_path / "one_long.arrow"
    table = open_table(str(mixed))
    long = next(row for row in range(len(table)) if "long" in table.record(row).source)
    short = [row for row in range(len(table)) if "short" in table.record(row).source]
    table.select(np.array([long, *short])).save(one_long)
    text = r"the data hold one usable video; hico tells videos apart\. At least two are needed: add"
    for place in (once, twice, one_long):
        for shrink in ("true", "false"):
            recipe = recipe_of(place, tmp_path / "run", f"training.shrink_batch={shrink}")
            with pytest.raises(RunError, match=text):
                run_recipe(recipe)
    streams = open_streams(recipe_of(videos, tmp_path / "run"))
    check_data(recipe_of(videos, tmp_path / "run"), next(iter(streams.values())))


def test_too_many_processes_for_a_batch_that_the_data_have_lowered(
    videos: Path, tmp_path: Path
) -> None:
    """Was wrong: "Raise training.global_batch_size", which training.shrink_batch lowers again."""
    recipe = recipe_of(
        videos, tmp_path, "training.global_batch_size=2", "training.shrink_batch=true"
    )
    with pytest.raises(RunError, match=r"gets 1 record .* where these are too few, take more"):
        check_batch(recipe, 2)


def test_one_usable_file_beside_a_broken_one_ends_the_run(videos: Path, tmp_path: Path) -> None:
    """Was wrong: the broken one was replaced, every record of every step was the same video, and the run finished."""
    folder = tmp_path / "two"
    folder.mkdir()
    first = sorted(videos.iterdir())[0]
    shutil.copy(first, folder / f"good{first.suffix}")
    (folder / "broken.mp4").write_bytes(b"not a video at all, but long enough" * 10)
    recipe = recipe_of(folder, tmp_path / "run", "training.global_batch_size=2")
    with pytest.raises(TooManyBadVideos, match=r"only one of the 2 videos of .* can be used"):
        run_recipe(recipe)


def test_what_is_not_known_stays(videos: Path, tmp_path: Path) -> None:
    """Bare files are not opened beforehand: those that are short are skipped when they are read, and named then."""
    recipe = recipe_of(videos, tmp_path / "run", "objective.clip.frame_stride=200")
    (stream,) = open_streams(recipe).values()
    assert stream.num_examples == len(list(videos.iterdir()))
    assert np.isinf(known_seconds(stream.only_tables[0])).all()


@pytest.mark.parametrize(
    ("columns", "seconds"),
    [
        ({}, np.inf),
        ({"duration_sec": [3.0]}, 3.0),
        ({"duration_sec": [3.0], "num_frames": [50], "fps": [25.0]}, 2.0),
        ({"start_sec": [1.0], "end_sec": [1.5]}, 0.5),
        ({"start_sec": [1.0]}, np.inf),
        ({"num_frames": [50]}, np.inf),
        ({"num_frames": [50], "fps": [0.0]}, np.inf),
    ],
)
def test_how_long_a_record_lasts(columns: dict[str, list[float]], seconds: float) -> None:
    table = Table.from_columns({"id": ["a"], "source": ["/a.mp4"], **columns})
    assert known_seconds(table).tolist() == [seconds]
