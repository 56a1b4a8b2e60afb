"""Masks of VideoMAE and MVD against the references: to the bit with numpy's old generator, by statistics with ours."""

import random

import numpy as np
import pytest

from video_ssl.clips import mask_blocks, masks
from video_ssl.clips.config import MaskConfig

SAMPLERS = {"tube": masks.sample_tube_mask, "random": masks.sample_random_mask}
DRAWS = 2000
claims = pytest.mark.golden("mvd/masks", "videomae/masks")


@claims
def test_the_old_generator_gives_the_bits_of_the_reference(golden_case):
    g, settings = golden_case.file, golden_case.settings
    rng = np.random.RandomState(g.settings["numpy_seed"])
    sample = SAMPLERS[settings["mask"]]
    drawn = np.stack(
        [sample(tuple(settings["grid"]), settings["ratio"], rng) for _ in range(settings["draws"])]
    )
    assert drawn.dtype == bool
    g.check(golden_case.name, np.packbits(drawn, axis=1))


@claims
def test_the_new_generator_gives_the_statistics_of_the_reference(golden_case):
    g, settings, name = golden_case.file, golden_case.settings, golden_case.name
    grid = tuple(settings["grid"])
    config = MaskConfig(kind=settings["mask"], ratio=settings["ratio"])
    rng = np.random.default_rng(0)
    drawn = np.stack([masks.sample_mask(config, grid, rng) for _ in range(DRAWS)])
    frames = drawn.reshape(DRAWS, grid[0], -1)
    counts = {
        "total_masked": drawn.sum(1),
        "masked_per_frame": frames.sum(2),
        "all_frames_equal": (frames == frames[:, :1]).all((1, 2)),
    }
    for part, values in counts.items():
        if g.gives(f"{name}__{part}"):
            assert len(np.unique(values)) == 1
            g.check(f"{name}__{part}", values.ravel()[0])
    assert config.num_masked(grid) == drawn[0].sum()
    share = drawn[0].mean()
    check_even(drawn.mean(0), share, DRAWS)
    for given in g.gives(f"{name}__position_mean_*"):
        count = int(given.rpartition("_")[2])
        off = np.abs(g[given] - share).max()
        g.check_statistic(given, float(off), 5 * np.sqrt(share * (1 - share) / count))


class PythonDraws:
    """Python's generator, by the names of numpy's."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.random = self.rng.random

    def integers(self, low, high):
        return self.rng.randint(low, high - 1)


@pytest.mark.golden(
    "maskfeat/masks",
    unsupported=[("kind", "frames", "no published run hides whole moments")],
)
def test_masks_of_maskfeat_with_the_generator_of_the_reference(golden_case):
    settings, window = golden_case.settings, tuple(golden_case.settings["window"])
    rng, drawn = PythonDraws(settings["seed"]), []
    kind = {"cube": "cube", "block": "block", "tube": "block"}[settings["kind"]]
    grid = (1, *window) if settings["kind"] == "block" else window
    count = MaskConfig(kind=kind, ratio=settings["ratio"]).num_masked_cells(grid)
    assert count == settings["wanted"]
    for _ in range(settings["draws"]):
        if kind == "cube":
            drawn.append(mask_blocks.sample_cuboids(window, count, rng))
        else:
            flat = mask_blocks.sample_rectangles(window[-2:], count, rng)
            drawn.append(np.broadcast_to(flat, window))
    golden_case.check("mask", np.stack(drawn))
    golden_case.check("masked", np.stack(drawn).reshape(len(drawn), -1).sum(1))


def check_even(means, share, count):
    """Every position is hidden about as often as every other."""
    assert np.abs(means - share).max() < 5 * np.sqrt(share * (1 - share) / count)
