"""Masks: exact counts, every map drawn, refusals.  The numbers of the references are in tests/golden/test_masks.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_ssl.clips import masks
from video_ssl.clips.config import MaskConfig

grids = st.tuples(st.integers(1, 8), st.integers(1, 14), st.integers(1, 14))
ratios = st.floats(0.05, 0.95)


@given(grids, ratios, st.sampled_from(["tube", "random"]), st.integers(0, 2**32))
def test_masks_have_the_exact_count_or_are_refused(grid, ratio, kind, seed):
    t, h, w = grid
    # The references multiply with the number of tokens; a third of 7 * 3 is 7 then, not 6.
    count = t * int(ratio * (h * w)) if kind == "tube" else int(ratio * (t * h * w))
    config = MaskConfig(kind=kind, ratio=ratio)
    rng = np.random.default_rng(seed)
    if 0 < count < t * h * w:
        mask = masks.sample_mask(config, grid, rng)
        assert mask.shape == (t * h * w,)
        assert mask.dtype == bool
        assert mask.sum() == count
        if kind == "tube":  # was seen by the golden files only
            assert (mask.reshape(t, -1) == mask[: h * w]).all()
    else:
        with pytest.raises(ValueError, match="some must be hidden and some visible"):
            masks.sample_mask(config, grid, rng)


@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 8),
    ratios,
    st.sampled_from(["cube", "block"]),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_blocks_have_the_exact_count_of_whole_cells_or_are_refused(
    t, h, w, ratio, kind, cell, seed
):
    config = MaskConfig(kind=kind, ratio=ratio, cell=cell)
    count = round(ratio * (t * h * w)) if kind == "cube" else t * round(ratio * (h * w))
    rng, grid = np.random.default_rng(seed), (t, h * cell, w * cell)
    if 0 < count < t * h * w:
        mask = masks.sample_mask(config, grid, rng)
        assert mask.dtype == bool
        assert mask.shape == (t * h * w * cell**2,)
        cells = mask.reshape(t, h, cell, w, cell)
        assert (cells == cells[:, :, :1, :, :1]).all()
        assert cells[:, :, 0, :, 0].sum() == count == config.num_masked(grid) // cell**2
        if kind == "block":
            assert (cells == cells[:1]).all()
    else:
        with pytest.raises(ValueError, match="some must be hidden and some visible"):
            masks.sample_mask(config, grid, rng)


@pytest.mark.parametrize("kind", ["cube", "block"])
def test_blocks_hide_neighbours_together(kind):
    """Of hidden tokens, far more have a hidden neighbour in their row than if each was drawn by itself (40 %)."""
    config, rng = MaskConfig(kind=kind, ratio=0.4), np.random.default_rng(0)
    drawn = np.stack([masks.sample_mask(config, (8, 14, 14), rng) for _ in range(300)])
    drawn = drawn.reshape(300, 8, 14, 14)
    both = (drawn[..., 1:] & drawn[..., :-1]).sum() / drawn[..., 1:].sum()
    assert both > 0.65
    always = drawn.mean(0)
    assert always.min() > 0
    assert always.max() < 1


@given(st.integers(1, 9), st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.25, 0.5, 0.75]))
def test_running_cells_hide_their_share_and_decode_every_position(t, half_h, half_w, ratio):
    grid = (t, 2 * half_h, 2 * half_w)
    maps = masks.running_cell_masks(grid, ratio).reshape(4, t, -1)
    assert (maps.mean(2) == ratio).all()
    if t >= 4:
        assert (~maps).any(1).all()
    assert len({candidate.tobytes() for candidate in maps}) == 4


def test_all_running_cells_are_drawn():
    config, rng = MaskConfig(kind="running_cell", ratio=0.5), np.random.default_rng(0)
    drawn = [masks.sample_mask(config, (2, 4, 4), rng).tobytes() for _ in range(400)]
    counts = [drawn.count(mask.tobytes()) for mask in masks.running_cell_masks((2, 4, 4), 0.5)]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_the_same_state_of_the_generator_gives_the_same_mask():
    first, again, other = (
        masks.sample_tube_mask((4, 6, 6), 0.75, np.random.default_rng(seed)) for seed in (7, 7, 8)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda rng: masks.sample_tube_mask((8, 1, 1), 0.9, rng),
            r"mask.ratio=0.9 \(tube\) hides 0 of 8 tokens of the grid 8x1x1",
        ),
        (
            lambda rng: masks.sample_random_mask((1, 1, 3), 0.2, rng),
            r"mask.ratio=0.2 \(random\) hides 0 of 3 tokens",
        ),
        (lambda rng: masks.running_cell_masks((2, 7, 8), 0.5), "the grid is 7x8"),
        (lambda rng: masks.running_cell_masks((2, 8, 8), 0.2), "hides 0 of 128 tokens"),
        (lambda rng: masks.sample_tube_mask((2, 4, 4), 1.0, rng), "ratio=1.0 must lie strictly"),
        (
            lambda rng: masks.sample_mask(MaskConfig(kind="cube", cell=3), (2, 4, 6), rng),
            "mask.cell=3 does not divide the grid of 4x6 tokens",
        ),
        (lambda rng: MaskConfig(cell=2), "mask.cell=2 with mask.kind='tube': use 1"),
    ],
)
def test_refusals_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call(np.random.default_rng(0))
