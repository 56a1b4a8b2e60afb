"""Ids of records: stretches and doubled paths are records of their own, doubled ids are refused with both rows."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table, TableError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(name, rows):
    if name.endswith("jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), name)
    else:
        cells = [[str(row.get(key, "")) for key in rows[0]] for row in rows]
        Path(name).write_text("\n".join(map(",".join, [list(rows[0]), *cells])) + "\n")
    return name


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_stretches_of_one_file_are_records_of_their_own(name):
    """Was wrong: all of them had the path for an id, so a video of several classes."""
    rows = [
        {"path": "a.mp4", "start": 0.0, "end": 1.0, "label": "run"},
        {"path": "a.mp4", "start": 1.0, "end": 2.25, "label": "jump"},
        {"path": "b.mp4", "start": 0.0, "end": 1.0, "label": "run"},
    ]
    ids = open_table(write(name, rows)).column("id").tolist()
    assert ids == ["a.mp4:0-1", "a.mp4:1-2.25", "b.mp4:0-1"]


def test_a_path_that_is_listed_again_stays_a_record_of_its_own(caplog):
    Path("l.txt").write_text("a.mp4 0\nb.mp4 1\na.mp4 1\na.mp4#2 0\n")
    Path("a.mp4").touch()
    table = open_table("l.txt")
    assert table.column("id").tolist() == ["a.mp4", "b.mp4", "a.mp4#3", "a.mp4#2"]
    assert table.column("label").tolist() == [0, 1, 1, 0]
    assert "1 rows list what an earlier row lists, for example a.mp4" in caplog.text


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_doubled_ids_are_refused_with_both_rows(name):
    """Was wrong: two videos became one, and the frames of both its frames."""
    rows = [{"id": key, "path": f"{n}.mp4"} for n, key in enumerate("yxzx")]
    with pytest.raises(TableError, match=f"{name}: rows 2 and 4 have one id 'x'"):
        open_table(write(name, rows))


def test_ids_of_two_splits_may_be_the_same_and_rows_are_those_of_the_file():
    rows = [
        ("x", "a", "train"),
        ("x", "b", "val"),
        ("y", "c", "val"),
        ("x", "d", "test"),
        ("x", "e", "test"),
    ]
    write("t.csv", [{"id": i, "path": p, "split": s} for i, p, s in rows])
    assert open_table("t.csv:val").column("id").tolist() == ["x", "y"]
    with pytest.raises(TableError, match="rows 4 and 5 have one id 'x'"):
        open_table("t.csv:test")


def test_rows_without_an_id_get_one():
    rows = [{"source": "a", "id": "x"}, {"source": "b"}, {"source": "b", "start_sec": 1.0}]
    assert Table.from_rows(rows).column("id").tolist() == ["x", "b", "b:1-"]


@pytest.mark.parametrize("verb", ["scan", "transcode", "build"])
def test_an_arrow_table_with_doubled_ids_is_refused_before_anything_is_done(here, verb):
    """It opens without a look at every row; a scan of hours must not find out at its end."""
    from video_ssl.clips.upkeep.scan import scan_table
    from video_ssl.clips.upkeep.transcode import transcode_table
    from video_ssl.datasets.build.array_record import build_array_records

    data = pa.table({"id": ["x", "y", "x"], "source": ["a.mp4", "b.mp4", "c.mp4"]})
    with pa.OSFile("t.arrow", "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data)
    table = open_table("t.arrow")
    work = {
        "scan": lambda: scan_table(table, "o.arrow", progress=False),
        "transcode": lambda: transcode_table(table, "o"),
        "build": lambda: build_array_records({"train": table}, "o", progress=False),
    }
    if verb == "build":
        pytest.importorskip("tensorflow_datasets")
    with pytest.raises(TableError, match=r"t\.arrow: rows 1 and 3 have one id 'x'"):
        work[verb]()
    assert not Path("o.arrow").exists()
    assert not list(here.glob("o/[!.]*"))


@pytest.mark.parametrize(
    "source", ["a.mp4||", "||a.mp4", "a.mp4||||b.mp4", "a.mp4|| ||b.mp4", "||"]
)
def test_an_empty_part_is_refused(source: str) -> None:
    """It was taken for the folder of the table, which then had "no pictures"."""
    with pytest.raises(TableError, match="row 2 has an empty part"):
        Table.from_rows([{"source": "a.mp4||b.mp4"}, {"source": source}])


def test_videos_that_begin_alike_are_not_called_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """The log said of two different videos that one row lists what the other lists."""
    table = Table.from_rows([{"source": "a||b"}, {"source": "a||c"}])
    assert table.column("id").tolist() == ["a||+1", "a||+1#2"]
    assert "or begin with its file" in caplog.text
