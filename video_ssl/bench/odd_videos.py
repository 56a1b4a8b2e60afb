"""Small videos with every oddity that data sets have, made with PyAV; every frame carries its own index.

Frame i shows a drifting pattern and, in its upper left corner, i as ten black or white cells, least significant bit
first.  `read_index` gets it back after lossy coding, so "is this the requested frame" is an exact test for any
decoder.  Used by the tests of the readers and by `video-ssl bench readers`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS, CELL = 10, 12
SIZE = (96, 128)
NUM_FRAMES = 60
_SOUND_RATE = 16000
Draw = Callable[[int, tuple[int, int]], np.ndarray]
_X264 = {"preset": "ultrafast", "threads": "1", "crf": "20"}


def draw(index: int, size: tuple[int, int]) -> np.ndarray:
    """Returns frame `index` as uint8 (height, width, 3); `size` is (height, width)."""
    height, width = size
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    waves = [
        np.sin(x / 9 + index / 5) + 0 * y,
        np.sin(y / 7 - index / 8) + 0 * x,
        np.sin((x + y) / 11 + index / 3),
    ]
    image = 128 + 90 * np.stack(waves, axis=-1)
    image += np.random.default_rng(index).integers(-12, 13, (height, width, 1))
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 * (index >> bit & 1)
    return np.asarray(image.clip(0, 255).astype(np.uint8))


def read_index(frame: np.ndarray) -> int:
    """Returns the index that is drawn into an upright RGB frame of the size it was drawn with."""
    cells = [frame[CELL // 2, bit * CELL + CELL // 2].mean() for bit in range(BITS)]
    return sum(int(cell > 127) << bit for bit, cell in enumerate(cells))


def chirp(at: np.ndarray) -> np.ndarray:
    """Returns a tone at times `at` (seconds) whose pitch rises with time."""
    return np.asarray(0.5 * np.sin(2 * np.pi * (300 * at + 100 * at**2)))


@dataclass(frozen=True, kw_only=True)
class VideoStyle:
    """How a video is coded.

    Attributes:
        num_frames, size: frames, and (height, width) of the coded picture.
        rate: frames per second; ignored where `times_ms` says when each frame is shown.
        codec, pix_fmt, gop, b_frames, codec_options: of the encoder.
        container, container_options: of the muxer; the suffix of the file decides if None.
        rotation: written as metadata; pictures are drawn upright, so the coded ones lie on their side.
        sound: a mono 16 kHz AAC stream with `chirp`.
        decoy: a smaller video stream comes first, which readers must not take.
    """

    num_frames: int = NUM_FRAMES
    size: tuple[int, int] = SIZE
    rate: int = 25
    times_ms: Sequence[int] | None = None
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    gop: int = 12
    b_frames: int = 3
    codec_options: Mapping[str, str] = field(default_factory=dict)
    container: str | None = None
    container_options: Mapping[str, str] = field(default_factory=dict)
    rotation: int = 0
    sound: bool = False
    decoy: bool = False


@contextlib.contextmanager
def _scheduling_kept() -> Iterator[None]:
    """SVT-AV1 under root makes the whole process real-time (SCHED_FIFO), and so every process that it starts later.

    Two such processes that wait for each other in a loop stop the machine.
    """
    kept = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in {
            threading.get_native_id(),
            os.getpid(),
        }:  # it sets the first thread, not its caller
            os.sched_setscheduler(thread, *kept)


def write_video(path: Path, style: VideoStyle, picture: Draw = draw) -> None:
    """Writes one video; `picture` draws its upright frames, see `draw`."""
    with (
        _scheduling_kept(),
        av.open(
            str(path), "w", format=style.container, options=dict(style.container_options)
        ) as out,
    ):
        decoy = _video_stream(out, style, (48, 64)) if style.decoy else None
        video = _video_stream(out, style, style.size)
        if style.decoy:
            video.disposition = av.stream.Disposition.default
        if style.rotation:
            video.set_display_rotation(style.rotation)
        sound = out.add_stream("aac", rate=_SOUND_RATE, layout="mono") if style.sound else None
        for index in range(style.num_frames):
            if decoy is not None:
                grey = np.full((48, 64, 3), 128, np.uint8)
                out.mux(decoy.encode(_frame(grey, index, style)))
            out.mux(video.encode(_frame(_coded_picture(index, style, picture), index, style)))
        for stream in (decoy, video):
            if stream is not None:
                out.mux(stream.encode())
        if sound is not None:
            for piece in _sound_frames(style.num_frames / style.rate):
                out.mux(sound.encode(piece))
            out.mux(sound.encode())


def _time_base(style: VideoStyle) -> Fraction:
    return Fraction(1, style.rate) if style.times_ms is None else Fraction(1, 1000)


def _video_stream(out: Any, style: VideoStyle, size: tuple[int, int]) -> Any:
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder talks to stderr otherwise
    video = out.add_stream(style.codec, rate=style.rate)
    video.height, video.width = size
    video.pix_fmt = style.pix_fmt
    video.gop_size = style.gop
    video.codec_context.max_b_frames = style.b_frames
    video.codec_context.time_base = _time_base(style)
    options = {**_X264, "bf": str(style.b_frames)} if style.codec == "libx264" else {}
    video.options = {**options, **style.codec_options}
    return video


def _coded_picture(index: int, style: VideoStyle, picture: Draw) -> np.ndarray:
    turns = style.rotation // 90
    height, width = style.size
    upright = picture(index, (width, height) if turns % 2 else (height, width))
    return np.ascontiguousarray(np.rot90(upright, k=-turns))


def _frame(picture: np.ndarray, index: int, style: VideoStyle) -> Any:
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    frame.time_base = _time_base(style)
    frame.pts = index if style.times_ms is None else style.times_ms[index]
    return frame


def _sound_frames(duration_sec: float) -> Iterator[Any]:
    at = np.arange(round(duration_sec * _SOUND_RATE)) / _SOUND_RATE
    wave = chirp(at).astype(np.float32)
    for begin in range(0, len(wave), 1024):
        piece = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], "fltp", "mono")
        piece.sample_rate, piece.pts, piece.time_base = (
            _SOUND_RATE,
            begin,
            Fraction(1, _SOUND_RATE),
        )
        yield piece


# Files that no encoder writes in one go


def remux(
    source: Path,
    target: Path,
    *,
    skip_packets: int = 0,
    shift_frames: int = 0,
    container: str | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Copies packets into another container: without the first `skip_packets`, `shift_frames` earlier."""
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", format=container, options=dict(options or {})) as new,
    ):
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        step = round(1 / (stream.average_rate * stream.time_base))
        for number, packet in enumerate(old.demux(stream)):
            if packet.dts is None or number < skip_packets:
                continue
            packet.pts -= shift_frames * step
            packet.dts -= shift_frames * step
            packet.stream = copy
            new.mux(packet)


