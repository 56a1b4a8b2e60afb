"""The times of all frames from the index of an mp4 or mov file, without reading the rest of it.

Demultiplexing a file only to list its frames reads every byte of it: for a clip of an hour's video that costs more than
the clip.  The index (`moov`) has the same in a few kilobytes, but has many ways to be subtle.  So this is used for
plain files only (one video track, no fragments, no edit list or one that shows everything, no sample groups), and
everything else is demultiplexed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

# What a damaged or hostile file may claim, at most (a hundred hours).
_MAX_INDEX_BYTES, _MAX_FRAMES = 2**27, 2**24


class _NotPlain(Exception):
    """The index holds something that this module does not interpret."""


@dataclass(frozen=True, kw_only=True)
class Mp4Index:
    """Times in units of 1 / timescale s, int64: of the frames (sorted), and of the key frames (sorted by pts)."""

    pts: np.ndarray
    key_pts: np.ndarray
    key_dts: np.ndarray
    timescale: int


def read_mp4_index(path: str, byte_range: tuple[int, int] | None = None) -> Mp4Index | None:
    """Returns the index of the video track, or None where it is not plain, not there or damaged.

    Args:
        path: a local file.
        byte_range: (offset, size) of the video within the file.
    """
    try:
        with open(path, "rb") as file:
            offset, size = byte_range or (0, os.fstat(file.fileno()).st_size)
            return _read_track(_read_moov(file, offset, size))
    except (OSError, _NotPlain, struct.error, ValueError, KeyError):
        return None


def _read_moov(file: BinaryIO, offset: int, size: int) -> bytes:
    at = 0
    while at + 8 <= size:
        file.seek(offset + at)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        body = 8
        if length == 1:
            length, body = struct.unpack(">Q", head[8:16])[0], 16
        if length < body or kind == b"moof":
            raise _NotPlain
        if kind == b"moov":
            if length > _MAX_INDEX_BYTES or at + length > size:
                raise _NotPlain
            file.seek(offset + at + body)
            return file.read(length - body)
        at += length
    raise _NotPlain


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length < 8 or at + length > len(data):
            raise _NotPlain
        yield kind, data[at + 8 : at + length]
        at += length


def _one_each(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for kind, body in _boxes(data):
        if kind in found and kind != b"trak":
            raise _NotPlain
        found[kind] = body
    return found


def _read_track(moov: bytes) -> Mp4Index:
    top = _one_each(moov)
    if b"mvex" in top:
        raise _NotPlain
    tracks = []
    for kind, body in _boxes(moov):
        if kind == b"trak":
            track = _one_each(body)
            media = _one_each(track[b"mdia"])
            if media[b"hdlr"][8:12] == b"vide":
                tracks.append((track, media))
    ((track, media),) = tracks  # more than one, or none: ValueError
    timescale = _timescale(media[b"mdhd"])
    decode, show, keys = _samples(_one_each(_one_each(media[b"minf"])[b"stbl"]))
    if len(show) == 0 or show[0] != show.min() or len(keys) == 0 or keys[0] != 0:
        raise _NotPlain  # frames before the first key frame
    start = _start(track, show, timescale, _timescale(top[b"mvhd"]))
    pts = np.sort(show - start)
    if not (np.diff(pts) > 0).all():
        raise _NotPlain
    keys = keys[np.argsort(show[keys])]
    return Mp4Index(
        pts=pts, key_pts=show[keys] - start, key_dts=decode[keys] - start, timescale=timescale
    )


def _timescale(header: bytes) -> int:
    return int(struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0])


def _samples(table: dict[bytes, bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(decoding times, showing times, positions of key frames), all in the order of the file."""
    if b"sbgp" in table or struct.unpack_from(">I", table[b"stsd"], 4)[0] != 1:
        raise _NotPlain
    count = struct.unpack_from(">I", table[b"stsz"], 8)[0]
    if count > _MAX_FRAMES:
        raise _NotPlain
    steps = _run_lengths(table[b"stts"], count)
    decode = np.concatenate([[0], np.cumsum(steps)[:-1]]) if count else steps
    show = decode
    if b"ctts" in table:
        offsets = _run_lengths(table[b"ctts"], count)
        if (offsets < 0).any() or (offsets >= 2**31).any():
            raise _NotPlain
        show = decode + offsets
    keys = np.arange(count)
    if b"stss" in table:
        (length,) = struct.unpack_from(">I", table[b"stss"], 4)
        keys = np.frombuffer(table[b"stss"], ">u4", length, 8).astype(np.int64) - 1
    if (keys >= count).any() or (np.diff(keys) <= 0).any():
        raise _NotPlain
    return decode, show, keys


def _run_lengths(box: bytes, count: int) -> np.ndarray:
    (length,) = struct.unpack_from(">I", box, 4)
    runs = np.frombuffer(box, ">u4", 2 * length, 8).astype(np.int64).reshape(-1, 2)
    if runs[:, 0].sum() != count:
        raise _NotPlain
    return np.repeat(runs[:, 1], runs[:, 0])


def _start(track: dict[bytes, bytes], show: np.ndarray, timescale: int, movie_scale: int) -> int:
    """The showing time at which the edit list begins: that of the first frame, and it ends behind the last."""
    if b"edts" not in track:
        return 0
    edit = _one_each(track[b"edts"])[b"elst"]
    (length,) = struct.unpack_from(">I", edit, 4)
    layout = ">QqI" if edit[0] == 1 else ">IiI"
    duration, start, rate = struct.unpack_from(layout, edit, 8)
    ends = (int(show.max()) - start) * movie_scale + timescale >= duration * timescale
    if length != 1 or rate != 0x10000 or start != show.min() or ends:
        raise _NotPlain
    return int(start)
