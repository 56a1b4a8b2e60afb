"""From feature files to videos as sequences of frames, for the evaluators on frame labels.

The rows of a video are put together in order of clip, its frames in order of time; a moment that
several windows or crops show is one frame, their mean.  Frames are left out where a feature is not
finite (TCC) or, with labels, where the label is -1 (CARL).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from video_ssl.datasets.frame_labels import resampled_labels
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.identity import Origins, origins_of
from video_ssl.evaluate.videos import renumbered

#: Label of a frame whose row has no labels at all; -1 is said by somebody.
_NOT_ANNOTATED = -2


class Scores(NamedTuple):
    """A score on the training videos that were used, and on the validation videos."""

    train: float
    val: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """V videos as frames.

    Attributes:
        ids, groups: of the videos.
        classes: int64 (V,), the class of every video, -1 where unknown.
        embs: float32 (L_i, D) of every video.
        labels: int64 (L_i,), phases; -1 throughout where a video has none.
        places: float64 (L_i,) in 0..1: t / L, with t and L counted before frames were left out.
        times: float64 (L_i,), seconds of the source, NaN where unknown.
        notes: what was left out.
        origins: which videos of two files are the same; None where nobody asks.
    """

    ids: list[str]
    groups: list[str]
    classes: np.ndarray
    embs: list[np.ndarray]
    labels: list[np.ndarray]
    places: list[np.ndarray]
    times: list[np.ndarray]
    notes: list[str] = field(default_factory=list)
    origins: Origins | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_frames(self) -> int:
        return sum(len(e) for e in self.embs)

    def select(self, rows: Sequence[int] | np.ndarray) -> Sequences:
        """Returns the videos of the given rows, in that order."""
        names = ("ids", "groups", "embs", "labels", "places", "times")
        lists = {name: [getattr(self, name)[int(row)] for row in rows] for name in names}
        chosen = np.asarray(rows, np.int64)
        origins = None if self.origins is None else self.origins.select(chosen)
        return replace(self, classes=self.classes[chosen], origins=origins, **lists)

    def with_features(self, embs: list[np.ndarray]) -> Sequences:
        """Returns the same videos with other frame features."""
        return replace(self, embs=embs)


def frame_sequences(
    features: FeatureFile,
    *,
    labelled: bool | None = True,
    annotated: bool = False,
    classes: np.ndarray | None = None,
    phases: np.ndarray | None = None,
) -> Sequences:
    """Returns the videos of a feature file as sequences of frames.

    Args:
        features: with frame features.
        labelled: keep only frames that have a phase label; False never looks at labels, None keeps all frames where
            no frame of the file has a label (CARL drops frames without one in every evaluation).
        annotated: leave out the frames of rows without a label array (null or empty), where -1 is a label, too.
        classes: int64 (N,), of the rows, where they are numbered otherwise than in the file.
        phases: the number of every phase, where they are numbered otherwise than in the file; see `numbers_by_name`.

    A label array of another length than the frame features of its row is resampled.

    Raises:
        FeatureError: no frame features, or (`labelled`, `annotated`) no frame with a label at all.
    """
    name = str(features.path) if features.path else "the features"
    if not features.has_frames:
        raise FeatureError(
            f"{name} has no frame features; embed again with frames=true (every frame: --per-frame)."
        )
    numbers = features.labels if classes is None else classes
    lost, rows = _Lost(), _rows_of_videos(features)
    videos = {key: _video(features, ordered, lost) for key, ordered in rows.items()}
    if phases is not None:
        videos = {key: _with_phases(frames, phases, key) for key, frames in videos.items()}
    if labelled is None:
        labelled = any((frames.labels >= 0).any() for frames in videos.values())
    kept: list[tuple[str, int, _Frames]] = []
    for key, frames in videos.items():
        if annotated:
            known = frames.labels > _NOT_ANNOTATED
            if len(known) and not known.any():
                lost.unannotated += 1
                continue
            frames = frames.only(known, lost, "of clips without frame labels")
        frames = frames.only(np.isfinite(frames.embs).all(axis=1), lost, "not finite")
        if labelled:
            frames = frames.only(frames.labels >= 0, lost, "without a label")
        if len(frames.embs):
            kept.append((key, int(numbers[rows[key][0]]), frames))
        else:
            lost.videos += 1
    if lost.unannotated == len(rows):
        raise FeatureError(
            f"{name} has no video with frame labels: this evaluator needs a table with frame_labels, the action of "
            "every frame, -1 where nothing happens."
        )
    if not kept:
        raise FeatureError(
            f"{name} has no frame with {'a label' if labelled else 'finite numbers'}: this evaluator "
            "needs a table with frame_labels."
            if labelled
            else f"{name} has no frame with finite numbers: embed the videos again."
        )
    return Sequences(
        ids=[key for key, _, _ in kept],
        groups=[str(features.groups[rows[key][0]]) for key, _, _ in kept],
        classes=np.array([label for _, label, _ in kept], np.int64),
        embs=[f.embs for _, _, f in kept],
        labels=[np.maximum(f.labels, -1) for _, _, f in kept],
        places=[f.places for _, _, f in kept],
        times=[f.times for _, _, f in kept],
        notes=lost.notes(len(rows)),
        origins=origins_of(features, np.array([rows[key][0] for key, _, _ in kept])),
    )


def _rows_of_videos(features: FeatureFile) -> dict[str, list[int]]:
    """Video -> its rows in order of clip, in order of first appearance."""
    first, video = features.records
    order = np.lexsort((features.table["clip"].to_numpy(), video))
    parts = np.split(order, np.cumsum(np.bincount(video))[:-1])
    return {
        key: rows.tolist() for key, rows in zip(features.ids[first].tolist(), parts, strict=True)
    }


@dataclass
class _Lost:
    """What was left out of a feature file."""

    frames: dict[str, int] = field(default_factory=dict)
    videos: int = 0
    unannotated: int = 0
    resampled: int = 0

    def notes(self, total: int) -> list[str]:
        lines = [f"{n} frames {why} are left out" for why, n in self.frames.items() if n]
        if self.unannotated:
            lines.append(
                f"{self.unannotated} of {total} videos have no frame labels and are left out"
            )
        if self.videos:
            lines.append(f"{self.videos} of {total} videos have no usable frame and are left out")
        if self.resampled:
            lines.append(f"the labels of {self.resampled} clips are resampled to their frames")
        return lines


@dataclass(frozen=True, eq=False)
class _Frames:
    embs: np.ndarray
    labels: np.ndarray
    times: np.ndarray
    places: np.ndarray

    def only(self, keep: np.ndarray, lost: _Lost, why: str) -> _Frames:
        lost.frames[why] = lost.frames.get(why, 0) + int((~keep).sum())
        return _Frames(self.embs[keep], self.labels[keep], self.times[keep], self.places[keep])


def _video(features: FeatureFile, rows: list[int], lost: _Lost) -> _Frames:
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for row in rows:
        if not features.table["frame_features"][row].is_valid:
            continue
        embs, times = features.frames(row)
        cell = features.table["frame_labels"][row]
        labels = np.full(len(embs), _NOT_ANNOTATED, np.int64)
        if cell.is_valid and len(cell.values):
            given = cell.values.to_numpy(zero_copy_only=False).astype(np.int64)
            lost.resampled += len(given) != len(embs)
            labels = np.maximum(resampled_labels(given, len(embs)), -1)
        parts.append((embs, labels, np.asarray(times, np.float64)))
    if not parts:
        empty = np.zeros((0, features.embed_dim), np.float32)
        return _Frames(empty, np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    embs, labels, times = (np.concatenate([p[k] for p in parts]) for k in range(3))
    if len(parts) > 1 and np.isfinite(times).all():
        embs, labels, times = _in_time(embs, labels, times)
    return _Frames(embs, labels, times, np.arange(len(embs)) / max(1, len(embs)))


def _with_phases(frames: _Frames, phases: np.ndarray, video: str) -> _Frames:
    known = np.maximum(frames.labels, -1)
    labels = renumbered(known, phases, f"video {video!r}: frame", "phases")
    return replace(frames, labels=np.where(frames.labels < known, frames.labels, labels))


def _in_time(
    embs: np.ndarray, labels: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames in order of time; those of one moment (to a microsecond) become their mean."""
    order = np.argsort(times, kind="stable")
    embs, labels, times = embs[order], labels[order], times[order]
    first = np.flatnonzero(np.diff(times, prepend=-np.inf) > 1e-6)
    if len(first) < len(times):
        counts = np.diff(first, append=len(times))
        embs = (np.add.reduceat(embs, first, axis=0) / counts[:, None]).astype(embs.dtype)
        labels, times = np.maximum.reduceat(labels, first), times[first]
    return embs, labels, times


