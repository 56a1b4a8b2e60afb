"""Whether a backend returns the frames of a file that PyAV does, found out by decoding with both."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from video_ssl.clips.decoders.backends import wrong_on
from video_ssl.clips.decoders.files.facts import file_facts
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.decoders.sources import locate
from video_ssl.clips.reading import open_video
from video_ssl.clips.upkeep.isolated_worker import beat
from video_ssl.clips.upkeep.probe import Probe
from video_ssl.datasets.parts import divide_parts

_PIECE = 16


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One file to compare; `num_frames` of it at random, besides first and last; 0 for all."""

    probe: Probe
    backend: str
    num_frames: int = 16


def prove(task: Proof) -> str | None:
    """Returns why the backend is not to be used on the file, or None if every compared frame is equal to the bit.

    A property on which the library is known to be wrong counts, even if the compared frames are equal.  Of several
    files in a row each is compared.

    Raises:
        BadVideo: PyAV cannot read the file any more.
    """
    for part in divide_parts(task.probe.source):
        reason = _prove_file(replace(task, probe=replace(task.probe, source=part)))
        if reason is not None:
            return reason
    return None


def _prove_file(task: Proof) -> str | None:
    probe = task.probe
    place = locate(probe.source, byte_range=probe.byte_range, timeout_sec=probe.timeout_sec)
    try:
        if place.is_frames or place.byte_range is not None:
            return "only files of their own are read with it."
        known = wrong_on(task.backend, file_facts(place.path, name=place.name))
    finally:
        place.release()
    if known is not None:
        return f"{known}."
    with open_video(probe.source, timeout_sec=probe.timeout_sec) as reference:
        wanted = _choice(reference.info.num_frames, task.num_frames, probe.source)
        try:
            with open_video(probe.source, task.backend, timeout_sec=probe.timeout_sec) as candidate:
                # One by one in random order: every frame by a seek of its own.
                for begin in range(0, len(wanted), _PIECE):
                    piece = wanted[begin : begin + _PIECE]
                    for index, expected in zip(piece, reference.frames(piece), strict=True):
                        if not np.array_equal(candidate.frames([index])[0], expected):
                            return f"frame {index} differs."
                    beat()
        except BadVideo as err:
            return err.reason
    return None


def _choice(count: int, num_frames: int, source: str) -> np.ndarray:
    """The last frame, the first, and random ones, the same for the same source."""
    rng = np.random.default_rng(zlib.crc32(source.encode()))
    order = rng.permutation(count)
    if num_frames:
        order = order[:num_frames]
    ends = np.array([count - 1, 0])
    return np.concatenate([ends, order[~np.isin(order, ends)]])
