"""A stranger's folder: 75 videos as they come from phones, cameras and the web, in folders named like their classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from video_ssl.bench.odd_videos import VideoStyle, write_video
from video_ssl.clips.crops import resize_frames

#: Class -> color and direction of what is seen.
CLASSES = {
    "Äpfel schälen": ((200, 40, 40), (1, 0)),
    "Tür öffnen": ((40, 200, 40), (0, 1)),
    "jumping jack": ((50, 60, 210), (-1, 0)),
    "sit down": ((200, 190, 40), (0, -1)),
    "wave hello": ((180, 50, 190), (1, 1)),
}
PER_CLASS = 15
BROKEN = ("cut off.mp4", "empty.mov", "text.mp4")
#: Copies of the first video: byte by byte, and coded again.
COPY, AGAIN = "Kopie von 00.mp4", "00 (whatsapp).mp4"

_AV1 = {"preset": "12", "svtav1-params": "lp=1"}
_X265 = "log-level=error:keyint=10:pools=none:frame-threads=1"
_WEB = {"deadline": "realtime", "cpu-used": "8"}
_FRAMES, _RATE = 16, 12
#: Suffix and way of coding, in turn.
STYLES: list[tuple[str, VideoStyle]] = [
    ("mp4", VideoStyle(size=(72, 128))),
    ("MOV", VideoStyle(size=(72, 128), rotation=90)),  # a phone held upright
    ("mp4", VideoStyle(size=(128, 72))),
    ("mp4", VideoStyle(size=(72, 128), codec="libsvtav1", b_frames=0, codec_options=_AV1)),
    ("mp4", VideoStyle(size=(72, 128), pix_fmt="yuv420p10le")),
    ("mp4", VideoStyle(size=(96, 96), codec="libx265", codec_options={"preset": "ultrafast", "x265-params": _X265})),
    ("webm", VideoStyle(size=(73, 129), codec="libvpx-vp9", b_frames=0, codec_options=_WEB)),
    ("mp4", VideoStyle(size=(72, 128), rotation=180)),
    ("mkv", VideoStyle(size=(72, 128), gop=250, sound=True)),
    ("avi", VideoStyle(size=(72, 96), codec="mpeg4")),
]  # fmt: skip


def make_strangers_folder(folder: Path) -> Path:
    """Returns the folder, filled with 75 files: 70 videos, two copies of one of them, and three broken files."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for take in range(PER_CLASS if number else PER_CLASS - 5):
            suffix, style = STYLES[(take + number) % len(STYLES)]
            frames = 1 if (number, take) == (1, 1) else _FRAMES + take % 3
            _write(folder / name / f"{take:02}.{suffix}", name, take, style, frames)
    first = folder / next(iter(CLASSES))
    shutil.copy(first / "00.mp4", first / COPY)
    smaller = VideoStyle(size=(54, 96), codec_options={"crf": "26"})
    _write(first / AGAIN, first.name, 0, smaller, _FRAMES, shown_at=STYLES[0][1].size)
    cut, empty, text = (first / name for name in BROKEN)
    cut.write_bytes((first / "00.mp4").read_bytes()[:900])
    empty.touch()
    text.write_text("not found")
    return folder


def _write(
    path: Path,
    name: str,
    take: int,
    style: VideoStyle,
    frames: int,
    shown_at: tuple[int, int] | None = None,
) -> None:
    """Writes a take of a class; a copy of another size is drawn at `shown_at` and scaled."""

    def picture(index: int, size: tuple[int, int]) -> np.ndarray:
        drawn = _picture(name, take, index, shown_at or size)
        return resize_frames(drawn[None], size)[0]

    write_video(path, replace(style, num_frames=frames, rate=_RATE), picture)


def _picture(name: str, take: int, index: int, size: tuple[int, int]) -> np.ndarray:
    """A patch in the color of its class that moves in its direction, before a ground that every take has of its own."""
    color, (right, down) = CLASSES[name]
    height, width = size
    rng = np.random.default_rng([take, sum(map(ord, name))])
    ground = rng.integers(60, 190, (height // 8 + 1, width // 8 + 1, 3))
    image = np.kron(ground, np.ones((8, 8, 1)))[:height, :width]
    side = min(size) // 3
    top = int((rng.integers(height) + 3 * down * index) % (height - side))
    left = int((rng.integers(width) + 3 * right * index) % (width - side))
    image[top : top + side, left : left + side] = color
    noise = np.random.default_rng([take, index]).integers(-6, 7, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)
