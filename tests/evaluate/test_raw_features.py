"""The evaluators on frames from feature files to the numbers that they print, against computations from their papers.

The measures themselves have tests of their own; these see what happens to a file before they are called.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureFile, open_features
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.evaluators import EVALUATORS, evaluator_class
from video_ssl.evaluate.frames.frame_evaluator import FrameEvaluator
from video_ssl.evaluate.frames.kendalls_tau import KendallsTau, KendallsTauConfig
from video_ssl.evaluate.frames.phase_classification import PhaseClassification, PhasesConfig
from video_ssl.evaluate.frames.phase_progression import PhaseProgression, ProgressionConfig

NAMES = [n for n in EVALUATORS if issubclass(evaluator_class(n), FrameEvaluator)]
QUICK = {
    "few_shot_phases": {"num_episodes": 3, "shots": (1, 2)},
    "frame_probe": {"epochs": 5},
    "segmentation": {"layers": 3, "width": 16, "epochs": 30, "lr": 1e-2},
}
WIDTH = 6


def videos(seed, count=3):
    """Embeddings and phases of videos that run through three phases, in a noise that leaves room for errors."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, WIDTH))
    phases = [
        np.sort(np.r_[0, 1, 2, rng.integers(0, 3, rng.integers(8, 16))]) for _ in range(count)
    ]
    return [centres[p] + 0.8 * rng.normal(size=(len(p), WIDTH)) for p in phases], phases


def with_strangers(embs, labels, seed):
    """The same videos with frames between theirs that have no label and look like anything."""
    rng = np.random.default_rng(seed)
    found = []
    for own, phases in zip(embs, labels, strict=True):
        places = np.sort(rng.integers(0, len(phases) + 1, 7))
        noise = rng.normal(size=(7, WIDTH))
        found.append((np.insert(own, places, noise, axis=0), np.insert(phases, places, -1)))
    return [e for e, _ in found], [p for _, p in found]


def written(path, embs, labels) -> FeatureFile:
    with FeatureWriter(path, embed_dim=WIDTH, metadata={}) as writer:
        for v, (own, phases) in enumerate(zip(embs, labels, strict=True)):
            one = {
                "id": f"{path.stem}{v}",
                "clip": 0,
                "label": 0,
                "feature": np.zeros(WIDTH, np.float32),
                "frame_features": np.asarray(own, np.float32),
                "frame_times_sec": (np.arange(len(own)) / 10).tolist(),
                "frame_labels": phases.tolist(),
            }
            writer.write([one])
    return open_features(path)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("name", [n for n in NAMES if not evaluator_class(n).keeps_unlabelled])
def test_frames_without_a_label_change_no_number(name, tmp_path):
    """Was seen by no test: Kendall's tau kept them."""
    cls = evaluator_class(name)
    evaluator = cls(cls.Config(**QUICK.get(name, {})))
    plain = [written(tmp_path / f"{s}.arrow", *videos(s)) for s in range(2)]
    mixed = [
        written(tmp_path / f"mixed{s}.arrow", *with_strangers(*videos(s), seed=s)) for s in range(2)
    ]
    found, wanted = (evaluator.evaluate(Given(*files, seed=0)) for files in (mixed, plain))
    assert found.metrics == wanted.metrics
    assert found.details["frames"] == wanted.details["frames"]
    assert "21 frames without a label are left out (test)" in found.notes


def test_tau_is_of_every_second_labelled_frame(tmp_path):
    train, test = videos(0), videos(1)
    files = [
        written(tmp_path / f"{n}.arrow", *with_strangers(*part, seed=3))
        for n, part in (("train", train), ("test", test))
    ]
    found = KendallsTau(KendallsTauConfig()).evaluate(Given(*files, seed=0))
    frames = [unit(e)[::2] for e in test[0]]
    taus = []
    for i, query in enumerate(frames):
        for j, key in enumerate(frames):
            nearest = [int(((q - key) ** 2).sum(1).argmin()) for q in query]
            if i != j:
                taus.append(stats.kendalltau(range(len(query)), nearest).statistic)
    assert found.metrics["tau"] == pytest.approx(np.mean(taus), abs=1e-9)


@pytest.mark.parametrize(("fraction", "used"), [(0.5, 1), (0.9, 2), (1.0, 3)])
def test_a_share_of_the_training_videos_is_cut(fraction, used, tmp_path):
    """Was seen by no test: rounded instead, which of three videos and a half takes two."""
    train, test = videos(0), videos(1)
    files = [written(tmp_path / f"{n}.arrow", *p) for n, p in (("train", train), ("test", test))]
    x, y = (np.concatenate(part[:used]) for part in train)
    seen, truth = unit(np.concatenate(test[0])), np.concatenate(test[1])
    config = PhasesConfig(fractions=(fraction,))
    found = PhaseClassification(config).evaluate(Given(*files, seed=0))
    model = LogisticRegression(max_iter=100_000).fit(unit(x), y)
    assert found.metrics[f"linear@{100 * fraction:g}%"] == pytest.approx(model.score(seen, truth))

    def progress(labels):
        """(t - the last frame of phase k) / L for k = 0, 1."""
        times = np.arange(len(labels))
        return np.stack([times - times[labels == k].max() for k in (0, 1)], 1) / len(labels)

    progression = PhaseProgression(ProgressionConfig(fractions=(fraction,)))
    fitted = LinearRegression().fit(unit(x), np.concatenate([progress(p) for p in train[1][:used]]))
    wanted = fitted.score(seen, np.concatenate([progress(p) for p in test[1]]))
    value = progression.evaluate(Given(*files, seed=0)).metrics[f"R2@{100 * fraction:g}%"]
    assert value == pytest.approx(wanted, abs=1e-4)
