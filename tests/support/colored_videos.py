"""Fixtures of the tests that embed and evaluate: small real videos whose pixels tell what they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from video_ssl.datasets.table import Table

COLORS = {0: (200, 40, 40), 1: (40, 200, 40), 2: (40, 40, 200)}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Of a whole module: what its fixtures compute has the last bits of what its tests do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_video(
    path: Path,
    num_frames: int,
    color: tuple[int, int, int],
    seed: int = 0,
    *,
    then: tuple[int, int, int] | None = None,
    frame: tuple[int, int, int] | None = None,
) -> None:
    """A video of 10 frames a second, 32 x 48, one color (in its second half `then`) with a little noise, and a ramp.

    `frame` is the color of all but the 16 x 16 px in the middle.
    """
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.time_base = Fraction(1, 10)
        for number in range(num_frames):
            own = color if then is None or number < num_frames // 2 else then
            colors = np.full((32, 48, 3), own if frame is None else frame)
            colors[8:24, 16:32] = own
            picture = colors + number + rng.normal(0, 6, colors.shape)
            shown = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")
            shown.pts, shown.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())


def make_table(folder: Path, name: str, count: int, *, seed: int, broken: tuple[int, ...] = ()):
    rows = []
    for v in range(count):
        label, num_frames = v % 3, 12 + 3 * (v % 4)
        path = folder / f"{name}{v}.mp4"
        if v in broken:
            path.write_bytes(b"this is not a video")
        else:
            write_video(path, num_frames, COLORS[label], seed=seed + v)
        rows.append(
            {
                "id": f"{name}{v}",
                "source": str(path),
                "label": label,
                "group": f"{name}-group{v // 2}",
                "fps": 10.0,
                "frame_labels": np.arange(num_frames) % 5,
            }
        )
    return Table.from_rows(rows, class_names=["red", "green", "blue"]).save(
        folder / f"{name}.arrow"
    )


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.arrow (12 videos), test.arrow (6) and broken.arrow (6; 1 and 4 broken)."""
    folder = tmp_path_factory.mktemp("videos")
    make_table(folder, "train", 12, seed=0)
    make_table(folder, "test", 6, seed=100)
    make_table(folder, "broken", 6, seed=200, broken=(1, 4))
    return folder
