"""Labels of single frames where their number differs from that of the frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def resampled_labels(labels: ArrayLike, num_frames: int) -> NDArray[np.int64]:
    """Returns int64 (num_frames,): one label for every frame, from an array (M,) of another length.

    The rule for Penn Action: the longer of labels and frames is taken at floor(j * longer / shorter).
    So M > L gives frame i the label floor(i M / L).  M < L would drop the frames between those
    taken; here they stay, with the label of the last frame taken, so that every feature has one.
    No labels at all: -1.

    >>> resampled_labels([0, 1, 2, 3], 2).tolist(), resampled_labels([0, 1], 5).tolist()
    ([0, 2], [0, 0, 1, 1, 1])
    """
    given = np.asarray(labels, np.int64)
    if not len(given):
        return np.full(num_frames, -1, np.int64)
    frame = np.arange(num_frames, dtype=np.int64)
    if len(given) >= num_frames:
        return given[frame * len(given) // max(1, num_frames)]
    return given[-(-(frame + 1) * len(given) // num_frames) - 1]
