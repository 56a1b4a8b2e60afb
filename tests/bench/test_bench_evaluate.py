"""Evaluators beside their peers: all answer the same questions, and what is decoded is counted by the decoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from video_ssl.bench import evaluation, shared_reading
from video_ssl.bench.classifiers import (
    Rows,
    attentive_ways,
    faiss_neighbours,
    neighbour_ways,
    probe_ways,
)
from video_ssl.bench.config import EvaluateBench
from video_ssl.bench.footage import FOOTAGE, Footage, make_footage
from video_ssl.bench.shared_reading import counted, decoded_by, embedding_ways
from video_ssl.bench.turns import cpu_medians, one_thread
from video_ssl.cli import app
from video_ssl.clips.decoders.pyav.reader import PyAVReader
from video_ssl.clips.reading import open_video
from video_ssl.evaluate import run as run_module

SMALL = {"rows": 150, "dim": 24, "classes": 3, "test_rows": 40, "heads": 2, "repeats": 1}
KIND = Footage(name="tiny", size=(48, 64), gop=12, noise=0, num_files=2)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    make_footage(KIND, folder)
    return folder


@pytest.fixture
def easy(monkeypatch):
    monkeypatch.setitem(FOOTAGE, "easy", [KIND])


@pytest.fixture
def rows():
    return Rows.drawn(EvaluateBench(**SMALL))


def test_rows_are_the_same_every_time_and_say_something(rows):
    again = Rows.drawn(EvaluateBench(**SMALL))
    assert np.array_equal(rows.train, again.train)
    assert (rows.train.shape, rows.test.shape) == ((150, 24), (40, 24))
    assert sorted(set(rows.test_labels.tolist())) == [0, 1, 2]
    assert not np.isin(rows.test, rows.train).any()


def test_neighbours_of_all_are_the_same(rows):
    ways = neighbour_ways(rows)
    answers = {name: way() for name, way in ways.items()}
    assert {"knn", "search", "sklearn", "sklearn chosen", "numpy"} <= set(answers)
    for peer in ("sklearn", "numpy"):
        assert answers["search"].tolist() == answers[peer].tolist(), peer
    assert answers["knn"].tolist() == answers["sklearn chosen"].tolist()
    assert answers["search"].tolist() == by_hand(rows, 20)
    assert answers["search"].tolist() != by_hand(rows, 1)


def test_faiss_answers_the_same_where_it_is(rows):
    pytest.importorskip("faiss")
    assert faiss_neighbours(rows, 5).tolist() == by_hand(rows, 5)


def by_hand(rows, k):
    """The vote of the nearest k, one query after the other; of equal votes the first class."""
    found = []
    lengths = np.linalg.norm(rows.train, axis=1)
    for query in rows.test:
        nearest = np.argsort(-(rows.train @ query) / lengths, kind="stable")[:k]
        found.append(int(np.bincount(rows.train_labels[nearest], minlength=3).argmax()))
    return found


def test_probes_learn_what_regressions_learn(rows):
    """Classes that are far apart are told apart by all."""
    shift = 6 * np.eye(3, 24, dtype=np.float32)
    far = Rows(
        rows.train + shift[rows.train_labels],
        rows.train_labels,
        rows.test + shift[rows.test_labels],
        rows.test_labels,
    )
    right = {name: far.right(way()) for name, way in probe_ways(far).items()}
    assert set(right) == {"probe", "one head", "sklearn", "sklearn chosen"}
    assert min(right.pop("one head") + 0.4, *right.values()) > 0.9, (
        right
    )  # one learning rate, too small
    assert far.right(np.roll(far.test_labels, 1)) < 0.1


def test_a_grid_has_as_many_heads_as_asked_for(tmp_path, monkeypatch):
    from video_ssl.evaluate.attentive import probe

    made = []
    grid = probe.HeadGrid
    monkeypatch.setattr(
        probe, "HeadGrid", lambda heads, *args, **kw: made.append(len(heads)) or grid(heads, *args, **kw)
    )  # fmt: skip
    for way in attentive_ways(tmp_path, EvaluateBench(heads=3)).values():
        way()
    assert made == [3, 1]


def test_the_decoder_itself_is_counted(footage):
    source = str(footage / "tiny_0.mp4")
    with counted() as so_far:
        assert (so_far().openings, so_far().pictures) == (0, 0)
        for times in (1, 2):
            with open_video(source) as reader:
                reader.frames([0, 1, 2])
            assert so_far().openings == times
            assert so_far().pictures >= 3 * times
    before = so_far()
    with open_video(source) as reader:
        reader.frames([0])
    assert so_far() == before
    assert PyAVReader._open.__name__ == "_open"


def test_three_encoders_decode_once_and_three_that_do_not_share_would_be_seen(
    footage, tmp_path, monkeypatch
):
    table = make_footage(KIND, footage)
    ways = embedding_ways(table, tmp_path)
    found = decoded_by(ways)
    assert found["one"].openings == found["together"].openings == 2
    assert found["together"] == found["one"]
    assert found["apart"].openings == 3 * found["one"].openings
    assert found["apart"].pictures == 3 * found["one"].pictures
    made = sorted(path.name.split("-")[0] for path in (tmp_path / "features").glob("*.arrow"))
    assert made == ["encoder_0", "encoder_1", "encoder_2"]
    monkeypatch.setattr(run_module, "_same_clips", lambda missing: [[one] for one in missing])
    assert decoded_by({"together": ways["together"]})["together"] == found["apart"]


def test_figures_and_their_ratios(easy, footage, tmp_path, capsys):
    out = tmp_path / "new" / "figures.json"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = CliRunner().invoke(
        app, ["bench", "evaluate", *words, f"--folder={footage}", f"--json={out}"]
    )
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    assert content["made_by"] == "video-ssl bench evaluate"
    assert content["videos"] == 2
    assert content["decoded"]["together"] == content["decoded"]["one"]
    rows = content["comparisons"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["cpu_ms"] / row["peer_ms"])
        assert row["cpu_ms"] > 0
    by_peer = {(row["what"].split(":")[0], row["peer"].split(":")[0]): row for row in rows}
    assert by_peer["search and vote alone", "numpy"]["same"] == 1.0
    assert by_peer["attentive probe", "one head"]["top1"] is None
    assert {"one of them", "one after the other"} <= {row["peer"] for row in rows}
    said = " ".join(done.output.split())
    assert "150 features of 24, 3 classes, 40 to be judged by" in said
    assert "2 videos: one encoder opened 2 files" in said


def test_the_plain_names_of_peers_cover_all_ways(rows):
    """One that were left out would be measured and not shown."""
    pairs = (
        (probe_ways(rows), evaluation._PROBE, evaluation._PROBE_PEERS),
        (neighbour_ways(rows), evaluation._NEIGHBOURS, evaluation._NEIGHBOUR_PEERS),
    )
    for ways, ours, peers in pairs:
        assert set(ways) <= set(ours) | set(peers)
        assert {peer for _, beside in ours.values() for peer in beside} == set(peers)


def test_turns_alternate_and_the_first_warms_up():
    calls = []
    found = cpu_medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "ababab"
    assert set(found) == {"a", "b"}
    slow = iter((10**7, 1, 1, 1))  # only the turn that warms up is long
    took = cpu_medians({"a": lambda: sum(range(next(slow)))}, 3)
    assert took["a"] < 50


def test_threads_are_one_and_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(evaluation.importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["bench", "evaluate"])
    assert done.exit_code == 2
    assert "pip install 'video_ssl[phases]'" in done.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 0}, "heads=0 must be at least 1"),
        ({"classes": 1}, "classes=1 must be at least 2"),
        ({"rows": 27}, r"rows=27 must be at least 2 for each of classes=14"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluateBench(**settings)


def test_the_smallest_sizes_work(easy, footage):
    """Fewer rows than neighbours that are asked for, and one number."""
    config = EvaluateBench(
        rows=6, dim=1, classes=2, test_rows=1, heads=1, repeats=1, folder=footage
    )
    figures = evaluation.bench_evaluate(config)
    assert len(figures.comparisons) >= 9
    assert shared_reading.ENCODERS == 3
