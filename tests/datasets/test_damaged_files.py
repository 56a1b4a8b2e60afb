"""Arrow, Parquet and .npz files that are damaged or hostile: refused in a sentence, and the process goes on."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from video_ssl.datasets import open_table
from video_ssl.datasets.arrow import checks as arrow_checks
from video_ssl.datasets.table import Table, TableError
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, open_features


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write_arrow(name, table, **options):
    """As somebody else writes it: without a digest."""
    with pa.OSFile(name, "wb") as sink:
        settings = pa.ipc.IpcWriteOptions(**options)
        with pa.ipc.new_file(sink, table.schema, options=settings) as writer:
            writer.write_table(table)
    return name


def our_table(name, rows=20):
    columns = {"source": [f"v{k}.mp4" for k in range(rows)], "label": np.arange(rows) % 5}
    return Table.from_columns(columns, class_names=list("abcde")).save(name)


def our_features(name, rows=12):
    features = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    with FeatureWriter(name, embed_dim=4, metadata={"encoder": "x"}) as writer:
        writer.skipped.append({"id": "gone", "reason": "why"})
        writer.write(
            [
                {"id": f"v{k}", "clip": 0, "label": k % 3, "feature": f}
                for k, f in enumerate(features)
            ]
        )
    return features


@pytest.mark.parametrize(
    ("make", "read", "error"),
    [(our_table, Table.open, TableError), (our_features, open_features, FeatureError)],
)
def test_no_flipped_bit_of_ours_is_taken_for_what_was_written(make, read, error):
    """Was wrong: a flipped bit was another label or another number, without a word."""
    make("t.arrow")
    content = Path("t.arrow").read_bytes()
    rng = np.random.default_rng(1)
    for at in [*range(0, len(content), 29), *range(len(content) - 40, len(content))]:
        broken = bytearray(content)
        broken[at] ^= 1 << int(rng.integers(8))
        Path("b.arrow").write_bytes(broken)
        with pytest.raises(error, match=r"b\.arrow (is|has|lacks)"):
            read("b.arrow")
    for length in (0, 5, 100, len(content) // 2, len(content) - 1):
        Path("b.arrow").write_bytes(content[:length])
        with pytest.raises(error, match=r"b\.arrow"):
            read("b.arrow")
    Path("b.arrow").write_bytes(content)
    read("b.arrow")


def test_the_same_contents_give_the_same_bytes():
    for name in ("a.arrow", "b.arrow"):
        our_table(name)
        our_features(f"f{name}")
    assert Path("a.arrow").read_bytes() == Path("b.arrow").read_bytes()
    assert Path("fa.arrow").read_bytes() == Path("fb.arrow").read_bytes()
    np.testing.assert_array_equal(open_features("fa.arrow").features, our_features("c.arrow"))
    assert open_features("fa.arrow").skipped == [{"id": "gone", "reason": "why"}]
    again = Table.open("a.arrow").save(
        "d.arrow"
    )  # of a table that was opened, and has a digest already
    assert Path("d.arrow").read_bytes() == Path("a.arrow").read_bytes()
    assert arrow_checks.DIGEST_KEY not in again.arrow.schema.metadata


HOSTILE = """
import sys, struct, random
from video_ssl.datasets.table import Table, TableError
from video_ssl.embed.features import FeatureError, open_features
name, read = sys.argv[1], {"table": Table.open, "features": open_features}[sys.argv[2]]
content = open(name, "rb").read()
counts = {}
for seed in range(int(sys.argv[3])):
    rng = random.Random(seed)
    broken = bytearray(content)
    for _ in range(rng.choice([1, 2, 4])):
        at = rng.choice([rng.randrange(2000), len(content) - 1 - rng.randrange(2000), rng.randrange(len(content))])
        at -= at % 8
        value = rng.choice([0, -1, 2**31 - 1, 2**40, 2**63 - 1, -(2**63), rng.randrange(2**62), 8, 64])
        broken[at : at + 8] = struct.pack("<q", value)[: len(broken) - at]
    open("hostile.arrow", "wb").write(broken)
    try:
        found = read("hostile.arrow")
        if sys.argv[2] == "table":
            [found.record(row) for row in range(len(found))]
        else:
            found.features, found.labels, found.ids, found.groups
        kind = "fine"
    except (TableError, FeatureError) as err:
        kind = "refused"
        assert "hostile.arrow" in str(err), err
    counts[kind] = counts.get(kind, 0) + 1
