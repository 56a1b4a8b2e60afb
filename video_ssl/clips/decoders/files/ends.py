"""Whether a video file ends where its own structure says: a download that broke off, or two files in one.

FFmpeg reads what is there and stops, which is right for a player and wrong for a data set: half of a WebM is half of an
action under the label of the whole.  Every container but raw streams says where it ends, by a size in its header or by
the length of its last packet, and a few reads of the header or the chain of lengths finds it.  Nothing is decoded.

What cannot be known is not refused: live recordings without a size end where their last packet ends.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

_JOINED = (
    "holds several videos one after the other, of which not all would be shown: "
    "split them, or join them with `ffmpeg -f concat`."
)
_BROKEN_OFF = (
    "is cut off within its last packet, at byte {}: get it again, or keep what is there with "
    "`ffmpeg -i IN -c copy OUT`."
)
_NOT_FILLED = (
    "is not whole: at byte {} it holds only zeros, as of a download that got its full size before its contents: "
    "get it again."
)


class Part:
    """The bytes of a video: a whole file, or a part of one."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self.size = size

    def read(self, at: int, count: int) -> bytes:
        """Returns up to `count` bytes from `at` on; fewer at the end."""
        count = min(count, self.size - at)
        return os.pread(self._descriptor, count, self._offset + at) if count > 0 else b""


