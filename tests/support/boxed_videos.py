"""Videos of coloured boxes that move: what is done is the colour of the first box; the second one does nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from video_ssl.datasets.table import Table

HEIGHT, WIDTH, FRAMES = 32, 48, 12
COLORS = [(220, 30, 30), (30, 220, 30)]
OTHER = (30, 30, 220)
SIDE = 12


def corners(seed: int) -> np.ndarray:
    """(left, top) of both boxes in every frame, (FRAMES, 2, 2): the first one moves to the right."""
    rng = np.random.default_rng(seed)
    top = rng.permutation([1, HEIGHT - SIDE - 1])
    start, far = rng.integers(0, 4), rng.integers(20, WIDTH - SIDE)
    first = np.stack([start + 2 * np.arange(FRAMES), np.full(FRAMES, top[0])], 1)
    second = np.tile([far, top[1]], (FRAMES, 1))
    return np.stack([first, second], 1)


def write_boxes(path: Path, label: int, seed: int) -> np.ndarray:
    """Writes a video and returns its boxes as tables have them, float32 (FRAMES, 2, 4)."""
    places = corners(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, 10)
        for number, place in enumerate(places):
            picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            for (left, top), color in zip(place, (COLORS[label], OTHER), strict=True):
                picture[top : top + SIDE, left : left + SIDE] = color
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    boxes = np.concatenate([places, places + SIDE], -1) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    return boxes.astype(np.float32)


def boxed_table(folder: Path, name: str, count: int, *, seed: int, **more: Any) -> Path:
    """Writes NAME.arrow with videos of two actions in turn; `more`: further columns, of each row."""
    rows = []
    for v in range(count):
        video = folder / f"{name}{v}.mp4"
        boxes = write_boxes(video, v % 2, seed + v)
        row = {
            "id": f"{name}{v}",
            "source": str(video),
            "label": v % 2,
            "fps": 10.0,
            "boxes": boxes,
        }
        rows.append({**row, **{key: value[v] for key, value in more.items()}})
    path = folder / f"{name}.arrow"
    Table.from_rows(rows, class_names=["red", "green"]).save(path)
    return path
