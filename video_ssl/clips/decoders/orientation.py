"""How a decoded picture is brought upright: what a display matrix means, exactly as the ffmpeg program understands it.

A container may hold a 3x3 matrix that maps the coded picture to the shown one.  Phones write quarter turns, front
cameras mirrored ones, and old cutting programs anything.  The ffmpeg program makes one of these of it: nothing, a
mirrored picture, a quarter turn, both, or a turn by whole degrees within the same frame, whose corners become black.
Whatever a matrix says of scale, shear and place is ignored by it, and here.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

_MATRIX = struct.Struct("=9i")
_ONE = 1 << 16
# What libavfilter turns as it is; the ffmpeg program converts anything else to the requested pixel format first.
_TURNABLE = {
    f"yuv{kind}p{depth}"
    for kind in ("420", "444", "a420", "a444")
    for depth in ("", "10le", "12le")
} | {
    "yuvj420p",
    "yuvj444p",
    "gray",
    "rgb24",
    "bgr24",
    "rgba",
    "bgra",
    "argb",
    "abgr",
    "gbrp",
    "gbrap",
}


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """What is done to a decoded picture: first mirrored left to right where `mirrored`, then turned.

    Attributes:
        rotation: counter-clockwise degrees, 0 <= rotation < 360.  Quarter turns exchange width and height where they
            must; any other angle keeps the size of the frame.
        mirrored: whether left and right are exchanged first.
        is_plain: the matrix is a quarter turn to the bit, or none: what every library understands alike.
    """

    rotation: int = 0
    mirrored: bool = False
    is_plain: bool = True

    @property
    def quarter_turns(self) -> int:
        """Quarter turns counter-clockwise; 0 where the picture is turned by an angle within its frame."""
        return 0 if self.is_tilted else self.rotation // 90

    @property
    def is_tilted(self) -> bool:
        """Whether the angle is no multiple of 90 degrees."""
        return self.rotation % 90 != 0

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) of the shown picture from those of the coded one, and the other way round."""
        return (height, width) if self.quarter_turns % 2 else (width, height)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Returns a view of the picture (H, W, ...) mirrored and turned by quarters; a tilt is `Tilt`'s work."""
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.rot90(picture, k=self.quarter_turns) if self.quarter_turns else picture


def orientation_of(frame: Any) -> Orientation:
    """Returns how a decoded frame (av.VideoFrame) is shown."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    return read_matrix(_MATRIX.unpack(bytes(data)))


def read_matrix(matrix: tuple[int, ...]) -> Orientation:
    """Returns what the ffmpeg program makes of a display matrix of nine integers (16.16 and 2.30 fixed point).

    Source: `configure_input_video_filter` of fftools/ffmpeg_filter.c and `av_display_rotation_get` of libavutil, n5.1
    to n8.0.
    """
    a, b, c, d = (matrix[place] / _ONE for place in (0, 1, 3, 4))
    widths = math.hypot(a, c), math.hypot(b, d)
    if 0.0 in widths:
        return Orientation(is_plain=False)
    clockwise = _half_away_from_zero(math.degrees(math.atan2(b / widths[1], a / widths[0]))) % 360
    rotation, mirrored = -clockwise % 360, False
    if clockwise in (90, 270):
        # A mirrored quarter turn exchanges rows and columns; seen from the other diagonal, it turns the other way.
        mirrored = c > 0 if clockwise == 90 else c < 0
        rotation = clockwise if mirrored else rotation
    elif clockwise == 180:
        mirrored, rotation = (False, 180) if d < 0 else (True, 0)
    elif clockwise == 0 and d < 0:  # upside down: half a turn of the mirrored picture
        mirrored, rotation = True, 180
    elif clockwise == 1:  # too little to be worth a filter
        rotation = 0
    is_turn = (b == c == 0 or a == d == 0) and not mirrored
    return Orientation(rotation=rotation, mirrored=mirrored, is_plain=is_turn)


def _half_away_from_zero(value: float) -> int:
    """Rounds like C; Python rounds halves to even numbers."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


class Tilt:
    """Turns frames by any angle within their size, with libavfilter, as the ffmpeg program does."""

    def __init__(self, orientation: Orientation) -> None:
        self._clockwise = 360 - orientation.rotation
        self._graphs: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}

    def turned(self, frame: Any) -> Any:
        """Returns the frame turned, without its time, in its own pixel format where the filter knows it; corners are
        black."""
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))  # fmt: skip
        if key not in self._graphs:
            self._graphs[key] = self._graph(frame)
        _, source, sink = self._graphs[key]
        source.push(frame)
        return sink.pull()

    def _graph(self, frame: Any) -> tuple[Any, Any, Any]:
        """(graph, where frames go in, where they come out); the two ends do not keep the graph alive."""
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000:"
            f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        nodes = [source]
        if frame.format.name not in _TURNABLE:
            nodes += [graph.add("scale", "flags=0"), graph.add("format", "pix_fmts=rgb24")]
        nodes.append(graph.add("rotate", f"{self._clockwise}*PI/180"))
        sink = graph.add("buffersink")
        graph.link_nodes(*nodes, sink).configure()
        return graph, source, sink
