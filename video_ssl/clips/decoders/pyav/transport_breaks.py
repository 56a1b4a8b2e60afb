"""Where the packets of an MPEG transport stream do not follow on each other: pieces joined end to end, or lost packets.

Every packet carries a counter of four bits per stream.  Pieces that were written apart (`cat a.ts b.ts`, segments of a
live stream) start it anew, and FFmpeg marks a picture beside the border as corrupt, although nothing is missing.  A
recording with lost packets looks the same to it.  The clock shows which: nothing is missing where a picture begins
behind the border and the clock starts anew, or goes on with the next picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_SYNC = 0x47
_CLOCK = 90_000
# A step ahead beyond this is another recording; the ffmpeg program draws the same line.
_LONGEST_STEP = 10 * _CLOCK
_PACKETS_AT_A_TIME = 2**16


@dataclass(frozen=True, kw_only=True)
class Breaks:
    """What breaks the order of one stream's packets.

    Attributes:
        joints: borders at which nothing is missing.
        losses: anything else: packets that are missing, marked as damaged, or not found in their place.
        other_video: another video stream lies before or behind this one, not beside it: pieces that were joined have
            numbered their streams differently.
    """

    joints: int
    losses: int
    other_video: bool


def read_breaks(path: str, byte_range: tuple[int, int] | None, stream_id: int) -> Breaks | None:
    """Returns the breaks of stream `stream_id` (its packet identifier), or None if this is no transport stream.

    Args:
        path: a local file; read once from end to end, nothing is decoded.
        byte_range: (offset, size) of the video within the file; the whole of it if None.

    Raises:
        OSError: the file cannot be read.
    """
    begins, counters, stamps, losses = [], [], [], 0
    extents: dict[int, tuple[int, int]] = {}
    place = 0
    with open(path, "rb") as file:
        offset, size = byte_range or (0, os.fstat(file.fileno()).st_size)
        file.seek(offset)
        layout = _layout(file.read(min(size, 2048)))
        if layout is None:
            return None
        step, sync = layout
        for piece in _pieces(path, offset, size, step):
            packets = piece[:, sync : sync + 188]
            losses += int((packets[:, 0] != _SYNC).sum())
            identifiers = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
            for number in _video_streams(packets, identifiers) | extents.keys():
                rows = np.flatnonzero(identifiers == number)
                if len(rows):
                    first = extents.get(number, (place + int(rows[0]), 0))[0]
                    extents[number] = first, place + int(rows[-1])
            place += len(packets)
            own = packets[identifiers == stream_id]
            losses += int((own[:, 1] & 0x80 != 0).sum())  # the receiver's own mark of damage
            own = own[own[:, 3] & 0x10 != 0]  # only packets with content are counted on
            begins.append(own[:, 1] & 0x40 != 0)
            counters.append(np.stack([own[:, 3] & 0x0F, _says_discontinuity(own)], axis=1))
            stamps.append(_time_stamps(own))
    joints, lost = _judge(*(np.concatenate(parts) for parts in (begins, counters, stamps)))
    return Breaks(
        joints=joints, losses=losses + lost, other_video=_is_elsewhere(extents, stream_id)
    )


def _layout(head: bytes) -> tuple[int, int] | None:
    """(bytes from packet to packet, where in them the transport packet begins)."""
    for step, sync in ((188, 0), (192, 4), (204, 0)):
        marks = head[sync::step][:5]
        if len(marks) >= 2 and marks == bytes([_SYNC]) * len(marks):
            return step, sync
    return None


def _pieces(path: str, offset: int, size: int, step: int) -> Iterator[np.ndarray]:
    """uint8 (packets, step), a few megabytes at a time."""
    with open(path, "rb") as file:
        file.seek(offset)
        left = size // step
        while left > 0:
            content = file.read(min(left, _PACKETS_AT_A_TIME) * step)
            whole = len(content) // step
            if whole == 0:
                return
            yield np.frombuffer(content, np.uint8, whole * step).reshape(whole, step)
            left -= whole


def _says_discontinuity(packets: np.ndarray) -> np.ndarray:
    has_field = (packets[:, 3] & 0x20 != 0) & (packets[:, 4] > 0)
    return has_field & (packets[:, 5] & 0x80 != 0)


def _contents(packets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(packets in which a picture or a table begins, where in them), as far as a whole header lies in the packet."""
    rows = np.flatnonzero(packets[:, 1] & 0x40)
    start = 4 + np.where(packets[rows, 3] & 0x20, packets[rows, 4].astype(np.int64) + 1, 0)
    fits = start <= 188 - 19
    return rows[fits], start[fits]


def _time_stamps(packets: np.ndarray) -> np.ndarray:
    """int64 (N,), the decoding time (else the showing time) of pictures that begin in a packet, -1 where none does."""
    out = np.full(len(packets), -1, np.int64)
    rows, start = _contents(packets)
    content = packets[rows[:, None], start[:, None] + np.arange(19)].astype(np.int64)
    is_content = (content[:, :3] == (0, 0, 1)).all(axis=1)
    flags = content[:, 7] >> 6
    at = np.where(flags == 3, 14, 9)
    number = np.take_along_axis(content, at[:, None] + np.arange(5), axis=1)
    stamp = (
        (number[:, 0] >> 1 & 7) << 30
        | number[:, 1] << 22
        | number[:, 2] >> 1 << 15
        | number[:, 3] << 7
        | number[:, 4] >> 1
    )
    known = is_content & (flags >= 2)
    out[rows[known]] = stamp[known]
    return out


def _video_streams(packets: np.ndarray, identifiers: np.ndarray) -> set[int]:
    """The streams of which a picture begins in one of the packets."""
    rows, start = _contents(packets)
    head = packets[rows[:, None], start[:, None] + np.arange(4)]
    is_video = (head[:, :3] == (0, 0, 1)).all(axis=1) & (head[:, 3] >> 4 == 0xE)
    return set(identifiers[rows[is_video]].tolist())


def _is_elsewhere(extents: dict[int, tuple[int, int]], stream_id: int) -> bool:
    first, last = extents.get(stream_id, (0, 0))
    return any(begin > last or end < first for begin, end in extents.values())


def _judge(begins: np.ndarray, counters: np.ndarray, stamps: np.ndarray) -> tuple[int, int]:
    """(joints, losses) among the packets of one stream."""
    losses = 0
    follows = (counters[1:, 0] == (counters[:-1, 0] + 1) % 16) | (counters[1:, 1] != 0)
    borders = np.flatnonzero(~follows) + 1
    pictures = np.flatnonzero(stamps >= 0)
    steps = np.diff(stamps[pictures])
    steps = (steps + 2**32) % 2**33 - 2**32  # the clock has 33 bits
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    joints = 0
    for border in borders.tolist():
        place = int(np.searchsorted(pictures, border))
        is_picture = bool(begins[border]) and place < len(pictures) and pictures[place] == border
        step = steps[place - 1] if is_picture and place > 0 else None
        if step is not None and (step <= 1.5 * usual or step > _LONGEST_STEP):
            joints += 1
        else:
            losses += 1
    return joints, losses