def why_unfinished(path: str, offset: int, size: int) -> str | None:
    """Returns why the bytes `offset`, `offset + size` of a file are no complete video, or None.

    The text is the rest of a sentence that begins with the file's name.  None means: complete, of a kind that does not
    tell, or damaged in a way that the decoder finds.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        part = Part(file.fileno(), offset, size)
        head = part.read(0, 16)
        for looks_like, check in _CHECKS:
            if looks_like(head):
                return check(part)
    return None


def _cut(part: Part, end: int) -> str:
    return f"is cut off: {part.size} bytes of {end}."


def _cut_in_packet(part: Part) -> str:
    return _BROKEN_OFF.format(part.size)


def _are_zeros(content: bytes) -> bool:
    return bool(content) and not content.strip(b"\0")


def _mp4(part: Part) -> str | None:
    at, indexes, is_fragmented = 0, 0, False
    while at + 8 <= part.size:
        box = part.read(at, 16)
        length = int(struct.unpack(">I", box[:4])[0])
        if length == 1 and len(box) == 16:
            length = int(struct.unpack(">Q", box[8:16])[0])
        if length < 8 or not box[4:8].strip(b"\xa9").isalnum():  # runs to the end, or padding
            break
        indexes += box[4:8] == b"moov"
        is_fragmented = is_fragmented or box[4:8] == b"moof"
        at += length
    if at > part.size:
        return _cut(part, at)
    # Without fragments the index lists every picture, and the decoder finds those that are not there.
    if is_fragmented and _are_zeros(part.read(at, 512)):
        return _NOT_FILLED.format(at)
    return _JOINED if indexes > 1 else None


def _riff(part: Part) -> str | None:
    """AVI; one of more than a gigabyte is a chain of RIFF lists."""
    at = 0
    while (head := part.read(at, 12))[:4] == b"RIFF" and head[8:11] == b"AVI":
        length = int(struct.unpack("<I", head[4:8])[0])
        if length == 0:  # never finished: the length is written at last
            return None
        at += 8 + length + length % 2
        # Some programs count the eight bytes of the list's own head, or pad an odd one.
        if at > part.size and at - part.size not in (8, length % 2):
            return _cut(part, at)
    return None


# Matroska: elements are an identifier, a size and content; both numbers are as long as their first byte says.

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_EBML_HEADER = 0x1A45DFA3
_TOP_LEVEL = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B, 0x1941A469, 0x1043A770,
              0x1254C367, 0xEC, 0xBF}  # fmt: skip
_IN_CLUSTER = {0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, 0x5854, 0xEC, 0xBF}


def _element(part: Part, at: int) -> tuple[int, int, int | None] | None:
    """(identifier, where the content begins, its size or None if unknown), or None where there is no element."""
    head = part.read(at, 12)
    if not head or head[0] < 0x08:
        return None
    length = 9 - head[0].bit_length()
    if len(head) <= length or head[length] == 0:
        return None
    size_length = 9 - head[length].bit_length()
    number = head[length : length + size_length]
    if len(number) < size_length:
        return None
    mask = (1 << (7 * size_length)) - 1
    size = int.from_bytes(number, "big") & mask
    begin = at + length + size_length
    return int.from_bytes(head[:length], "big"), begin, None if size == mask else size


def _matroska(part: Part) -> str | None:
    at = 0
    while (header := _element(part, at)) is not None and header[0] == _EBML_HEADER:
        if at > 0:
            return _JOINED
        if header[2] is None:
            return None
        segment = _element(part, header[1] + header[2])
        if segment is None or segment[0] != _SEGMENT:
            return None
        if segment[2] is None:  # recorded live: only its last element contains it
            return _matroska_chain(part, segment[1])
        at = segment[1] + segment[2]
        if at > part.size:
            return _cut(part, at)
        # A segment ends with its index or with a coded picture, and neither with so many zeros.
        tail = part.size - min(512, part.size // 4)
        if _are_zeros(part.read(tail, part.size - tail)):
            return _NOT_FILLED.format(tail)
    return None


def _matroska_chain(part: Part, at: int) -> str | None:
    """Follows the elements of a segment of unknown size; clusters may be of unknown size too."""
    while at < part.size:
        element = _element(part, at)
        if element is None:
            return _cut_in_packet(part) if part.size - at < 12 else None
        identifier, begin, size = element
        if identifier == _EBML_HEADER:
            return _JOINED
        if identifier == _CLUSTER and size is None:
            at = begin
            continue
        if identifier not in _TOP_LEVEL | _IN_CLUSTER or size is None:
            return None
        at = begin + size
    return _cut_in_packet(part) if at > part.size else None


def _flv(part: Part) -> str | None:
    at = int(struct.unpack(">I", part.read(5, 4))[0]) + 4 if part.size >= 9 else part.size
    while at < part.size:
        tag = part.read(at, 11)
        if tag[:3] == b"FLV":
            return _JOINED
        if tag[0] & 0x1F not in (8, 9, 18):
            return None
        end = at + 11 + (int.from_bytes(tag[1:4], "big") if len(tag) == 11 else 0)
        if (part.size < end + 4 and part.size != end) or len(
            tag
        ) < 11:  # some leave out the last length
            return _cut_in_packet(part)
        at = end + 4
    return None


_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_INDEXES = (
    bytes.fromhex("90080033b1e5cf1189f400a0c90349cb"),
    bytes.fromhex("d329e2d6da35d111903400a0c90349be"),
    bytes.fromhex("f803b1feAD12644c840f2a1d2f7ad48c"),
)


def _asf(part: Part) -> str | None:
    at, packet = 0, 0
    while len(head := part.read(at, 24)) == 24:
        kind, length = head[:16], int(struct.unpack("<Q", head[16:])[0])
        if kind == _ASF_HEADER:
            if at > 0:
                return _JOINED
            header = part.read(0, min(length, 2**20))
            about = header.find(_ASF_FILE)
            if about < 0 or len(header) < about + 92 or header[about + 88] & 1:  # a broadcast
                return None
            packet = int(struct.unpack("<I", header[about + 92 : about + 96].ljust(4, b"\0"))[0])
        elif kind != _ASF_DATA and kind not in _ASF_INDEXES:
            return _NOT_FILLED.format(at) if at and _are_zeros(head) else None
        if length < 24:
            return None
        at += length
        # A packet is filled up with zeros, but never begins with them.
        is_there = kind == _ASF_DATA and 16 <= packet <= length - 50 and at <= part.size
        if is_there and _are_zeros(part.read(at - packet, 16)):
            return _NOT_FILLED.format(at - packet)
    return _cut(part, at) if at > part.size else None


def _ogg(part: Part) -> str | None:
    at, has_begun = 0, False
    while (head := part.read(at, 27 + 255))[:4] == b"OggS":
        begins = len(head) > 5 and bool(head[5] & 2)
        if begins and has_begun:
            return _JOINED
        has_begun = has_begun or not begins
        if len(head) < 27 or len(head) < 27 + head[26]:
            return _cut_in_packet(part)
        end = at + 27 + head[26] + sum(head[27 : 27 + head[26]])
        if end > part.size:
            return _cut_in_packet(part)
        if end == part.size and end - at > 256 and _are_zeros(part.read(end - 128, 128)):
            return _NOT_FILLED.format(end - 128)
        at = end
    return _NOT_FILLED.format(at) if _are_zeros(part.read(at, 64)) else None


def _ivf(part: Part) -> str | None:
    """VP8, VP9 or AV1: a header that contains its own length, then pictures, each with its length before it."""
    at = int.from_bytes(part.read(6, 2), "little")
    while at < part.size:
        head = part.read(at, 12)
        if _are_zeros(head):
            return _NOT_FILLED.format(at)
        if len(head) < 12:
            return _cut_in_packet(part)
        at += 12 + int.from_bytes(head[:4], "little")
    return _cut_in_packet(part) if at > part.size else None


def _program_stream(part: Part) -> str | None:
    at = 0
    while len(head := part.read(at, 14)) >= 4 and head[:3] == b"\0\0\1":
        if head[3] == 0xB9:  # the end; another stream may follow
            at += 4
        elif head[3] == 0xBA:
            is_mpeg2 = len(head) > 4 and head[4] >> 6 == 1
            at += 14 + (head[13] & 7 if len(head) == 14 else 0) if is_mpeg2 else 12
        elif head[3] >= 0xBB and len(head) >= 6:
            at += 6 + int.from_bytes(head[4:6], "big")
        else:
            return None
    return _cut_in_packet(part) if at > part.size else None


def _transport_stream(part: Part) -> str | None:
    """Packets of equal size; what is left at the end and begins like one is a part of one."""
    for step, sync in ((188, 0), (192, 4), (204, 0)):
        if all(part.read(sync + k * step, 1) == b"\x47" for k in range(3)):
            rest = part.size % step
            tail = part.read(part.size - rest, sync + 1)
            if rest and tail[sync:] in (b"", b"\x47"):
                return _cut_in_packet(part)
            last = part.size - rest - step
            return _NOT_FILLED.format(last) if _are_zeros(part.read(last, step)) else None
    return None


def _gif(part: Part) -> str | None:
    flags = part.read(10, 1)
    at = 13 + _gif_colors(flags[0]) if flags else part.size + 1
    while at < part.size:
        (kind,) = part.read(at, 1)
        if kind == 0x3B:
            return None
        if kind == 0x2C:
            image = part.read(at, 10)
            at += 11 + (_gif_colors(image[9]) if len(image) == 10 else 0)
        elif kind == 0x21:
            at += 2
        else:
            return None
        while (length := part.read(at, 1)) and length[0]:
            at += 1 + length[0]
        at += 1
    return _cut_in_packet(part) if at > part.size else None


def _gif_colors(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _png(part: Part) -> str | None:
    at = 8
    while len(chunk := part.read(at, 8)) == 8 and chunk[4:] != b"IEND":
        at += 12 + int.from_bytes(chunk[:4], "big")
    return None if chunk[4:] == b"IEND" else _cut_in_packet(part)


def _mxf(part: Part) -> str | None:
    """The first partition says where the last one lies."""
    head = part.read(0, 64)
    length = 1 + (head[16] & 0x7F if len(head) > 16 and head[16] & 0x80 else 0)
    number = head[16 + length + 24 : 16 + length + 32]
    footer = int.from_bytes(number, "big") if len(number) == 8 else 0
    if footer >= part.size:
        return _cut(part, footer)
    return _NOT_FILLED.format(footer) if footer and _are_zeros(part.read(footer, 16)) else None


def _raw_dv(part: Part) -> str | None:
    frame = 144_000 if part.read(3, 1)[0] & 0x80 else 120_000
    rest = part.size % frame
    return _cut_in_packet(part) if rest else None


def _y4m(part: Part) -> str | None:
    header = part.read(0, 512).partition(b"\n")[0]
    sizes = re.search(rb" W(\d+) .*?H(\d+)", header + b" ")
    kind = re.search(rb" C(\w+)", header)
    chroma = {b"420": 2, b"422": 1, b"444": 0, b"mon": 3}.get(kind[1][:3] if kind else b"420")
    if (
        sizes is None
        or chroma is None
        or (kind and re.search(rb"p\d|\d\d\d\w*alpha|mono\d", kind[1]))
    ):
        return None
    width, height = int(sizes[1]), int(sizes[2])
    across = -(-width // 2) if chroma else width
    down = -(-height // 2) if chroma == 2 else height
    frame = width * height + (0 if chroma == 3 else 2 * across * down)
    at = len(header) + 1
    while (line := part.read(at, 80))[:5] == b"FRAME":
        at += line.find(b"\n") + 1 + frame
    return _cut_in_packet(part) if at > part.size else None


def _raw_jpegs(part: Part) -> str | None:
    tail = part.read(max(0, part.size - 4096), 4096).rstrip(b"\0\r\n")
    return None if tail.endswith(b"\xff\xd9") else "is cut off: its last picture has no end."


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[Part], str | None]], ...] = (
    (lambda head: head[4:8] in _BOXES, _mp4),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", _riff),
    (_starts(b"\x1a\x45\xdf\xa3"), _matroska),
    (_starts(b"FLV\x01"), _flv),
    (_starts(_ASF_HEADER), _asf),
    (_starts(b"OggS"), _ogg),
    (_starts(b"\0\0\1\xba"), _program_stream),
    (_starts(b"GIF87a", b"GIF89a"), _gif),
    (_starts(b"\x89PNG\r\n\x1a\n"), _png),
    (_starts(b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02"), _mxf),
    (_starts(b"DKIF"), _ivf),
    (_starts(b"\x1f\x07\x00"), _raw_dv),
    (_starts(b"YUV4MPEG2"), _y4m),
    (_starts(b"\xff\xd8\xff"), _raw_jpegs),
    (lambda head: head[:1] == b"\x47" or head[4:5] == b"\x47", _transport_stream),
)
