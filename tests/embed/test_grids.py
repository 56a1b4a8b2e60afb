"""Outputs on a grid in feature files: what comes back, how much is read, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.embed.grids import Grid, GridColumn

RNG = np.random.default_rng(0)


def row(number, grid=(2, 3, 4), width=8, **changes):
    t, h, w = grid
    tokens = Grid(
        values=RNG.normal(size=(t * h * w, width)).astype(np.float32),
        grid=grid,
        times=np.arange(t) + number * 0.5,
    )
    feature = RNG.normal(size=5).astype(np.float32)
    return {"id": f"v{number}", "clip": 0, "feature": feature, "tokens": tokens, **changes}


def written(path, rows, dtype="float16", rows_per_batch=2):
    column = GridColumn(name="tokens", width=8, dtype=dtype)
    with FeatureWriter(path, embed_dim=5, columns=[column]) as writer:
        for start in range(0, len(rows), rows_per_batch):
            writer.write(rows[start : start + rows_per_batch])
    return open_features(path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tokens_come_back_in_their_places_with_their_times(tmp_path, dtype):
    rows = [row(number) for number in range(5)]
    found = written(tmp_path / "a.arrow", rows, dtype)
    assert list(found.outputs) == ["clip", "tokens"]
    told = found.outputs["tokens"]
    assert (told.width, told.dtype, told.per_clip, told.grid) == (8, dtype, 24, (2, 3, 4))
    for number, own in enumerate(rows):
        grid = found.grid("tokens", number)
        np.testing.assert_array_equal(grid.values, own["tokens"].values.astype(dtype))
        np.testing.assert_array_equal(grid.times, own["tokens"].times)
        assert grid.map[1, 2, 3].tolist() == own["tokens"].values.astype(dtype)[23].tolist()
    some = found.read("tokens", [4, 0])
    assert some.dtype == dtype
    np.testing.assert_array_equal(some[0], rows[4]["tokens"].values.astype(dtype))
    np.testing.assert_array_equal(some[1], rows[0]["tokens"].values.astype(dtype))
    np.testing.assert_array_equal(found.read("clip", [3])[0], rows[3]["feature"])


def test_a_few_rows_are_read_without_the_others(tmp_path):
    rows = [row(number, grid=(8, 16, 16)) for number in range(40)]
    found = written(tmp_path / "a.arrow", rows)
    before = pa.total_allocated_bytes()
    grid = found.grid("tokens", 17)
    assert not grid.values.flags.owndata
    assert found.read("tokens", [0, 39]).nbytes == 2 * 8 * 16 * 16 * 8 * 2
    assert pa.total_allocated_bytes() - before < 100_000  # the tokens are 1.3 MB


def test_clips_of_different_grids_are_read_one_by_one(tmp_path):
    found = written(tmp_path / "a.arrow", [row(0), row(1, grid=(1, 3, 4))])
    assert found.outputs["tokens"].grid is None
    assert found.grid("tokens", 1).map.shape == (1, 3, 4, 8)
    with pytest.raises(FeatureError, match=r"have \[12, 24\] vectors.*clip by clip"):
        found.read("tokens", [0, 1])


def test_what_is_not_there_is_told_with_what_is(tmp_path):
    found = written(tmp_path / "a.arrow", [row(0)])
    with pytest.raises(FeatureError, match=r"no output 'moments', only clip, tokens.*--outputs"):
        found.read("moments", [0])
    with pytest.raises(FeatureError, match="clip is on no grid"):
        found.grid("clip", 0)
    rows = [row(0), row(1, frame_features=np.ones((3, 5), np.float32))]
    some = written(tmp_path / "b.arrow", rows)
    assert some.read("moments", [1]).shape == (1, 3, 5)
    with pytest.raises(FeatureError, match=r"moments of these clips have \[0, 3\] vectors"):
        some.read("moments", [0, 1])


def test_the_writer_refuses_tokens_that_it_cannot_store(tmp_path):
    def refused(match, own, dtype="float16"):
        with pytest.raises(FeatureError, match=match):
            written(tmp_path / "a.arrow", [own], dtype)

    wrong = row(0)
    wrong["tokens"].values[3, 2] = 1e5
    refused(r"tokens of 'v0', clip 0, has numbers up to 100000.*tokens_dtype=float32", wrong)
    assert written(tmp_path / "b.arrow", [wrong], "float32").read("tokens", [0]).max() == 1e5
    wrong["tokens"].values[3, 2] = np.nan
    refused("tokens of 'v0', clip 0, is not finite", wrong)
    wrong = row(0)
    short = Grid(values=wrong["tokens"].values[1:], grid=(2, 3, 4), times=np.arange(2.0))
    refused(r"has shape \(23, 8\) with 2 times, but a grid of \(2, 3, 4\)", row(0, tokens=short))
    refused("tokens of 'v0', clip 0, is missing", row(0, tokens=None))


def lies(table):
    place = table.column_names.index("tokens_grid")
    lie = pa.FixedSizeListArray.from_arrays(pa.array([2, 3, 5], pa.int32()), 3)
    return table.set_column(place, "tokens_grid", lie)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lies, "'tokens' has other lengths"),
        (lambda table: table.drop_columns(["tokens_times_sec"]), "columns of 'tokens_grid' are"),
        (lambda table: table.drop_columns(["tokens"]), "columns of 'tokens_grid' are"),
    ],
)
def test_a_file_whose_grid_lies_is_refused(tmp_path, change, text):
    table = change(written(tmp_path / "a.arrow", [row(0)]).table)
    with (
        pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as file,
    ):
        file.write_table(table)
    with pytest.raises(FeatureError, match=rf"b\.arrow is damaged: .*{text}"):
        open_features(tmp_path / "b.arrow")
