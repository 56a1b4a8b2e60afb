"""From clips to videos: what belongs together, what is held out, which classes there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_ssl.evaluate.features import FeatureError, FeatureFile


@dataclass(frozen=True, eq=False)
class Videos:
    """The V videos behind N clips, in order of first appearance.

    `index` int64 (N,) is the video of every clip; `ids`, `groups` object (V,); `labels` int64 (V,).
    """

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Returns (V, ...): the mean of `values` (N, ...) over the clips of each video."""
        return mean_by(values, self.index)


def mean_by(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns (V, ...): the mean of the rows of `values` (N, ...) that have the same index 0..V-1.

    >>> mean_by(np.array([1.0, 5.0, 3.0]), np.array([0, 1, 0]))
    array([2., 5.])
    """
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index)
    assert counts.all(), "every index occurs"
    total = np.add.reduceat(values[order], np.cumsum(counts) - counts, axis=0)
    return total / counts.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)


def videos_of(features: FeatureFile) -> Videos:
    """Returns the labelled videos behind the clips of a feature file.

    Raises:
        FeatureError: a clip without a label, or a video whose clips have different labels.
    """
    labels = features.require_labels()
    names, first, inverse = np.unique(
        features.ids.astype(str), return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    index, first = rank[inverse], first[order]
    differ = labels != labels[first][index]
    if differ.any():
        culprit = features.ids[int(np.argmax(differ))]
        raise FeatureError(f"clips of the video {culprit!r} have different labels.")
    return Videos(features.ids[first], features.groups[first], labels[first], index)


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


def hold_out(
    labels: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns bool (V,): the videos held out of training, whole groups, alike in every class.

    Groups are taken in random order as long as each brings the class counts nearer to `share` of
    each class; a class never loses its last training video.  With few large groups the share is
    what whole groups allow.

    Raises:
        FeatureError: no group can be held out (one group, or every group is the last of a class).
    """
    classes, codes = np.unique(labels, return_inverse=True)
    names, members = np.unique(groups.astype(str), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (members, codes), 1)
    target = share * counts.sum(axis=0)
    free = counts.sum(axis=0)
    have = np.zeros(len(classes), np.int64)
    taken = np.zeros(len(names), bool)
    order = rng.permutation(len(names))
    for name in order:
        # Only the classes of this group change.
        own = np.flatnonzero(counts[name])
        more = counts[name, own]
        nearer = (
            np.abs(have[own] + more - target[own]).sum() < np.abs(have[own] - target[own]).sum()
        )
        if nearer and (free[own] - more >= 1).all():
            taken[name] = True
            have[own] += more
            free[own] -= more
    if not taken.any():
        allowed = [g for g in order if (free - counts[g] >= 1).all()]
        if not allowed:
            raise FeatureError(
                f"nothing can be held out of {len(labels)} training videos in {len(names)} groups "
                "without losing a class: give more videos, or groups that are smaller."
            )
        taken[min(allowed, key=lambda g: int(counts[g].sum()))] = True
    return taken[members]


def split_train(videos: Videos, share: float, seed: int) -> tuple[np.ndarray, list[str]]:
    """Returns the held-out videos of train (bool, V) and notes about how they were found."""
    rng = np.random.default_rng((seed, 0x5E1EC7))
    if len(set(videos.groups)) > 1:
        try:
            return hold_out(videos.labels, videos.groups, share, rng), []
        except FeatureError:
            pass
    note = "the groups of train cannot be split without losing a class; single videos are held out"
    return hold_out(videos.labels, videos.ids, share, rng), [note]


def shared_notes(train: Videos, test: Videos) -> list[str]:
    """Returns warnings about videos or groups that are in train as well as in test."""
    notes = []
    for what, a, b in (("videos", train.ids, test.ids), ("groups", train.groups, test.groups)):
        shared = set(a) & set(b)
        if shared:
            notes.append(
                f"{len(shared)} {what} are in train and in test, for example {min(shared)!r}: the "
                "result flatters the encoder"
            )
            break
    return notes