print(counts)
"""


@pytest.mark.parametrize("kind", ["table", "features"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_hostile_files_of_others_do_not_end_the_process(kind, compression):
    """Was wrong: offsets that lead elsewhere were followed, and the process ended with SIGSEGV."""
    rows = 40
    if kind == "table":
        data = pa.table({
            "id": [f"v{k}" for k in range(rows)], "source": [f"v{k}.mp4" for k in range(rows)],
            "label": pa.array([1] * rows, pa.int32()), "labels": pa.array([[1, 2]] * rows, pa.list_(pa.int32())),
        })  # fmt: skip
    else:
        our_features("ours.arrow", rows)
        data = open_features("ours.arrow").table
    write_arrow("good.arrow", data, compression=compression)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, "good.arrow", kind, "150"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = eval(done.stdout)
    assert counts["refused"] > 75
    assert sum(counts.values()) == 150


def test_offsets_that_lead_elsewhere_are_refused():
    """Was wrong: the process ended with SIGSEGV when the path was read."""
    write_arrow("t.arrow", pa.table({"id": ["aaaa", "bbbb"], "source": ["cccc", "dddd"]}))
    content = Path("t.arrow").read_bytes()
    good = struct.pack("<iii", 0, 4, 8)
    assert content.count(good) == 2
    Path("t.arrow").write_bytes(content.replace(good, struct.pack("<iii", 0, 4, 2**30)))
    with pytest.raises(
        TableError,
        match=r"t\.arrow is not an Arrow IPC file, or not a complete Arrow file any more",
    ):
        open_table("t.arrow")


# What is known is not looked at again


def test_a_large_file_is_looked_through_once_and_again_when_it_changes(monkeypatch):
    our_table("t.arrow", 60_000)
    content = Path("t.arrow").read_bytes()
    Path("copy.arrow").write_bytes(content)
    looked: list[Path] = []
    digest = arrow_checks._digest
    monkeypatch.setattr(
        arrow_checks, "_digest", lambda path, token: looked.append(path) or digest(path, token)
    )
    Table.open("t.arrow")
    assert not looked, "who has written a file need not read it"
    table = Table.open("copy.arrow")
    assert len(looked) == 1
    Table.open("copy.arrow")
    pickle.loads(pickle.dumps(table)).record(7)
    assert len(looked) == 1
    state = os.stat("copy.arrow")
    broken = bytearray(content)
    broken[len(content) // 2] ^= 4
    with open("copy.arrow", "r+b") as file:
        file.write(broken)
    os.utime("copy.arrow", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(TableError, match=r"copy\.arrow is"):
        Table.open("copy.arrow")


def test_a_worker_does_not_look_again_where_nothing_can_be_remembered(monkeypatch):
    our_table("t.arrow", 60_000)
    monkeypatch.setenv("VIDEO_SSL_CACHE", "/dev/null/cache")
    pickled = pickle.dumps(Table.open("t.arrow"))
    monkeypatch.setattr(arrow_checks, "_digest", None)
    assert pickle.loads(pickled).record(59_999).label == 4


def test_a_damaged_table_of_the_cache_is_made_again(caplog):
    """Was wrong: it was opened as it was; and a cut-off one stopped every command until somebody removed it."""
    Path("t.csv").write_text(
        "path,label\n" + "".join(f"videos/v{k:08d}.mp4,{k % 5}\n" for k in range(60_000))
    )
    path = open_table("t.csv").path
    for broken in (path.read_bytes()[:-5000], b"no Arrow", bytes(2_000_000)):
        path.write_bytes(broken)
        table = open_table("t.csv")
        assert (table.path, len(table), table.record(59_999).label) == (path, 60_000, 4)
        assert "it is made again" in caplog.text


def test_a_table_of_the_cache_is_not_looked_through_every_time(monkeypatch):
    Path("t.csv").write_text(
        "path,label\n" + "".join(f"videos/v{k:08d}.mp4,{k % 5}\n" for k in range(60_000))
    )
    path = open_table("t.csv").path
    monkeypatch.setattr(arrow_checks, "_digest", None)
    monkeypatch.setattr("video_ssl.datasets.table.refuse_wrong_content", None)
    for _ in range(2):
        open_table("t.csv")
        old = path.stat().st_mtime - 10 * 24 * 3600
        known = [what for what in ("arrow", "table") if arrow_checks.is_known(path, what)]
        os.utime(path, (old, old))  # its last use was long ago
        for what in known:
            arrow_checks.remember(path, what)


# What a sound file may hold


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["run", "jump"]}, "column 'label' holds string, but a table has int32 there"),
        ({"source": [1, 2]}, "column 'source' holds int64, but a table has string"),
        ({"source": ["a", None]}, "row 2 has no source"),
        ({"start_sec": [0.0, np.nan]}, "'start_sec' must be a finite number, but row 2 holds nan"),
        ({"start_sec": [0.0, 5.0], "end_sec": [1.0, 5.0]}, "row 2 has end_sec=5 with start_sec=5"),
        ({"fps": [25.0, np.inf]}, "'fps' must be a finite number, but row 2 holds inf"),
        ({"boxes": [[1.0], [2.0]]}, "column 'boxes' holds list"),
    ],
)
def test_arrow_files_of_others_are_checked_like_other_tables(columns, message):
    write_arrow("t.arrow", pa.table({"id": ["a", "b"], "source": ["a", "b"], **columns}))
    with pytest.raises(TableError, match=message) as caught:
        open_table("t.arrow")
    assert "t.arrow" in str(caught.value)


def test_integers_of_any_width_are_labels():
    write_arrow("t.arrow", pa.table({"id": ["a", "b"], "source": ["a", "b"], "label": [3, 4]}))
    assert open_table("t.arrow").record(1).label == 4


@pytest.mark.parametrize("about", [b"[1]", b"{", b"[" * 100_000])
def test_what_a_file_says_about_itself_must_be_an_object(about):
    table = pa.table({"id": ["a"], "source": ["a"]}).replace_schema_metadata({b"video_ssl": about})
    write_arrow("t.arrow", table)
    with pytest.raises(TableError, match=r"t\.arrow: what it says about itself is no JSON"):
        open_table("t.arrow")
    our_features("f.arrow")
    broken = open_features("f.arrow").table.replace_schema_metadata({b"video_ssl.features": about})
    write_arrow("g.arrow", broken)
    with pytest.raises(
        FeatureError, match=r"g\.arrow is damaged: what it says about itself is no JSON"
    ):
        open_features("g.arrow")


# Bombs


def test_files_that_expand_beyond_measure_are_refused(monkeypatch):
    column = pa.array([b"\0" * 1000] * 2000).cast(pa.string())
    data = pa.table({"id": column, "source": column})
    write_arrow("bomb.arrow", data, compression="zstd")
    pq.write_table(
        pa.table({"path": column}), "bomb.parquet", use_dictionary=False, compression="zstd"
    )
    monkeypatch.setattr(arrow_checks, "_LARGE_BYTES", 1000)
    for read, error in ((open_table, TableError), (open_features, FeatureError)):
        for name in ("bomb.arrow", "bomb.parquet"):
            with pytest.raises(error, match=rf"{name}.* has \d+ bytes that (expand|announce)"):
                read(name)


def test_an_array_that_announces_more_than_it_has_is_refused_before_memory_is_reserved():
    """Was wrong: numpy reserved a terabyte, or said MemoryError."""
    np.save("a.npy", np.zeros((4, 8), np.float32))
    content = Path("a.npy").read_bytes()
    lie = content.replace(b"(4, 8), }         ", b"(400000, 99999), }")
    assert lie != content
    with zipfile.ZipFile("lie.npz", "w") as archive:
        archive.writestr("features.npy", lie)
    with pytest.raises(
        FeatureError,
        match=r"lie\.npz is not readable: features\.npy claims 159,998,400,000 bytes and has 256",
    ):
        open_features("lie.npz")
    with zipfile.ZipFile("text.npz", "w") as archive:
        archive.writestr("features.txt", "1 2 3")
    with pytest.raises(
        FeatureError, match=r"text\.npz is not readable: 'features\.txt' in it is no array"
    ):
        open_features("text.npz")
    np.savez("objects.npz", features=np.array([{}, {}], dtype=object))
    with pytest.raises(FeatureError, match=r"Arrays of objects are refused"):
        open_features("objects.npz")
