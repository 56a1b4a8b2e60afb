"""Durations, schedules and the learning rate in effect.  Numbers of the references: tests/golden/test_schedules.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_ssl.pretrain.durations import parse_duration, to_steps
from video_ssl.pretrain.lengths import Lengths, lr_schedule
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.schedules import (
    SCHEDULES,
    constant_schedule,
    cosine_schedule,
    quarter_cosine_schedule,
    scaled_lr,
)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (7, 7),
        ("7", 7),
        ("2000 steps", 2000),
        ("1 step", 1),
        ("2k steps", 2000),
        ("1.5k", 1500),
        ("3 epochs", 38),  # 300 records in batches of 8: 37.5
        ("0.5 epochs", 7),
        ("1 epoch", 13),
        ("5M examples", 625000),
        ("1 examples", 1),
        ("0 epochs", 0),
    ],
)
def test_durations_become_steps(text: str | int, steps: int) -> None:
    assert to_steps(text, num_examples=100, global_batch_size=8) == steps


def test_thirds_of_epochs_do_not_suffer_from_rounding() -> None:
    # 0.1 as a binary fraction is above 1/10: a float would give 11 steps.
    assert to_steps("0.1 epochs", num_examples=1000, global_batch_size=10) == 10


@pytest.mark.parametrize(
    "text", ["", "epochs", "-3 steps", "3 parsecs", "1.5 steps", "3 4", True, "1e3 steps"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a duration|divided"):
        parse_duration(text)


@given(st.integers(1, 300), st.data(), st.floats(0, 1), st.floats(1, 2))
def test_schedules_keep_to_their_ends(
    num_steps: int, data: st.DataObject, final: float, base: float
) -> None:
    warmup = data.draw(st.integers(0, num_steps))
    values = cosine_schedule(base, final, num_steps, warmup_steps=warmup)
    assert values.shape == (num_steps,)
    assert values.min() >= 0
    assert values.max() <= base + 1e-12
    assert np.all(np.diff(values[warmup:]) <= 1e-12)
    assert warmup == 0 or values[0] == 0
    flat = constant_schedule(base, num_steps, warmup_steps=warmup)
    np.testing.assert_array_equal(flat[:warmup], values[:warmup])
    assert np.all(flat[warmup:] == base)


def test_a_ramp_may_start_above_nothing_and_stop_short_of_the_peak() -> None:
    both = cosine_schedule(1.0, 0.2, 9, warmup_steps=4, start=0.1)
    np.testing.assert_allclose(both[:5], [0.1, 0.4, 0.7, 1.0, 1.0], rtol=1e-12)
    once = cosine_schedule(1.0, 0.2, 9, warmup_steps=4, start=0.2, ramp_reaches_peak=False)
    np.testing.assert_allclose(once[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-12)
    np.testing.assert_array_equal(once[4:], both[4:])


@pytest.mark.parametrize(
    ("schedule", "first"),
    [
        ("cosine", [2e-6, 3e-6, 4e-6, 4e-6]),
        ("cosine_once", [2e-6, 8e-6 / 3, 10e-6 / 3, 4e-6]),
        ("constant", [2e-6, 3e-6, 4e-6, 4e-6]),
    ],
)
def test_recipes_name_the_start_of_the_ramp(schedule: str, first: list[float]) -> None:
    """`warmup_lr` is scaled with the batch like the peak, here by 512 / 256."""
    recipe = load_pretrain_recipe(
        "videomae/demo",
        [
            "optimizer.base_lr=2e-6",
            "optimizer.warmup_lr=1e-6",
            "optimizer.lr_scaling=linear_256",
            f"optimizer.schedule={schedule}",
            "training.global_batch_size=512",
        ],
    )
    values = lr_schedule(recipe, lengths(10, 3))
    np.testing.assert_allclose(values[:4], first, rtol=1e-12)


def lengths(num_steps: int, warmup_steps: int) -> Lengths:
    """Of a run whose epochs do not matter to its schedule."""
    return Lengths(
        num_examples=1,
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        log_steps=1,
        checkpoint_steps=1,
        keep_steps=None,
        validate_steps=None,
        probe_steps=None,
    )


@pytest.mark.parametrize(
    "settings", [{"warmup": 0}, {"warmup": "0 epochs", "schedule": "cosine_ramped"}]
)
def test_a_start_of_no_ramp_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="warmup_lr=1e-06 is where the ramp starts"):
        OptimizerConfig(warmup_lr=1e-6, **settings)


def test_every_schedule_starts_its_ramp_where_it_is_told_and_takes_what_it_names() -> None:
    given = {"base_lr": 1.0, "warmup_steps": 4, "steps_per_epoch": 3.0}
    for name, schedule in SCHEDULES.items():
        low = schedule.rates(12, min_lr=0.0, warmup_lr=0.0, **given)
        high = schedule.rates(12, min_lr=0.1, warmup_lr=0.25, **given)
        assert low.shape == high.shape == (12,)
        has_ramp = "warmup_lr" in schedule.settings
        assert low[0] == (0.0 if has_ramp else pytest.approx(1.0)), name
        if has_ramp:
            assert high[0] == pytest.approx(0.25), name
        assert (high[-1] > low[-1]) == ("min_lr" in schedule.settings), name


def test_a_quarter_of_a_cosine_is_half_of_one_twice_as_long() -> None:
    """papers/vatt.md: 1e-4 to 5e-5 is the first half of a cosine that would come to 0; 8.5e-5 half-way."""
    found = quarter_cosine_schedule(1e-4, 5e-5, 104, warmup_steps=4)
    whole = cosine_schedule(1e-4, 0.0, 200)[:100] / 1e-4
    assert found[4 + 50] == pytest.approx(8.536e-5, rel=1e-3)
    assert cosine_schedule(1e-4, 0.0, 200)[50] == pytest.approx(found[54])
    np.testing.assert_allclose(found[4:], whole * 1e-4, rtol=1e-12)
    np.testing.assert_allclose(found[:4], [0, 0.25e-4, 0.5e-4, 0.75e-4], rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"schedule": "cosin"}, "allowed are .*cosine_damped.* Did you mean 'cosine'"),
        ({"schedule": "constant", "min_lr": 1e-6}, "does not approach it"),
        ({"batch_unit": "clips", "lr_scaling": "none"}, "set lr_scaling='linear_256'"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        OptimizerConfig(**settings)


@pytest.mark.parametrize(("unit", "share"), [("records", 1), ("clips", 2)])
def test_the_batch_is_counted_in_records_or_in_clips(unit: str, share: int) -> None:
    """CVRL shows two clips of every record."""
    recipe = load_pretrain_recipe(
        "cvrl/r3d50_k600", [f"optimizer.batch_unit={unit}", "training.global_batch_size=512"]
    )
    assert recipe.objective.clips_per_record == 2
    peak = lr_schedule(recipe, lengths(1000, 0))[0]
    assert peak == pytest.approx(10.24 * 2 * share)


def test_a_warmup_longer_than_training_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup of 11 steps does not fit into 10"):
        cosine_schedule(1.0, 0.0, 10, warmup_steps=11)


def test_the_rate_in_effect_is_the_published_one() -> None:
    assert scaled_lr(1.5e-4, scaling="linear_256", global_batch_size=2048) == pytest.approx(1.2e-3)
    assert scaled_lr(1.5e-4, scaling="none", global_batch_size=2048) == 1.5e-4
    with pytest.raises(ValueError, match="linear_256"):
        scaled_lr(1.0, scaling="sqrt", global_batch_size=8)
