"""Means, intervals, and which differences are none, on results whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from video_ssl.compare.cells import Cell
from video_ssl.compare.page import verdict
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
    gaps = {(a, b): (mean, low, high) for a, b, mean, low, high in ability.differences}
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


def test_untrained_twins_and_baselines_stand_apart(tmp_path):
    (ability,) = abilities_of([cell(tmp_path, "a", 4, np.array([1, 0]))], 10.0)
    row = ability.rows["a"]
    assert (row.values, row.untrained, row.baselines) == ({4: 0.5}, {4: 0.5}, {"raw pixels": 0.5})


def test_what_is_taken_for_what(tmp_path):
    cells = [cell(tmp_path, "a", s, np.array([1, 0])) for s in range(2)]
    assert most_confused(cells, 10.0, "a") == ["kick for bow (50 %)", "bow for kick (25 %)"]


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
