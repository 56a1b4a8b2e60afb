"""Where the frames of a file are: their times, the key frames to seek to, and which frames to decode in one go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Decoding on is cheaper than a seek when the next key frame is at most this many frames away.
_FRAMES_WORTH_A_SEEK = 6
# A step back is B frames whose times are out of order up to here, and a clock that starts anew beyond it.
_DISORDER_SEC = 0.5
# A step ahead beyond this is another recording; the ffmpeg program draws the same line.
_LONGEST_STEP_SEC = 10.0


@dataclass(frozen=True, kw_only=True)
class FrameList:
    """Presentation times of the shown frames (sorted) and of the key frames, in units of the stream."""

    pts: np.ndarray
    key_pts: np.ndarray
    key_dts: np.ndarray

    def runs(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Groups sorted indices into (key frame, indices to decode from it in one go)."""
        if not len(wanted):
            return
        keys = np.searchsorted(self.key_pts, self.pts[wanted], side="right") - 1
        keys = np.maximum(keys, 0)
        key_index = np.searchsorted(self.pts, self.key_pts)
        far = key_index[keys[1:]] - wanted[:-1] > _FRAMES_WORTH_A_SEEK
        starts = [0, *(np.flatnonzero(far) + 1).tolist(), len(wanted)]
        for begin, end in itertools.pairwise(starts):
            yield int(keys[begin]), wanted[begin:end]

    def holds(self, pts: int) -> bool:
        """Returns whether a frame is shown at this time."""
        place = int(np.searchsorted(self.pts, pts))
        return place < len(self.pts) and bool(self.pts[place] == pts)


def list_of_packets(packets: np.ndarray) -> FrameList | None:
    """Returns the list of the frames in packets, or None where packets do not identify frames.

    Args:
        packets: int64 (N, 4) in the order of the file: pts, dts, is a key frame, is not to be shown.
    """
    shown, keys = packets[packets[:, 3] == 0], packets[packets[:, 2] == 1]
    pts = np.sort(shown[:, 0])
    orderly = len(pts) > 0 and bool((np.diff(pts) > 0).all())
    # Frames before the first key frame may or may not come out: only decoding shows it.
    if not orderly or not packets[0, 2] or pts[0] < packets[0, 0]:
        return None
    keys = keys[np.argsort(keys[:, 0])]
    return FrameList(pts=pts, key_pts=keys[:, 0], key_dts=keys[:, 1])


def steady_times(
    times: np.ndarray, rate: float, *, may_jump: bool
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Returns times that go on where the clock of a file starts anew, and what was added to each of its stretches.

    Between two jumps of the clock, times that are not in order, or not all known, are replaced by even steps.

    Args:
        times: float64 (N,), N >= 1, of the frames in presentation order; NaN where unknown.
        rate: frames per second, for even steps.
        may_jump: whether a large step ahead is a jump too.

    Returns:
        float64 (N,), increasing, beginning with the first time (0 if unknown); seconds added to each stretch.
    """
    steps = np.diff(times)
    jumps = steps < -_DISORDER_SEC
    if may_jump:
        jumps |= steps > _LONGEST_STEP_SEC
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1 / rate
    borders = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(times)]
    out, offsets = np.empty(len(times)), []
    for begin, end in itertools.pairwise(borders):
        stretch = times[begin:end]
        if np.isnan(stretch).any() or (np.diff(stretch) <= 0).any():
            first = 0.0 if np.isnan(stretch[0]) else stretch[0]
            stretch = first + np.arange(end - begin) / rate
        offset = out[begin - 1] + usual - stretch[0] if begin else 0.0
        out[begin:end] = stretch + offset
        offsets.append(float(offset))
    return out, tuple(offsets)
