"""What demultiplexing finds out about a video file, in milliseconds; it decides which decoders are exact on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from video_ssl.clips.decoders.files.checks import ffmpeg_address
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.decoders.streams import video_stream

# FFmpeg's names of formats that one demultiplexer reads, by the name that the table uses.
_CONTAINERS = {"mp4": "mp4", "matroska": "matroska", "mov": "mp4", "webm": "matroska"}


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What demultiplexing finds out.

    Attributes:
        container: mp4 (also mov), matroska (also webm), avi, mpegts, gif, ...
        codec: h264, hevc, av1, vp9, mpeg4, ...
        pix_fmt: FFmpeg's name of the pixel format, "" if the header does not have it.
        odd_size: width or height of the coded picture is odd.
        edit_list: the file holds frames that its edit list hides.
        open_gop: frames follow a key frame in the file but are shown before it, so a seek there needs earlier ones.
        starts_with_key: the first packet is a key frame.
        max_gop: most packets from one key frame to the next, or to the end.
        has_audio: there is an audio stream.
    """

    container: str
    codec: str
    pix_fmt: str
    odd_size: bool
    edit_list: bool
    open_gop: bool
    starts_with_key: bool
    max_gop: int
    has_audio: bool


def file_facts(
    path: str, *, byte_range: tuple[int, int] | None = None, name: str | None = None
) -> FileFacts:
    """Returns the facts of the best video stream of a local file.

    Raises:
        BadVideo: not a video.
    """
    name = path if name is None else name
    try:
        with av.open(ffmpeg_address(path, byte_range)) as container:
            stream = video_stream(container, name)
            packets = [
                (
                    packet.is_keyframe,
                    packet.is_discard,
                    packet.pts if packet.pts is not None else packet.dts,
                )
                for packet in container.demux(stream)
                if packet.size
            ]
            return _facts(container, stream, packets)
    except FFmpegError as err:
        raise BadVideo(name, f"cannot be opened as a video ({err.strerror}).") from err


def _facts(container: Any, stream: Any, packets: list[tuple[bool, bool, int | None]]) -> FileFacts:
    names = container.format.name.split(",")
    known = [_CONTAINERS[name] for name in names if name in _CONTAINERS]
    context = stream.codec_context
    keys = np.flatnonzero([key for key, _, _ in packets])
    return FileFacts(
        container=known[0] if known else names[0],
        codec=context.codec.canonical_name,
        pix_fmt=context.pix_fmt or "",
        odd_size=bool(context.width % 2 or context.height % 2),
        edit_list=any(hidden for _, hidden, _ in packets),
        open_gop=_has_open_gop(packets),
        starts_with_key=bool(packets and packets[0][0]),
        max_gop=int(np.diff([*keys, len(packets)]).max()) if len(keys) else len(packets),
        has_audio=bool(container.streams.audio),
    )


def _has_open_gop(packets: list[tuple[bool, bool, int | None]]) -> bool:
    shown = None
    for key, _, pts in packets:
        if pts is None:
            continue
        if key:
            shown = pts
        elif shown is not None and pts < shown:
            return True
    return False