def _edit_list(path: Path) -> None:
    """What trimming without recoding leaves: 15 leading frames are in the file, and an edit list hides them."""
    plain = path.with_name("plain." + path.name)
    write_video(plain, VideoStyle())
    remux(plain, path, shift_frames=15, options={"avoid_negative_ts": "disabled"})
    plain.unlink()


def _cut_in_gop(path: Path) -> None:
    plain = path.with_name("plain." + path.name)
    write_video(plain, VideoStyle())
    remux(plain, path, skip_packets=5)
    plain.unlink()


def _packed_b_frames(path: Path) -> None:
    """MPEG-4 in AVI the way DivX wrote it: a B frame shares a chunk with the P frame before it, and a chunk with an
    empty picture follows in its place."""
    plain = path.with_name("plain." + path.name)
    write_video(plain, VideoStyle(codec="mpeg4", gop=250, b_frames=1, codec_options={"bf": "1"}))
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        chunks = _pack([bytes(p) for p in old.demux(stream) if p.size])
        for number, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = copy, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.duration = 1
            packet.is_keyframe = number == 0
            new.mux(packet)
    plain.unlink()


def _pack(pictures: list[bytes]) -> list[bytes]:
    start = b"\x00\x00\x01\xb6"
    signature = b"\x00\x00\x01\xb2DivX503b1393p\x00"
    empty = start + b"\x50\x7f"  # a P picture that is "not coded"
    at = pictures[0].index(start)
    chunks = [pictures[0][:at] + signature + pictures[0][at:]]
    for picture in pictures[1:]:
        kind = picture[picture.index(start) + 4] >> 6
        if kind == 2:  # B: joins the P picture that was coded before it
            chunks[-1] += picture
            chunks.append(empty)
        else:
            chunks.append(picture)
    return chunks


