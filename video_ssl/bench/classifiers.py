"""The evaluators of `bench evaluate`, and the same by scikit-learn, numpy and faiss: each way gives its answers.

An answer is the number of the class of every test row, so that it can be seen that all do the same work.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.bench.config import EvaluateBench
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureFile, features_from_arrays, open_features
from video_ssl.embed.grids import Grid, GridColumn
from video_ssl.evaluate.attentive.probe import AttentiveConfig, AttentiveProbe
from video_ssl.evaluate.contract import Given, Result
from video_ssl.evaluate.knn import KNNConfig, NearestNeighbours
from video_ssl.evaluate.linear import Fit, Head, LinearHeads
from video_ssl.evaluate.neighbours import nearest_neighbours, unit_rows
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig
from video_ssl.evaluate.videos import split_train, videos_of
from video_ssl.models.contract import TOKENS

Answers = NDArray[np.int64]
Way = Callable[[], Answers]

#: Distance of the classes to each other, in deviations within one: far from all answers are right at 512 numbers.
_APART = 0.13
#: Of scikit-learn's regression, as many as the probe has heads.
_COSTS = tuple(np.logspace(-4, 1, 10).tolist())
#: Tokens of a clip of the attentive probe, their width, and videos of train and test.
_GRID, _WIDTH, _VIDEOS = (2, 4, 4), 64, (80, 20)


@dataclass(frozen=True, eq=False)
class Rows:
    """Features in clusters by class: float32 (N, D) and int64 (N,) to learn from, and to be judged by."""

    train: NDArray[np.float32]
    train_labels: Answers
    test: NDArray[np.float32]
    test_labels: Answers

    @classmethod
    def drawn(cls, config: EvaluateBench) -> Rows:
        """Returns the same rows for the same sizes."""
        rng = np.random.default_rng(0)
        centers = _APART * rng.standard_normal((config.classes, config.dim), np.float32)
        parts: list[Any] = []
        for count in (config.rows, config.test_rows):
            labels = np.arange(count) % config.classes
            parts += [
                centers[labels] + rng.standard_normal((count, config.dim), np.float32),
                labels,
            ]
        return cls(*parts)

    @property
    def given(self) -> Given:
        """What an evaluator gets."""
        pairs = ((self.train, self.train_labels), (self.test, self.test_labels))
        train, test = (features_from_arrays({"features": x, "labels": y}) for x, y in pairs)
        return Given(train, test, keep_predictions=True)

    @property
    def num_classes(self) -> int:
        return int(self.train_labels.max()) + 1

    def right(self, answers: Answers) -> float:
        """Returns the share of the test rows that are answered rightly."""
        return float((answers == self.test_labels).mean())


# The linear probe


def probe_ways(rows: Rows) -> dict[str, Way]:
    """Returns the evaluator `probe`, one head as it fits it, and scikit-learn's regression, chosen or alone.

    All standardise; the choice is made on the same held-out rows, and what is chosen is fitted again on all.
    """
    given = rows.given
    evaluator = LinearProbe(ProbeConfig(poolings=("clip",)))
    held, _ = split_train(videos_of(given.train), evaluator.config.held_out_share, given.seed)
    return {
        "probe": lambda: answers_of(evaluator.evaluate(given)),
        "one head": lambda: one_head(rows, evaluator.config),
        "sklearn chosen": lambda: chosen_regression(rows, held),
        "sklearn": lambda: regression(rows.train, rows.train_labels, rows.test),
    }


def answers_of(result: Result) -> Answers:
    """Returns the class that an evaluator gave each test row."""
    return np.array(result.details["predictions"]["predicted"], np.int64)


def one_head(rows: Rows, config: ProbeConfig) -> Answers:
    """Returns the answers of one head, fitted as the probe fits the head that it has chosen."""
    head = Head(lr=config.learning_rates[2], weight_decay=config.weight_decays[0])
    fit = Fit(
        epochs=config.epochs, batch_size=config.batch_size, optimizer=config.optimizer, seed=0
    )
    model = LinearHeads([head], rows.num_classes).fit(rows.train, rows.train_labels, fit)
    found: Answers = model.predict(rows.test)[:, 0].argmax(1)
    return found


def regression(
    train: NDArray[np.float32],
    labels: Answers,
    test: NDArray[np.float32],
    cost: float = 1.0,
) -> Answers:
    """Returns the answers of scikit-learn's logistic regression on features that it has standardised."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    model = LogisticRegression(C=cost, max_iter=1000).fit(scaler.fit_transform(train), labels)
    found: Answers = model.predict(scaler.transform(test))
    return found


def chosen_regression(rows: Rows, held: NDArray[np.bool_]) -> Answers:
    """Returns the answers of the best of as many regressions as the probe has heads, fitted again on all of train."""
    learned, labels = rows.train[~held], rows.train_labels
    right = [
        float((regression(learned, labels[~held], rows.train[held], c) == labels[held]).mean())
        for c in _COSTS
    ]
    return regression(rows.train, labels, rows.test, _COSTS[int(np.argmax(right))])


# Nearest neighbours


