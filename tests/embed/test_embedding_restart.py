"""An embedding that is killed, runs out of disk, or meets bad decoders: nothing lost, nothing doubled, all told."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch

from video_ssl.clips import reading, windows
from video_ssl.clips.decoders.pyav import reader as pyav_reader
from video_ssl.clips.decoders.reader import READERS, BadVideo
from video_ssl.datasets.table import Table
from video_ssl.embed import partial, rows, window_workers
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.features import FeatureError
from video_ssl.embed.partial import PartialFeatures
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess

CONFIG = EmbedConfig(hop=2, batch_size=3, num_workers=0)


@pytest.fixture(autouse=True)
def small_commits(monkeypatch):
    monkeypatch.setattr(rows, "_ROWS", 2)


def embedder(config=CONFIG):
    module = PixelEncoder(PixelsConfig(num_frames=4, size=2))
    module.preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=16)
    module.architecture, module.source = "pixels", {}
    return Embedder(module, config)


def in_child(work):
    """The exit code of a forked process that does `work`."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def embed_and_die(table, out, batches, config=CONFIG):
    """Embeds until the encoder has seen so many batches, then dies as by kill -9."""

    def work():
        torch.set_num_threads(1)
        made, left = embedder(config), [batches]
        forward = made.forward

        def mortal(video):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return forward(video)

        made.forward = mortal
        made.embed(table, out, progress=False)

    return in_child(work)


def same(a, b):
    assert a.ids.tolist() == b.ids.tolist()
    assert a.table["clip"].to_pylist() == b.table["clip"].to_pylist()
    assert a.table["start_sec"].to_pylist() == b.table["start_sec"].to_pylist()
    assert a.skipped == b.skipped
    np.testing.assert_allclose(a.features, b.features, atol=1e-6)
    for row in range(len(a)):
        np.testing.assert_allclose(a.frames(row)[0], b.frames(row)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("batches", "config"),
    [
        (1, CONFIG),
        (3, CONFIG),
        (8, CONFIG),
        (4, EmbedConfig(hop=2, crop="spread", num_crops=3, batch_size=4, num_workers=0)),
        (9, EmbedConfig(per_frame=True, batch_size=2, num_workers=1)),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_rows(videos, tmp_path, batches, config):
    table = Table.open(videos / "broken.arrow")
    whole = embedder(config).embed(table, tmp_path / "whole.arrow")
    out = tmp_path / "f.arrow"
    starts = []
    while (code := embed_and_die(table, out, batches, config)) != 0:
        assert code == -signal.SIGKILL
        assert not out.exists()
        journal = (tmp_path / "f.arrow.partial" / "journal.jsonl").read_text().splitlines()
        state = json.loads(journal[-1])
        starts.append((state["records"], state["clips"]))
        assert len(starts) < 50
        if len(starts) > 3 and starts[-1] == starts[-3]:
            # One batch may be less than a commit: rows that never count would go round for ever.
            batches += 1
    assert starts == sorted(starts)
    same(embedder(config).embed(table, tmp_path / "g.arrow"), whole)
    from video_ssl.embed.features import open_features

    same(open_features(out), whole)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_long_video_goes_on_in_its_middle(videos, tmp_path, monkeypatch):
    table = Table.open(videos / "train.arrow").select([3])  # 21 frames
    config = EmbedConfig(hop=1, batch_size=2, num_workers=0)
    whole = embedder(config).embed(table, tmp_path / "whole.arrow")
    assert embed_and_die(table, tmp_path / "f.arrow", 5, config) != 0
    asked = []
    original = window_workers.iterate_windows

    def noted(record, reader, settings, *, first=0):
        asked.append(first)
        return original(record, reader, settings, first=first)

    monkeypatch.setattr(window_workers, "iterate_windows", noted)
    same(embedder(config).embed(table, tmp_path / "f.arrow"), whole)
    assert asked == [10]


def test_what_a_crash_left_behind_the_last_commit_does_not_count(videos, tmp_path):
    table = Table.open(videos / "train.arrow")
    whole = embedder().embed(table, tmp_path / "whole.arrow")
    out = tmp_path / "f.arrow"
    assert embed_and_die(table, out, 6) != 0
    with open(tmp_path / "f.arrow.partial" / "rows.arrows", "ab") as file:
        file.write(b"half of a record batch")
    with open(tmp_path / "f.arrow.partial" / "journal.jsonl", "a") as file:
        file.write('{"size": 123')
    same(embedder().embed(table, out), whole)


def test_a_stream_that_has_lost_bytes_is_refused(videos, tmp_path):
    table = Table.open(videos / "train.arrow")
    assert embed_and_die(table, tmp_path / "f.arrow", 6) != 0
    os.truncate(tmp_path / "f.arrow.partial" / "rows.arrows", 100)
    with pytest.raises(FeatureError, match=r"is damaged: rows.arrows has 100 bytes, but \d+ were"):
        embedder().embed(table, tmp_path / "f.arrow")
    assert len(embedder().embed(table, tmp_path / "f.arrow", restart=True)) > 12


class HalfReader(pyav_reader.PyAVReader):
    """Breaks at frame 14, as a file whose download was cut does."""

    def stream(self, indices, size=None):
        for index, picture in super().stream(indices, size):
            if index >= 14:
                raise BadVideo("half", "frame 14 cannot be decoded")
            yield index, picture


@pytest.fixture
def readers(monkeypatch):
    """A way to put another reader in the place of PyAV's, known to workers because they are forked."""
    import sys

    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: context)
    monkeypatch.setitem(sys.modules, "bad_readers", sys.modules[__name__])
    monkeypatch.setattr(reading, "READERS", dict(READERS))
    monkeypatch.setattr(windows, "_PIECE", 1)
    monkeypatch.setattr(window_workers, "PIECE", 1)

    def use(name):
        reading.READERS["pyav"] = f"bad_readers:{name}"

    return use


def test_rows_of_a_video_that_breaks_later_are_taken_back(videos, tmp_path, readers, monkeypatch):
    """They were on disk already: a commit follows every other row."""
    readers("HalfReader")
    taken = []
    original = PartialFeatures.take_back
    monkeypatch.setattr(
        PartialFeatures, "take_back", lambda self: (taken.append(self.num_rows), original(self))
    )
    table = Table.open(videos / "train.arrow").select([0, 1, 2, 4, 3])
    config = EmbedConfig(hop=1, batch_size=1, num_workers=0)
    found = embedder(config).embed(table, tmp_path / "f.arrow")
    assert len(taken) == 3
    assert found.ids.tolist() == ["train0"] * 9 + ["train4"] * 9
    assert [entry["id"] for entry in found.skipped] == ["train1", "train2", "train3"]


class HangingReader(pyav_reader.PyAVReader):
    """Never comes back from one video, and kills its process at another."""

    def __init__(self, path, **options):
        if path.endswith("train2.mp4"):
            time.sleep(3600)
        if path.endswith("train4.mp4"):
            os._exit(66)
        super().__init__(path, **options)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_hangs_and_crashes_cost_their_videos_only(
    videos, tmp_path, readers, monkeypatch, num_workers
):
    readers("HangingReader")
    monkeypatch.setattr(window_workers, "_GRACE_SEC", 0.2)
    table = Table.open(videos / "train.arrow").select([0, 1, 2, 3, 4, 5])
    config = EmbedConfig(num_workers=num_workers, video_timeout_sec=0.8)
    found = embedder(config).embed(table, tmp_path / "f.arrow", progress=False)
    assert sorted(set(found.ids)) == ["train0", "train1", "train3", "train5"]
    assert [entry["source"] for entry in found.skipped] == [
        str(videos / "train2.mp4"),
        str(videos / "train4.mp4"),
    ]
    assert "returned nothing for 1 s and was stopped" in found.skipped[0]["reason"]
    assert "died (exit code 66)" in found.skipped[1]["reason"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: (embedder(EmbedConfig(hop=3, num_workers=0)), t), r"settings.hop: 3 <- 2"),
        (lambda t: (embedder(), t.select([0, 1])), r"table.records: 2 <- 12"),
    ],
)
def test_another_job_does_not_go_on_with_the_rows_of_this_one(videos, tmp_path, change, text):
    table = Table.open(videos / "train.arrow")
    out = tmp_path / "f.arrow"
    assert embed_and_die(table, out, 4) != 0
    other, videos_ = change(table)
    with pytest.raises(FeatureError, match=rf"begun by another job[^Z]*{text}[^Z]*--restart"):
        other.embed(videos_, out)
    assert len(other.embed(videos_, out, restart=True)) > 0


