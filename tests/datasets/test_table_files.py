"""CSV, JSON lines and Parquet: columns by their names and synonyms, labels as numbers or names, and what is wrong."""

import json
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from video_ssl.datasets import open_table
from video_ssl.datasets.columns import SYNONYMS, known_column
from video_ssl.datasets.table import SCHEMA, Caption, Table, TableError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(name, rows):
    """Writes the same rows as CSV, TSV, JSON lines or Parquet."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if name.endswith(("csv", "tsv")):
        sign = "," if name.endswith("csv") else "\t"
        lines = [names] + [
            ["" if row.get(n) is None else str(row[n]) for n in names] for row in rows
        ]
        text = "\n".join(sign.join(f'"{v}"' if sign in v else v for v in line) for line in lines)
        Path(name).write_text(text + "\n")
    elif name.endswith("jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), name)
    return name


ROWS = [
    {"Video Path": "a b.mp4", "class": "run", "start": 1.5, "frame_count": 30, "caption": "he runs", "note": "x"},
    {"Video Path": "/abs/b,c.mp4", "class": "jump", "start": None, "frame_count": 31, "caption": None, "note": "y"},
    {"Video Path": "s3://bucket/c.mp4", "class": "run", "start": 0.0, "frame_count": None, "caption": "again"},
]  # fmt: skip
KINDS = ["t.csv", "t.tsv", "t.jsonl", "t.parquet"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_table(here, name):
    table = open_table(write(name, ROWS))
    assert table.class_names == ("jump", "run")
    records = [table.record(i) for i in range(3)]
    sources = [str(here / "a b.mp4"), "/abs/b,c.mp4", "s3://bucket/c.mp4"]
    assert [r.source for r in records] == sources
    assert [r.id for r in records] == ["a b.mp4:1.5-", "/abs/b,c.mp4", "s3://bucket/c.mp4:0-"]
    assert [r.label for r in records] == [1, 0, 1]
    assert [r.start_sec for r in records] == [1.5, None, 0.0]
    assert [r.num_frames for r in records] == [30, 31, None]
    assert [r.captions for r in records] == [
        (Caption(text="he runs"),),
        None,
        (Caption(text="again"),),
    ]


@pytest.mark.parametrize("name", KINDS)
def test_numbers_stay_numbers_and_names_may_stand_beside_them(name):
    rows = [{"path": f"{i}.mp4", "label": label} for i, label in enumerate([2, 0, None, 2])]
    table = open_table(write(name, rows))
    np.testing.assert_array_equal(table.column("label"), [2, 0, -1, 2])
    assert table.class_names == ()
    rows = [row | {"label_name": {2: "c", 0: "a"}.get(row["label"])} for row in rows]
    table = open_table(write(name, rows))
    np.testing.assert_array_equal(table.column("label"), [2, 0, -1, 2])
    assert table.class_names == ("a", "", "c")


def test_every_synonym_is_understood_without_doubt():
    listed = [name for names in SYNONYMS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert not set(listed) & set(SCHEMA.names)
    assert {known_column(name.upper()) for name in listed} == set(SYNONYMS)


def test_several_labels_and_lists_of_captions():
    write("t.csv", [{"path": "a", "labels": "1;2"}, {"path": "b", "labels": None}])
    assert [open_table("t.csv").record(i).labels for i in range(2)] == [(1, 2), None]
    rows = [{"path": "a", "labels": ["x", "y"], "captions": ["one", "two"]},
            {"path": "b", "labels": [], "captions": []}]  # fmt: skip
    table = open_table(write("t.jsonl", rows))
    assert [table.record(i).labels for i in range(2)] == [(0, 1), ()]
    assert table.record(0).captions == (Caption(text="one"), Caption(text="two"))
    assert table.class_names == ("x", "y")


@pytest.mark.parametrize("one", ["label", "class_name"])
@pytest.mark.parametrize("name", KINDS)
def test_names_of_label_and_labels_have_one_numbering(name, one):
    """Each was numbered over its own names and only those of `labels` were kept: "run" was read as "jump"."""
    several = ["jump;run", "run", None]
    if not name.endswith(("csv", "tsv")):
        several = [text and text.split(";") for text in several]
    rows = [
        {"path": str(row), one: label, "labels": labels}
        for row, (label, labels) in enumerate(zip(["run", None, "sit"], several, strict=True))
    ]
    table = open_table(write(name, rows))
    assert table.class_names == ("jump", "run", "sit")
    assert table.column("label").tolist() == [1, -1, 2]
    assert [table.record(row).labels for row in range(3)] == [(0, 1), (1,), None]
    numbers = [row | {"labels": None if name.endswith(("csv", "tsv")) else [1]} for row in rows]
    if name.endswith(("csv", "tsv")):
        numbers[0]["labels"] = "1;2"
    with pytest.raises(
        TableError, match="names of classes in the column 'label' and numbers in 'labels'"
    ):
        open_table(write(name, numbers))


def test_names_and_no_class_at_all_have_one_numbering():
    """A column that says nothing is no column of numbers."""
    rows = [{"path": "a", "label": None, "labels": "run"}, {"path": "b", "label": None}]
    table = open_table(write("t.csv", rows))
    assert (table.class_names, table.record(0).labels) == (("run",), (0,))
    rows = [{"path": "a", "class": 3, "class_name": "run", "labels": "3;1"}]
    table = open_table(write("t.csv", rows))
    assert (table.class_names, table.record(0).labels) == (("", "", "", "run"), (3, 1))


def test_a_trailing_separator_is_no_class():
    """`run;` was a class and None, which broke off with a TypeError after all videos had been embedded."""
    write("t.csv", [{"path": "a", "labels": "run;"}, {"path": "b", "labels": ";"},
                    {"path": "c", "labels": None}, {"path": "d", "labels": "|a;; run |"}])  # fmt: skip
    table = open_table("t.csv")
    assert [table.record(row).labels for row in range(4)] == [(1,), (), None, (0, 1)]
    assert table.class_names == ("a", "run")
    write("t.csv", [{"path": "a", "labels": "3;"}, {"path": "b", "labels": "2;1"}])
    assert [open_table("t.csv").record(row).labels for row in range(2)] == [(3,), (2, 1)]


@pytest.mark.parametrize("nothing", [["run", None], ["run", " "], [1, None]])
@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_nothing_among_the_labels_is_refused(name, nothing):
    """A null in a list was taken as a class and broke off the evaluation, hours later."""
    rows = [
        {"path": "a", "labels": None},
        {"path": "b", "labels": []},
        {"path": "c", "labels": nothing},
    ]
    with pytest.raises(TableError, match=f"row 3 has {nothing[1]!r} among its labels"):
        open_table(write(name, rows))


def test_nothing_among_the_labels_of_a_table_that_a_program_wrote(tmp_path):
    """Our own format went past the check."""
    rows = [{"source": "a"}, {"source": "b", "labels": [0, None]}]
    with pytest.raises(TableError, match="row 2 has None among its labels"):
        Table.from_rows(rows)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("t.jsonl", [3, -1]), ("t.parquet", [3, -1]), ("t.csv", "3;-1"), ("t.csv", "-1")],
)
def test_a_negative_number_among_the_labels_is_refused(name, labels):
    """-1, as others write "none", was counted from the end: the video was one of the last class, without a word."""
    rows = [{"path": "a", "labels": None}, {"path": "b", "labels": labels}]
    rule = "row 2 has -1 among its labels: take it out; classes are names, or numbers from 0"
    with pytest.raises(TableError, match=rule):
        open_table(write(name, rows))


def test_a_negative_number_in_a_table_of_our_own_format(tmp_path):
    rows = [{"source": "a"}, {"source": "b", "labels": [0, -1]}]
    with pytest.raises(TableError, match="row 2 has -1 among its labels"):
        Table.from_rows(rows)
    schema = pa.schema([SCHEMA.field(name) for name in ("id", "source", "labels")])
    content = pa.Table.from_pylist([{"id": row["source"], **row} for row in rows], schema)
    with pa.ipc.new_file(tmp_path / "other.arrow", schema) as file:
        file.write_table(content)
    with pytest.raises(TableError, match="row 2 has -1 among its labels"):
        open_table(tmp_path / "other.arrow")


@pytest.mark.parametrize(
    "of", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)], ids=["list", "large", "fixed"]
)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string()], ids=["", "large"])
def test_lists_of_every_kind_in_parquet(of, text):
    """Were wrong: lists of 64 bit offsets, as polars writes them, and of a fixed length ended in an error of Arrow."""
    columns = {
        "path": pa.array([["a.mp4", "b.mp4"], ["c.mp4", "d.mp4"]], of(text)),
        "labels": pa.array([["run", "jump"], None], of(text)),
        "caption": pa.array([["one", "two"], None], of(text)),
        "frame_labels": pa.array([[0, 1], None], of(pa.int64())),
        "box_times_sec": pa.array([None, [0.5, 1.0]], of(pa.float64())),
        "boxes": pa.array(
            [None, [[[0, 0, 1, 1]]] * 2], of(pa.large_list(pa.list_(pa.float64(), 4)))
        ),
    }
    pq.write_table(pa.table(columns), "t.parquet")
    table = open_table("t.parquet")
    first, second = table.record(0), table.record(1)
    assert first.source.endswith("a.mp4||" + str(Path("b.mp4").absolute()))
    assert (table.class_names, first.labels, second.labels) == (("jump", "run"), (1, 0), None)
    assert [caption.text for caption in first.captions] == ["one", "two"]
    assert first.frame_labels.tolist() == [0, 1]
    assert (second.boxes.shape, second.box_times_sec.tolist()) == ((2, 1, 4), [0.5, 1.0])
    numbers = {"path": ["a.mp4"], "label": pa.array([[1, 2]], of(pa.int64()))}
    pq.write_table(pa.table(numbers), "t.parquet")
    with pytest.raises(TableError, match="call a column of lists `labels`"):
        open_table("t.parquet")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_row_whose_id_is_empty_is_called_by_its_path(name):
    """Was wrong: an empty cell of CSV was an id of no letters, and two of them one id twice."""
    given = ["x", "", " ", "" if name == "t.csv" else None]
    rows = [{"id": given[row], "path": f"{row}.mp4"} for row in range(4)]
    assert open_table(write(name, rows)).column("id").tolist() == ["x", "1.mp4", "2.mp4", "3.mp4"]


def test_a_split_column_divides_one_file():
    rows = [
        {"path": f"{i}", "class": "ab"[i % 2], "split": "train" if i < 3 else "val"}
        for i in range(5)
    ]
    write("t.csv", rows)
    assert open_table("t.csv:val").column("id").tolist() == ["3", "4"]
    only_b = [row | {"class": "b"} if row["split"] == "val" else row for row in rows]
    assert open_table(write("u.csv", only_b) + ":val").column("label").tolist() == [1, 1]
    for spec, message in [("t.csv", r"splits \['train', 'val'\] in one file: write which one"),
                          ("t.csv:vla", "no split 'vla'.* Did you mean 'val'")]:  # fmt: skip
        with pytest.raises(TableError, match=message):
            open_table(spec)
    with pytest.raises(TableError, match="has no column `split`: leave out ':val'"):
        open_table(write("s.csv", [{"path": "a"}]) + ":val")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_file_of_one_split_needs_no_choice(name):
    """Was wrong: the training rows of a table in a file of their own were refused until `:train` was written."""
    rows = [{"path": f"{i}", "split": "train"} for i in range(3)]
    assert open_table(write(name, rows)).column("id").tolist() == ["0", "1", "2"]
    with pytest.raises(TableError, match=r"splits \['train'\] in one file: write which one"):
        open_table(write(name, [*rows, {"path": "3", "split": None}]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": "a", "lable": 1}], "unknown column 'lable'. Did you mean 'label'"),
        ([{"path": "a", "strat_sec": 1}], "unknown column 'strat_sec'. Did you mean 'start_sec'"),
        ([{"pth": "a", "label": 1}], "no column for the videos, only ['pth', 'label']: call it one of ['source'"),
        ([{"path": "a", "video": "b"}], "'path' and 'video' both mean 'source'"),
        ([{"path": "a", "label": 1}, {"path": None, "label": 1}], "1 rows name no video, the first is row 2"),
        ([{"path": "a", "label": 1.5}], "1.5"),
        ([{"path": "a", "label": 3_000_000_000}], "column 'label' must be int32, but row 1 holds"),
        ([{"path": "a", "label": 1, "class_name": "x"}, {"path": "b", "label": 1, "class_name": "y"}],
         "label 1 has the names"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", KINDS)
def test_wrong_columns_and_labels_are_named(name, rows, message):
    with pytest.raises(TableError, match=re.escape(message)) as caught:
        open_table(write(name, rows))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"path,label\na,1\nb,cat\n", r"mixes numbers and names as labels: '1' in row 1, 'cat' in row 2"),
        ("t.csv", b"path,fps\na,25\nb,fast\n", "column 'fps' must be double, but row 2 holds 'fast'"),
        ("t.csv", b"path,label\na,1\nb\n", "cannot be read as CSV with a header.*row 2: Expected 2 columns, got 1"),
        ("t.csv", "path,label\na,1\n".encode("utf-16"), "is a text in UTF-16: save the file as UTF-8"),
        ("t.tsv", "path\tlabel\n".encode("utf-16-le"), "zero bytes, the first in line 1. If it is a text in UTF-16"),
        ("t.csv", b"path,label\n" + b"a,1\n" * 20_000 + b"b\0,1\n", "zero bytes, the first in line 20002"),
        ("t.csv", b"path,path,label\na,a,1\n", r"two columns 'path', the 1\. and the 2\. of 3"),
        ("t.csv", b"path,label,class,label\na,1,1,1\n", "two columns 'label', the 2. and the 4. of 4"),
        ("t.csv", b"path,start\na,1\nb,nan\n", "'start_sec' must be a finite number, but row 2 holds nan"),
        ("t.csv", b"path,end\na,inf\n", "'end_sec' must be a finite number, but row 1 holds inf"),
        ("t.csv", b"path,start,end\na,0,1\nb,1.5,0.5\n", "row 2 has end_sec=0.5 with start_sec=1.5: the end must"),
        ("t.csv", b"path,end\na,0\n", "row 1 has end_sec=0 with start_sec=0"),
        ("t.csv", b"path,fps\na,0\n", "column 'fps' must be positive, but row 1 holds 0.0"),
        ("t.csv", b"path,label\na,1\nb\xff,2\n", r"line 3 is not UTF-8 .*%FF"),
        ("t.csv", b"path,label\n", "no rows"),
        ("t.jsonl", b'{"path": "a"}\n{"path": \n', "cannot be read as JSON lines: line 2 is no JSON"),
        ("t.jsonl", b'{"path": "a"}\n[1]\n', r"line 2 holds \[1\] and no object"),
        ("t.jsonl", b'{"path": "a"}\n{"path": "b", "path": "c"}\n', "line 2: the key 'path' stands in it twice"),
        ("t.jsonl", b'{"path": "a\\u0000b"}\n', "the path in row 1 holds a zero byte"),
        ("t.jsonl", b'{"path": "a", "fps": 1}\n{"path": "b", "fps": "x"}\n',
         "changed from number in line 1 to string in line 2: 'x'"),
        ("t.jsonl", b'{"path": "a", "fps": "x"}\n', "column 'fps' must be double, but row 1 holds 'x'"),
        ("t.jsonl", b'{"path": "a", "label": [1]}\n', "call a column of lists `labels`"),
        ("t.jsonl", b"", "is empty"),
        ("t.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("t.xlsx", b"", r"t\.xlsx is not a table: a file must end in \.arrow, \.csv"),
    ],
)  # fmt: skip
def test_broken_files_are_named(name, content, message):
    with open(name, "wb") as file:
        file.write(content)
    with pytest.raises(TableError, match=message) as caught:
        open_table(name)
    assert name in str(caught.value)


@pytest.mark.parametrize("where", [0, 1, 30])
def test_json_of_many_brackets_is_refused_and_does_not_end_the_process(where):
    """Was wrong: Arrow's reader overflowed its stack, and the process ended with SIGSEGV."""
    lines = [b'{"path": "a[[[", "x": [{"y": [1]}]}'] * 31
    lines[where] = b'{"path": "a", "x": ' + b"[" * 200_000
    Path("deep.jsonl").write_bytes(b"\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-c", "import video_ssl.datasets as d; d.open_table('deep.jsonl')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"deep.jsonl line {where + 1} has 20000" in done.stderr
    lines[where] = lines[where - 1]
    Path("fine.jsonl").write_bytes(b"\n".join(lines * 40))  # brackets in texts are none
    assert len(open_table("fine.jsonl")) == 31 * 40


@pytest.mark.parametrize(
    "name",
    ["score", "weight", "objects", "state", "part", "code", "patch", "starts", "labels2", "label_2", "test", "scene",
     "stats", "times", "title", "fold", "Unnamed: 0", ""],
)  # fmt: skip
def test_a_column_of_another_meaning_is_left_out_and_named(name, caplog):
    """Was wrong: `score` was taken for a slip of `source`, and the file refused."""
    Path("t.csv").write_text(f"path,label,{name}\na.mp4,0,1\n")
    with caplog.at_level(logging.INFO):
        table = open_table("t.csv")
    assert table.column_names == ["id", "source", "label"]
    assert f"left out: ['{name}']" in caplog.text


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lable", "label"), ("lavel", "label"), ("end_tiem", "end_time"), ("gorup", "group"), ("durration", "duration"),
     ("fraem_rate", "frame_rate"), ("sart_time", "start_time"), ("Video Ids", None), ("capton", "caption")],
)  # fmt: skip
def test_a_slip_of_the_pen_is_refused_where_nothing_else_has_its_meaning(name, meant):
    Path("t.csv").write_text(f"path,{name}\na.mp4,0\n")
    if meant is None:
        open_table("t.csv")
        return
    with pytest.raises(TableError, match=f"unknown column '{name}'. Did you mean '{meant}'"):
        open_table("t.csv")
    taken = known_column(meant)
    value = "1" if taken not in ("start_sec", "end_sec") else "1.0"
    Path("t.csv").write_text(f"path,{taken},{name}\na.mp4,{value},0\n")
    assert len(open_table("t.csv")) == 1


