"""The decord reader (extra `decord`): by path only, one thread, for clean files.

decord 0.6.0 is from 2021.  It is never given bytes: on damaged ones it takes the whole process down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from video_ssl.clips.decoders.libraries.library_reader import LibraryReader, MissingBackend


class DecordReader(LibraryReader):
    """Reads one video with decord."""

    NAME = "decord"

    def _open_decoder(self, path: str) -> tuple[Callable[[list[int]], np.ndarray], int]:
        try:
            import decord
        except ImportError as err:
            raise MissingBackend(
                f"the backend decord is not installed ({err}): pip install 'video_ssl[decord]'"
            ) from err
        decord.logging.set_level(decord.logging.QUIET)
        video = decord.VideoReader(path, num_threads=1)

        def read(indices: list[int]) -> np.ndarray:
            batch = video.get_batch(indices)
            # Another library may have set decord's bridge to tensors, for the whole process.
            return np.asarray(batch.asnumpy() if hasattr(batch, "asnumpy") else batch)

        return read, len(video)
