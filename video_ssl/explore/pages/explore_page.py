"""`video-ssl explore`: one HTML page on which two videos are moved together along their alignment.

Everything is inside the file, pictures and numbers alike, and the page forbids itself to fetch anything.  The
part of the page after # says what is shown: #a=ID&b=ID&t=STEP.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_ssl.explore.alignment_video import PALETTE, distance_levels
from video_ssl.explore.chapters import chapters
from video_ssl.explore.config import ExploreConfig
from video_ssl.explore.exploration import (
    NO_PHASE,
    Exploration,
    color,
    try_pictures,
)
from video_ssl.explore.exploration_maker import open_exploration
from video_ssl.explore.pages.pictures import picture
from video_ssl.explore.pages.rendering import write_page
from video_ssl.files import claim_file

logger = logging.getLogger(__name__)

__all__ = ["explore_to_html", "write_exploration"]


def explore_to_html(
    source: str,
    out: str | Path | None = None,
    *,
    table: str | None = None,
    config: ExploreConfig | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Returns the page that was written about a feature file or an encoder; see `open_exploration`.

    Args:
        out: by default FEATURES.html beside the features, or RUN/explore.html.
        table: videos that the encoder embeds, as `open_table` takes it.
        config: what is shown.
        root: the folder that the videos lie in now, where they were moved.

    Raises:
        FeatureError: no output file for an encoder that is not a folder, and see `open_exploration`.
        OutputError: a file to be written is there and was not made by explore, or cannot be written.
    """
    config = config or ExploreConfig()
    path = Path(source)
    if out is None and not path.exists() and ":" in source:
        raise ValueError(
            f"say where the page of {source} shall be written: explore {source} OUT.html"
        )
    default = path / "explore.html" if path.is_dir() else path.with_suffix(".html")
    page = claim_file(out if out is not None else default, "explore", sources=[source])
    found = open_exploration(
        source,
        table=table,
        keep=page.with_suffix(".features.arrow"),
        root=root,
        device=device,
        videos=[v.strip() for v in (config.videos or "").split(",") if v.strip()] or None,
        max_videos=config.max_videos,
        max_frames=config.max_frames,
        start_sec=config.start_sec,
        end_sec=config.end_sec,
    )
    return write_exploration(found, page, height=config.height)


def write_exploration(exploration: Exploration, out: str | Path, *, height: int = 160) -> Path:
    """Returns the HTML file `out` that was written.

    Videos that cannot be read are shown without pictures, and the page says why.

    Args:
        height: of the pictures, in pixels; smaller videos stay as they are.
    """
    notes = list(exploration.notes)
    content = page_data(exploration, height=height, notes=notes)
    path = Path(out)
    size = write_page(
        path,
        "explore.html.j2",
        verb="explore",
        origin=exploration.name,
        name=_title(Path(exploration.name).absolute()),
        subtitle=_subtitle(exploration),
        content=content,
        notes=notes,
    )
    for note in notes:
        logger.info("Note: %s", note)
    logger.info("%s: %.1f MB, everything inside", path, size / 1e6)
    return path


def _title(features: Path) -> str:
    """Returns the name of the run that a feature file belongs to, or else that of the file.

    >>> _title(Path("/runs/a/explore.features.arrow"))
    'a'
    >>> _title(Path("/runs/a/evaluate/phases/features/encoder-test-0f.arrow"))
    'a'
    """
    if features.stem == "explore.features":
        return features.parent.name
    parts = features.parts
    if parts[-2] == "features" and parts[-4:-3] == ("evaluate",):
        return parts[-5]
    return features.stem


def _subtitle(exploration: Exploration) -> str:
    width = exploration.tracks[0].embs.shape[1]
    kinds = len({int(c) for c in exploration.classes if c >= 0})
    parts = [
        f"{len(exploration)} video{'s' if len(exploration) != 1 else ''}",
        f"{exploration.num_frames} frames, {width} numbers each",
    ]
    parts += [f"{kinds} classes"] if kinds > 1 else []
    phases = len(exploration.phase_colors)
    return " · ".join([*parts, *([f"{phases} phases"] if phases else [])])


def page_data(exploration: Exploration, *, height: int, notes: list[str]) -> dict[str, Any]:
    """Returns what the script of the page works on; adds to `notes` what cannot be shown."""
    places, shares = exploration.map()
    groups = {label: exploration.same_class(v) for v, label in enumerate(exploration.classes)}
    own: list[Any] = [None] * len(exploration)
    shares_of: dict[int, list[float]] = {}
    for label, members in groups.items():
        found, part = exploration.map(members)
        shares_of[int(label)] = _rounded(part, 4)
        for video, where in zip(members, found, strict=True):
            if exploration.classes[video] == label:
                own[video] = where
    start = exploration.start()
    return {
        "videos": [
            _video(exploration, v, places[v], own[v], height, notes)
            for v in range(len(exploration))
        ],
        "shares": _rounded(shares, 4),
        "classShares": shares_of,
        "pairs": [
            _pair(exploration, a, b)
            for a in range(len(exploration))
            for b in range(len(exploration))
        ],
        "phases": {
            str(label): {"name": exploration.phase_name(label), "color": shade}
            for label, shade in exploration.phase_colors.items()
        },
        "noPhase": NO_PHASE,
        "classColors": {
            str(label): color(rank)
            for rank, label in enumerate(sorted({int(c) for c in exploration.classes if c >= 0}))
        },
        "start": list(start),
    }


def _video(
    exploration: Exploration,
    video: int,
    places: np.ndarray,
    own: np.ndarray,
    height: int,
    notes: list[str],
) -> dict[str, Any]:
    track = exploration.tracks[video]
    pictures, why = try_pictures(track, height=height)
    if pictures is None:
        notes.append(f"No pictures of {track.id}: {why}")
    known = bool(np.isfinite(track.times).all())
    return {
        "id": track.id,
        "kind": int(exploration.classes[video]),
        "className": exploration.class_name(video),
        "times": _rounded(track.times, 3) if known else None,
        "labels": track.labels.tolist(),
        "labelled": bool((track.labels >= 0).any()),
        "chapters": chapters(track.embs),
        "all": _rounded(places.ravel(), 4),
        "own": _rounded(own.ravel(), 4),
        "frames": None if pictures is None else [picture(p) for p in pictures],
    }


def _pair(exploration: Exploration, a: int, b: int) -> dict[str, Any]:
    found = exploration.pair(a, b)
    best, similar = exploration.like(a, b)
    agreement = exploration.agreement(a, b)
    return {
        "i": found.path_i.tolist(),
        "j": found.path_j.tolist(),
        "png": _matrix(found.cost),
        "distance": _rounded(np.sqrt(found.cost[found.path_i, found.path_j]), 3),
        "agree": [None if math.isnan(share) else round(share, 4) for share in agreement],
        "best": best.tolist(),
        "cosine": _rounded(similar, 3),
    }


def _matrix(cost: np.ndarray) -> str:
    """Distances as a PNG of one pixel a cell, as a data URI; 64 shades are enough for the eye."""
    image = Image.fromarray(distance_levels(cost) & 0xFC)
    image.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]
