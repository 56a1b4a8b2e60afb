"""The evaluators on frame features against the numbers of CARL's reference.

Tolerances are those of the files' README: tau and AP 1e-9, R^2 1e-4, accuracy within one validation
frame (two for the logistic regression), targets 1e-12, alignments exact; the probe 1e-5 relative.
"""

import numpy as np
import pytest

from video_ssl.evaluate.alignment import align
from video_ssl.evaluate.frames.frame_probe import ProbeSchedule, frame_accuracy, train_frame_probe
from video_ssl.evaluate.frames.frame_retrieval import frame_precision
from video_ssl.evaluate.frames.kendalls_tau import kendalls_tau, tau_matrix
from video_ssl.evaluate.frames.phase_classification import phase_accuracy
from video_ssl.evaluate.frames.phase_progression import phase_progression, progress_targets


def videos(g, split):
    """Embeddings (L, D) and labels (L,) of every video of a split."""
    ends = np.cumsum(g.arrays[f"{split}_lens"])[:-1]
    both = (g.arrays[f"{split}_embs"], g.arrays[f"{split}_labels"])
    return tuple(np.split(array, ends) for array in both)


def close(actual, expected, atol, rtol=0.0):
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=rtol)


def test_kendalls_tau(carl_evaluators):
    g = carl_evaluators
    stride = int(g.arrays["stride"])
    found = tau_matrix(videos(g, "val")[0], stride=stride)
    close(found, g.arrays["val_tau_matrix"], 1e-9)
    close(kendalls_tau(videos(g, "val")[0], stride=stride), g.arrays["val_tau"], 1e-9)
    close(kendalls_tau(videos(g, "train")[0], stride=stride), g.arrays["train_tau"], 1e-9)


def test_frame_retrieval(carl_evaluators):
    g = carl_evaluators
    ks = g.arrays["ks"].tolist()
    found = frame_precision(*videos(g, "val"), ks=ks, stride=int(g.arrays["stride"]))
    close([found[k] for k in ks], g.arrays["val_ap_at_k"], 1e-9)


@pytest.mark.parametrize(("kind", "name", "frames"), [("linear", "cls", 2), ("svm", "svm", 1)])
def test_phase_classification(carl_evaluators, kind, name, frames):
    g = carl_evaluators
    for place, fraction in enumerate(g.arrays["fractions"].tolist()):
        found = phase_accuracy(
            *videos(g, "train"), *videos(g, "val"), fraction=fraction, classifier=kind
        )
        for split in ("train", "val"):
            count = g.arrays[f"{split}_lens"]
            if split == "train":
                count = count[: max(1, int(fraction * len(count)))]
            expected = g.arrays[f"{name}_{split}_acc"][place]
            close(getattr(found, split), expected, frames / count.sum() + 1e-12)


def test_phase_progression(carl_evaluators):
    g = carl_evaluators
    num_phases = int(g.arrays["num_classes"])
    targets = progress_targets(videos(g, "val")[1][0], num_phases)
    close(targets, g.arrays["progress_target_val0"], 1e-12)
    for place, fraction in enumerate(g.arrays["fractions"].tolist()):
        found = phase_progression(
            *videos(g, "train"), *videos(g, "val"), num_phases=num_phases, fraction=fraction
        )
        close(found.train, g.arrays["progress_train_r2"][place], 1e-4)
        close(found.val, g.arrays["progress_val_r2"][place], 1e-4)


@pytest.mark.parametrize("method", ["nn", "dtw"])
def test_alignment(carl_evaluators, method):
    g = carl_evaluators
    query, key = videos(g, "val")[0][:2]
    found = align(query, key, method={"nn": "nearest", "dtw": "dtw"}[method])
    np.testing.assert_array_equal(found.match, g.arrays[f"align_{method}_0_1"])


def test_frame_probe(frame_probe):
    g = frame_probe
    schedule = ProbeSchedule(
        epochs=int(g.arrays["epochs"]),
        lr=float(g.arrays["lr"]),
        momentum=float(g.arrays["momentum"]),
        weight_decay=float(g.arrays["weight_decay"]),
        videos_per_batch=int(g.arrays["videos_per_batch"]),
        shuffle=False,
    )
    start = (g.arrays["W0"], g.arrays["b0"])
    fit = train_frame_probe(*videos(g, "train"), start=start, schedule=schedule)
    close(fit.losses, g.arrays["losses"], 0, 1e-5)
    close(fit.weight, g.arrays["W"], 1e-8, 1e-5)
    close(fit.bias, g.arrays["b"], 1e-8, 1e-5)
    close(frame_accuracy(fit, *videos(g, "val")), g.arrays["val_acc"], 0, 1e-5)
