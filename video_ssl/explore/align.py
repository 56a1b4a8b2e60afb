"""`video-ssl align`: two videos brought into step, as a video, a picture and data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.embed.features import open_features
from video_ssl.explore.alignment import align, save_path
from video_ssl.explore.alignment_video import path_picture, write_side_by_side
from video_ssl.explore.config import AlignConfig
from video_ssl.explore.tracks import find_track, refuse_unknown
from video_ssl.files import MADE_BY, claim_folder, made, made_by, written_aside

FILES = ("path.csv", "path.json", "path.npz", "path.png", "aligned.mp4")

logger = logging.getLogger(__name__)


def align_videos(
    query: str,
    key: str,
    out: str | Path,
    *,
    features: str | Path | None = None,
    encoder: str | None = None,
    config: AlignConfig | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Returns what was found, and writes OUT/path.{csv,json,npz,png} and OUT/aligned.mp4.

    Args:
        query, key: video files, or ids of records of `features`.
        features: a feature file; video files are then embedded with its settings.
        encoder: embeds video files; see `load_encoder`.
        config: how.
        root: the folder that the videos of `features` lie in now, where they were moved.

    Raises:
        FeatureError, AlignmentError, BadVideo: see there.
        OutputError: one of the files is there and was not made by align, is read, or cannot be written.
    """
    config = config or AlignConfig()
    folder = _claim(out, [query, key, *([features] if features is not None else [])])
    opened = open_features(features, root=root) if features is not None else None
    for name in (query, key):  # both, before the first is embedded
        refuse_unknown(name, features=opened, encoder=encoder)
    a, b = (find_track(n, features=opened, encoder=encoder, device=device) for n in (query, key))
    found = align(a.embs, b.embs, method=config.method)
    query_sec, key_sec = a.times, b.times
    about = {
        MADE_BY: made("align"),
        "query": a.id,
        "key": b.id,
        "query_source": a.record.source if a.record else None,
        "key_source": b.record.source if b.record else None,
    }
    (folder / "aligned.mp4").unlink(missing_ok=True)  # ours, of what was aligned before
    files = save_path(found, folder, query_sec=query_sec, key_sec=key_sec, about=about)
    with written_aside(folder / "path.png", suffix=".png") as aside:
        path_picture(found).save(aside)
    files.append(folder / "path.png")
    notes = []
    if found.stride > 1:
        notes.append(f"every {found.stride}th frame was used: the videos are long")
    if a.record is None or b.record is None or not _known(a.times, b.times):
        notes.append(
            "no video was written: the feature file does not say where the pictures are, or when, or they are gone "
            "(moved? --root FOLDER)"
        )
    else:
        write_side_by_side(
            folder / "aligned.mp4",
            found,
            query=a.record,
            key=b.record,
            query_sec=query_sec,
            key_sec=key_sec,
            height=config.height,
        )
        files.append(folder / "aligned.mp4")
    per_step = found.distance / len(found.path_i)
    logger.info(
        "%s (%d frames) and %s (%d frames): squared distance %.4g a step",
        *(a.id, len(a.embs), b.id, len(b.embs), per_step),
    )
    for note in notes:
        logger.warning("Note: %s.", note)
    logger.info("Written: %s", ", ".join(str(file) for file in files))
    return {
        **about,
        "cost_per_step": per_step,
        "files": [str(file) for file in files],
        "notes": notes,
    }


def _claim(out: str | Path, sources: list[str | Path]) -> Path:
    """The folder; it is ours where its path.json says so, which is written first."""
    ours = made_by(Path(out) / "path.json") == "align"
    return claim_folder(out, "align", FILES, ours=ours, sources=sources)


def _known(*times: np.ndarray) -> bool:
    return all(bool(np.isfinite(t).all()) for t in times)
