"""A folder of pictures as a video, and a picture as a video of one frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from video_ssl.clips.decoders.pictures.animated_picture import AnimatedPictureReader
from video_ssl.clips.decoders.pictures.frame_names import FolderProblem, frames_in_order
from video_ssl.clips.decoders.pictures.picture import (
    PictureProblem,
    is_moving,
    open_picture,
    single_picture,
)
from video_ssl.clips.decoders.reader import BadVideo, Reader, StatedCount, VideoInfo, check_indices
from video_ssl.datasets.paths import PICTURE_SUFFIXES


def open_pictures(
    path: str,
    *,
    byte_range: tuple[int, int] | None = None,
    name: str | None = None,
    fps: float | None = None,
    stated_count: StatedCount | None = None,
) -> Reader:
    """Returns the reader of a folder of frames, or of a picture: an animated one has its own times.

    Raises:
        BadVideo: no picture, or a folder in which it is open what the frames are.
    """
    if os.path.isfile(path) and _may_move(path, byte_range):
        try:
            with open_picture(path, byte_range) as image:
                moving = is_moving(image)
        except PictureProblem as err:
            raise BadVideo(path if name is None else name, str(err)) from err
        if moving:
            return AnimatedPictureReader(path, byte_range=byte_range, name=name)
    return FrameFolderReader(
        path, byte_range=byte_range, name=name, fps=fps or 25.0, stated_count=stated_count
    )


def _may_move(path: str, byte_range: tuple[int, int] | None) -> bool:
    """Whether the file is of a format that holds animations too: most pictures need not be opened twice."""
    try:
        with open(path, "rb") as file:
            file.seek(0 if byte_range is None else byte_range[0])
            return file.read(4) in (b"RIFF", b"\x89PNG", b"GIF8")
    except OSError:
        return False


class FrameFolderReader:
    """Reads `img_00001.jpg`, ... of a folder in the order of their numbers, or one picture, as a video.

    All frames must have the size of the first.  Frame i is shown at i / fps seconds; there is no sound.  Pictures are
    turned upright by their EXIF tag; those of 16 bits are scaled to 8, see `pictures`.  With `size`, frames are
    resized by Pillow's bilinear filter, whose support grows with the scale when shrinking.
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
        stated_count: StatedCount | None = None,
    ) -> None:
        """
        Args:
            path: a folder, or a picture.
            timeout_sec: not used: single pictures are read.
            byte_range: (offset, size) of the picture within the file at `path`.
            name: what errors call the video, `path` if None.
            fps: frames per second.
            stated_count: how many frames a list says the folder has, see `frame_names.frames_in_order`.

        Raises:
            BadVideo: no picture, several series of pictures, missing frames, or a first one that cannot be read.
        """
        self.path = path if name is None else name
        self._byte_range = byte_range
        self._stated = stated_count
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
        if not end_sec >= start_sec or rate <= 0:
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
            names = [n for n in sorted(os.listdir(path)) if n.lower().endswith(PICTURE_SUFFIXES)]
        except OSError as err:
            raise BadVideo(self.path, f"cannot be listed ({err.strerror}).") from err
        names = [n for n in names if not n.startswith(".")]
        if not names:
            raise BadVideo(
                self.path,
                f"is a folder without pictures: frames end in {', '.join(PICTURE_SUFFIXES)}.",
            )
        try:
            chosen = frames_in_order(names, self._stated)
        except FolderProblem as err:
            raise BadVideo(self.path, str(err)) from err
        return [os.path.join(path, n) for n in chosen]

    def _open(self, index: int) -> Image.Image:
        """The upright picture in RGB."""
        path = self._files[index]
        try:
            with open_picture(path, self._byte_range) as image:
                kind = image.format
                upright = single_picture(image)
                upright.format = kind
                return upright
        except PictureProblem as err:
            what = "" if len(self._files) == 1 else f"frame {index} ({os.path.basename(path)}) "
            raise BadVideo(self.path, f"{what}{err}") from err

    def _picture(self, index: int, height: int, width: int) -> np.ndarray:
        image = self._open(index)
        if image.size != (self.info.width, self.info.height):
            raise BadVideo(
                self.path,
                f"frame {index} ({os.path.basename(self._files[index])}) is {image.width}x{image.height}, "
                f"but frame 0 is {self.info.width}x{self.info.height}.",
            )
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)
