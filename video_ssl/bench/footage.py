"""Footage for `video-ssl bench loader`: files that are easy or hard on a decoder, made once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from video_ssl.datasets.table import Table
from video_ssl.files import written_aside

NUM_FRAMES, RATE = 300, 30


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What the files of one kind look like: H.264 (x264 veryfast, 3 B frames), 10 s at 30 frames a second."""

    name: str
    size: tuple[int, int]
    gop: int
    noise: float
    num_files: int


#: `--footage` -> the kinds that it measures, one after the other.
FOOTAGE = {
    "easy": [Footage(name="easy_320x240_gop12", size=(240, 320), gop=12, noise=0, num_files=4)],
    "hard": [
        Footage(name="hard_340x256_gop250", size=(256, 340), gop=250, noise=10, num_files=3),
        Footage(name="hard_1280x720_gop250", size=(720, 1280), gop=250, noise=10, num_files=1),
    ],
}


def make_footage(footage: Footage, folder: Path) -> Table:
    """Returns a table of the files of one kind; those that are not in `folder` yet are made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{footage.name}_{number}.mp4" for number in range(footage.num_files)]
    for number, path in enumerate(paths):
        if not path.exists():
            with written_aside(path, suffix=".mp4") as aside:
                _encode(footage, aside, seed=number)
    return Table.from_columns({"source": [str(path) for path in paths]})


def _encode(footage: Footage, path: Path, *, seed: int) -> None:
    height, width = footage.size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = rng.uniform(0, 6, 3)
    noise = rng.normal(0, footage.noise, (7, height, width, 1)).astype(np.float32)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.height, stream.width = footage.size
        stream.pix_fmt = "yuv420p"
        gop = str(footage.gop)
        stream.options = {"preset": "veryfast", "crf": "23", "g": gop, "keyint_min": gop, "sc_threshold": "0",
                          "threads": "1", "bf": "3"}  # fmt: skip
        for index in range(NUM_FRAMES):
            waves = (x / 31 + index / 9, y / 27 - index / 13, (x + y) / 41 + index / 7)
            picture = 128 + 60 * np.stack(
                [np.sin(w + p) for w, p in zip(waves, phase, strict=True)], axis=-1
            )
            cx, cy = (
                width * (1 / 2 + np.sin(index / 17) / 3),
                height * (1 / 2 + np.cos(index / 23) / 3),
            )
            picture[(x - cx) ** 2 + (y - cy) ** 2 < (height / 6) ** 2] = (220, 40, 90)
            if footage.noise:
                picture = picture + np.roll(noise[index % 7], index * 37 % width, axis=1)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
