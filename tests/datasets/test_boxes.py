"""Boxes at key frames with several labels and scores, and captions with times: through every kind of table file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from video_ssl.clips.upkeep.transcode import _move_times
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Caption, Record, Table, TableError

ONE, TWO = [0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 1.0]
#: Two key frames of the first video, the second with two people; nothing is known of the second video.
ROWS: list[dict[str, Any]] = [
    {
        "path": "a.mp4",
        "boxes": [[ONE], [ONE, TWO]],
        "box_times_sec": [902.0, 903.0],
        "box_labels": [[[3, 7]], [[3], [1, 2, 3]]],
        "box_scores": [[0.5], [0.25, 1.0]],
        "captions": [{"text": "stir it", "start": 1.5, "end": 3.0}, {"text": "eat"}],
    },
    {"path": "b.mp4", "captions": [{"text": "run"}]},
]


def check(record: Record) -> None:
    nan = np.full(4, np.nan)
    np.testing.assert_array_equal(record.boxes, np.float32([[ONE, nan], [ONE, TWO]]))
    np.testing.assert_array_equal(record.box_times_sec, [902.0, 903.0])
    assert record.box_labels == (((3, 7),), ((3,), (1, 2, 3)))
    np.testing.assert_array_equal(record.box_scores, np.float32([[0.5, np.nan], [0.25, 1.0]]))
    assert record.captions == (Caption(text="stir it", start_sec=1.5, end_sec=3.0), Caption(text="eat"))  # fmt: skip


def write(path: Path) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        names = list(ROWS[0])
        cells = [
            [json.dumps(row[n]) if n in row and n != "path" else row.get(n, "") for n in names]
            for row in ROWS
        ]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
        path.write_text("\n".join([",".join(names), *lines]) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_every_kind_of_file_holds_them(tmp_path: Path, suffix: str) -> None:
    table = open_table(write(tmp_path / f"t{suffix}"))
    check(table.record(0))
    assert table.record(1).boxes is table.record(1).box_labels is None
    assert table.record(1).captions == (Caption(text="run"),)
    saved = table.save(tmp_path / "t.arrow")
    check(open_table(saved.path).record(0))
    check(saved.select([1, 0]).record(1))


def test_arrays_of_records_make_a_table_again(tmp_path: Path) -> None:
    first = open_table(write(tmp_path / "t.jsonl")).record(0)
    names = ("source", "boxes", "box_times_sec", "box_labels", "box_scores", "captions")
    check(Table.from_rows([{name: getattr(first, name) for name in names}]).record(0))


def test_a_table_without_them_is_as_before(tmp_path: Path) -> None:
    table = Table.from_columns({"source": ["a.mp4"], "boxes": [[[ONE]] * 3]}).save(
        tmp_path / "t.arrow"
    )
    assert table.column_names == ["id", "source", "boxes"]
    record = table.record(0)
    assert record.boxes is not None
    assert record.boxes.shape == (3, 1, 4)
    assert record.box_times_sec is record.box_scores is record.box_labels is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"box_times_sec": [[1.0]]}, "no `boxes` for it to go with"),
        ({"boxes": [[[ONE]]], "box_times_sec": [[1.0, 2.0]]}, "1 moments in `boxes`, but 2 in 'box_times_sec'"),
        ({"boxes": [[[ONE], []]], "box_times_sec": [[2.0, 1.0]]}, "seconds in order"),
        ({"boxes": [[[ONE]]], "box_times_sec": [[float("nan")]]}, "numbers of seconds"),
        ({"boxes": [[[ONE, TWO]]], "box_labels": [[[[1]]]]}, "2 boxes of a moment in `boxes`, but 1 in 'box_labels'"),
        ({"boxes": [[[ONE]]], "box_scores": [[[0.5, 0.5]]]}, "1 boxes of a moment in `boxes`, but 2 in 'box_scores'"),
        ({"captions": [[{"text": "a", "start_sec": 2.0, "end_sec": 1.0}]]}, "row 1 has the caption .*end not before"),
        ({"captions": [[{"text": "a", "start_sec": float("inf")}]]}, "row 1 has the caption"),
        ({"captions": [[{"start_sec": 1.0}]]}, "a caption needs a text"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=message):
        Table.from_columns({"source": ["a.mp4"], **columns})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", 'path,boxes\na.mp4,"[[[0,0,1]]]"\n', r"column 'boxes' must be .* as JSON, but row 1 holds"),
        ("t.csv", "path,box_scores\na.mp4,\nb.mp4,0.5\n", "column 'box_scores' must be .* row 2 holds"),
        ("t.csv", 'path,captions\na.mp4,"[{""text"": 1"\n', "row 1 has captions that begin like JSON"),
        ("t.jsonl", '{"path": "a", "captions": [{"text": "x", "when": 3}]}\n', "a caption with 'when'"),
        ("t.jsonl", '{"path": "a", "captions": [{"text": "x", "start": "soon"}]}\n', "no text or time"),
    ],
)  # fmt: skip
def test_cells_that_hold_something_else_are_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=message):
        open_table(tmp_path / name)


def test_captions_in_csv_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,caption\na.mp4,[sic] he runs\n")
    assert open_table(tmp_path / "t.csv").record(0).captions == (Caption(text="[sic] he runs"),)


def test_key_frames_move_with_a_segment_that_is_cut() -> None:
    values: dict[str, list[Any]] = {
        "start_sec": [902.5], "end_sec": [904.0], "boxes": [[[ONE], [TWO], [ONE]]],
        "box_times_sec": [[902.0, 903.0, 905.0]], "box_scores": [[[0.1], [0.2], [0.3]]],
    }  # fmt: skip
    _move_times(values, 0, 1.5, None)  # as a journal of before
    assert values["box_times_sec"] == [[0.5]]
    assert values["boxes"] == [[[TWO]]]
    assert values["box_scores"] == [[[0.2]]]


def test_one_caption_need_not_stand_in_a_list(tmp_path: Path) -> None:
    """Its keys were taken for captions: the text became "text"."""
    row = {"source": "a.mp4", "captions": {"text": "a jump", "start_sec": 1.0}}
    (tmp_path / "table.jsonl").write_text(json.dumps(row) + "\n")
    record = open_table(tmp_path / "table.jsonl").record(0)
    assert record.captions == (Caption(text="a jump", start_sec=1.0, end_sec=None),)


@pytest.mark.parametrize(
    ("box", "wrong"),
    [
        ([0.0, 0.0, 50.0, 100.0], "pixels"),
        ([0.5, 0.0, 0.25, 1.0], "the smaller one first"),
        ([0.0, 0.5, 1.0, 0.25], "the smaller one first"),
        ([-20.0, 0.0, 0.5, 0.5], "0 to 1"),
    ],
)
def test_boxes_in_pixels_or_with_edges_in_another_order_are_refused(
    box: list[float], wrong: str
) -> None:
    """Was wrong: they were taken, and every crop that follows them was wrong without a word."""
    rows = [
        {"source": "a.mp4", "boxes": [[ONE]]},
        {"source": "b.mp4", "boxes": [[ONE], [TWO, box]]},
    ]
    with pytest.raises(TableError, match=rf"row 2 has the box \[{box[0]}.*{wrong}"):
        Table.from_rows(rows)


def test_boxes_that_reach_over_the_picture_and_missing_ones_are_taken() -> None:
    over = [-0.1, 0.0, 1.2, 1.0]
    kept = Table.from_rows([{"source": "a.mp4", "boxes": [[over], [ONE, TWO]]}])
    again = Table.from_rows([{"source": "a.mp4", "boxes": kept.record(0).boxes}])
    np.testing.assert_array_equal(again.record(0).boxes, kept.record(0).boxes)


def test_moments_of_boxes_are_not_before_the_video() -> None:
    rows = [{"source": "a.mp4", "boxes": [[ONE]], "box_times_sec": [-1.0]}]
    with pytest.raises(TableError, match="from 0 on"):
        Table.from_rows(rows)
