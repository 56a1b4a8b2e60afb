"""Moments as files of their own: exactly their frames, with their sound, of any source that can be read."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.upkeep.config import VideoFormat
from video_ssl.clips.upkeep.transcode_file import Transcode, transcode_file
from video_ssl.embed.features import FeatureFile
from video_ssl.explore.hits import Place
from video_ssl.explore.tracks import record_of
from video_ssl.files import OutputError, check_writable

logger = logging.getLogger(__name__)

__all__ = ["claim_new_folder", "cut_moments"]

#: H.264 in the size of the source, hardly to be told from it.
_FORMAT = VideoFormat(short_side=1 << 14, crf=16, gop=12)
#: A stretch ends before its `end_sec`, rounded to half a millisecond; the last frame belongs to the moment.
_BEHIND_SEC = 1e-3


def claim_new_folder(folder: str | Path) -> Path:
    """Returns the folder for cut clips; to be asked before any work.

    Raises:
        OutputError: it holds something, which is never replaced, or cannot be made.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(
            f"{folder} is no empty folder, and no clip is ever written over a file: name a new folder for the clips."
        )
    check_writable(path, folder)
    return path


def cut_moments(
    moments: Sequence[Place], features: FeatureFile, folder: Path
) -> tuple[list[Path | None], list[str]]:
    """Returns the mp4 file of each moment, None where it cannot be cut, and the reasons.

    A file has the frames from the first to the last of its moment, at their times (variable rates stay so), in the
    size of the source, and the sound that belongs to them.

    Args:
        folder: as `claim_new_folder` returned it.

    Raises:
        OutputError: a file of that name has come there meanwhile.
    """
    files: list[Path | None] = []
    lost: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for rank, moment in enumerate(moments, 1):
        try:
            files.append(_cut(moment, features, folder, f"{rank:0{len(str(len(moments)))}d}"))
        except BadVideo as err:
            files.append(None)
            lost.append(f"moment {rank} was not cut: {err}")
    return files, lost


def _cut(moment: Place, features: FeatureFile, folder: Path, rank: str) -> Path:
    record = record_of(features, moment.id)
    if record is None or moment.start_sec is None or moment.end_sec is None:
        raise BadVideo(
            moment.id,
            "is not where it was when it was embedded (moved? --root), or its times are unknown.",
        )
    name = re.sub(r"[^\w.-]+", "_", Path(moment.id).stem).strip("_") or "video"
    target = folder / f"{rank}_{name[:80]}_{moment.start_sec:.2f}-{moment.end_sec:.2f}.mp4"
    if target.exists():
        raise OutputError(f"{target} is there already: it is not replaced. Name a new folder.")
    part = replace(record, start_sec=moment.start_sec, end_sec=moment.end_sec + _BEHIND_SEC)
    transcode_file(Transcode(record=part, target=target, format=_FORMAT))
    return target
