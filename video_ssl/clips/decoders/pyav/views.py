"""Regions of decoded frames at the size of a view: cropped, scaled and converted to RGB by libswscale in one pass.

The crop moves pointers and copies nothing; scaling reads the pixels of the region only, in the planes that the decoder
left (half the bytes of RGB), and the result goes straight to the memory of the sample.  Chroma planes are cut at whole
chroma pixels, so on an odd offset color lies half a chroma pixel beside its place.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_ssl.clips.crops import Frames, Region
from video_ssl.clips.decoders.orientation import Orientation, Tilt

# Scaling planes to 4:2:2 with exact arithmetic, then converting at the same size, is twice as fast as both at once, and
# nearer to Pillow: the conversion without scaling is the fast and tested one that `frames` uses.
_SCALE, _CONVERT, _SCALED = "bilinear+accurate_rnd+bitexact", "bilinear", "yuv422p"

# What libavfilter crops right at odd offsets.  With more bytes a pixel (10 bits, NV12) it cuts chroma within a pixel.
_CROPPABLE = {
    f"yuv{full_range}{sampling}p" for full_range in ("", "j") for sampling in (420, 422, 444)
} | {"gray", "rgb24"}


class RegionScaler:
    """Shows regions of the frames of one video; keeps libswscale's tables from frame to frame."""

    def __init__(self, *, width: int, height: int, orientation: Orientation) -> None:
        """
        Args:
            width, height: of the upright picture.
            orientation: what brings a decoded frame upright.
        """
        self._upright = (height, width)
        self._orientation = orientation
        self._raw = orientation.upright_size(width, height)[::-1]
        self._tilt = Tilt(orientation)
        self._tilted: tuple[Any, Any] | None = None
        self._reformatter = VideoReformatter()
        self._graphs: dict[Any, tuple[Any, Any, Any]] = {}
        self._whole: tuple[Any, np.ndarray] | None = None

    def show(self, frame: Any, region: Region, out: Frames) -> None:
        """Writes `region` of the upright picture into `out`, uint8 (h, w, 3), scaled to its size."""
        if self._orientation.is_tilted:
            frame = self._turned(frame)
        if (region.height, region.width) == out.shape[:2]:
            picture = self._whole_picture(frame)
            bottom, right = region.top + region.height, region.left + region.width
            picture = picture[region.top : bottom, region.left : right]
        else:
            picture = self._scaled(frame, region, (out.shape[0], out.shape[1]))
        out[:] = picture[:, ::-1] if region.flip else picture

    def _turned(self, frame: Any) -> Any:
        """The frame turned by its angle, once for all views."""
        if self._tilted is None or self._tilted[0] is not frame:
            self._tilted = frame, self._tilt.turned(frame)
        return self._tilted[1]

    def _whole_picture(self, frame: Any) -> np.ndarray:
        """The upright picture; nothing is scaled, so a crop of it is exact.  Converted once for all views."""
        if self._whole is None or self._whole[0] is not frame:
            height, width = self._raw
            rgb = self._reformatter.reformat(
                frame, width=width, height=height, format="rgb24", threads=1
            )
            self._whole = frame, self._orientation.apply(_pixels(rgb))
        return self._whole[1]

    def _scaled(self, frame: Any, region: Region, size: tuple[int, int]) -> np.ndarray:
        if (frame.height, frame.width) != self._raw:  # some streams change their size
            height, width = self._raw
            frame = self._reformatter.reformat(frame, width=width, height=height, threads=1)
        key = (region, size, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if key not in self._graphs:
            self._graphs[key] = self._graph(frame, region, size)
        _, source, sink = self._graphs[key]
        source.push(frame)
        return self._orientation.apply(_pixels(sink.pull()))

    def _graph(self, frame: Any, region: Region, size: tuple[int, int]) -> tuple[Any, Any, Any]:
        """(graph, where frames go in, where they come out); the two ends do not keep the graph alive."""
        left, top, width, height = _in_coded_picture(region, self._upright, self._orientation)
        out_width, out_height = self._orientation.upright_size(size[1], size[0])
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000:"
            f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        is_rgb = frame.format.is_rgb
        nodes = [source]
        if frame.format.name not in _CROPPABLE:
            nodes += _converted(graph, "rgb24" if is_rgb else "yuv444p")
        nodes.append(graph.add("crop", f"w={width}:h={height}:x={left}:y={top}:exact=1"))
        nodes.append(graph.add("scale", f"w={out_width}:h={out_height}:flags={_SCALE}"))
        if not is_rgb:
            nodes.append(graph.add("format", f"pix_fmts={_SCALED}"))
        nodes += _converted(graph, "rgb24")
        sink = graph.add("buffersink")
        graph.link_nodes(*nodes, sink).configure()
        return graph, source, sink


def _converted(graph: Any, name: str) -> list[Any]:
    return [graph.add("scale", f"flags={_CONVERT}"), graph.add("format", f"pix_fmts={name}")]


def _in_coded_picture(
    region: Region, upright: tuple[int, int], orientation: Orientation
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the region in a frame that `orientation` brings upright."""
    height, width = upright
    right, bottom = region.left + region.width, region.top + region.height
    left, top, coded = {
        0: (region.left, region.top, region.width),
        1: (height - bottom, region.left, region.height),
        2: (width - right, height - bottom, region.width),
        3: (region.top, width - right, region.height),
    }[orientation.quarter_turns]
    whole = height if orientation.quarter_turns % 2 else width
    if orientation.mirrored:
        left = whole - left - coded
    other = region.width if orientation.quarter_turns % 2 else region.height
    return left, top, coded, other


def _pixels(rgb: Any) -> np.ndarray:
    """The pixels of an rgb24 frame, uint8 (H, W, 3), without a copy."""
    plane = rgb.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