def test_two_columns_of_one_name_are_refused_in_parquet_too():
    pq.write_table(pa.Table.from_arrays([["a"], [1], [2]], ["path", "label", "label"]), "t.parquet")
    with pytest.raises(TableError, match="two columns 'label', the 2"):
        open_table("t.parquet")
    pq.write_table(pa.Table.from_arrays([["a"], [1], [2]], ["path", "x", "x"]), "t.parquet")
    assert open_table("t.parquet").column_names == ["id", "source"]


def test_videos_inside_of_a_parquet_file_are_refused_in_a_sentence():
    """Was wrong: every byte of the video was printed."""
    video = pa.array([{"bytes": b"\0\1" * 50_000, "path": "a.mp4"}] * 2)
    pq.write_table(pa.table({"video": video, "label": [0, 1]}), "t.parquet")
    with pytest.raises(
        TableError, match="holds the videos themselves and not their paths"
    ) as caught:
        open_table("t.parquet")
    assert len(str(caught.value)) < 300
    pq.write_table(pa.table({"video": [b"\xff\xfe" * 9999]}), "t.parquet")
    with pytest.raises(TableError, match="row 1 holds <19998 bytes>"):
        open_table("t.parquet")
    paths = pa.array([{"bytes": None, "path": "a.mp4"}], video.type)
    pq.write_table(pa.table({"video": paths}), "t.parquet")
    assert open_table("t.parquet").column("id").tolist() == ["a.mp4"]


