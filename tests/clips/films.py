"""Films of still scenes with one moving figure each, to be copied and recognised."""

import av
import numpy as np


def scene(number, figure, frames=24, size=(120, 160)):
    """A still scene in which a figure moves its own way: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(number)
    height, width = size
    y, x = np.mgrid[:height, :width] / 20
    waves = [np.sin(rng.normal() * x + rng.normal() * y + rng.normal()) for _ in range(9)]
    ground = 128 + 40 * np.stack(waves, axis=-1).reshape(*size, 3, 3).sum(axis=-1)
    film = np.repeat(ground[None], frames, axis=0)
    film += np.random.default_rng(figure).normal(0, 4, film.shape)
    top, left = (10, 20, 50)[figure], (20, 110, 60)[figure]
    for index, frame in enumerate(film):
        frame[top + index : top + index + 50, left : left + 25] = (210, 60, 40)
    return film.clip(0, 255).astype(np.uint8)


def write(path, film, *, rate=25, codec="libx264", crf=20):
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=rate)
        video.height, video.width = film.shape[1:3]
        video.pix_fmt = "yuv420p"
        if codec == "libx264":
            video.options = {"crf": str(crf), "preset": "ultrafast"}
        for frame in film:
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(video.encode())
    return path
