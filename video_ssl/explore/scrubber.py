"""Two videos that a slider moves in step, as a piece of HTML: it lives in notebooks, also in exported ones, and alone.

Everything is inside (pictures, style, script), so that no kernel is needed.  It stands in a frame of its own
(`iframe srcdoc`), as notebooks run no script outside of one.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from video_ssl.explore.exploration import NO_PHASE, Exploration, try_pictures
from video_ssl.explore.pages.rendering import render_part
from video_ssl.files import write_atomically

_BELOW_PX = 96  # captions and slider


class Scrubber:
    """The piece of HTML; a notebook shows it where it is the last value of a cell.

    Attributes:
        html: a whole page.
        height_px: of the frame that it stands in.
    """

    def __init__(self, html: str, *, height_px: int) -> None:
        self.html, self.height_px = html, height_px

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="two videos in step" '
            f'style="width:100%;height:{self.height_px}px;border:0"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Returns the HTML file that was written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html)
        return path


def scrubber(
    exploration: Exploration, query: str | int, key: str | int, *, height: int = 160
) -> Scrubber:
    """Returns a piece of HTML that moves two videos together along their alignment: a slider, play, both pictures.

    Args:
        exploration: that has both videos.
        query, key: their ids or numbers.
        height: of the pictures in pixels; a frame takes some 3 kB at 96 and 6 kB at 160.

    >>> from video_ssl import open_exploration
    >>> both = scrubber(open_exploration("features.arrow"), "wave1.mp4", "wave2.mp4")
    >>> both.save("both.html").stat().st_size > 10_000
    True
    """
    a, b = exploration.index(query), exploration.index(key)
    found = exploration.pair(a, b)
    content = {
        "videos": [_side(exploration, a, height), _side(exploration, b, height)],
        "steps": [found.path_i.tolist(), found.path_j.tolist()],
    }
    page = render_part("scrubber.html.j2", content=content, height=height)
    return Scrubber(page, height_px=height + _BELOW_PX)


def _side(exploration: Exploration, video: int, height: int) -> dict[str, Any]:
    """A video for the page: pictures as data URIs, and for every frame its time, its phase and the color of that."""
    track = exploration.tracks[video]
    pictures, reason = try_pictures(track, height=height)
    phases = [int(label) for label in track.labels]
    return {
        "id": track.id,
        "pictures": [_uri(picture) for picture in pictures or [_no_picture(height)]],
        "reason": reason,
        "times": [float(t) if np.isfinite(t) else None for t in track.times],
        "phases": [exploration.phase_name(label) if label >= 0 else "" for label in phases],
        "colors": [exploration.phase_colors.get(label, NO_PHASE) for label in phases],
    }


def _uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _no_picture(height: int) -> np.ndarray:
    image = Image.new("RGB", (height, height), "#e9edf3")
    ImageDraw.Draw(image).text((height // 2, height // 2), "no picture", "#5c6878", anchor="mm")
    return np.asarray(image)