def test_whole_numbers_may_be_written_with_a_fraction_of_zero():
    Path("t.csv").write_text("path,num_frames,fps\na,30.0,null\nb,,25\nc, 7 ,\n")
    table = open_table("t.csv")
    np.testing.assert_array_equal(table.column("num_frames"), [30, -1, 7])
    np.testing.assert_array_equal(table.column("fps"), [np.nan, 25, np.nan])


def test_a_csv_without_a_header_is_a_list_as_before():
    with open("t.csv", "w") as file:
        file.write("a.mp4,3\nb c.mp4,4\n")
    Path("b c.mp4").touch()
    assert open_table("t.csv").column("label").tolist() == [3, 4]


def test_a_path_may_hold_a_newline_and_quotes(here):
    with open("t.csv", "w") as file:
        file.write('path,label\n"two\nlines.mp4",0\n"say ""hi"".mp4",1\n')
    table = open_table("t.csv")
    assert table.record(0).source == str(here / "two\nlines.mp4")
    assert table.record(1).source == str(here / 'say "hi".mp4')


def test_names_that_look_like_numbers_or_times_stay_text():
    with open("t.csv", "w") as file:
        file.write("path,id\n007,0012\n-1e5,2020-01-01\n")
    table = open_table("t.csv")
    assert table.column("id").tolist() == ["0012", "2020-01-01"]
    assert table.column("source").tolist() == ["007", "-1e5"]
    write("t.jsonl", [{"path": "a", "id": "2020-01-01 00:00:00"}])
    assert open_table("t.jsonl").record(0).id == "2020-01-01 00:00:00"


