"""A video that is an array in memory, behind the same `Reader` as a file."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.crops import Frames, resize_frames
from video_ssl.clips.decoders.reader import VideoInfo, check_indices

_RIGHT = "a video is uint8 (T, H, W, 3), RGB in 0..255"


def checked_frames(video: Any) -> Frames:
    """Returns a video as it is, uint8 (T, H, W, 3).

    Raises:
        ValueError: another shape, layout, dtype or range; the text says what would make it right.

    >>> checked_frames(np.zeros((3, 8, 64, 64), np.uint8))
    Traceback (most recent call last):
    ...
    ValueError: the array is uint8 (3, 8, 64, 64), but a video is uint8 (T, H, W, 3), RGB in 0..255: the colors are \
in front; np.moveaxis(video, 0, -1) puts them last.
    """
    found = np.asarray(video)
    problem = _wrong_layout(found.shape) or _wrong_numbers(found)
    if problem:
        raise ValueError(f"the array is {found.dtype} {found.shape}, but {_RIGHT}: {problem}.")
    return found


def _wrong_layout(shape: tuple[int, ...]) -> str | None:
    if len(shape) == 3:
        if shape[-1] == 3:
            return "this is a single picture; video[None] makes a video of one frame of it"
        return "it has no colors; np.repeat(video[..., None], 3, axis=-1) makes gray frames of it"
    if len(shape) == 5:
        return (
            "this is a batch; give one video at a time, or uint8 (B, T, H, W, 3) clips of the encoder's own size to "
            "encoder.outputs_of_arrays(clips, ['clip', 'moments'])"
        )
    if len(shape) != 4:
        return f"it has {len(shape)} axes"
    if shape[-1] == 3:
        return "it has no frames" if shape[0] == 0 else None
    if shape[0] == 3:
        return "the colors are in front; np.moveaxis(video, 0, -1) puts them last"
    if shape[1] == 3:
        return "the colors are the second axis; np.moveaxis(video, 1, -1) puts them last"
    if shape[-1] == 4:
        return "it has a fourth channel; video[..., :3] leaves it out"
    return "no axis holds three colors"


def _wrong_numbers(video: NDArray[Any]) -> str | None:
    if video.dtype == np.uint8:
        return None
    if video.dtype.kind not in "fiu":
        return "give numbers"
    low, high = float(video.min()), float(video.max())
    seen = f"its numbers lie in {low:.3g}..{high:.3g}"
    if low >= 0 and high <= 1 and video.dtype.kind == "f":
        return f"{seen}; (255 * video).round().astype(np.uint8) makes it right"
    if low >= 0 and high <= 255:
        return f"{seen}; video.astype(np.uint8) makes it right"
    return f"{seen}, so it seems to be normalised already; give the pixels as they were before"


class ArrayReader:
    """A reader of frames in memory.

    Args:
        frames: uint8 (T, H, W, 3), see `checked_frames`.
        fps: its rate; frame i is shown at i / fps seconds.
    """

    def __init__(self, frames: Frames, *, fps: float) -> None:
        self._frames = frames
        count, height, width = frames.shape[:3]
        self.info = VideoInfo(
            num_frames=count,
            fps=fps,
            width=width,
            height=height,
            duration_sec=count / fps,
            codec="array",
            rotation=0,
            has_audio=False,
        )

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Frames:
        """Returns the frames of `indices`, see `Reader.frames`."""
        found = self._frames[check_indices(indices, self.info)]
        return found if size is None else resize_frames(found, size)

    def times(self, indices: Sequence[int] | np.ndarray) -> NDArray[np.float64]:
        """Returns when they are shown, in seconds."""
        return check_indices(indices, self.info) / self.info.fps

    def audio(self, start_sec: float, end_sec: float, rate: int) -> NDArray[np.float32]:
        """Returns silence."""
        return np.zeros(round((end_sec - start_sec) * rate), np.float32)

    def close(self) -> None:
        """Has nothing to free."""

    def __enter__(self) -> ArrayReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
