"""Feature files: the round trip, what others have made, pooling, and the text of every error."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, features_from_arrays, open_features
from video_ssl.evaluate.pooling import check_poolings, pool, pooled_features

RNG = np.random.default_rng(0)
LENGTHS = [3, 1, 4, 4, 2, 3, 7]


def rows() -> list[dict[str, object]]:
    made = []
    for number, length in enumerate(LENGTHS):
        made.append(
            {
                "id": f"v{number // 2}",
                "clip": number % 2,
                "label": None if number == 6 else number % 3,
                "group": None if number < 2 else "g",
                "start_sec": 0.5 * number,
                "end_sec": 0.5 * number + 1,
                "feature": RNG.normal(size=5).astype(np.float32),
                "frame_features": RNG.normal(size=(length, 5)).astype(np.float32),
                "frame_times_sec": np.arange(length) * 0.25,
                "frame_labels": None if number else [0, 1, -1],
            }
        )
    return made


@pytest.fixture
def written(tmp_path):
    made = rows()
    with FeatureWriter(tmp_path / "a.arrow", embed_dim=5, metadata={"encoder": "toy"}) as writer:
        writer.write(made[:3])
        writer.write(made[3:])
        writer.skipped.append({"id": "bad", "reason": "not a video"})
    return made, tmp_path / "a.arrow"


def test_round_trip(written):
    made, path = written
    opened = open_features(path)
    assert len(opened) == len(made)
    assert opened.metadata == {"encoder": "toy"}
    assert opened.skipped == [{"id": "bad", "reason": "not a video"}]
    np.testing.assert_array_equal(opened.features, np.stack([r["feature"] for r in made]))
    assert opened.ids.tolist() == [r["id"] for r in made]
    assert opened.labels.tolist() == [0, 1, 2, 0, 1, 2, -1]
    assert opened.groups.tolist() == ["v0", "v0", "g", "g", "g", "g", "g"]
    for number, row in enumerate(made):
        values, times = opened.frames(number)
        np.testing.assert_array_equal(values, row["frame_features"])
        np.testing.assert_array_equal(times, row["frame_times_sec"])
    assert opened.table["frame_labels"][0].as_py() == [0, 1, -1]
    assert [p.name for p in path.parent.iterdir()] == ["a.arrow"]


def test_the_file_is_mapped_not_read(tmp_path):
    with FeatureWriter(tmp_path / "big.arrow", embed_dim=1000) as writer:
        for start in range(0, 4000, 500):
            block = np.full((500, 1000), start, np.float32)
            writer.write(
                [{"id": str(start + i), "clip": 0, "feature": f} for i, f in enumerate(block)]
            )
    before = pa.total_allocated_bytes()
    opened = open_features(tmp_path / "big.arrow")
    assert opened.ids[3999] == "3999"
    assert pa.total_allocated_bytes() - before < 1_000_000  # the features are 16 MB
    assert opened.features[3999, 999] == 3500


def test_a_failed_writing_leaves_nothing(tmp_path):
    writer = FeatureWriter(tmp_path / "a.arrow", embed_dim=5).__enter__()
    writer.write(rows())
    assert len(list(tmp_path.iterdir())) == 1
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["feature", "frame_features"])
def test_writer_refuses_what_is_not_finite(tmp_path, key):
    row = rows()[2]
    row[key] = np.where(np.arange(5) == 1, np.nan, row[key]).astype(np.float32)
    with (
        pytest.raises(FeatureError, match=f"{key} of 'v1', clip 0, is not finite"),
        FeatureWriter(tmp_path / "a.arrow", embed_dim=5) as writer,
    ):
        writer.write([row])


def slow_pool(frames: np.ndarray, name: str) -> list[float]:
    length, width = frames.shape
    if name == "mean":
        return [sum(frames[t, d] for t in range(length)) / length for d in range(width)]
    if name == "max":
        return [max(frames[t, d] for t in range(length)) for d in range(width)]
    if name == "mean_std":
        mean = slow_pool(frames, "mean")
        var = [sum((frames[t, d] - mean[d]) ** 2 for t in range(length)) for d in range(width)]
        return mean + [(v / length) ** 0.5 for v in var]
    parts, out = int(name.split("_")[1]), []
    for s in range(parts):
        inside = [t for t in range(length) if t + 1 > s * length / parts]
        inside = [t for t in inside if t < (s + 1) * length / parts]
        out += slow_pool(frames[inside], "mean")
    return out


@pytest.mark.parametrize("name", ["mean", "max", "mean_std", "concat_2", "concat_3", "concat_8"])
def test_pooling_against_a_slow_version_on_clips_of_unequal_length(written, name):
    made, path = written
    expected = np.array([slow_pool(r["frame_features"].astype(np.float64), name) for r in made])
    np.testing.assert_allclose(pooled_features(open_features(path), name), expected, atol=1e-6)


def test_only_concat_knows_the_order_of_time():
    frames = RNG.normal(size=(2, 8, 3))
    for name in ("mean", "max", "mean_std"):
        np.testing.assert_allclose(pool(frames, name), pool(frames[:, ::-1], name))
    assert not np.allclose(pool(frames, "concat_4"), pool(frames[:, ::-1], "concat_4"))


def test_unknown_pooling_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown pooling 'meen'.*Did you mean 'mean'"):
        check_poolings(["clip", "meen"])


def arrays(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "features": RNG.normal(size=(4, 3)),
        "labels": np.array([0, 1, -1, 1]),
        "ids": np.array(["a", "b", "b", "c"]),
        "frame_features": RNG.normal(size=(4, 2, 3)),
        "frame_times_sec": np.array([[0.0, 0.5]] * 4),
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def test_frames_of_others_whose_times_are_unknown_keep_their_order(tmp_path):
    """Was wrong: NaN among the times became null, and so the times objects that cannot be sorted."""
    table = pa.table(
        {
            "id": ["a", "a"],
            "feature": [[0.0], [1.0]],
            "frame_features": [[[0.0], [1.0]], [[2.0], [3.0]]],
            "frame_times_sec": [[0.5, float("nan")], [0.1, 0.2]],
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    values, times = open_features(tmp_path / "f.parquet").frames_of("a")
    assert values.ravel().tolist() == [0, 1, 2, 3]
    assert times.dtype == np.float64
    np.testing.assert_array_equal(times, [0.5, np.nan, 0.1, 0.2])


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_features_of_others(tmp_path, kind):
    given = arrays()
    path = tmp_path / f"theirs.{kind}"
    if kind == "npz":
        np.savez(path, **given)
    else:
        pq.write_table(pa.table({k: np.asarray(v).tolist() for k, v in given.items()}), path)
    opened = open_features(path)
    np.testing.assert_allclose(opened.features, given["features"], rtol=1e-6)
    assert opened.ids.tolist() == ["a", "b", "b", "c"]
    assert opened.labels.tolist() == [0, 1, -1, 1]
    assert opened.table["clip"].to_pylist() == [0, 0, 1, 0]
    np.testing.assert_allclose(opened.frames(2)[0], given["frame_features"][2], rtol=1e-6)
    assert opened.frames(2)[1].tolist() == [0.0, 0.5]
    with pytest.raises(FeatureError, match=r"1 of 4 clips without a label"):
        opened.require_labels()


def test_features_without_anything_else_get_ids_and_no_labels(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.eye(3))
    opened = open_features(tmp_path / "f.npz")
    assert opened.ids.tolist() == ["0", "1", "2"]
    assert not opened.has_frames
    with pytest.raises(FeatureError, match="3 of 3 clips without a label"):
        opened.require_labels()
    with pytest.raises(FeatureError, match=r"without frame features.*pooling 'clip'"):
        pooled_features(opened, "mean")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"features": np.full((4, 3), np.nan)},
            "not finite in 4 of 4 rows, first: row 1 holds nan",
        ),
        (
            {"features": np.array([[1, 2], [3, np.inf], [5, 6], [7, 8]])},
            "in 1 of 4 rows.* row 2 holds inf",
        ),
        ({"labels": np.arange(3)}, "unequal length"),
        ({"features": np.zeros(4)}, r"must be \(clips, width\)"),
        (
            {"lables": np.zeros(4), "labels": None},
            r"unknown array 'lables'\. Did you mean 'labels'",
        ),
        ({"frame_features": np.zeros((4, 2, 5))}, r"must be \(clips, moments, 3\)"),
        ({"features": np.array([["a"]] * 4)}, "must be numbers"),
    ],
)
def test_arrays_that_cannot_be_used(changes, text):
    with pytest.raises(FeatureError, match=text):
        features_from_arrays(arrays(**changes))


WRONG_NUMBERS = [
    ("labels", [0.0, 0.5, 1.0, 1.0], r"labels must be whole numbers from 0 to 2147483647.* row 2 holds 0\.5"),
    ("labels", [0.0, 1.0, np.nan, 1.0], "-1 where unknown, but row 3 holds nan"),
    ("labels", [0.0, 1.0, np.inf, 1.0], "row 3 holds inf"),
    ("labels", [0, 1, 0, 2**40], f"row 4 holds {2**40}"),
    ("labels", np.array([0, 1, 0, 2**64 - 1], np.uint64), f"row 4 holds {2**64 - 1}"),
    ("labels", [0, 1, -2, 1], "row 3 holds -2"),
    ("labels", [0, 1j, 0, 1], "labels must be numbers, but are complex numbers"),
    ("labels", np.eye(2)[[0, 1, 0, 1]], r"one number a row, but are 4 x 2.*labels\.argmax\(axis=1\)"),
    ("labels", [[0], [1], [0], [1]], r"one number a row, but are 4 x 1 .*labels\[:, 0\]"),
    ("labels", np.array(["0", "run", "1", "run"]), "in all rows, but row 1 holds '0'"),
    ("labels", np.array(["0.5", "1.5", "0.5", "1"]), "but row 1 holds '0.5'"),
    ("features", np.eye(4) * (1 + 1j), "features must be numbers, but are complex numbers"),
    ("features", np.eye(4) * 1e300, "not finite in float32 in 4 of 4 rows, first: row 1 holds 1e\\+300"),
    ("clips", [0, 0, 0.5, 1], "clip must be whole numbers .* row 3 holds 0.5"),
    ("clips", [0, 0, 2**31, 1], f"row 3 holds {2**31}"),
    ("start_sec", [0, 1, -np.inf, 1], "start_sec must be seconds, NaN where unknown, but row 3 holds -inf"),
    ("frame_labels", [[0, 1], [0, 40_000], [0, 0], [0, 0]], "frame_labels must be .* to 32767.* row 2 holds 40000"),
    ("frame_labels", [[0, 1], [0, 0.5], [0, 0], [0, 0]], r"row 2 holds 0\.5"),
    ("frame_labels", [0, 1, 0, 1], "frame_labels must be of 2 dimensions"),
    ("frame_times_sec", [[0, 1], [0, np.inf], [0, 0], [0, 0]], "row 2 holds inf"),
    ("ids", [["a"], ["b"], ["c"], ["d"]], "id must be of 1 dimensions"),
    ("ids", [0.0, 1.0, np.nan, 2.0], "id is empty in row 3"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "key", "values", "text"),
    [
        (kind, *case)
        for kind in ("npz", "parquet")
        for case in WRONG_NUMBERS
        if kind == "npz" or np.asarray(case[1]).dtype.kind != "c"  # Parquet has no complex numbers
    ],
)
def test_numbers_that_would_change_on_reading_are_refused_with_file_row_and_value(
    tmp_path, kind, key, values, text
):
    """Was wrong: labels were cut to whole numbers or wrapped around, features lost a part or became infinite."""
    values, path = np.asarray(values), tmp_path / f"f.{kind}"
    given = {"features": np.eye(4), "frame_features": np.zeros((4, 2, 4)), key: values}
    if kind == "npz":
        np.savez(path, **given)
    else:
        columns = {n: pa.array(v if v.ndim == 1 else v.tolist()) for n, v in given.items()}
        pq.write_table(pa.table(columns), path)
    with pytest.raises(FeatureError, match=text) as raised:
        open_features(path)
    assert str(path) in str(raised.value)


def test_labels_keep_their_numbers_whatever_they_are_stored_as(tmp_path):
    kinds = [np.int8, np.int64, np.uint16, np.float32, np.float64, str, bytes]
    for kind in kinds:
        np.savez(tmp_path / "f.npz", features=np.eye(4), labels=np.array([0, 3, 1, 3]).astype(kind))
        assert open_features(tmp_path / "f.npz").labels.tolist() == [0, 3, 1, 3], kind
    for column in (pa.array([0, None, 3]), pa.array([0.0, None, 3.0]), pa.array([0, None, 3], pa.uint32()),
                   pa.array([0, None, 3]).dictionary_encode()):  # fmt: skip
        pq.write_table(
            pa.table({"features": np.eye(3).tolist(), "label": column}), tmp_path / "f.parquet"
        )
        assert open_features(tmp_path / "f.parquet").labels.tolist() == [0, -1, 3]


def test_one_column_under_two_names_is_refused(tmp_path):
    """Was wrong: the last one was taken without a word."""
    np.savez(tmp_path / "f.npz", features=np.eye(2), labels=[0, 1], label=[1, 0])
    with pytest.raises(FeatureError, match=r"f\.npz: two arrays are the 'label"):
        open_features(tmp_path / "f.npz")
    pq.write_table(pa.table([pa.array([[1.0]]), pa.array([0]), pa.array([1])], ["features", "label", "label"]), tmp_path / "f.parquet")  # fmt: skip  # noqa: E501
    with pytest.raises(FeatureError, match=r"f\.parquet has 2 columns 'label'"):
        open_features(tmp_path / "f.parquet")


def test_arrays_that_nobody_asked_for_are_left_aside():
    opened = features_from_arrays(arrays(logits=np.zeros((4, 9)), predictions=np.zeros(4)))
    assert len(opened) == 4


def test_a_misspelt_name_names_the_right_one():
    with pytest.raises(FeatureError, match=r"no array `features`.*Did you mean 'featurs'"):
        features_from_arrays({"featurs": np.eye(3)})


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.array([[1.0], None], dtype=object))
    with pytest.raises(FeatureError, match="Arrays of objects are refused"):
        open_features(tmp_path / "f.npz")


def test_files_that_cannot_be_used(written, tmp_path):
    _, path = written
    with pytest.raises(FeatureError, match="no feature file"):
        open_features(tmp_path / "none.arrow")
    (tmp_path / "f.pkl").write_bytes(b"x")
    with pytest.raises(FeatureError, match=r"unknown kind '\.pkl'"):
        open_features(tmp_path / "f.pkl")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeatureError, match="not a complete Arrow file"):
        open_features(path)
    for kind in ("npz", "parquet"):
        (tmp_path / f"f.{kind}").write_bytes(b"not that")
        with pytest.raises(FeatureError, match="not readable"):
            open_features(tmp_path / f"f.{kind}")
    # Also where all the numbers together would go into rows as long as the first.
    for number, rows in enumerate(([[1.0, 2.0], [3.0]], [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]])):
        ragged = tmp_path / f"ragged{number}.parquet"
        pq.write_table(pa.table({"features": rows}), ragged)
        with pytest.raises(FeatureError, match="'features' have unequal lengths"):
            open_features(ragged)
