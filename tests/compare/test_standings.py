"""Means, intervals, and which differences are none, on results whose answer is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from video_ssl.compare.cells import Cell
from video_ssl.compare.page import _section, notes, verdict, without_learning
from video_ssl.compare.standings import abilities_of, most_confused


def cell(
    folder: Path, objective: str, seed: int, right: np.ndarray, *, frames: float | None = None
) -> Cell:
    """A cell whose results say which of the test videos were right."""
    made = Cell(objective, 10.0, seed, folder / objective / str(seed), (), {"clips": ()})
    ids = [f"v{n}" for n in range(len(right))]
    probe = {
        "metrics": {"top1": float(right.mean())},
        "correct": int(right.sum()),
        "total": len(right),
        "chance": 0.5,
        "notes": [],
        "details": {
            "predictions": {
                "id": ids,
                "true": [1] * len(right),
                "predicted": right.astype(int).tolist(),
            },
            "classes": [0, 1],
            "confusion": [[3, 1], [2, 2]],
        },
    }
    phases = {
        "metrics": {"tau": frames},
        "total": 9,
        "chance": None,
        "notes": [],
        "details": {"headline": {"metric": "tau", "found": ""}, "position_only": {"tau": 0.7}},
    }
    results = {"probe": probe} if frames is None else {"probe": probe, "kendalls_tau": phases}
    encoders = {
        "encoder": {"spec": "run", "source": {}, "results": results},
        "untrained": {"spec": "untrained:run", "source": {}, "results": results},
        "pixels": {"spec": "pixels:run@4", "source": {}, "results": results},
    }
    path = made.results_of("clips")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"encoders": encoders, "class_names": ["bow", "kick"]}))
    return made


def test_a_small_but_steady_difference_is_seen_and_a_large_noisy_one_is_not(tmp_path):
    """The videos are drawn alike for all: without that, 3 points of 400 videos would drown."""
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.5
    better = easy.copy()
    better[np.flatnonzero(~easy)[:12]] = True  # 3 points more, nothing lost
    cells = [cell(tmp_path, "steady", s, better) for s in range(3)]
    cells += [cell(tmp_path, "plain", s, easy) for s in range(3)]
    wild = [rng.random(400) < share for share in (0.3, 0.5, 0.64)]
    cells += [cell(tmp_path, "wild", s, right) for s, right in enumerate(wild)]
    (ability,) = abilities_of(cells, 10.0)
    assert ability.over_videos
    assert next(iter(ability.rows)) == "steady"
    gaps = {(a, b): (mean, low, high) for a, b, mean, low, high, _ in ability.differences}
    mean, low, high = gaps["steady", "plain"]
    assert mean == pytest.approx(0.03)
    assert 0.01 < low < 0.03 < high < 0.05
    assert ability.level_with_best == ["wild"]
    assert "wild is no more than chance gives" in verdict(ability)


def test_the_interval_of_one_share_is_that_of_its_videos(tmp_path):
    """Seeds that agree: what is left is the deviation of a share of n videos, sqrt(p (1 - p) / n)."""
    right = np.arange(400) < 120
    cells = [cell(tmp_path, "one", s, right) for s in range(3)]
    (ability,) = abilities_of(cells, 10.0)
    low, high = ability.rows["one"].interval
    deviation = np.sqrt(0.3 * 0.7 / 400)
    assert (high - low) / (2 * 1.96 * deviation) == pytest.approx(1, abs=0.1)
    assert verdict(ability) == "one alone was measured."


def test_seeds_that_differ_widen_it(tmp_path):
    cells = [cell(tmp_path, "one", s, np.arange(400) < 100 * (s + 1)) for s in range(3)]
    (ability,) = abilities_of(cells, 10.0)
    low, high = ability.rows["one"].interval
    assert low < 0.32
    assert high > 0.68


def test_numbers_that_no_video_has_are_resampled_over_seeds_and_say_so(tmp_path):
    right = np.arange(20) < 10
    cells = [cell(tmp_path, "a", s, right, frames=0.1 * s) for s in range(3)]
    cells += [cell(tmp_path, "b", s, right, frames=0.5) for s in range(2)]
    probe, tau = abilities_of(cells, 10.0)
    assert probe.over_videos
    assert not tau.over_videos
    assert (tau.key, tau.metric) == ("clips/kendalls_tau", "tau")
    assert list(tau.rows) == ["b", "a"]
    assert tau.rows["a"].interval == (0.0, pytest.approx(0.2))
    assert tau.rows["a"].alone == 0.7
    assert tau.level_with_best == []


def test_one_seed_has_no_order(tmp_path):
    """Was wrong in the first draft: one seed against one seed has a gap without any spread, and looked sure."""
    right = np.arange(20) < 10
    cells = [cell(tmp_path, "a", 0, right, frames=0.1), cell(tmp_path, "b", 0, right, frames=0.5)]
    tau = abilities_of(cells, 10.0)[1]
    assert tau.rows["b"].interval is None
    assert tau.level_with_best == ["a"]


def pairs_of(ability):
    """The lines "pair by pair" of the page."""
    return _section(ability, SimpleNamespace(curves={})).pairs


@pytest.mark.parametrize("seeds", [(1, 1), (2, 1)])
def test_a_difference_that_rests_on_one_seed_is_none_wherever_it_is_told(tmp_path, seeds):
    """Was wrong: with videos one seed was "more than chance gives" and had a place, without them the list of pairs
    said nothing of chance."""
    many, few = np.arange(400) < 360, np.arange(400) < 40
    cells = [cell(tmp_path, "a", s, many, frames=0.9) for s in range(seeds[0])]
    cells += [cell(tmp_path, "b", s, few, frames=0.1) for s in range(seeds[1])]
    probe, tau = abilities_of(cells, 10.0)
    assert probe.over_videos
    for ability in (probe, tau):
        (pair,) = ability.differences
        assert (pair.better, pair.worse) == ("a", "b")
        assert pair.low > 0
        assert not pair.sure
        assert ability.level_with_best == ["b"]
        assert [row.ranks for row in ability.rows.values()] == [None, None]
        assert "no more than chance gives" in verdict(ability)
        (line,) = pairs_of(ability)
        assert line.endswith(", no more than chance gives")
    assert probe.rows["b"].interval is not None  # of its videos
    assert tau.rows["b"].interval is None


def test_the_remark_says_what_was_resampled(tmp_path):
    """Was wrong: "seeds and videos" of a single seed, and "seeds alone" where there was no interval at all."""
    right = np.arange(20) < 10
    one = [cell(tmp_path / "one", "a", 0, right, frames=0.1)]
    probe, tau = abilities_of(one, 10.0)
    assert notes(probe).startswith("intervals from resampled videos alone: one seed")
    assert notes(tau).startswith("no intervals: one seed")
    both = [cell(tmp_path / "two", "a", s, right, frames=0.1) for s in range(2)]
    probe, tau = abilities_of(both, 10.0)
    assert notes(probe).startswith("intervals from resampled seeds and videos; ")
    assert notes(tau).startswith("intervals from resampled seeds alone (2: a rough idea); ")
    both.append(cell(tmp_path / "two", "b", 0, right, frames=0.1))
    probe, tau = abilities_of(both, 10.0)
    assert "seeds and videos, from videos alone where there is one seed" in notes(probe)
    assert "(2: a rough idea), none where there is one seed" in notes(tau)


def test_without_a_test_video_in_common_seeds_are_resampled_alone(tmp_path):
    """Was wrong: a ZeroDivisionError ended the comparison where two cells could read no video in common."""
    cells = [cell(tmp_path, name, s, np.arange(8) < 4) for name in "ab" for s in range(2)]
    path = cells[-1].results_of("clips")
    content = json.loads(path.read_text())
    for entry in content["encoders"].values():
        entry["results"]["probe"]["details"]["predictions"]["id"] = [f"w{n}" for n in range(8)]
    path.write_text(json.dumps(content))
    (ability,) = abilities_of(cells, 10.0)
    assert not ability.over_videos
    assert ability.rows["b"].interval == (0.5, 0.5)
    assert "seeds alone" in notes(ability)


def test_a_mean_of_nothing_stands_above_one_below_nothing(tmp_path):
    """Was wrong: a mean of exactly 0 counted as none and came last."""
    right = np.arange(4) < 2
    numbers = {"low": -0.5, "none": 0.0, "high": 0.5}
    cells = [cell(tmp_path, name, 0, right, frames=tau) for name, tau in numbers.items()]
    assert list(abilities_of(cells, 10.0)[1].rows) == ["high", "none", "low"]


def test_untrained_twins_and_baselines_stand_apart(tmp_path):
    (ability,) = abilities_of([cell(tmp_path, "a", 4, np.array([1, 0]))], 10.0)
    row = ability.rows["a"]
    assert (row.values, row.untrained, row.baselines) == ({4: 0.5}, {4: 0.5}, {"raw pixels": 0.5})


def test_what_is_taken_for_what(tmp_path):
    cells = [cell(tmp_path, "a", s, np.array([1, 0])) for s in range(2)]
    assert most_confused(cells, 10.0, "a") == ["kick for bow (50 %)", "bow for kick (25 %)"]


def test_confusions_of_different_classes_are_not_added(tmp_path):
    """Was wrong: two evaluations with as many classes were one table of the names of the second, and of different
    numbers of classes a ValueError, at the first cell."""
    made = cell(tmp_path, "a", 0, np.array([1, 0]))
    made = dataclasses.replace(made, evaluations={"clips": (), "more": ()})
    content = json.loads(made.results_of("clips").read_text())
    details = content["encoders"]["encoder"]["results"]["probe"]["details"]
    content["class_names"] = ["run", "sit", "jump"]
    details["classes"], details["confusion"] = [0, 2], [[1, 9], [0, 4]]
    made.results_of("more").parent.mkdir(parents=True)
    made.results_of("more").write_text(json.dumps(content))
    want = ["run for jump (90 % in more)", "kick for bow (50 % in clips)"]
    assert most_confused([made], 10.0, "a") == [*want, "bow for kick (25 % in clips)"]
    details["classes"], details["confusion"] = [0, 1, 2], [[1, 0, 9], [0, 1, 0], [0, 0, 1]]
    made.results_of("more").write_text(json.dumps(content))
    assert most_confused([made], 10.0, "a", 2) == want


def test_damaged_results_count_as_not_there(tmp_path):
    made = cell(tmp_path, "a", 0, np.array([1, 0]))
    made.results_of("clips").write_text('{"encoders": {"encod')
    assert abilities_of([made], 10.0) == []


def test_what_a_probe_tells_within_a_pair_is_an_ability_of_its_own(tmp_path):
    """The number that asks for the order of things stood in the results and on no page."""
    cells = []
    for name, within in (("still", 0.5), ("moving", 0.9)):
        made = cell(tmp_path, name, 0, np.array([True, False]))
        results = json.loads(made.results_of("clips").read_text())
        for who, entry in results["encoders"].items():
            probe = entry["results"]["probe"]
            probe["metrics"]["within"] = within if who == "encoder" else 0.4
            probe["details"]["chance"] = {"within": 0.5}
        made.results_of("clips").write_text(json.dumps(results))
        cells.append(made)
    whole, order = abilities_of(cells, 10.0)
    assert (whole.key, order.key) == ("clips/probe", "clips/probe/within")
    assert (whole.chance, order.chance) == (0.5, 0.5)
    assert list(order.rows) == ["moving", "still"]
    row = order.rows["moving"]
    assert (row.mean, row.mean_untrained) == (0.9, 0.4)
    assert row.interval is None  # one seed, and no video that says whether it was right
    assert list(row.baselines.values()) == [0.4]


def test_retrieval_counts_and_what_stands_beside_all_is_said_once(tmp_path):
    """A result without top1 and without a number of its own was on no page: R@1 of the retrieval of clips."""
    cells = []
    for name, found in (("near", 0.4), ("far", 0.2)):
        made = cell(tmp_path, name, 0, np.array([True, False]))
        results = json.loads(made.results_of("clips").read_text())
        for who, entry in results["encoders"].items():
            metrics = {"R@1": found if who == "encoder" else 0.1, "R@5": 0.9}
            entry["results"] = {
                "retrieval": {"metrics": metrics, "total": 2, "chance": 0.05, "details": {}}
            }
        made.results_of("clips").write_text(json.dumps(results))
        cells.append(made)
    (ability,) = abilities_of(cells, 10.0)
    assert (ability.metric, list(ability.rows)) == ("R@1", ["near", "far"])
    assert [row.mean_untrained for row in ability.rows.values()] == [0.1, 0.1]
    assert without_learning(ability) == "Without learning: raw pixels 10.0."
    ability.rows["far"].baselines["raw pixels"] = 0.3
    assert without_learning(ability) == ""