# Large ones


@pytest.fixture
def large(here):
    count = 60_000
    with open("large.csv", "w") as file:
        file.write(
            "path,label\n" + "".join(f"some/where/{i:08d}.mp4,{i % 7}\n" for i in range(count))
        )
    return count


def test_a_large_table_is_mapped_from_the_cache_by_everybody(here, large, monkeypatch):
    table = open_table("large.csv")
    assert str(table.path).startswith(str(here / "cache"))
    assert len(pickle.dumps(table)) < 1000
    assert table.record(59_999).source == str(here / "some/where/00059999.mp4")
    assert pickle.loads(pickle.dumps(table)).record(7).source == str(
        here / "some/where/00000007.mp4"
    )
    monkeypatch.setattr("video_ssl.datasets.opening.read_table_file", None)
    again = open_table("large.csv")  # is not read a second time
    assert (again.path, len(again)) == (table.path, large)


def test_a_large_table_that_changes_is_read_again(large):
    open_table("large.csv")
    with open("large.csv", "a") as file:
        file.write("one/more.mp4,3\n")
    assert len(open_table("large.csv")) == large + 1


def test_without_a_cache_a_large_table_stays_in_memory(large, monkeypatch, caplog):
    monkeypatch.setenv("VIDEO_SSL_CACHE", "/dev/null/cache")
    table = open_table("large.csv")
    assert (table.path, len(table)) == (None, large)
    assert "copied to every worker" in caplog.text