def usable_frames(embs: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and labels of the frames that have a label and finite features."""
    x, y = np.asarray(embs), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"a video has features (frames, width) and labels (frames,), not {x.shape} and {y.shape}."
        )
    keep = (y >= 0) & np.isfinite(x).all(axis=1)
    return x[keep], y[keep]


def pooled_frames(
    embs: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all usable frames of some videos: float64 (N, D), int64 (N,)."""
    kept = [usable_frames(e, p) for e, p in zip(embs, labels, strict=True)]
    if not kept:
        return np.zeros((0, 0)), np.zeros(0, np.int64)
    x, y = (np.concatenate([pair[k] for pair in kept]) for k in range(2))
    return x.astype(np.float64), y.astype(np.int64)


def first_share(count: int, fraction: float) -> int:
    """Returns max(1, int(fraction * count)), the number of training videos used; 0 of none.

    >>> first_share(9, 0.1), first_share(9, 0.5)
    (1, 4)
    """
    return min(count, max(1, int(fraction * count)))


def require_sklearn(what: str) -> None:
    """Raises FeatureError unless scikit-learn (which brings scipy) can be imported."""
    if importlib.util.find_spec("sklearn") is None:
        raise FeatureError(f"{what} needs scikit-learn: pip install 'video_ssl[phases]'")


def position_features(
    places: ArrayLike, *, width: int = 128, span: float = 80.0
) -> NDArray[np.float32]:
    """Returns float32 (L, width): what an encoder that sees only the time t / L would say.

    Channel c of position p = span * t / L is sin (c even) or cos (c odd) of p / 10000^(c / width),
    CARL's own encoding of position; rows have length 1.

    Args:
        places: t / L, (L,).
        span: how many training positions a whole video is stretched to.
    """
    channel = np.arange(width)
    angle = np.asarray(places, np.float64)[:, None] * span / 10000.0 ** (channel / width)
    waves = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return (waves / np.linalg.norm(waves, axis=1, keepdims=True)).astype(np.float32)
