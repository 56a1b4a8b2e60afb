"""The torchcodec reader (extra `torchcodec`): exact seeking, one thread; needs FFmpeg's shared libraries.

torchcodec imports torch, which makes data workers slower to start and larger; it is imported when a video is opened.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from video_ssl.clips.decoders.libraries.library_reader import LibraryReader, MissingBackend


class TorchcodecReader(LibraryReader):
    """Reads one video with torchcodec."""

    NAME = "torchcodec"

    def _open_decoder(self, path: str) -> tuple[Callable[[list[int]], np.ndarray], int]:
        try:
            from torchcodec.decoders import VideoDecoder
        except ImportError as err:
            raise MissingBackend(
                f"the backend torchcodec is not installed ({err}): pip install 'video_ssl[torchcodec]'"
            ) from err
        except (RuntimeError, OSError) as err:  # installed, but its own libraries do not load
            raise MissingBackend(
                "the backend torchcodec finds no FFmpeg libraries: apt install ffmpeg (versions 4 to 8)"
            ) from err
        video = VideoDecoder(
            path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact", device="cpu"
        )

        def read(indices: list[int]) -> np.ndarray:
            return np.asarray(video.get_frames_at(indices).data.numpy())

        return read, len(video)