def test_a_large_selection_is_mapped_and_gives_the_same_rows(here, large):
    table = Table.from_columns(
        {"source": [str(i) for i in range(200_000)], "label": np.arange(200_000)}
    ).save("t.arrow")
    chosen = table.select(np.random.default_rng(0).permutation(200_000)[:150_000])
    pickled = pickle.dumps(chosen)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    np.testing.assert_array_equal(copy.column("label"), chosen.column("label"))
    assert copy.record(149_999).id == chosen.record(149_999).id
    assert pickle.loads(pickle.dumps(copy.select([3, 1]))).record(0).id == chosen.record(3).id


def test_saving_moves_sources_into_the_folder_or_makes_them_absolute(here):
    sources = [
        "a.mp4",
        "sub/../b.mp4",
        "/abs/./c.mp4",
        "../d.mp4",
        "s3://b//x/../e.mp4",
        str(here / "t" / "f.mp4"),
    ]
    table = Table.from_columns({"source": sources}, root=here / "t")
    saved = table.save(here / "t" / "t.arrow")
    assert saved.arrow["source"].to_pylist() == [
        "a.mp4", "b.mp4", "/abs/./c.mp4", str(here / "d.mp4"), "s3://b//x/../e.mp4", "f.mp4",
    ]  # fmt: skip
    assert [saved.record(i).source for i in range(6)] == [table.record(i).source for i in range(6)]
    apart = table.save(here / "u" / "t.arrow")
    assert [apart.record(i).source for i in range(6)] == [table.record(i).source for i in range(6)]


