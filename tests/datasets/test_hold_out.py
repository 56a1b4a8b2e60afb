"""What is held out: whole groups, alike in every class."""

import numpy as np
import pytest

from video_ssl.datasets.hold_out import hold_out
from video_ssl.datasets.table import TableError


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_hold_out_takes_whole_groups_and_alike_of_every_class(share):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 40)
    groups = np.array([f"g{i}" for i in rng.integers(0, 60, 200)])
    held = hold_out(labels, groups, share, rng)
    assert not set(groups[held]) & set(groups[~held])
    for label in range(5):
        assert held[labels == label].mean() == pytest.approx(share, abs=0.1)


def test_hold_out_never_takes_the_last_video_of_a_class():
    labels = np.array([0] * 30 + [1] + [2] * 2)
    for seed in range(10):
        held = hold_out(labels, np.arange(33), 0.5, np.random.default_rng(seed))
        assert held.any()
        assert set(labels[~held]) == {0, 1, 2}
    with pytest.raises(TableError, match="without losing a class"):
        hold_out(np.array([0, 1]), np.arange(2), 0.5, np.random.default_rng(0))
