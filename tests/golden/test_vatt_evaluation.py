"""VATT's evaluation against the numbers of its reference: zero-shot retrieval, and sounds of several classes."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.evaluate.pair_metrics import (
    first_ranks,
    ranked_shares,
    unit_vectors,
    window_vectors,
)
from video_ssl.models.multilabel_loss import balanced_weights, multilabel_loss
from video_ssl.models.multilabel_metrics import average_precisions, d_prime, roc_aucs


@pytest.mark.golden("vatt/misc", cases=lambda settings: "num_windows" in settings)
@pytest.mark.parametrize("average", ["embd", "cosine"])
def test_zero_shot_retrieval(golden_case, average):
    text, windows = golden_case["text"], golden_case["video_windows"]
    video = np.arange(len(windows)) // golden_case.settings["num_windows"]
    similarity = unit_vectors(text) @ window_vectors(windows, video, average=average).T
    golden_case.check(f"sim_{average}", similarity)
    shares, median = ranked_shares(
        first_ranks(similarity, np.eye(len(text), dtype=bool)), [1, 5, 10]
    )
    golden_case.check(f"{average}_R1_R5_R10_MedR", [*shares.values(), median])


@pytest.mark.golden("vatt/misc", cases=lambda settings: "num_classes" in settings)
def test_several_classes(golden_case):
    if "logits" in golden_case:
        labels = golden_case.tensor("labels")
        golden_case.check("weights", balanced_weights(labels)[:, None])
        golden_case.check("loss", multilabel_loss(golden_case.tensor("logits"), labels))
        return
    truth, scores = golden_case["gt"].astype(bool), golden_case["pred"]
    precision, area = average_precisions(scores, truth), roc_aucs(scores, truth)
    golden_case.check("ap", precision)
    golden_case.check("auc", area)
    golden_case.check("mAP_AUC_dprime", [precision.mean(), area.mean(), d_prime(area).mean()])
