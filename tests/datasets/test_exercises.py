"""The first generated world: it is still what old results were made with, and never mixed with the default one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from video_ssl.datasets.demo.exercises.plan import SIZES, WORLD
from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.worlds import WORLDS, world_of

NUMBERS = json.loads(Path(__file__).with_name("exercises_numbers.json").read_text())


def numbers_of(split: str, index: int) -> dict[str, object]:
    """What a change of the generator would change: the length, and the picture and boxes of the middle frame."""
    scene = WORLD.plan(0, split, index, SIZES["small"], NuisanceConfig()).scene()
    middle = scene.num_frames // 2
    frame = next(f for t, f in enumerate(scene.frames()) if t == middle).astype(float)
    levels = frame[:72, :72].reshape(3, 24, 3, 24, 3).mean((1, 3, 4))
    return {
        "frames": scene.num_frames,
        "boxes": scene.boxes()[middle].tolist(),
        "levels": levels.tolist(),
    }


@pytest.mark.parametrize("name", NUMBERS)
def test_the_same_seed_gives_the_videos_of_before(name: str) -> None:
    """`exercises_numbers.json` is `numbers_of` at the last commit whose `demo` was this world."""
    split, _, index = name.rpartition("-")
    found, wanted = numbers_of(split, int(index)), NUMBERS[name]
    assert found["frames"] == wanted["frames"]
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=1e-5)
    np.testing.assert_allclose(found["levels"], wanted["levels"], atol=0.2)


def test_a_format_belongs_to_one_world() -> None:
    assert len({world_of(name).format for name in WORLDS}) == len(WORLDS)
