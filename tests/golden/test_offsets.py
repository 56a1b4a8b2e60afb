"""Offsets between recordings against the numbers of their definition (slow loops; a graph's Laplacian)."""

from __future__ import annotations

import numpy as np
import pytest
from frozen_protocols import files_of, read

from video_ssl.explore.offsets import find_offset, reconcile


@pytest.mark.parametrize("path", files_of("offset_SPEC"))
def test_offsets_scores_and_times(path):
    """A mean over all frames instead of the overlap, another rule of ties or another median would change them."""
    golden, inputs = read(path), ["cameras/pairs", "cameras/offsets", "cameras/weights"]
    for case in sorted({name.split("/")[0] for name in golden.arrays} - {"cameras"}):
        max_lag, min_overlap, window = golden[f"{case}/settings_maxlag_minoverlap_window"].tolist()
        found = find_offset(
            golden[f"{case}/a"],
            golden[f"{case}/b"],
            max_lag=max_lag,
            min_overlap=min_overlap,
            window=window,
        )
        golden.check(f"{case}/lags", found.lags)
        golden.check(f"{case}/score", found.scores, atol=1e-9)
        golden.check(f"{case}/offset", found.lag)
        golden.check(f"{case}/offset_subframe", found.subframe, atol=1e-9)
        golden.check(f"{case}/confidence", found.confidence, atol=1e-9)
        inputs += [f"{case}/{k}" for k in ("a", "b", "true", "settings")]
    times = reconcile(
        golden["cameras/pairs"],
        golden["cameras/offsets"],
        golden["cameras/weights"],
        num=len(golden["cameras/times"]),
    )
    golden.check("cameras/times", times.times, atol=1e-9)
    golden.check("cameras/residuals", times.residuals, atol=1e-9)
    assert np.isfinite(times.times).all()
    golden.done(*inputs)
