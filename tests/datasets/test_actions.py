"""Actions of the moving world: bodies kept, movement without jumps, and twins that only order tells apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from video_ssl.datasets.demo.actions import (
    ACTIONS,
    CLASS_NAMES,
    EXTRA_ACTIONS,
    TWINS,
    Performance,
    Placement,
    end_posture,
    monotone_cubic,
    perform,
    phase_names,
    sample_style,
    start_posture,
)
from video_ssl.datasets.demo.bones import BONES, bone_directions, bone_lengths, lowest_point, turn
from video_ssl.datasets.demo.captions import ACTION_WORDS, PHASE_WORDS
from video_ssl.datasets.demo.figure import JOINT_INDEX, sample_body
from video_ssl.datasets.demo.sound import TIMBRES

ALL = (*CLASS_NAMES, *EXTRA_ACTIONS)
REVERSED = [(a, b) for a, b in TWINS if ACTIONS[b].backwards]
SWAPPED = [(a, b) for a, b in TWINS if not ACTIONS[b].backwards]
FPS = 24.0
RNG = np.random.default_rng(5)
BODY = sample_body(RNG)
STYLE = sample_style(RNG, strength=1.0, warp=1.0)
STILL = replace(STYLE, sway=np.zeros_like(STYLE.sway))


def performed(action: str, *, seed: int = 0, style: Any = STYLE, **changes: Any) -> Performance:
    given: dict[str, Any] = {
        "num_frames": 96, "fps": FPS, "before_sec": 0.51, "active_sec": 2.75,
    }  # fmt: skip
    return perform(action, BODY, style, np.random.default_rng(seed), **given | changes)


def joint(name: str) -> int:
    return JOINT_INDEX[name]


@pytest.mark.parametrize("action", ALL)
def test_bones_keep_their_length_and_nothing_sinks_into_the_ground(action: str) -> None:
    joints = performed(action).joints
    starts, ends = ([joint(bone[side]) for bone in BONES] for side in (0, 1))
    lengths = np.linalg.norm(joints[:, ends] - joints[:, starts], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(bone_lengths(BODY), lengths.shape))
    low = lowest_point(BODY, joints)
    assert low.min() > -1e-9
    idle = [0, -1]
    np.testing.assert_allclose(low[idle], 0, atol=1e-9)
    flight = {"jump_then_flip", "flip_then_jump", "run", "spinkick"}
    assert (low.max() > 0.03) == (action in flight | {"dance"})


@pytest.mark.parametrize("action", ALL)
def test_nothing_jumps(action: str) -> None:
    """Twice the frames a second halve the largest step, which a cut would keep."""
    steps = []
    for fps in (100, 200):
        joints = performed(action, num_frames=4 * fps, fps=float(fps)).joints
        steps.append(np.linalg.norm(np.diff(joints, axis=0), axis=-1).max())
    assert steps[1] < 0.6 * steps[0]
    assert 100 * steps[0] < 13  # body heights a second: the foot of a runner


@pytest.mark.parametrize("action", ALL)
def test_phases_are_all_there_once_and_in_order_with_their_windows(action: str) -> None:
    done = performed(action, fps=12.0, num_frames=48, speed_spread=2.4)
    names = phase_names(action)
    assert 4 <= len(names) <= 7
    assert done.phases.dtype == np.int16
    steps = np.diff(done.phases)
    assert set(steps.tolist()) == {0, 1}
    assert (done.phases[0], done.phases[-1]) == (0, len(names) - 1)
    windows = done.phase_windows()
    assert tuple(name for name, _, _ in windows) == names[1:-1]
    assert (done.start_sec, done.end_sec) == (windows[0][1], windows[-1][2])
    times = np.arange(48) / 12
    for number, (_, start, end) in enumerate(windows, start=1):
        inside = (times >= start) & (times < end)
        np.testing.assert_array_equal(done.phases[inside], number)


def test_no_phase_is_shorter_than_a_frame() -> None:
    """However far the lengths of phases are spread; natural lengths alone would leave 0.1 s to some."""
    for seed in range(12):
        done = performed("get_up", seed=seed, speed_spread=3.0)
        assert min(end - start for _, start, end in done.phase_windows()) > 0.25 - 1e-9


@pytest.mark.parametrize("action", ALL)
def test_idle_postures_are_what_they_are_called(action: str) -> None:
    heights = {"standing": (0.85, 1.3), "sitting": (0.4, 0.8), "lying": (0.0, 0.4)}
    joints = performed(action).joints
    for frame, posture in ((0, start_posture(action)), (-1, end_posture(action))):
        low, high = heights[posture]
        assert low < joints[frame, joint("head"), 1] < high


@pytest.mark.parametrize("action", ALL)
def test_events_are_known_sounds_within_the_action(action: str) -> None:
    for seed in range(3):
        done = performed(action, seed=seed)
        assert done.events
        times = [time for _, time in done.events]
        assert times == sorted(times)
        assert done.start_sec <= times[0] <= times[-1] <= done.end_sec + 1e-9
        assert {name for name, _ in done.events} <= set(TIMBRES)


def from_start(joints: np.ndarray) -> np.ndarray:
    """Joints as seen from where the pelvis of the first frame is over the ground."""
    return joints - joints[0, 0] * np.array([1, 0, 1])


@pytest.mark.parametrize(("forward", "backward"), REVERSED)
def test_a_backward_twin_is_its_partner_reversed(forward: str, backward: str) -> None:
    """Sway aside (its law is the same in both directions), idle times exchanged; seen from the same side, too."""
    after = 95 / FPS - 0.51 - 2.75
    one = performed(forward, style=STILL, before_sec=after)
    two = performed(backward, style=STILL, before_sec=0.51)
    np.testing.assert_allclose(from_start(two.joints), from_start(one.joints[::-1]), atol=1e-9)
    last = len(phase_names(forward)) - 1
    np.testing.assert_array_equal(two.phases, last - one.phases[::-1])
    np.testing.assert_allclose(
        two.border_times_sec, 95 / FPS - np.array(one.border_times_sec)[::-1], atol=1e-12
    )
    assert {name for name, _ in one.events} == {name for name, _ in two.events}
    assert (start_posture(forward), end_posture(forward)) == (
        end_posture(backward),
        start_posture(backward),
    )
    assert set(ACTIONS[forward].phases).isdisjoint(ACTIONS[backward].phases)


@pytest.mark.parametrize(("first", "second"), SWAPPED)
def test_an_order_twin_shows_the_same_parts_in_the_same_places(first: str, second: str) -> None:
    """Without random speeds the frames of one are those of the other, in another order."""
    plain = replace(STILL, warp=0.0)
    one, two = (
        performed(
            name, style=plain, num_frames=300, fps=100.0, before_sec=0.0, active_sec=2.9, speed_spread=0.0,
        )
        for name in (first, second)
    )  # fmt: skip
    distance = np.abs(one.joints[:, None] - two.joints[None]).max((2, 3))
    # Body heights; the fastest joint moves 0.05 in the time of a frame.
    assert distance.min(1).max() < 0.05
    assert distance.min(0).max() < 0.05
    assert np.abs(one.joints - two.joints).max() > 0.3
    np.testing.assert_allclose(one.joints[-1], one.joints[0], atol=1e-9)
    assert {name for name, _ in one.events} == {name for name, _ in two.events}
    assert set(ACTIONS[first].phases) == set(ACTIONS[second].phases)


def test_time_and_position_do_not_tell_the_class() -> None:
    """The action fills what the caller asks, whatever it is, and every class starts facing +z at the origin."""
    for action in ALL:
        done = performed(action, before_sec=0.4, active_sec=3.1)
        assert done.start_sec == pytest.approx(0.4)
        assert done.end_sec == pytest.approx(3.5)
        np.testing.assert_allclose(done.joints[0, 0, [0, 2]], 0, atol=1e-9)
        hips = done.joints[0, joint("hip_r")] - done.joints[0, joint("hip_l")]
        assert hips[0] > 0.8 * np.linalg.norm(hips)


def test_direction_relative_to_the_figure() -> None:
    """Walking leads to the front, walking backwards to the back, and the face looks to the front in both."""
    for action, sign in (("walk", 1), ("walk_backwards", -1), ("roll", 1), ("roll_backwards", -1)):
        joints = performed(action).joints
        assert sign * (joints[-1, 0, 2] - joints[0, 0, 2]) > 0.3
        assert joints[0, joint("face"), 2] > joints[0, joint("head"), 2]
        assert joints[-1, joint("face"), 2] > joints[-1, joint("head"), 2]


def test_actions_follow_one_another_without_a_jump() -> None:
    chain = (
        "walk",
        "sit_down",
        "stand_up",
        "punch_then_kick",
        "lie_down",
        "get_up",
        "roll_backwards",
        "dance",
        "walk",
    )
    at = Placement(x=1.0, z=-2.0, heading_rad=2.0)
    parts, posture = [], "standing"
    for seed, action in enumerate(chain):
        assert start_posture(action) == posture
        done = performed(action, seed=seed, num_frames=96, active_sec=3.0, at=at)
        parts.append(done.joints)
        posture, at = end_posture(action), done.placement_at_end
    speed = FPS * np.linalg.norm(np.diff(np.concatenate(parts), axis=0), axis=-1)
    borders = 96 * np.arange(1, len(chain)) - 1
    # At the borders the figure is idle: only the sway moves it.
    assert speed[borders].max() < 0.5
    np.testing.assert_allclose(parts[0][0, 0, [0, 2]], [1.0, -2.0], atol=1e-9)


def test_random_numbers_drawn_do_not_depend_on_their_outcome_and_twins_draw_alike() -> None:
    for pair in TWINS:
        left = []
        for action in pair:
            for active in (2.0, 3.5):
                rng = np.random.default_rng(3)
                perform(
                    action,
                    BODY,
                    STYLE,
                    rng,
                    num_frames=96,
                    fps=FPS,
                    before_sec=0.0,
                    active_sec=active,
                )
                left.append(rng.bit_generator.state["state"])
        assert all(state == left[0] for state in left)


def test_an_action_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit: 96 frames at 24 fps last 4 s"):
        performed("walk", before_sec=1.5)
    with pytest.raises(ValueError, match="do not fit"):
        performed("walk", active_sec=0.0)
    with pytest.raises(ValueError, match=r"no action 'swim'.*sit_down"):
        performed("swim")


def test_the_clock_is_monotone_smooth_and_the_same_backwards() -> None:
    x = np.array([0.0, 0.2, 1.0, 1.3, 2.0])
    y = np.array([0.0, 1.0, 1.1, 2.0, 2.1])
    at = np.linspace(0, 2, 401)
    curve = monotone_cubic(x, y, at)
    np.testing.assert_allclose(monotone_cubic(x, y, x), y, atol=1e-12)
    assert (np.diff(curve) >= 0).all()
    # A corner would bend the curve by the change of the slope: 0.02 at 200 points a unit.
    assert np.abs(np.diff(curve, 2)).max() < 4e-3
    np.testing.assert_allclose(
        monotone_cubic((2 - x)[::-1], (2.1 - y)[::-1], at), (2.1 - curve)[::-1], atol=1e-12
    )


def test_every_action_and_phase_has_words() -> None:
    assert set(ACTION_WORDS) == set(ALL)
    assert set(PHASE_WORDS) == {phase for name in ALL for phase in ACTIONS[name].phases}
    sentences = [words for choices in ACTION_WORDS.values() for words in choices]
    assert len(sentences) == len(set(sentences))


def views(joints: np.ndarray, azimuths: np.ndarray) -> np.ndarray:
    """Bones as seen from the given directions, float64 (V, T, B * 2)."""
    bones = bone_directions(joints)
    seen = [turn(bones, azimuth)[..., :2] for azimuth in azimuths]
    return np.stack(seen).reshape(len(azimuths), len(joints), -1)


def test_only_the_order_of_frames_tells_twins_apart() -> None:
    """Nearest neighbours from random sides: the bag of frames guesses between twins, frames in order know."""
    rng = np.random.default_rng(0)
    fps, num_frames, active, each = 8.0, 24, 2.625, 12
    shown: dict[str, list[np.ndarray]] = {name: [] for name in CLASS_NAMES}
    for name in [*CLASS_NAMES] * each:
        style = sample_style(rng, strength=0.3, warp=0.5)
        # The last frame is at 2.875 s: idle times before and after have one law.
        done = perform(
            name, BODY, style, rng, num_frames=num_frames, fps=fps, before_sec=float(rng.uniform(0, 0.25)),
            active_sec=active, speed_spread=0.3,
        )  # fmt: skip
        # The two halves of each list are for training and for testing.
        shown[name].append(views(done.joints, rng.uniform(0, 2 * np.pi, 12)))
    half = each // 2

    def accuracy(describe: Callable[[np.ndarray], np.ndarray]) -> float:
        """How often the nearest of a pair of twins is the right one."""
        right = []
        for pair in TWINS:
            train, test = (
                [np.concatenate([describe(view) for view in shown[name][part]]) for name in pair]
                for part in (slice(half), slice(half, None))
            )
            for label, queries in enumerate(test):
                near = [cdist2(queries, known).min(1) for known in train]
                right.append((near[label] < near[1 - label]).mean())
        return float(np.mean(right))

    ordered = accuracy(lambda view: view.reshape(len(view), -1))
    bag = accuracy(lambda view: np.concatenate([view.mean(1), view.std(1)], 1))
    assert ordered > 0.9
    assert 0.35 < bag < 0.65


def cdist2(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances, float64 (N, M), of rows (N, D) and (M, D)."""
    return (left**2).sum(1)[:, None] - 2 * left @ right.T + (right**2).sum(1)
