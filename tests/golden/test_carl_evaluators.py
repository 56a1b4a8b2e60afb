"""The evaluators on frame features against the numbers of CARL's reference."""

import numpy as np
import pytest

from video_ssl.evaluate.frames.frame_probe import ProbeSchedule, frame_accuracy, train_frame_probe
from video_ssl.evaluate.frames.frame_retrieval import frame_precision
from video_ssl.evaluate.frames.kendalls_tau import kendalls_tau, tau_matrix
from video_ssl.evaluate.frames.phase_classification import phase_accuracy
from video_ssl.evaluate.frames.phase_progression import phase_progression, progress_targets
from video_ssl.explore.alignment import align


def videos(g, split):
    """Embeddings (L, D) and labels (L,) of every video of a split."""
    ends = np.cumsum(g[f"{split}_lens"])[:-1]
    return tuple(np.split(g[f"{split}_{part}"], ends) for part in ("embs", "labels"))


@pytest.mark.golden("carl/evaluators")
def test_kendalls_tau(golden):
    stride = golden.settings["stride"]
    golden.check("val_tau_matrix", tau_matrix(videos(golden, "val")[0], stride=stride))
    for split in ("train", "val"):
        golden.check(f"{split}_tau", kendalls_tau(videos(golden, split)[0], stride=stride))


@pytest.mark.golden("carl/evaluators")
def test_frame_retrieval(golden):
    ks, stride = golden.settings["ks"], golden.settings["stride"]
    found = frame_precision(*videos(golden, "val"), ks=ks, stride=stride)
    golden.check("val_ap_at_k", [found[k] for k in ks])


def frames_of(g, split, fraction) -> int:
    """Frames that an accuracy is over: of the videos of that fraction, or of the whole validation split."""
    lengths = g[f"{split}_lens"]
    count = max(1, int(fraction * len(lengths))) if split == "train" else len(lengths)
    return int(lengths[:count].sum())


@pytest.mark.parametrize(("kind", "name"), [("linear", "cls"), ("svm", "svm")])
@pytest.mark.golden("carl/evaluators")
def test_phase_classification(golden, kind, name):
    fractions = golden.settings["fractions"]
    both = (*videos(golden, "train"), *videos(golden, "val"))
    found = [phase_accuracy(*both, fraction=f, classifier=kind) for f in fractions]
    for split in ("train", "val"):
        units = {"frames": [frames_of(golden, split, f) for f in fractions]}
        accuracies = [getattr(accuracy, split) for accuracy in found]
        golden.check(f"{name}_{split}_acc", accuracies, units=units)


@pytest.mark.golden("carl/evaluators")
def test_phase_progression(golden):
    num_phases = golden.settings["num_classes"]
    targets = progress_targets(videos(golden, "val")[1][0], num_phases)
    golden.check("progress_target_val0", targets)
    both = (*videos(golden, "train"), *videos(golden, "val"))
    found = [
        phase_progression(*both, num_phases=num_phases, fraction=f)
        for f in golden.settings["fractions"]
    ]
    for split in ("train", "val"):
        golden.check(f"progress_{split}_r2", [getattr(r2, split) for r2 in found])


@pytest.mark.parametrize(("method", "name"), [("nearest", "nn"), ("dtw", "dtw")])
@pytest.mark.golden("carl/evaluators")
def test_alignment(golden, method, name):
    query, key = videos(golden, "val")[0][:2]
    golden.check(f"align_{name}_0_1", align(query, key, method=method).match)


@pytest.mark.golden("carl/frame_probe")
def test_frame_probe(golden):
    settings = golden.settings
    names = ("epochs", "lr", "momentum", "weight_decay", "videos_per_batch", "shuffle")
    schedule = ProbeSchedule(**{name: settings[name] for name in names})
    start = (golden["W0"], golden["b0"])
    fit = train_frame_probe(*videos(golden, "train"), start=start, schedule=schedule)
    golden.check("losses", fit.losses)
    golden.check("W", fit.weight)
    golden.check("b", fit.bias)
    golden.check("val_acc", frame_accuracy(fit, *videos(golden, "val")))
