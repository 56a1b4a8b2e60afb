import pickle
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from video_ssl.datasets.table import SCHEMA, Caption, Event, Table, TableError


def full_rows():
    boxes = np.full((3, 2, 4), np.nan, np.float32)
    boxes[0], boxes[1, 0], boxes[2] = 0.25, 0.5, 0.75
    return [
        {"id": "a", "source": "videos/a.mp4", "label": 1, "labels": [1, 2], "frame_labels": np.array([0, -1, 3]),
         "boxes": boxes, "captions": [Caption(text="a jump", start_sec=0.5, end_sec=1.0)],
         "events": [Event(name="hit", time_sec=0.75)], "group": "g", "num_frames": 3, "fps": 25.0},
        {"id": "b", "source": "/elsewhere/b.mp4", "start_sec": 1.0, "end_sec": 2.5},
        {"id": "c", "source": "s3://bucket/c.mp4", "label": 0},
    ]  # fmt: skip


def assert_is_full(table, folder):
    a, b, c = (table.record(i) for i in range(3))
    assert (a.index, a.id, a.source) == (0, "a", str(folder / "videos/a.mp4"))
    assert (a.label, a.labels, a.group, a.num_frames, a.fps) == (1, (1, 2), "g", 3, 25.0)
    np.testing.assert_array_equal(a.frame_labels, np.array([0, -1, 3], np.int16))
    np.testing.assert_array_equal(a.boxes, full_rows()[0]["boxes"])
    assert a.captions == (Caption(text="a jump", start_sec=0.5, end_sec=1.0),)
    assert a.events == (Event(name="hit", time_sec=0.75),)
    assert (b.source, b.start_sec, b.end_sec, b.label, b.boxes) == (
        "/elsewhere/b.mp4",
        1.0,
        2.5,
        None,
        None,
    )
    assert (c.source, c.label) == ("s3://bucket/c.mp4", 0)


def test_every_column_comes_back_from_memory_file_and_pickle(tmp_path):
    table = Table.from_rows(full_rows(), root=tmp_path, class_names=["x", "y"], phase_names=["p"])
    assert_is_full(table, tmp_path)
    assert_is_full(pickle.loads(pickle.dumps(table)), tmp_path)
    opened = table.save(tmp_path / "t.arrow")
    assert_is_full(opened, tmp_path)
    assert_is_full(pickle.loads(pickle.dumps(opened)), tmp_path)
    assert opened.class_names == ("x", "y")
    assert opened.phase_names == ("p",)


def test_a_saved_table_moves_with_its_folder(tmp_path):
    folder = tmp_path / "one"
    Table.from_rows(full_rows(), root=folder).save(folder / "t.arrow")
    folder.rename(tmp_path / "two")
    assert_is_full(Table.open(tmp_path / "two/t.arrow"), tmp_path / "two")


def test_selection_of_a_selection_and_columns(tmp_path):
    table = Table.from_rows(full_rows(), root=tmp_path).save(tmp_path / "t.arrow")
    chosen = table.select([2, 0]).select([1])
    assert [chosen.record(0).id, chosen.record(0).index, len(chosen)] == ["a", 0, 1]
    assert table.select(np.array([False, True, True])).column("id").tolist() == ["b", "c"]
    np.testing.assert_array_equal(table.column("label"), [1, -1, 0])
    np.testing.assert_array_equal(table.column("fps"), [25.0, np.nan, np.nan])
    assert pickle.loads(pickle.dumps(chosen)).record(0).id == "a"
    assert len(pickle.dumps(chosen)) < 1000, "a table of a file pickles as its path"
    with pytest.raises(KeyError, match=r"no column 'lable'.*Did you mean 'label'"):
        table.column("lable")
    with pytest.raises(IndexError, match="record 3 of a table with 3"):
        table.record(3)


def test_saving_a_selection_keeps_only_its_rows(tmp_path):
    table = Table.from_rows(full_rows(), root=tmp_path, class_names=["x"]).select([0])
    saved = table.save(tmp_path / "deep/er/t.arrow")
    assert saved.record(0).source == str(tmp_path / "videos/a.mp4")
    assert (len(saved), saved.class_names) == (1, ("x",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"source": ["a"], "lable": [1]}, "unknown column 'lable'.*Did you mean 'label'"),
        ({"source": []}, "at least one path"),
        ({"id": ["a"]}, "needs a column `source`"),
        ({"source": ["a", "b"], "label": [1]}, "unequal length"),
        ({"source": ["a"], "label": ["cat"]}, "column 'label' must be int32"),
        ({"source": ["a", None]}, "'id' has 1 null|'source' has 1 null"),
    ],
)
def test_wrong_columns_are_named(columns, message):
    with pytest.raises(TableError, match=message):
        Table.from_columns(columns)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        Table.open(tmp_path / "none.arrow")
    (tmp_path / "text.arrow").write_text("hello")
    with pytest.raises(TableError, match="not an Arrow IPC file"):
        Table.open(tmp_path / "text.arrow")
    other = pa.table({"path": ["a"]})
    with pa.OSFile(str(tmp_path / "o.arrow"), "wb") as f, pa.ipc.new_file(f, other.schema) as w:
        w.write_table(other)
    with pytest.raises(TableError, match=r"has no column \['id', 'source'\]"):
        Table.open(tmp_path / "o.arrow")


def test_a_million_rows_open_at_once(tmp_path):
    count = 1_000_000
    names = pa.array(np.char.add("v", np.arange(count).astype(str)).tolist())
    table = Table.from_columns({"source": names, "label": np.arange(count) % 400})
    table.save(tmp_path / "big.arrow")
    begin = time.perf_counter()
    opened = Table.open(tmp_path / "big.arrow")
    record = opened.record(999_999)
    copy = pickle.loads(pickle.dumps(opened))
    took = time.perf_counter() - begin
    assert took < 0.5, took
    assert (record.id, record.label, len(copy)) == ("v999999", 999_999 % 400, count)
    assert opened.column("label")[123_456] == 123_456 % 400


def test_tables_need_neither_torch_nor_jax():
    code = (
        "import sys, video_ssl.datasets, video_ssl.datasets.table;"
        "print([m for m in ('torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_schema_is_the_one_that_is_documented():
    assert SCHEMA.names == ["id", "source", "start_sec", "end_sec", "label", "labels", "captions", "frame_labels",
                            "boxes", "events", "group", "num_frames", "fps", "width", "height", "duration_sec",
                            "has_audio", "codec", "container", "rotation", "variable_fps", "edit_list", "max_gop",
                            "byte_offset", "byte_size", "file_size", "file_mtime", "exact", "mirrored",
                            "pixel_aspect", "part_frames", "part_sec",
                            "box_times_sec", "box_labels", "box_scores"]  # fmt: skip
