"""A restart that is stopped before any of its changes of files: encoder A's numbers never get encoder B's name.

A child process does the work and ends, as by kill -9, right before its k-th change of a file, for every k until it is
through.  Then A, or B, goes on without a restart: what comes is its own features, or a refusal.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.datasets.table import Table
from video_ssl.embed import partial, rows
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.embed.shards import merge_shards, write_shard
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess

CONFIG = EmbedConfig(hop=8, batch_size=1, num_workers=0)
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.link",
    "os.symlink",
)
_KILLED = 77


@pytest.fixture(autouse=True)
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_ROWS", 1)
    # The children die, not the machine: what they wrote is there without waiting for the disk.
    monkeypatch.setattr(os, "fsync", lambda _: None)


def embedder(name: str) -> Embedder:
    """Encoder A or B: pixels, those of B ten times as large."""
    module = PixelEncoder(PixelsConfig(num_frames=4, size=2))
    module.preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=16)
    module.architecture, module.source = "pixels", {}
    made = Embedder(module, CONFIG, name=name)
    if name == "B":
        forward = made.forward
        made.fingerprint = "b" * 16
        made.forward = lambda video: {  # type: ignore[method-assign]
            name: 10 * part for name, part in forward(video).items()
        }
    return made


def die_at(change: int) -> None:
    """From here on this process ends right before its `change`-th change of a file."""
    left = [change]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(_KILLED)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes or event in _CHANGES:
            count()

    write, sync = partial._write_all, os.fsync
    partial._write_all = lambda *given: (count(), write(*given))[1]  # type: ignore[assignment]
    os.fsync = lambda file: (count(), sync(file))[1]  # type: ignore[assignment]
    sys.addaudithook(watch)


def killed(work: Callable[[], object], change: int) -> bool:
    """Does `work` in a child that dies before its `change`-th change of a file; whether it died."""

    def child() -> None:
        torch.set_num_threads(1)
        die_at(change)
        work()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode in (0, _KILLED), f"change {change}: {process.exitcode}"
    return process.exitcode == _KILLED


@pytest.fixture
def table(videos: Path) -> Table:
    return Table.open(videos / "train.arrow").select([0, 4])


def begin(table: Table, out: Path, name: str = "A") -> None:
    """Leaves the features of an encoder unfinished."""
    made, calls = embedder(name), []
    forward = made.forward

    def broken(video: np.ndarray) -> object:
        calls.append(video)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(video)

    made.forward = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        made.embed(table, out, progress=False)
    assert partial.partial_folder(out).is_dir()


def whole(table: Table, folder: Path) -> dict[str, np.ndarray]:
    return {
        name: embedder(name).embed(table, folder / f"{name}.arrow").features.copy() for name in "AB"
    }


def came(work: Callable[[], FeatureFile], expected: np.ndarray) -> bool:
    """Whether features came, and not a refusal; they are the expected ones."""
    try:
        found = work()
    except (FeatureError, EmbeddingError) as err:
        if not any(word in str(err) for word in ("--restart", "lacks the shards", "differ")):
            raise
        return False
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    return True


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "f.arrow")


def test_a_restart_killed_anywhere_leaves_the_rows_of_one_encoder(
    table: Table, tmp_path: Path
) -> None:
    """Was wrong: killed before its fourth change of a file, B went on behind A's rows."""
    expected = whole(table, tmp_path)
    counts = {"A": 0, "B": 0}
    for change in itertools.count():
        out = tmp_path / str(change) / "f.arrow"
        begin(table, out)
        died = killed(
            lambda out=out: embedder("B").embed(table, out, restart=True, progress=False), change
        )
        for name in "AB":
            copy = shutil.copytree(out.parent, tmp_path / f"{change}{name}") / "f.arrow"
            if copy.is_file():  # complete: the file itself says of which encoder
                assert came(lambda copy=copy: open_features(copy), expected["B"])
                continue
            counts[name] += came(
                lambda copy=copy, name=name: embedder(name).embed(table, copy, progress=False),
                expected[name],
            )
        again = embedder("B").embed(table, out, progress=False, restart=True)
        np.testing.assert_allclose(again.features, expected["B"], atol=1e-5)
        if not died:
            break
    assert change > 15
    assert min(counts.values()) > 2, counts


def test_a_shard_restarted_and_killed_anywhere_keeps_its_encoder(
    table: Table, tmp_path: Path
) -> None:
    """Was wrong: the note of a shard named B while the file beside it still held A's rows."""
    expected = whole(table, tmp_path)
    counts = {"A": 0, "B": 0}
    for change in itertools.count():
        out = tmp_path / str(change) / "f.arrow"
        for k in range(2):
            write_shard(embedder("A"), table, out, k, 2, progress=False)
        died = killed(
            lambda out=out: write_shard(
                embedder("B"), table, out, 0, 2, restart=True, progress=False
            ),
            change,
        )
        for name in "AB":
            copy = shutil.copytree(out.parent, tmp_path / f"{change}{name}") / "f.arrow"
            # Both shards of B, or all of A: only these may come together.
            if name == "B":
                write_shard(embedder("B"), table, copy, 1, 2, restart=True, progress=False)
            counts[name] += came(lambda copy=copy: merge_shards(copy), expected[name])
        if not died:
            break
    assert change > 15
    assert counts["A"] > 10
    assert counts["B"] >= 1


def test_a_merge_killed_anywhere_ends_with_the_file_of_all_shards(
    table: Table, tmp_path: Path
) -> None:
    """Was wrong: killed while it removed shards, the merge asked for shards that were in the file already."""
    expected = whole(table, tmp_path)
    for change in itertools.count():
        out = tmp_path / str(change) / "f.arrow"
        for k in range(2):
            write_shard(embedder("A"), table, out, k, 2, progress=False)
        died = killed(lambda out=out: merge_shards(out), change)
        assert came(lambda out=out: merge_shards(out), expected["A"])
        assert leftovers(out.parent) == []
        if not died:
            break
    assert change > 3


def test_rows_of_another_job_are_refused_however_they_came_there(
    table: Table, tmp_path: Path
) -> None:
    for name in "AB":
        begin(table, tmp_path / name / "f.arrow", name)
    for piece in (partial.ROWS, partial.JOURNAL):
        mixed = shutil.copytree(tmp_path / "A", tmp_path / piece)
        shutil.copy(tmp_path / "B" / "f.arrow.partial" / piece, mixed / "f.arrow.partial" / piece)
        with pytest.raises(
            FeatureError, match=rf"{piece} has (rows|lines) of another job.*--restart"
        ):
            embedder("A").embed(table, mixed / "f.arrow", progress=False)
    (mixed / "f.arrow.partial" / partial.JOB).unlink()
    with pytest.raises(FeatureError, match=r"has rows, but no job\.json .*--restart"):
        embedder("B").embed(table, mixed / "f.arrow", progress=False)
