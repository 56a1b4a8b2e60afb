"""Pictures as an mp4 file that browsers play: what is shown of alignments, tracks and recordings side by side."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_pictures(
    path: Path, pictures: Iterable[NDArray[np.uint8]], rate: Fraction, *, comment: str | None = None
) -> None:
    """Writes H.264 in yuv420p, without sound.

    Args:
        path: the file; what is there is replaced, so it is one written aside.
        pictures: uint8 (H, W, 3), all of one size, both even as yuv420p needs them.
        rate: pictures a second.
        comment: for the file's metadata.
    """
    with av.open(str(path), "w", format="mp4") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
