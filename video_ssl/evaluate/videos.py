"""From clips to videos: what belongs together, what is held out, which classes there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from video_ssl.datasets.class_names import listed, numbers_by_name, used_names
from video_ssl.datasets.errors import TableError
from video_ssl.datasets.hold_out import hold_out
from video_ssl.embed.feature_arrays import NAMED_LABELS
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.identity import Origins, origins_of, overlap_notes

#: What is noted where two files or tables number their classes differently.
MATCHED = "the files number their classes differently: they are matched by name"


@dataclass(frozen=True, eq=False)
class Videos:
    """The V videos behind N clips, in order of first appearance.

    `index` int64 (N,) is the video of every clip; `ids`, `groups` object (V,); `labels` int64 (V,); `origins` tells
    which videos of two files are the same.
    """

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    origins: Origins

    def __len__(self) -> int:
        return len(self.ids)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Returns (V, ...): the mean of `values` (N, ...) over the clips of each video."""
        return mean_by(values, self.index)


def mean_by(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns (V, ...): the mean of the rows of `values` (N, ...) that have the same index 0..V-1.

    >>> mean_by(np.array([1.0, 5.0, 3.0]), np.array([0, 1, 0]))
    array([2., 5.])
    >>> mean_by(np.array([1.0, 5.0]), np.array([1, 0]))
    array([5., 1.])
    """
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index)
    assert counts.all(), "every index occurs"
    total = values[order]
    if len(counts) < len(values):  # one row each is its own sum, and most of the time of a mean
        total = np.add.reduceat(total, np.cumsum(counts) - counts, axis=0)
    return total / counts.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)


def videos_of(features: FeatureFile, *, labelled: bool = True) -> Videos:
    """Returns the videos behind the clips of a feature file.

    Args:
        labelled: every clip must have a label; otherwise that of a video may be -1.

    Raises:
        FeatureError: a clip without a label, or a video whose clips have different labels.
    """
    labels = features.require_labels() if labelled else features.labels
    first, index = features.records
    differ = labels != labels[first][index]
    if differ.any():
        row = int(np.argmax(differ))
        before = int(first[index[row]])
        raise FeatureError(
            f"{features.path or 'the features'}: clips of the video {features.ids[row]!r} have different labels: "
            f"{labels[before]} in row {before + 1}, {labels[row]} in row {row + 1}. Rows of one id are clips of one "
            "video: give other videos other ids."
        )
    return Videos(
        features.ids[first],
        features.groups[first],
        labels[first],
        index,
        origins_of(features, first),
    )


def matched_labels(train: FeatureFile, test: FeatureFile) -> tuple[np.ndarray, list[str]]:
    """Returns int64 (N,): the labels of `test` as `train` numbers its classes, and notes.

    Two files may number their classes differently: in each of two folders of videos the classes are numbered in
    sorted order, and one may lack a class.  Where both know the names, names decide; classes that train does not
    have get numbers behind its own.

    Raises:
        FeatureError: one file has names of classes for labels, the other numbers without names; or a label has no name
            where names decide.
    """
    ours, theirs = (list(file.metadata.get("class_names") or ()) for file in (train, test))
    if ours == theirs:
        return test.labels, []
    for file, other, names in ((train, test, theirs), (test, train, ours)):
        if file.metadata.get(NAMED_LABELS) and not names:
            raise FeatureError(
                f"{file.path or 'one file'} has names of classes as labels, {other.path or 'the other'} numbers "
                "without names, so they cannot be compared. Store names, or the same numbers, in both."
            )
    numbers = numbers_by_name(ours, theirs)
    if numbers is None:
        return test.labels, []
    rows = [f"{file.path or 'the features'}: row" for file in (train, test)]
    renumbered(
        train.labels, np.arange(-1, len(ours)), rows[0], "classes"
    )  # numbers behind are of test's names
    labels = renumbered(test.labels, numbers, rows[1], "classes")
    note = MATCHED
    learned, asked = used_names(ours, train.labels), used_names(theirs, test.labels)
    for lone, side in ((learned - asked, "train"), (asked - learned, "test")):
        note += f"; only in {side}: {listed(sorted(lone))}" if lone else ""
    return labels, [note]


def renumbered(labels: np.ndarray, numbers: np.ndarray, row: str, what: str) -> np.ndarray:
    """Returns labels (N,) as `numbers_by_name` numbers them.

    Raises:
        FeatureError: a label without a name; `row` and `what` begin and end the sentence.
    """
    beyond = labels >= len(numbers) - 1
    if beyond.any():
        place = int(np.argmax(beyond))
        raise FeatureError(
            f"{row} {place + 1} has the label {labels[place]}, but there are {len(numbers) - 1} names of {what}."
        )
    return numbers[labels]


def train_and_test(
    train: FeatureFile, test: FeatureFile, *, labelled: bool = True
) -> tuple[Videos, Videos, list[str]]:
    """Returns the videos of both files, classes numbered as in train, and notes.

    Raises:
        FeatureError: see `videos_of` and `matched_labels`.
    """
    ours, theirs = (videos_of(file, labelled=labelled) for file in (train, test))
    labels, notes = matched_labels(train, test)
    _, first = np.unique(theirs.index, return_index=True)
    return ours, replace(theirs, labels=labels[first]), notes


def classes_of(train: Videos, test: Videos) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the classes of train (K,), and the labels of both as 0..K-1; -1: unknown to train.

    Raises:
        FeatureError: train has a single class.
    """
    classes, train_labels = np.unique(train.labels, return_inverse=True)
    if len(classes) < 2:
        raise FeatureError(
            f"the training features hold one class only ({classes.tolist()}): nothing to tell apart."
        )
    place = np.searchsorted(classes, test.labels).clip(max=len(classes) - 1)
    return classes, train_labels, np.where(classes[place] == test.labels, place, -1)


def split_train(videos: Videos, share: float, seed: int) -> tuple[np.ndarray, list[str]]:
    """Returns the held-out videos of train (bool, V) and notes about how they were found.

    Raises:
        FeatureError: every video is the last of its class.
    """
    rng = np.random.default_rng((seed, 0x5E1EC7))
    if len(set(videos.groups)) > 1:
        try:
            return hold_out(videos.labels, videos.groups, share, rng), []
        except TableError:
            pass
    note = "the groups of train cannot be split without losing a class; single videos are held out"
    try:
        return hold_out(videos.labels, videos.ids, share, rng), [note]
    except TableError as err:
        raise FeatureError(str(err)) from err


def shared_notes(train: Videos, test: Videos) -> list[str]:
    """Returns warnings about videos, copies of them, or groups that are in train as well as in test."""
    return overlap_notes(train.origins, test.origins)
