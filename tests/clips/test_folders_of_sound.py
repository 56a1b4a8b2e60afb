"""Folders of recordings of sound alone, as a user has them: read, divided and scanned without a list of them."""

from __future__ import annotations

import logging
import wave
from pathlib import Path

import numpy as np
import pytest
from sounding_videos import write_sounding_video
from untrained_run import untrained_run

import video_ssl
from video_ssl.clips.upkeep.config import ScanConfig, SplitConfig
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.clips.upkeep.split import split_table
from video_ssl.datasets import open_table
from video_ssl.datasets.table import TableError
from video_ssl.embed.embed_videos import open_source
from video_ssl.embed.embedding import EmbeddingError


def write_wave(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 3000, 2000)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(noise.astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings of each of two classes, in a folder with a space."""
    place = tmp_path / "my sounds"
    for number in range(6):
        write_wave(place / ("bell" if number % 2 else "hum") / f"{number}.WAV", number)
    return place


def test_a_folder_of_recordings_is_a_table_with_classes(folder: Path) -> None:
    """Was wrong: "holds no video", though recipes and docs speak of folders of recordings."""
    table = open_table(folder)
    assert table.class_names == ("bell", "hum")
    assert [table.record(row).id for row in range(3)] == ["bell/1.WAV", "bell/3.WAV", "bell/5.WAV"]
    assert table.column("label").tolist() == [0, 0, 0, 1, 1, 1]


def test_recordings_beside_videos_are_left_out_aloud(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: 23 recordings beside 2 videos were "files of other kinds", an information among others."""
    write_sounding_video(folder / "bell" / "clip.mkv", seed=0)
    with caplog.at_level(logging.WARNING):
        table = open_table(folder)
    assert [table.record(row).id for row in range(len(table))] == ["bell/clip.mkv"]
    assert (
        "left out 6 × recordings of sound alone, which are taken only where there are no videos"
        in caplog.text
    )
    assert "bell/1.WAV" in caplog.text


def test_one_recording_is_a_source(folder: Path) -> None:
    """Was wrong: "a file must end in .arrow, .csv, ..."."""
    table = open_source(str(folder / "bell" / "1.WAV"))
    assert [table.record(row).id for row in range(len(table))] == ["1.WAV"]


def test_recordings_are_divided_and_nobody_calls_them_broken(folder: Path, tmp_path: Path) -> None:
    """Was wrong: they "could not be read", and a scan, which leaves all of them out, was advised."""
    found = split_table(
        open_table(folder),
        tmp_path / "parts",
        SplitConfig(test=0.34, num_workers=0),
        progress=False,
    )
    told = "\n".join(found.lines)
    assert "6 recordings of sound alone: copies of them are not looked for" in told
    assert "could not be read" not in told
    assert "bell: 2 + 1, hum: 2 + 1" in told


def test_an_encoder_of_video_is_not_for_them(folder: Path, tmp_path: Path) -> None:
    """Was wrong: "only sound..", and nothing of which encoder would do."""
    encoder = untrained_run(tmp_path / "toy")
    with pytest.raises(
        EmbeddingError, match=r"only sound\. Recordings need an encoder of sound, such as"
    ):
        video_ssl.embed(str(encoder), str(folder), tmp_path / "f.arrow", num_workers=0)


def test_a_scan_says_that_it_is_not_for_them(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="recordings of sound alone are used as the table has"):
        scan_table(
            open_table(folder),
            tmp_path / "scanned.arrow",
            ScanConfig(num_workers=0),
            progress=False,
        )
