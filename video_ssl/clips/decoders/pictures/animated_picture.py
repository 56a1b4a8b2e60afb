"""An animated WebP, PNG or GIF that is named like a picture, as a video with the times of its frames.

FFmpeg does not decode animated WebP; Pillow does, and puts frames that hold only what changes onto those before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from video_ssl.clips.decoders.pictures.picture import PictureProblem, open_picture, to_rgb
from video_ssl.clips.decoders.reader import BadVideo, VideoInfo, check_indices

# How long a frame is shown that says 0: as in browsers.
_UNSAID_SEC = 0.1


class AnimatedPictureReader:
    """Reads an animation; see `video_ssl.clips.decoders.reader.Reader` for the promises.  There is no sound."""

    def __init__(
        self, path: str, *, byte_range: tuple[int, int] | None = None, name: str | None = None
    ) -> None:
        """
        Args:
            path: a local file, all of whose frames are decoded once, to learn their times.
            byte_range: (offset, size) of the picture within the file.
            name: what errors call it, `path` if None.

        Raises:
            BadVideo: a frame that cannot be decoded.
        """
        self.path = path if name is None else name
        self._place = (path, byte_range)
        self._image: Any = None
        self._next = 0
        shown_sec = [_shown_sec(frame) for _, frame in self._frames(None)]
        image: Any = self._image
        self._times = np.concatenate([[0.0], np.cumsum(shown_sec)[:-1]])
        count, total_sec = len(shown_sec), float(sum(shown_sec))
        self.info = VideoInfo(
            num_frames=count,
            fps=(count - 1) / self._times[-1] if count > 1 else 1 / total_sec,
            width=image.width,
            height=image.height,
            duration_sec=total_sec,
            codec=str(image.format).lower(),
            rotation=0,
            has_audio=False,
        )

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Returns uint8 (T, H, W, 3); see `Reader.frames`."""
        wanted = check_indices(indices, self.info)
        height, width = size if size is not None else (self.info.height, self.info.width)
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        for index, picture in self.stream(np.unique(wanted), size):
            out[wanted == index] = picture
        return out

    def stream(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, picture) for increasing indices."""
        height, width = size if size is not None else (self.info.height, self.info.width)
        for index, frame in self._frames(check_indices(indices, self.info)):
            image = to_rgb(frame, frame.format)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            yield index, np.asarray(image)

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns float64 (T,) seconds since the first frame."""
        return np.asarray(self._times[check_indices(indices, self.info)])

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        """Returns silence; see `Reader.audio`."""
        if not end_sec >= start_sec or rate <= 0:
            raise ValueError(f"audio from {start_sec} to {end_sec} s at {rate} Hz is not possible.")
        return np.zeros(round((end_sec - start_sec) * rate), np.float32)

    def close(self) -> None:
        """Frees the decoder; calling it twice is allowed."""
        if self._image is not None:
            self._image.close()
            self._image = None

    def __enter__(self) -> AnimatedPictureReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _frames(self, wanted: np.ndarray | None) -> Iterator[tuple[int, Any]]:
        """Yields (index, the decoded animation at it); every one if None.  Going back begins anew."""
        index = 0
        try:
            if (
                self._image is None
                or wanted is None
                or (len(wanted) and wanted[0] < self._next - 1)
            ):
                self.close()
                self._image = open_picture(*self._place)
            # A PNG may begin with a picture for programs that do not know animations.
            hidden = int(bool(getattr(self._image, "default_image", False)))
            count = self._image.n_frames - hidden
            for index in range(count) if wanted is None else wanted.tolist():
                self._image.seek(index + hidden)
                self._image.load()
                self._next = index + 1
                yield index, self._image
        except (OSError, SyntaxError, ValueError, EOFError) as err:
            reason = (
                str(err)
                if isinstance(err, PictureProblem)
                else f"frame {index} cannot be decoded ({err})."
            )
            raise BadVideo(self.path, reason) from err


def _shown_sec(frame: Any) -> float:
    stated = float(frame.info.get("duration") or 0.0) / 1000
    return stated if stated > 0 else _UNSAID_SEC