def test_a_table_elsewhere_has_its_videos_beside_it(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.pipe(
        "/lists/t.csv", b"path,class,split\na.mp4,x,train\n/abs/b.mp4,y,train\ns3://u/c.mp4,x,val\n"
    )
    table = open_table("memory://lists/t.csv:train")
    assert [table.record(i).source for i in range(2)] == ["memory://lists/a.mp4", "/abs/b.mp4"]
    assert pickle.loads(pickle.dumps(table)).record(0).source == "memory://lists/a.mp4"
    assert open_table("memory://lists/t.csv:val").record(0).source == "s3://u/c.mp4"
    assert open_table("memory://lists/t.csv:val").class_names == ("x", "y")
    with pytest.raises(TableError, match="give a list of their URIs"):
        open_table("memory://lists/videos")
    files.store.clear()


def test_opening_tables_needs_no_torch_and_no_fsspec():
    code = (
        "import sys; from video_ssl.datasets import open_table; open_table('t.csv');"
        "print([m for m in ('torch', 'jax', 'fsspec', 'av') if m in sys.modules])"
    )
    write("t.csv", [{"path": "a"}])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("blank", ["", " ", "\t", '" "'])
def test_a_blank_is_no_video(blank):
    """Was wrong: a space was taken for a file of that name in the folder of the list."""
    Path("t.csv").write_text(f"path,label\na.mp4,0\n{blank},1\n")
    with pytest.raises(TableError, match=r"t\.csv: 1 rows name no video, the first is row 2"):
        open_table("t.csv")
