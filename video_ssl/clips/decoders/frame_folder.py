"""A folder of pictures as a video, and a picture as a video of one frame."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from video_ssl.clips.reading import BadVideo, VideoInfo, check_indices
from video_ssl.datasets.paths import PICTURE_SUFFIXES, natural_key

# Of several numbered series in one folder (TSN writes flow_x_00001.jpg beside img_00001.jpg) these hold the pictures.
_PICTURE_SERIES = ("img", "image", "frame", "rgb", "")


class FrameFolderReader:
    """Reads `img_00001.jpg`, ... of a folder in natural order (2 before 10), or one picture, as a video.

    All frames must have the size of the first.  Frame i is shown at i / fps seconds; there is no sound.  Pictures are
    turned upright by their EXIF tag.  With `size`, frames are resized by Pillow's bilinear filter, whose support grows
    with the scale when shrinking.
    """

    READS_BYTE_RANGES = True

    def __init__(
        self,
        path: str,
        *,
        timeout_sec: float | None = None,
        byte_range: tuple[int, int] | None = None,
        name: str | None = None,
        fps: float = 25.0,
    ) -> None:
        """
        Args:
            path: a folder, or a picture.
            timeout_sec: not used: single pictures are read.
            byte_range: (offset, size) of the picture within the file at `path`.
            name: what errors call the video, `path` if None.
            fps: frames per second.

        Raises:
            BadVideo: no picture, several series of pictures, or a first one that cannot be read.
        """
        self.path = path if name is None else name
        self._byte_range = byte_range
        self._files = self._list(path)
        first = self._open(0)
        self.info = VideoInfo(
            num_frames=len(self._files),
            fps=fps,
            width=first.width,
            height=first.height,
            duration_sec=len(self._files) / fps,
            codec=str(first.format or "").lower() or "picture",
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
        read: dict[int, int] = {}
        for place, index in enumerate(wanted.tolist()):
            if index in read:
                out[place] = out[read[index]]
                continue
            out[place] = self._picture(index, height, width)
            read[index] = place
        return out

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns float64 (T,) seconds since the first frame."""
        return np.asarray(check_indices(indices, self.info) / self.info.fps)

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        """Returns silence; see `Reader.audio`."""
        if end_sec < start_sec or rate <= 0:
            raise ValueError(f"audio from {start_sec} to {end_sec} s at {rate} Hz is not possible.")
        return np.zeros(round((end_sec - start_sec) * rate), np.float32)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> FrameFolderReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _list(self, path: str) -> list[str]:
        if not os.path.isdir(path):
            if not os.path.exists(path):
                raise BadVideo(self.path, "does not exist.")
            if not os.path.isfile(path):
                raise BadVideo(self.path, "is not a regular file.")
            return [path]
        try:
            names = [n for n in os.listdir(path) if n.lower().endswith(PICTURE_SUFFIXES)]
        except OSError as err:
            raise BadVideo(self.path, f"cannot be listed ({err.strerror}).") from err
        chosen = _one_series([n for n in names if not n.startswith(".")])
        if chosen is None:
            raise BadVideo(
                self.path,
                "holds several series of pictures: keep one of them, or call it img_00001.jpg and so on.",
            )
        if not chosen:
            raise BadVideo(
                self.path,
                f"is a folder without pictures: frames end in {', '.join(PICTURE_SUFFIXES)}.",
            )
        return [os.path.join(path, n) for n in sorted(chosen, key=natural_key)]

    def _open(self, index: int) -> Image.Image:
        """The undecoded picture, upright."""
        path = self._files[index]
        try:
            if self._byte_range is None:
                image = Image.open(path)
            else:
                offset, size = self._byte_range
                with open(path, "rb") as file:
                    file.seek(offset)
                    image = Image.open(io.BytesIO(file.read(size)))
            with image:
                kind = image.format
                upright = ImageOps.exif_transpose(image)
                upright.load()
                upright.format = kind
                return upright
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
            what = "" if len(self._files) == 1 else f"frame {index} ({os.path.basename(path)}) "
            raise BadVideo(self.path, f"{what}cannot be read as a picture ({err}).") from err

    def _picture(self, index: int, height: int, width: int) -> np.ndarray:
        image = self._open(index)
        if image.size != (self.info.width, self.info.height):
            raise BadVideo(
                self.path,
                f"frame {index} ({os.path.basename(self._files[index])}) is {image.width}x{image.height}, "
                f"but frame 0 is {self.info.width}x{self.info.height}.",
            )
        image = image.convert("RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)


def _one_series(names: list[str]) -> list[str] | None:
    """The names that number the frames: all where they share what precedes the number, else the picture series."""
    series: dict[str, list[str]] = {}
    for name in names:
        stem = re.sub(r"[\W_]*\d+$", "", os.path.splitext(name)[0])
        series.setdefault(stem.lower(), []).append(name)
    if len(series) <= 1:
        return names
    for stem in _PICTURE_SERIES:
        if stem in series:
            return series[stem]
    return None