_GAPS_MS = np.random.default_rng(0).choice([33, 33, 40, 100, 400], NUM_FRAMES)
_VARIABLE = tuple(np.cumsum(_GAPS_MS).tolist())
_AV1 = {"preset": "12", "svtav1-params": "lp=1"}
_X265 = {"preset": "ultrafast", "x265-params": "log-level=error:keyint=10:pools=none:frame-threads=1"}  # fmt: skip
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
_FAST_VPX = {"deadline": "realtime", "cpu-used": "8"}
_WEBM: dict[str, Any] = {"codec": "libvpx-vp9", "b_frames": 0, "codec_options": _FAST_VPX}

# name -> (what is odd about it, how it is made)
ODD_VIDEOS: dict[str, tuple[str, VideoStyle | Callable[[Path], None]]] = {
    "plain.mp4": ("H.264 with B frames, a key frame every 12", VideoStyle()),
    "long_gop.mp4": ("one key frame every 250", VideoStyle(gop=250)),
    "open_gop.mp4": ("open GOPs", VideoStyle(codec_options={"x264-params": "open-gop=1:keyint=12:bframes=3"})),
    "intra.mp4": ("key frames only", VideoStyle(gop=1, b_frames=0, num_frames=20)),
    "one_frame.mp4": ("a single frame", VideoStyle(num_frames=1)),
    "two_frames.mp4": ("two frames", VideoStyle(num_frames=2)),
    "faststart.mp4": ("index at the front", VideoStyle(container_options={"movflags": "faststart"})),
    "fragmented.mp4": ("fragments: no frame count in the header", VideoStyle(container_options=_FRAGMENTS)),
    "matroska.mkv": ("Matroska: no frame count, times in ms", VideoStyle()),
    "vp9.webm": ("VP9 in WebM", VideoStyle(**_WEBM)),
    "odd_444.mp4": ("341x255, 4:4:4", VideoStyle(size=(255, 341), pix_fmt="yuv444p", num_frames=20)),
    "odd_420.webm": ("341x255, 4:2:0", VideoStyle(size=(255, 341), **_WEBM, num_frames=20)),
    "even_341.mp4": ("342x254: even, no multiple of 4", VideoStyle(size=(254, 342), num_frames=20)),
    "variable_rate.mp4": ("variable frame rate", VideoStyle(times_ms=_VARIABLE)),
    "rotated_90.mp4": ("rotated by 90 degrees", VideoStyle(rotation=90, size=(128, 128), num_frames=20)),
    "rotated_180.mp4": ("rotated by 180 degrees", VideoStyle(rotation=180, num_frames=20)),
    "rotated_270.mp4": ("rotated by 270 degrees", VideoStyle(rotation=270, size=(128, 144), num_frames=20)),
    "two_streams.mp4": ("two video streams, the second is the best; sound", VideoStyle(decoy=True, sound=True)),
    "edit_list.mp4": ("an edit list hides the first 15 frames", _edit_list),
    "cut_in_gop.mkv": ("the first key frame is missing", _cut_in_gop),
    "ten_bit.mp4": ("10 bits per sample", VideoStyle(pix_fmt="yuv420p10le", num_frames=20)),
    "hevc.mp4": ("HEVC with several key frames", VideoStyle(codec="libx265", codec_options=_X265, num_frames=40)),
    "av1.mp4": ("AV1", VideoStyle(codec="libsvtav1", b_frames=0, codec_options=_AV1, num_frames=40)),
    "mpeg4_b.avi": ("MPEG-4 with B frames in AVI", VideoStyle(codec="mpeg4", gop=250, b_frames=2)),
    "packed_b.avi": ("MPEG-4 with packed B frames in AVI", _packed_b_frames),
    "h264.avi": ("H.264 in AVI", VideoStyle(b_frames=0)),
    "transport.ts": ("MPEG transport stream", VideoStyle(container="mpegts")),
    "program.mpg": ("MPEG-2 program stream", VideoStyle(codec="mpeg2video", b_frames=2, num_frames=40)),
    "windows.wmv": ("WMV2 in ASF", VideoStyle(codec="wmv2", b_frames=0, num_frames=40)),
    "animation.gif": ("GIF", VideoStyle(codec="gif", pix_fmt="rgb8", b_frames=0, num_frames=20)),
}  # fmt: skip


def write_odd_video(folder: Path, name: str) -> Path:
    """Writes the odd video `name` of `ODD_VIDEOS` into `folder` and returns its path."""
    path = folder / name
    _, how = ODD_VIDEOS[name]
    if isinstance(how, VideoStyle):
        write_video(path, how)
    else:
        how(path)
    return path
