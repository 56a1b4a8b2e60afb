"""Ranks of features against a reference of RankMe and the numbers of their definitions."""

from __future__ import annotations

import pytest
from frozen_protocols import files_of, read

from video_ssl.pretrain.probe_figures import (
    effective_rank,
    effective_rank_of_covariance,
    participation_ratio,
    rankme,
)


@pytest.mark.parametrize("path", files_of("rank_metrics"))
def test_ranks(path):
    """Centred or not, singular values or their squares: each would be another number."""
    golden, inputs = read(path), []
    for case in sorted({name.split("/")[0] for name in golden.arrays}):
        features = golden[f"{case}/embeddings"]
        inputs.append(f"{case}/embeddings")
        golden.check(f"{case}/rankme_reference", rankme(features, eps=1e-5), rtol=1e-4)
        golden.check(f"{case}/rankme_eps1e-7_SPEC", rankme(features), rtol=1e-6)
        golden.check(f"{case}/effective_rank_SPEC", effective_rank(features), rtol=1e-6)
        found = effective_rank_of_covariance(features)
        golden.check(f"{case}/effective_rank_covariance_SPEC", found, rtol=1e-6)
        golden.check(f"{case}/participation_ratio_SPEC", participation_ratio(features), rtol=1e-6)
    golden.done(*inputs)
