"""A map of features for every frame of a video, at the size that a protocol asks for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from video_ssl.clips.decoders.reader import Reader
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.dense.label_maps import frames_of_tubelets
from video_ssl.models.contract import TOKENS, Encoder
from video_ssl.models.preprocess_config import VideoPreprocess


class FrameMaps:
    """Makes feature maps of the frames of videos.

    Frames are scaled to `size` by Pillow's Lanczos filter, whatever their aspect, and go through the encoder in windows
    as long as the clips it was made for, one after the other.  What is missing in the last window has the mean color.
    Of encoders whose tokens span several frames, maps are interpolated between the moments of a window.

    Args:
        encoder: gives tokens on a grid.
        size: (height, width) of the frames; None = the square that the encoder was made for.
        cubic: moments are interpolated by a cubic.
        settings: how features are made; of them `layer` and `precision` count here.

    Raises:
        FeatureError: an encoder of something else than videos, or frames that do not divide into its tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        size: tuple[int, int] | None,
        *,
        cubic: bool,
        settings: EmbedConfig,
    ) -> None:
        preprocess = encoder.preprocess
        if not isinstance(preprocess, VideoPreprocess):
            raise FeatureError(
                "labels travel by the features of frames: this is no encoder of videos."
            )
        self.encoder, self.cubic, self.settings = encoder, cubic, settings
        self.size = size or (preprocess.size, preprocess.size)
        self.window = 1 if encoder.frames_stand_alone else preprocess.num_frames
        self.filling = np.round(255 * np.array(preprocess.mean)).astype(np.uint8)
        try:
            self.grid = encoder.token_grid((self.window, *self.size, 3), layer=settings.layer)
        except ValueError as err:
            raise FeatureError(f"size={self.size}: {err}") from err

    def of_video(self, reader: Reader) -> NDArray[np.float32]:
        """Returns float32 (T, h, w, C) of all frames of a video, which are held at `size` one window at a time."""
        count = reader.info.num_frames
        tokens = []
        for clip in self._windows(reader, count):
            found = self.encoder.outputs_of_arrays(
                clip[None],
                [TOKENS],
                precision=self.settings.precision,
                layer=self.settings.layer,
            )
            tokens.append(found[TOKENS][0].reshape(*self.grid, -1))
        maps = frames_of_tubelets(np.stack(tokens), count, self.window, cubic=self.cubic)
        return maps.astype(np.float32)

    def _windows(self, reader: Reader, count: int) -> Iterator[NDArray[np.uint8]]:
        for begin in range(0, count, self.window):
            clip = np.empty((self.window, *self.size, 3), np.uint8)
            clip[:] = self.filling
            frames = reader.frames(np.arange(begin, min(begin + self.window, count)))
            for target, frame in zip(clip, frames, strict=False):
                image = Image.fromarray(frame)
                target[:] = np.asarray(image.resize(self.size[::-1], Image.Resampling.LANCZOS))
            yield clip
