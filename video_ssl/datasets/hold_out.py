"""Which videos are held out of training: whole groups, every class alike."""

from __future__ import annotations

import numpy as np

from video_ssl.datasets.errors import TableError


def hold_out(
    labels: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns bool (V,): the videos held out of training, whole groups, alike in every class.

    Groups are taken in random order as long as each brings the class counts nearer to `share` of
    each class; a class never loses its last training video.  With few large groups the share is
    what whole groups allow.

    Raises:
        TableError: no group can be held out (one group, or every group is the last of a class).
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
            raise TableError(
                f"nothing can be held out of {len(labels)} videos in {len(names)} groups "
                "without losing a class: give more videos, or groups that are smaller."
            )
        taken[min(allowed, key=lambda g: int(counts[g].sum()))] = True
    return taken[members]
