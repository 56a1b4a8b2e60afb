"""Members of tar files by name and by place: what lies at which bytes, and which tars are refused."""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

_MARK = ".tar!/"
_CHUNK_BYTES = 2**20


class TarProblem(ValueError):
    """A tar that is not read, or not to its end; the text says why."""


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def divide_member(source: str) -> tuple[str, str | None]:
    """Returns (tar, member) of `SHARD.tar!/MEMBER`, or (source, None) for anything else."""
    at = source.find(_MARK)
    if at < 0:
        return source, None
    return source[: at + 4], source[at + len(_MARK) :]


def list_members(path: str, file: IO[bytes] | None = None) -> Iterator[Member]:
    """Yields the regular files of an uncompressed tar in their order.

    Args:
        path: the tar; names it in errors.
        file: the open tar, where `path` is no local file.

    Raises:
        TarProblem: not a plain tar, cut off or damaged anywhere, several tars in one file, a link, a sparse file, or a
            name that leads out (absolute or with `..`).
    """
    end = 0
    try:
        with tarfile.open(None if file else path, "r:", fileobj=file, errorlevel=2) as tar:
            for info in tar:
                end = info.offset_data + info.size
                if info.isdir():
                    continue
                _refuse(path, info)
                yield Member(info.name, info.offset_data, info.size)
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            if file is None and os.path.getsize(path) < end:
                raise TarProblem(f"{path} is cut off: {os.path.getsize(path)} bytes of {end}.")
            _refuse_other_ends(path, tar)
    except (tarfile.TarError, EOFError) as err:
        raise TarProblem(
            f"{path} cannot be read as an uncompressed tar ({err}). Unpack a compressed one, "
            "write a cut-off one again."
        ) from err


def _refuse_other_ends(path: str, tar: Any) -> None:
    """`tarfile` stops at a damaged header as if the tar ended there, and at the end of the first of several tars."""
    at, file = tar.offset, tar.fileobj
    file.seek(at)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        raise TarProblem(
            f"{path} is cut off, or still being written: after {at} bytes it ends without the zeros that end a tar. "
            "Write it again."
        )
    if block.strip(b"\0"):
        raise TarProblem(
            f"{path} is damaged: what follows at byte {at} is neither a member nor the end of the tar. Write it again."
        )
    while block := file.read(_CHUNK_BYTES):
        if block.strip(b"\0"):
            raise TarProblem(
                f"{path} goes on behind its end, about byte {file.tell() - len(block)}: several tars in one file are "
                "not read. Write them into one tar, or name each."
            )


def _refuse(path: str, info: Any) -> None:
    name = info.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise TarProblem(
            f"{path} holds a member named {name!r}, which leads out of the tar: such tars are refused. "
            "Write it again with relative names."
        )
    if info.issym() or info.islnk():
        raise TarProblem(
            f"{path} holds the link {name!r} -> {info.linkname!r}: tars with links are refused. "
            "Write it again with --dereference --hard-dereference."
        )
    if not info.isreg() or info.issparse():
        raise TarProblem(
            f"{path} holds {name!r}, which is not a regular file: such tars are refused."
        )


def find_member(path: str, name: str) -> tuple[int, int]:
    """Returns (offset, size) of a member of a local tar; the index of the last few tars is kept in memory.

    Raises:
        TarProblem: no such tar or member, or a tar that is refused.
    """
    try:
        state = os.stat(path)
    except OSError as err:
        raise TarProblem(f"the tar cannot be read ({err.strerror}).") from err
    found = _index(path, state.st_size, state.st_mtime_ns).get(name)
    if found is None:
        raise TarProblem("the tar has no member of that name.")
    return found


@functools.lru_cache(maxsize=4)
def _index(path: str, size: int, mtime_ns: int) -> dict[str, tuple[int, int]]:
    return {member.name: (member.offset, member.size) for member in list_members(path)}