def neighbour_ways(rows: Rows) -> dict[str, Way]:
    """Returns the evaluator `knn` and its search alone, and both by others; faiss where it is installed."""
    given = rows.given
    evaluator = NearestNeighbours(KNNConfig(poolings=("clip",)))
    k = min(max(evaluator.config.ks), len(rows.train) - 1)
    ways: dict[str, Way] = {
        "knn": lambda: answers_of(evaluator.evaluate(given)),
        "search": lambda: searched(rows, evaluator, k),
        "sklearn chosen": lambda: chosen_neighbours(rows, evaluator.config),
        "sklearn": lambda: sklearn_neighbours(rows, k),
        "numpy": lambda: numpy_neighbours(rows, k),
    }
    if importlib.util.find_spec("faiss"):
        ways["faiss"] = lambda: faiss_neighbours(rows, k)
    return ways


def searched(rows: Rows, evaluator: NearestNeighbours, k: int) -> Answers:
    """Returns the plain vote of the nearest k, searched and counted as the evaluator does."""
    keys = np.arange(len(rows.train) + len(rows.test))
    found = nearest_neighbours(
        unit_rows(rows.test),
        unit_rows(rows.train),
        query_keys=keys[len(rows.train) :],
        bank_keys=keys[: len(rows.train)],
        k=k,
    )
    votes: Answers = evaluator.vote(*found, rows.train_labels, rows.num_classes, "plain").argmax(1)
    return votes


def sklearn_neighbours(rows: Rows, k: int) -> Answers:
    """Returns the same by scikit-learn."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    found: Answers = model.fit(rows.train, rows.train_labels).predict(rows.test)
    return found


def numpy_neighbours(rows: Rows, k: int) -> Answers:
    """Returns the same by one product of all with all and a partition."""
    queries, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows.test, rows.train))
    nearest = np.argpartition(queries @ bank.T, -k, axis=1)[:, -k:]
    return _voted(rows.train_labels[nearest], np.ones(nearest.shape), rows.num_classes)


def faiss_neighbours(rows: Rows, k: int) -> Answers:
    """Returns the same by an exact index of faiss."""
    import faiss

    faiss.omp_set_num_threads(1)
    queries, bank = (
        np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True))
        for x in (rows.test, rows.train)
    )
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    _, nearest = index.search(queries, k)
    return _voted(rows.train_labels[nearest], np.ones(nearest.shape), rows.num_classes)


def chosen_neighbours(rows: Rows, config: KNNConfig) -> Answers:
    """Returns what `knn` answers by scikit-learn's search: k and vote are chosen by leaving out on train."""
    from sklearn.neighbors import NearestNeighbors

    mean = rows.train.mean(axis=0)
    search = NearestNeighbors(metric="cosine", algorithm="brute").fit(rows.train - mean)
    most = min(max(config.ks), len(rows.train) - 1)
    found = search.kneighbors(n_neighbors=most)
    grid = [(k, vote) for k in config.ks for vote in config.votes]

    def voted(found: tuple[NDArray[Any], Answers], k: int, vote: str) -> Answers:
        own, nearest = found[0][:, :k], found[1]
        counts = np.exp(-own / config.temperature) if vote == "weighted" else np.ones_like(own)
        return _voted(rows.train_labels[nearest[:, :k]], counts, rows.num_classes)

    right = [(voted(found, k, vote) == rows.train_labels).mean() for k, vote in grid]
    k, vote = grid[int(np.argmax(right))]
    return voted(search.kneighbors(rows.test - mean, n_neighbors=min(k, most)), k, vote)


def _voted(labels: Answers, counts: NDArray[Any], num_classes: int) -> Answers:
    """The class with the most of the votes (Q, k); of equal ones the first."""
    places = np.arange(len(labels))[:, None] * num_classes + labels
    scores = np.bincount(places.ravel(), counts.ravel(), minlength=len(labels) * num_classes)
    found: Answers = scores.reshape(-1, num_classes).argmax(1)
    return found


# The attentive probe


def attentive_ways(folder: Path, config: EvaluateBench) -> Mapping[str, Way]:
    """Returns the evaluator `attentive` with its grid of heads, and with a single one, on the same stored tokens.

    The chosen head is not fitted again, which would be one head more in both.
    """
    train, test = (_tokens(folder / f"{seed}.arrow", n, seed) for seed, n in enumerate(_VIDEOS))
    given = Given(train, test, keep_predictions=True)

    def way(heads: int) -> Way:
        rates = tuple(np.geomspace(1e-4, 5e-3, heads).tolist())
        settings = AttentiveConfig(
            learning_rates=rates, weight_decays=(0.1,), epochs=2, batch_size=32, refit=False
        )
        return lambda: answers_of(AttentiveProbe(settings).evaluate(given))

    return {"grid": way(config.heads), "one head": way(1)}


def _tokens(path: Path, videos: int, seed: int) -> FeatureFile:
    """Random tokens of a clip a video, of two classes."""
    rng = np.random.default_rng(seed)
    with FeatureWriter(
        path, embed_dim=_WIDTH, columns=[GridColumn(name=TOKENS, width=_WIDTH)]
    ) as writer:
        for number in range(videos):
            values = rng.standard_normal((int(np.prod(_GRID)), _WIDTH), np.float32)
            grid = Grid(values=values, grid=_GRID, times=np.arange(_GRID[0], dtype=np.float64))
            writer.write(
                [
                    {
                        "id": f"{path.stem}-{number}",
                        "clip": 0,
                        "label": number % 2,
                        "feature": values.mean(0),
                        TOKENS: grid,
                    }
                ]
            )
    return open_features(path)