def test_another_encoder_is_another_job(videos, tmp_path):
    table = Table.open(videos / "train.arrow")
    assert embed_and_die(table, tmp_path / "f.arrow", 4) != 0
    other = embedder()
    other.fingerprint = "0" * 16
    with pytest.raises(FeatureError, match=r"encoder: '0000000000000000' <- '"):
        other.embed(table, tmp_path / "f.arrow")


def test_two_at_once_are_refused(videos, tmp_path):
    table, made = Table.open(videos / "train.arrow"), embedder()
    job = made.job(table)
    with (
        PartialFeatures(tmp_path / "f.arrow", embed_dim=12, metadata={}, job=job),
        pytest.raises(FeatureError, match="being written by another process"),
    ):
        made.embed(table, tmp_path / "f.arrow")


@pytest.mark.parametrize("limit", [3000, 9000])
def test_a_full_disk_is_told_and_the_rows_are_kept(videos, tmp_path, limit):
    """A limit on the size of files stands for the disk: at 3000 bytes rows do not fit, at 9000 the finished file."""
    table = Table.open(videos / "train.arrow")
    whole = embedder().embed(table, tmp_path / "whole.arrow")
    size = os.path.getsize(tmp_path / "whole.arrow")
    out, message = tmp_path / "f.arrow", tmp_path / "message"

    def work():
        message.touch()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit_bytes = limit if limit < 9000 else size - 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        try:
            embedder().embed(table, out, progress=False)
        except FeatureError as err:
            message.write_text(str(err))

    assert in_child(work) == 0
    text = message.read_text()
    assert "f.arrow cannot be written: File too large" in text
    assert "videos are done and kept in" in text
    assert "give the same command again" in text
    assert not out.exists()
    assert (tmp_path / "f.arrow.partial").is_dir()
    same(embedder().embed(table, out), whole)


def test_features_that_are_not_finite_are_named(videos, tmp_path):
    table, made = Table.open(videos / "train.arrow"), embedder()
    forward = made.forward
    calls = []

    def broken(video):
        calls.append(len(video))
        found = forward(video)
        if len(calls) == 3:
            found["clip"][1, 0] = np.nan
        return found

    made.forward = broken
    with pytest.raises(FeatureError, match=r"feature of 'train1', clip 2, is not finite"):
        made.embed(table, tmp_path / "f.arrow")


def test_strict_names_the_video_and_keeps_what_is_done(videos, tmp_path):
    table = Table.open(videos / "broken.arrow")
    strict = embedder(EmbedConfig(hop=2, num_workers=0, batch_size=1, strict=True))
    with pytest.raises(EmbeddingError, match=r"broken1\.mp4 cannot be read"):
        strict.embed(table, tmp_path / "f.arrow")
    assert partial.partial_folder(tmp_path / "f.arrow").is_dir()
