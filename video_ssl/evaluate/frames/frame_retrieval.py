"""Frame retrieval AP@K: are the K frames of other videos nearest to a frame of the same phase?

Query = every frame of a test video; candidates = the frames of all other test videos (of the same
class); "AP" is the field's name for the share of the K nearest (squared Euclidean) that have the
query's phase, not a ranked average precision.  Mean over the frames of a video, then over videos.
In 0..1.

Source: CARL (arXiv:2203.14957), section "frame retrieval".  The sort is stable here (earlier video,
earlier frame first); the reference's is not, which only moves ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from video_ssl.evaluate import metrics
from video_ssl.evaluate.distances import BLOCK, squared_distances
from video_ssl.evaluate.frames.frame_evaluator import FrameConfig, FrameEvaluator
from video_ssl.evaluate.frames.frame_sequences import Sequences


def frame_precision(
    embs: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    ks: Sequence[int] = (5, 10, 15),
    stride: int = 1,
) -> dict[int, float]:
    """Returns K -> AP@K.

    Args:
        embs: frame features (L_i, D) of the videos; `labels` (L_i,) their phases, all known.
        ks: numbers of neighbours; where fewer candidates exist, all of them are taken.
        stride: every `stride`-th frame is used, as query and as candidate.

    NaN where no frame has a candidate: fewer than two videos with frames.
    """
    frames = [np.asarray(e)[::stride] for e in embs]
    phases = [np.asarray(p)[::stride] for p in labels]
    means: dict[int, list[float]] = {k: [] for k in ks}
    for i, (query, truth) in enumerate(zip(frames, phases, strict=True)):
        others = [j for j in range(len(frames)) if j != i and len(frames[j])]
        if not len(query) or not others:
            continue
        bank = np.concatenate([frames[j] for j in others])
        known = np.concatenate([phases[j] for j in others])
        same = _same_phase(query, truth, bank, known, max(ks))
        for k in ks:
            means[k].append(float(same[:, :k].mean()))
    return {k: float(np.mean(found)) if found else float("nan") for k, found in means.items()}


def _same_phase(
    query: np.ndarray, truth: np.ndarray, bank: np.ndarray, known: np.ndarray, k: int
) -> np.ndarray:
    """bool (n, min(k, M)): whether the nearest, second nearest, ... has the phase of the query."""
    step = max(1, BLOCK // len(bank))
    parts = []
    for begin in range(0, len(query), step):
        distance = squared_distances(query[begin : begin + step], bank)
        parts.append(known[metrics.top_k_similar(-distance, k)])
    return np.concatenate(parts) == truth[:, None]


@dataclass(frozen=True, kw_only=True)
class FrameRetrievalConfig(FrameConfig):
    """Settings of frame retrieval.

    Attributes:
        ks: numbers of neighbours.
        stride: of the frames; 2 for Penn Action, 5 for Pouring, as CARL.
    """

    ks: tuple[int, ...] = (5, 10, 15)
    stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ks or min(self.ks) < 1 or self.stride < 1:
            raise ValueError(
                f"ks={self.ks} must be numbers of at least 1, and stride={self.stride} at least 1."
            )


class FrameRetrieval(FrameEvaluator):
    """The evaluator `frame_retrieval`."""

    Config = FrameRetrievalConfig
    title = "frame retrieval"
    config: FrameRetrievalConfig

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        found = frame_precision(
            test.embs, test.labels, ks=self.config.ks, stride=self.config.stride
        )
        return {f"AP@{k}": value for k, value in found.items()}

    def shown(self) -> list[str]:
        return [f"AP@{k}" for k in self.config.ks]

    def say(self, found: dict[str, float]) -> str:
        k = self.config.ks[0]
        return f"finds, of the {k} nearest frames of other videos, {self.headline(found)} in the phase of the query"

    def lead(self) -> str:
        return self.shown()[0]
