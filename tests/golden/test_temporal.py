"""Segments in time, their localisation, and counting against the references: MS-TCN, ActivityNet, TransRAC, SEVERE."""

from __future__ import annotations

import numpy as np
import pytest
from frozen_protocols import files_of, read

from video_ssl.evaluate.frames.segment_metrics import (
    average_precisions,
    count_errors,
    edit_score,
    f1_of_counts,
    hits_and_misses,
    segments_of,
)


@pytest.mark.parametrize("path", files_of("temporal_segmentation"))
def test_segmentation_of_ms_tcn(path):
    """A second choice of segments, background among them, or F1 as a mean over videos would change the numbers."""
    golden = read(path)
    background, overlaps = [golden.setting("background_label")], golden.setting("overlaps")
    edits, counts, right, inputs = [], 0, [], []
    for case in sorted({n.split("/")[0] for n in golden.arrays if n.split("/")[0].isdigit()}):
        true, guess = golden[f"{case}/ground_truth"], golden[f"{case}/prediction"]
        a, b = (segments_of(labels, background=background) for labels in (guess, true))
        golden.check(f"{case}/prediction_segments_label_start_end", np.stack(a, axis=1))
        edits.append(100 * edit_score(a, b))
        golden.check(f"{case}/edit", edits[-1], atol=1e-9)
        own = np.stack([hits_and_misses(a, b, overlap) for overlap in overlaps])
        golden.check(f"{case}/tp_fp_fn", own)
        counts = counts + own
        right.append(guess == true)
        inputs += [f"{case}/ground_truth", f"{case}/prediction"]
    golden.check("accuracy", 100 * np.concatenate(right).mean(), atol=1e-9)
    golden.check("edit", np.mean(edits), atol=1e-9)
    golden.check("f1", [100 * f1_of_counts(line) for line in counts], atol=1e-9)
    golden.done(*inputs)


@pytest.mark.parametrize("path", files_of("temporal_localisation"))
def test_localisation_of_activitynet(path):
    golden = read(path)
    truth = golden["ground_truth_video_label_start_end"]
    num_classes = golden["ap_tiou_class"].shape[1]
    tious = golden["tiou_thresholds"].tolist()
    found = average_precisions(
        truth,
        golden["detections_video_label_start_end_score"],
        num_classes=num_classes,
        tious=tious,
    )
    golden.check("ap_tiou_class", found, atol=1e-12)
    golden.check("map_per_tiou", np.nanmean(found, axis=1), atol=1e-12)
    golden.check("average_map", np.nanmean(found), atol=1e-12)
    golden.done(
        "ground_truth_video_label_start_end",
        "detections_video_label_start_end_score",
        "tiou_thresholds",
    )


@pytest.mark.parametrize("path", files_of("repetition"))
def test_counting_of_transrac_and_severe(path):
    golden = read(path)
    true, guess = (golden[f"density_{side}"].sum(axis=1) for side in ("true", "predicted"))
    golden.check("count_true", np.round(true))
    golden.check("count_predicted", np.round(guess))
    ours = count_errors(guess, np.round(true))
    golden.check("mae_reference", ours["mae"], atol=1e-6)
    golden.check("obo_reference", ours["obo"], atol=1e-6)
    ours = count_errors(guess, np.round(true), rule="severe")
    golden.check("severe_videos_used_SPEC", np.round(true) > 0)
    golden.check("mae_severe_SPEC", ours["mae"], atol=1e-6)
    golden.check("obo_severe_SPEC", ours["obo"], atol=1e-6)
    golden.done("density_")
