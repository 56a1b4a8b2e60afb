"""An approximate index (HNSW, by usearch) over the frames of a feature file, kept beside it on disk.

It is built once, block by block, and then looked at where it lies (`view`), so a search needs little
memory; building holds the index, about 2 D + 150 bytes for a frame.  Similarities are always computed
again from the features themselves: only *which* frames are found is approximate.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.neighbours import unit_rows
from video_ssl.explore.archive import Archive, Found
from video_ssl.files import (
    MADE_BY,
    claim_file,
    made,
    write_json,
    written_aside,
)
from video_ssl.progress import metered

logger = logging.getLogger(__name__)

_SETTINGS = {"metric": "cos", "dtype": "f16", "connectivity": 16, "expansion_add": 128}


def available() -> bool:
    """Returns whether usearch is installed."""
    import importlib.util

    return importlib.util.find_spec("usearch") is not None


def require_usearch() -> None:
    """Raises FeatureError unless usearch is installed."""
    if not available():
        raise FeatureError("an approximate index needs usearch: pip install 'video_ssl[search]'")


def open_index(archive: Archive, *, threads: int = 0) -> Any:
    """Returns the index of an archive, built where it is missing or of other features.

    Args:
        threads: that build it; 0: all cores.  With one thread the index is always the same.

    Raises:
        FeatureError: usearch is not installed, or the features are not in a file.
    """
    require_usearch()
    from usearch.index import Index

    if archive.path is None:
        raise FeatureError("an index lies beside a feature file, but these features are in memory.")
    path = archive.path.with_name(f"{archive.path.name}.usearch")
    about_path = path.with_name(f"{path.name}.json")
    about = _about(archive)
    if path.is_file() and about_path.is_file():
        if _read(about_path) == about:
            return Index.restore(str(path), view=True)
        logger.info("%s is of other features and is built again", path)
    claim_file(about_path, "search", sources=[archive.path])
    claim_file(path, "search", sources=[archive.path], is_ours=lambda _: about_path.is_file())
    index = Index(ndim=archive.features.embed_dim, **_SETTINGS)
    with metered(f"indexing {path.name}", total=archive.num_frames, unit="frames") as meter:
        for block in archive.blocks():
            vectors = unit_rows(block.vectors)
            usable = np.flatnonzero(vectors.any(axis=1))
            index.add(usable + block.first, vectors[usable], threads=threads)
            meter.advance(len(vectors))
    with written_aside(path) as aside:
        index.save(str(aside))
        write_json(about_path, {MADE_BY: made("search")}, indent=None)  # ours, of no features yet
    write_json(about_path, about, indent=None)
    return Index.restore(str(path), view=True)


def _read(about: Path) -> Any:
    try:
        return json.loads(about.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _about(archive: Archive) -> dict[str, Any]:
    assert archive.path is not None
    stat = os.stat(archive.path)
    return {
        MADE_BY: made("search"),
        "file": Path(archive.path).name,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "frames": archive.num_frames,
        **_SETTINGS,
    }


def probable_frames(
    queries: np.ndarray,
    archive: Archive,
    index: Any,
    k: int,
    *,
    without: int | None = None,
    breadth: int = 4,
) -> Found:
    """Returns what `nearest_frames` returns, of the frames that the index finds.

    Videos without a frame among those found have the score -inf.

    Args:
        breadth: the index returns `breadth` * k frames, and looks at as many more.
    """
    asked = unit_rows(queries)
    count = min(archive.num_frames, max(64, breadth * k))
    similar = np.full((len(asked), k), -np.inf, np.float32)
    frames = np.zeros((len(asked), k), np.int64)
    highest = np.full((len(asked), len(archive.ids)), -np.inf, np.float32)
    index.expansion_search = 2 * count
    for row, query in enumerate(asked):
        keys = np.sort(np.asarray(index.search(query, count).keys, np.int64))
        videos = archive.videos(keys)
        keep = videos != (-1 if without is None else without)
        keys, videos = keys[keep], videos[keep]
        values = unit_rows(archive.vectors(keys)) @ query
        order = np.argsort(-values, kind="stable")[:k]
        similar[row, : len(order)], frames[row, : len(order)] = values[order], keys[order]
        np.maximum.at(highest[row], videos, values)
    met = np.isfinite(highest).any(axis=0)
    lowest = np.where(np.isfinite(similar), similar, np.inf).min(axis=1, keepdims=True)
    # A video that one query met and another did not is no nearer to the other than its last found.
    filled = np.where(np.isfinite(highest), highest, np.where(np.isfinite(lowest), lowest, -1))
    scores = np.where(met, filled.mean(axis=0), -np.inf)
    return Found(similar=similar, frames=frames, videos=scores.astype(np.float32))
