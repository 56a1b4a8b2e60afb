"""Where the windows of a video lie: their starts and what each of them shows, computed when needed.

Hours of video have many thousand windows.  Only their starts are kept (8 bytes each), and one bit of knowledge per
frame (is it shown by any window?).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.sampling.one_clip import ClipIndices, Ints

# Annotated and computed times are rounded: a frame within half a millisecond of an instant is the one at the instant.
_SAME_TIME_SEC = 5e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """W windows of T frames on a grid of G steps.

    Attributes:
        starts: int64 (W,), the grid step at which each window begins, not decreasing.
        num_frames: T.
        frame_stride: grid steps between two frames of a window.
        grid: int64 (G,), the source frame of every step.
        times: float64 (N,), of all source frames in seconds.
    """

    starts: Ints
    num_frames: int
    frame_stride: int
    grid: Ints
    times: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts)

    def clip(self, number: int) -> ClipIndices:
        """Returns the source frames and times of a window; frames behind the end repeat the last, marked invalid."""
        steps = self._steps(self.starts[number])
        shown = self.grid[np.minimum(steps, len(self.grid) - 1)]
        valid = steps < len(self.grid)
        # Behind the last frame that a short video has at this stride, that one is repeated.
        shown = np.where(valid, shown, shown[valid][-1])
        return ClipIndices(indices=shown, valid=valid, times=self.times[shown])

    def own(self, number: int) -> NDArray[np.bool_]:
        """Returns which frames of a window lie nearer to its middle than to that of any other: bool (T,).

        Every step of the grid that some window shows is the own frame of exactly one window (the earlier one where two
        are equally near), if windows have stride 1 and leave no gap.
        """
        steps = self._steps(self.starts[number])
        low = self._border(number - 1) + 1 if number else 0
        high = self._border(number) if number + 1 < len(self) else len(self.grid) - 1
        return np.asarray((steps >= low) & (steps <= high))

    def needed(self, first: int = 0) -> Ints:
        """Returns the different source frames that the windows from number `first` on show, in order."""
        shown = np.zeros(len(self.times), bool)
        for offset in range(self.num_frames):
            steps = self.starts[first:] + offset * self.frame_stride
            shown[self.grid[steps[steps < len(self.grid)]]] = True
        return np.flatnonzero(shown)

    def lowest(self, number: int) -> int:
        """Returns the smallest source frame that window `number` or a later one shows."""
        return int(self.clip(number).indices[0])

    def _steps(self, start: int) -> Ints:
        return np.asarray(start + np.arange(self.num_frames) * self.frame_stride, np.int64)

    def _border(self, number: int) -> int:
        """The last step that is nearer to window `number` than to the next."""
        return int((self.starts[number] + self.starts[number + 1] + self.num_frames - 1) // 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class PartsLayout:
    """The whole grid in ceil(G / most) parts of ceil(G / number) steps each; the last may be shorter.

    Attributes:
        grid: int64 (G,), the source frame of every step.
        times: float64 (N,), of all source frames in seconds.
        most: steps of a part, at most.
    """

    grid: Ints
    times: NDArray[np.float64]
    most: int

    def __len__(self) -> int:
        return -(-len(self.grid) // self._size)

    @property
    def _size(self) -> int:
        return -(-len(self.grid) // -(-len(self.grid) // self.most))

    def clip(self, number: int) -> ClipIndices:
        """Returns the source frames and times of a part; all of them are frames of the video."""
        shown = self.grid[number * self._size : (number + 1) * self._size]
        return ClipIndices(indices=shown, valid=np.ones(len(shown), bool), times=self.times[shown])

    def own(self, number: int) -> NDArray[np.bool_]:
        """Returns which frames of a part belong to it: all."""
        return self.clip(number).valid

    def needed(self, first: int = 0) -> Ints:
        """Returns the different source frames of the parts from number `first` on, in order."""
        return np.unique(self.grid[first * self._size :])

    def lowest(self, number: int) -> int:
        """Returns the smallest source frame that part `number` or a later one shows."""
        return int(self.clip(number).indices[0])


@dataclass(frozen=True, eq=False)
class FixedLayout:
    """A few windows that a rule has chosen; they may lie between each other, and begin a short video again.

    Attributes:
        clips: in the order of their first frames.
        times: float64 (N,), of all source frames in seconds.
    """

    clips: Sequence[ClipIndices]
    times: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, number: int) -> ClipIndices:
        """Returns the source frames and times of a window."""
        clip = self.clips[number]
        return ClipIndices(indices=clip.indices, valid=clip.valid, times=self.times[clip.indices])

    def needed(self, first: int = 0) -> Ints:
        """Returns the different source frames that the windows from number `first` on show, in order."""
        return np.unique(np.concatenate([clip.indices for clip in self.clips[first:]]))

    def lowest(self, number: int) -> int:
        """Returns the smallest source frame that window `number` or a later one shows."""
        return min(int(clip.indices.min()) for clip in self.clips[number:])


def starts_by_hop(last: int, hop: int) -> Ints:
    """Returns the starts 0, hop, 2 hop, ... below `last`, and `last`.

    >>> starts_by_hop(10, 4).tolist()
    [0, 4, 8, 10]
    """
    return np.append(np.arange(0, last, hop, dtype=np.int64), last)


def starts_by_time(last: int, stride_sec: float, times: NDArray[np.float64]) -> Ints:
    """Returns the first grid step at or after 0, stride_sec, 2 stride_sec, ..., as far as `last`, and `last`.

    Args:
        last: the last possible start.
        stride_sec: seconds from one start to the next.
        times: of the grid steps in seconds, increasing, (G,).

    >>> starts_by_time(7, 0.25, np.arange(10) / 10).tolist()
    [0, 3, 5, 7]
    """
    count = int((times[last] - times[0]) / stride_sec + 1e-6) + 1
    instants = times[0] + np.arange(count) * stride_sec
    found = np.searchsorted(times, instants - _SAME_TIME_SEC)
    return np.unique(np.append(np.minimum(found, last), last)).astype(np.int64)
