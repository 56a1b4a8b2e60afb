"""Parts of the training videos as SEVERE draws them: the same videos, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from frozen_protocols import files_of, read

from video_ssl.evaluate.label_curve import Budget, shuffled_by_class


@pytest.mark.parametrize("path", files_of("sample_size_subset"))
def test_so_many_of_each_class_are_the_videos_of_the_reference(path):
    """Catches another generator, another order of classes, and a class with too few videos."""
    golden = read(path)
    cases = sorted({name.split("/")[0] for name in golden.arrays if name.endswith("/labels")})
    assert cases
    for case in cases:
        labels = golden[f"{case}/labels"]
        wanted = int(golden[f"{case}/number_of_examples"])
        budget = Budget(-(-wanted // len(np.unique(labels))), each=True)  # rounded up, SEVERE
        parts = shuffled_by_class(labels, np.random.RandomState(golden.setting("seed")))
        taken = [part[: budget.of(len(part))] for part in parts]
        golden.check(f"{case}/chosen", np.concatenate(taken))
        golden.seen |= {f"{case}/labels", f"{case}/number_of_examples"}
    golden.done()
