"""A video in several files in a row: one timeline of frames, times and sound, in readers, tables, scans and plans."""

import json
import logging
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import video_maker
from PIL import Image
from pipeline_plans import HiCoPlan
from pyarrow import parquet
from video_maker import chirp, read_index

from video_ssl.clips.contents import content_digest, content_key
from video_ssl.clips.crops import ViewRequest, center_region
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.joined import JoinedReader, joined_indices, part_frames
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.reading import open_record, open_video
from video_ssl.clips.upkeep.scan import ScanConfig, scan_table
from video_ssl.clips.upkeep.transcode import TranscodeConfig, transcode_table
from video_ssl.clips.views import read_views
from video_ssl.datasets import open_table
from video_ssl.datasets.build.array_record import build_array_records
from video_ssl.datasets.parts import divide_parts, join_parts
from video_ssl.datasets.source_states import SourceStates
from video_ssl.datasets.table import Record, Table, TableError
from video_ssl.evaluate.identity import canonical
from video_ssl.pretrain.table_digest import describe_tables, table_changes

COUNTS = (25, 25, 13)
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three files of 25, 25 and 13 frames; the index that is drawn and the pitch that is heard go on."""
    folder = tmp_path_factory.mktemp("parts")
    for part, count in enumerate(COUNTS):
        begin_sec = float(part)
        video_maker.make_video(
            folder / f"v_{part}.mkv", num_frames=count, first=25 * part, audio_codec="pcm_s16le",
            audio=lambda at, begin_sec=begin_sec: chirp(at + begin_sec),
        )  # fmt: skip
    return [str(folder / f"v_{part}.mkv") for part in range(3)]


@pytest.fixture
def own(parts, tmp_path):
    """Copies that a test may change."""
    return [shutil.copy(part, tmp_path) for part in parts]


def record_of(parts, **columns):
    return Record(index=0, id="v", source=join_parts(parts), **columns)


def shown(frames):
    return [read_index(frame) for frame in frames]


def test_frames_times_and_sound_go_on_where_the_part_before_ends(parts):
    with open_record(record_of(parts)) as reader:
        info = reader.info
        assert (info.num_frames, info.height, info.width, info.has_audio) == (TOTAL, 96, 128, True)
        assert info.fps == pytest.approx(25)
        assert info.duration_sec == pytest.approx(TOTAL / 25, abs=1e-3)
        for wanted in ([0], [24, 25], [62, 3, 25, 3, 49, 50], range(TOTAL)):
            assert shown(reader.frames(wanted)) == list(wanted)
        assert reader.frames([60, 2], (24, 32)).shape == (2, 24, 32, 3)
        np.testing.assert_allclose(reader.times(range(TOTAL)), np.arange(TOTAL) / 25, atol=1e-3)
        assert [read_index(p) for _, p in reader.stream(np.arange(20, 55))] == list(range(20, 55))
        for start, end in ((0.5, 2.25), (0, 1), (-0.5, 0.5), (2.2, 4)):
            wave = reader.audio(start, end, 16000)
            at = start + np.arange(round((end - start) * 16000)) / 16000
            heard = (at >= 0.0) & (at < TOTAL / 25)
            # A resampler rings at the ends of a file.
            near = np.abs(at[:, None] - np.arange(3)).min(1) < 0.01
            np.testing.assert_allclose(wave[heard & ~near], chirp(at)[heard & ~near], atol=2e-3)
            assert not wave[~heard].any()
        with pytest.raises(IndexError, match="frame indices 63"):
            reader.frames([TOTAL])


@pytest.mark.parametrize("resize", ["decoder", "pillow"])
def test_views_across_a_border_are_those_of_the_parts(parts, resize):
    region = center_region(96, 128)
    wanted = np.array([23, 24, 25, 26, 62, 1])
    with open_video(join_parts(parts)) as reader:
        outs = [np.empty((6, 32, 32, 3), np.uint8) for _ in range(2)]
        read_views(
            reader,
            [ViewRequest(indices=wanted[::order], region=region, out=out)
             for order, out in zip((1, -1), outs, strict=True)],
            resize=resize,
        )  # fmt: skip
    np.testing.assert_array_equal(outs[0], outs[1][::-1])
    for index, picture in zip(wanted, outs[0], strict=True):
        with open_video(parts[index // 25]) as alone:
            out = np.empty((1, 32, 32, 3), np.uint8)
            own = np.array([index % 25])
            read_views(alone, [ViewRequest(indices=own, region=region, out=out)], resize=resize)
        np.testing.assert_array_equal(picture, out[0])


def test_a_stretch_may_cross_a_border(parts):
    with open_record(record_of(parts, start_sec=0.8, end_sec=2.2)) as reader:
        assert reader.info.num_frames == 35
        assert shown(reader.frames([0, 4, 5, 34])) == [20, 24, 25, 54]
        assert reader.times([0, 34]) == pytest.approx([0, 34 / 25], abs=1e-3)
        assert part_frames(reader).tolist() == [35], "a stretch counts as one"


def test_counted_parts_are_opened_when_they_are_needed_and_few_at_a_time(parts, monkeypatch):
    opened, most = [], 0

    def open_part(source):
        opened.append(source)
        return open_video(source)

    counts = {"part_frames": COUNTS, "part_sec": [1.0, 1.0, 0.52]}
    with JoinedReader(parts, open_part, **counts) as reader:
        assert reader.info.num_frames == TOTAL
        assert opened == parts[:1]
        assert shown(reader.frames([60])) == [60]
        assert opened == [parts[0], parts[2]]
        assert reader.times([61]) == pytest.approx(61 / 25, abs=1e-3)
    assert len(opened) == 2
    monkeypatch.setattr("video_ssl.clips.joined._MOST_OPEN", 2)
    with JoinedReader(parts * 3, open_video) as reader:
        for index in (0, TOTAL, 2 * TOTAL, 30, 0):
            assert shown(reader.frames([index])) == [index % TOTAL]
            most = max(most, len(reader._open))
    assert most == 2
    assert not reader._open


def test_parts_that_do_not_go_together_are_bad_videos(own, tmp_path):
    video_maker.make_video(tmp_path / "small.mp4", num_frames=5, size=(48, 64))
    with pytest.raises(
        BadVideo,
        match=r"small\.mp4: its file 2 of 2, small\.mp4, is 64 x 48, but the first of its 2 parts 128 x 96",
    ):
        open_video(join_parts([own[0], str(tmp_path / "small.mp4")]))
    with pytest.raises(BadVideo, match=r"gone\.mp4"):
        open_video(join_parts([own[0], str(tmp_path / "gone.mp4")]))
    record = record_of(own, part_frames=np.array([25, 24, 13]), part_sec=np.array([1, 1, 0.5]))
    with (
        open_record(record) as reader,
        pytest.raises(BadVideo, match=r"its file 2 of 3, v_1\.mkv, has 25 frames and had 24"),
    ):
        reader.frames([30])
    with pytest.raises(BadVideo, match="lies in 3 parts, but its table counts the frames of 2"):
        open_record(replace(record, part_frames=record.part_frames[:2]))


def test_a_scan_counts_every_file(own, tmp_path, caplog):
    """Was wrong: "1 records of 1 files", of a video in three."""
    table = Table.from_columns({"source": [own]})
    with caplog.at_level(logging.INFO):
        scan_table(table, tmp_path / "scanned.arrow", progress=False)
    assert "1 records of 3 files" in caplog.text


def test_every_kind_of_table_names_them(own, tmp_path):
    names = [os.path.basename(part) for part in own]
    (tmp_path / "t.csv").write_text(f"path,label\n{'||'.join(names)},0\n{names[0]},1\n")
    (tmp_path / "t.txt").write_text(f"{'||'.join(names)} 0\n{names[0]} 1\n")
    rows = [{"path": names, "label": 0}, {"path": names[:1], "label": 1}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    made = Table.from_columns({"source": [names, names[0]], "label": [0, 1]}, root=tmp_path)
    tables = [made, made.save(tmp_path / "t.arrow"), made.moved("s3://b/x")]
    tables += [
        open_table(tmp_path / f"t.{suffix}") for suffix in ("csv", "txt", "jsonl", "parquet")
    ]
    for table in tables:
        assert table.record(0).id.endswith("v_0.mkv||+2")
        folder = "s3://b/x" if table is tables[2] else str(tmp_path)
        assert divide_parts(table.record(0).source) == tuple(f"{folder}/{name}" for name in names)
        assert (table.record(1).source, table.record(1).label) == (f"{folder}/{names[0]}", 1)
    stored = tables[1].arrow["source"].to_pylist()
    assert stored == ["||".join(names), names[0]], "relative, so that the folder can be moved"


def test_a_file_whose_name_holds_the_sign_is_one_file(parts, tmp_path):
    shutil.copy(parts[1], tmp_path / "odd||name.mkv")
    (record,) = [open_table(tmp_path).record(0)]
    assert "||" not in record.source
    with open_record(record) as reader:
        assert shown(reader.frames([3])) == [28]


def test_what_tells_a_changed_video_looks_at_every_part(own):
    record, states = record_of(own), SourceStates()
    table = Table.from_columns({"source": [own]})
    before = (
        content_key(record),
        content_digest(record),
        states.of(record),
        describe_tables([table]),
    )
    assert canonical(record.source) == join_parts([os.path.realpath(part) for part in own])
    assert content_key(record) == content_key(record_of(own))
    with open(own[2], "ab") as file:
        file.write(b"more")
    assert content_key(record) != before[0]
    assert content_digest(record) != before[1]
    assert states.of(record) != before[2]
    assert "sizes of 1" in table_changes(before[3], describe_tables([table]))


def test_a_scan_counts_the_parts_and_names_the_broken_one(own, tmp_path):
    (tmp_path / "broken.mkv").write_bytes(b"nothing" * 100)
    rows = {
        "source": [own, [own[0], str(tmp_path / "broken.mkv")], own[0]],
        "id": ["whole", "broken", "alone"],
    }
    result = scan_table(
        Table.from_columns(rows), tmp_path / "out.arrow", ScanConfig(num_workers=1), progress=False
    )
    (skipped,) = result.skipped
    assert skipped["id"] == "broken"
    whole, alone = (result.table.record(row) for row in range(2))
    assert whole.part_frames.tolist() == list(COUNTS)
    assert whole.part_sec == pytest.approx([1, 1, 13 / 25], abs=1e-3)
    assert (whole.num_frames, whole.width, whole.codec, whole.container) == (
        TOTAL,
        128,
        "h264",
        "matroska",
    )
    assert whole.file_size == sum(os.path.getsize(part) for part in own)
    assert alone.part_frames is None
    with open_record(whole) as reader:
        assert shown(reader.frames([0, 62])) == [0, 62]
    alone = Table.from_columns({"source": own[:1]})
    plain = scan_table(alone, tmp_path / "plain.arrow", ScanConfig(num_workers=1), progress=False)
    assert "part_frames" not in plain.table.column_names


def test_a_scan_keeps_the_rate_of_folders_of_frames_in_a_row_and_of_uris(parts, tmp_path):
    """Was wrong: only a folder by its plain path was known as frames, all else got 25 frames a second."""
    with open_video(parts[0]) as reader:
        for name, picture in zip("FFGG", reader.frames(range(4)), strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            number = len(os.listdir(tmp_path / name))
            Image.fromarray(picture).save(tmp_path / name / f"{number}.png")
    uri = (tmp_path / "F").as_uri()
    rows = {
        "source": ["F||G", uri, "F", "G/0.png", parts[0]],
        "fps": [10.0, 5.0, 4.0, 2.0, 1.0],
        "id": ["row", "uri", "folder", "picture", "video"],
        "num_frames": [None, 2, None, None, None],
    }
    table = Table.from_columns(rows, root=tmp_path)
    config = ScanConfig(num_workers=1)
    found = scan_table(table, tmp_path / "out.arrow", config, progress=False).table
    assert found.column("fps") == pytest.approx([10, 5, 4, 2, 25])
    assert found.column("duration_sec") == pytest.approx([0.4, 0.4, 0.5, 0.5, 1], abs=1e-3)
    few = Table.from_columns({"source": [uri], "num_frames": [3]})
    with pytest.raises(TableError, match="has 2 frames, its table says 3"):
        scan_table(few, tmp_path / "few.arrow", config, progress=False)


def test_transcoding_makes_one_file_and_building_says_so(own, tmp_path):
    table = Table.from_columns({"source": [own], "label": [4]}, root=tmp_path)
    done = transcode_table(table, tmp_path / "out", TranscodeConfig(num_workers=1), progress=False)
    record = done.table.record(0)
    assert (record.num_frames, record.label, record.part_frames) == (TOTAL, 4, None)
    assert record.source.endswith("v_0.mp4")
    with open_record(record) as reader:
        assert shown(reader.frames(range(TOTAL))) == list(range(TOTAL))
        wave = reader.audio(0.5, 2.0, 16000)
    at = 0.5 + np.arange(len(wave)) / 16000
    assert np.corrcoef(wave, chirp(at))[0, 1] > 0.99
    with pytest.raises(TableError, match="one video in several files: make it one file"):
        build_array_records({"train": table}, tmp_path / "shards")


def test_a_plan_takes_frames_by_file_and_number(parts):
    table = Table.from_columns({"source": [parts, parts[::-1]]})
    settings = {"seed": 0, "global_batch_size": 4, "num_steps": 2}
    with Pipeline([(table, 1.0)], HiCoPlan(), config=LoaderConfig(num_workers=1), **settings) as p:
        batches = list(p)
    crossed, names = False, ("video", "file", "frame", "record_index")
    for batch in batches:
        for video, files, frames, row in zip(*(batch[n] for n in names), strict=True):
            crossed |= len(set(files)) > 1
            sources = divide_parts(table.record(row).source)
            drawn = [25 * parts.index(sources[k]) + f for k, f in zip(files, frames, strict=True)]
            assert shown(video) == drawn
    assert crossed
    with open_video(parts[0]) as alone:
        assert part_frames(alone).tolist() == [25]
        assert joined_indices(alone, [0, 0], [3, 4]).tolist() == [3, 4]
