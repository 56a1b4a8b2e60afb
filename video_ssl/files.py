"""How files are written: whole or not at all, under names that are free to take, and swept up where a writer has died.

A file is written aside, under a temporary name that says who writes it, and renamed when it is complete.  A verb that
writes asks `claim_file` before any work: a place that is a source, somebody else's file, or not writable is refused
in one sentence.  Whose a file is, it says itself (`made_by`); a file that does not say so is never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# How a system says that there is no room: the disk is full, a quota is used up, a file is as long as one may be.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The key, in whatever way a kind of file holds keys, under which a file of ours says which verb has made it.
MADE_BY = "made_by"
_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<place>[0-9a-f]{8}-)?(?P<pid>\d+)(-(?P<start>\d+))?\.(?P<kind>tmp|partial|old)(\.\w+)?"
)
_OWNER = re.compile(r"(?P<place>[0-9a-f]{8}-)(?P<pid>\d+)-(?P<start>\d+)")
_PAGE_MARK = re.compile(rb'<meta name="generator" content="video-ssl (?P<verb>[a-z][a-z ]*)">')
_TEXT_MARK = re.compile(rb"# made by video-ssl (?P<verb>[a-z][a-z ]*)\n")
_JSON_MARK = re.compile(rb'\s*\{\s*"made_by":\s*"video-ssl (?P<verb>[a-z][a-z ]*)"')
# Nobody writes one file for so long without touching it: then its writer, on another machine, is dead.
_SILENT_SEC = 86_400.0
_HEAD_BYTES = 65_536
_LONGEST_NAME = 190
_CROWDED_BYTES = 1 << 20


class OutputError(ValueError):
    """A place that must not or cannot be written; the text says why and what to do."""


class DiskFull(OSError):
    """The disk is full: nothing that is finished is lost, the work goes on where it stopped."""


# Writing


@contextlib.contextmanager
def written_aside(path: Path, *, suffix: str = "", sweep: bool = True) -> Iterator[Path]:
    """Yields the temporary name of a file; it gets its own once the block has ended well, and never otherwise.

    Args:
        path: what it becomes; its folder must be there.
        suffix: of the temporary name, for writers that go by it.
        sweep: remove first what writers of it that were killed have left; a look at the whole folder.
    """
    if sweep:
        remove_leftovers(path.parent, [path.name])
    temporary = temporary_name(path, suffix=suffix)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(folder: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yields a new folder; it takes the place of `folder`, whatever is in that, once the block has ended well.

    Args:
        folder: what it becomes.
        sync: its files are on the disk then, also after a power cut.
    """
    folder = Path(os.path.realpath(folder))  # of a link what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, [folder.name])
    temporary = temporary_name(folder)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*") if sync else ():
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        take_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def output_aside(path: Path) -> Iterator[Path]:
    """Yields the name of a file or folder that others write, with temporary names of their own beside it.

    It lies in a folder that is swept up whole after a kill, and takes the place of `path` (a file, an empty folder or
    nothing) once the block has ended well.
    """
    path = Path(os.path.realpath(path))  # of a link what it points to is made
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, [path.name])
    temporary = temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary / path.name
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def take_place(temporary: Path, folder: Path) -> None:
    """Gives a complete folder its name; what has that name now is there until then, or after a crash."""
    old = temporary_name(folder, kind="old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(temporary, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_at_once(folder: Path) -> None:
    """Removes a folder: whoever is killed on the way leaves nothing of it under its name.

    Raises:
        OSError: it is not there, or may not be renamed.
    """
    aside = temporary_name(folder)
    os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a small text file so that a reader, and a crash, sees the old content or the new one."""
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Writes a small JSON file as `write_atomically` does; NaN is written as Python does."""
    write_atomically(path, json.dumps(content, indent=indent) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one line of JSON for every row as `write_atomically` does."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


# Temporary names, and what is left of them


def temporary_name(path: Path, *, kind: str = "tmp", suffix: str = "") -> Path:
    """Returns the name under which this process writes a file that becomes `path`, beside it."""
    return path.with_name(f".{_shortened(path.name)}.{owner()}.{kind}{suffix}")


def _shortened(name: str) -> str:
    """The name, or a digest where it would leave no room for the rest: file systems allow 255 bytes."""
    whole = os.fsencode(name)
    return name if len(whole) <= _LONGEST_NAME else hashlib.sha256(whole).hexdigest()[:32]


@contextlib.contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Yields a new folder among the temporary files, removed afterwards; see `make_temporary_folder`."""
    folder = make_temporary_folder(kind)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder(kind: str) -> Path:
    """Returns a new folder among the temporary files, and removes those of processes that were killed.

    Args:
        kind: a word of small letters, for the name.
    """
    remove_owned(Path(tempfile.gettempdir()), "video_ssl-")
    return Path(tempfile.mkdtemp(prefix=f"video_ssl-{kind}-{owner()}-"))


def remove_owned(folder: Path, begin: str) -> None:
    """Removes what processes that have ended have left in a folder under names BEGIN...OWNER..., see `owner`."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            match = _OWNER.search(entry.name) if entry.name.startswith(begin) else None
            if match is not None and not _is_alive(match, Path(entry)):
                _remove(Path(entry))


def remove_leftovers(
    folder: Path, names: Collection[str] | None = None, *, held: bool = False
) -> None:
    """Removes what writers that were killed have left in a folder under temporary names.

    A writer of this machine is looked up; one of another machine is taken for dead when its file has not changed for
    a day.  A folder that was moved aside, and whose successor never came, is put back.

    Args:
        folder: need not exist.
        names: that the files were to get; None for all.
        held: nobody else writes them: the caller holds a lock.  Then no writer is alive.
    """
    wanted = None if names is None else {_shortened(name) for name in names}
    try:
        there = [Path(entry) for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for path in there:
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or (wanted is not None and match["name"] not in wanted):
            continue
        if held or not _is_alive(match, path):
            if match["kind"] == "old" and not (folder / match["name"]).exists():
                with contextlib.suppress(OSError):
                    os.replace(path, folder / match["name"])
            else:
                _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def owner() -> str:
    """Returns this process for a name: where its number counts, its number, and when it began (numbers come again)."""
    pid = os.getpid()
    return f"{_machine()}-{pid}-{_began(pid) or 0}"


def _is_alive(match: re.Match[str], path: Path) -> bool:
    if match["place"] == f"{_machine()}-":
        began = _began(int(match["pid"]))
        return began is not None and (began == 0 or match["start"] in ("0", str(began)))
    try:
        return time.time() - path.stat().st_mtime < _SILENT_SEC
    except OSError:
        return False


@functools.cache
def _machine() -> str:
    """Eight characters for the processes among which a number means the same: of a host, or of a container in it."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _began(pid: int) -> int | None:
    """When a process began, in ticks of the machine; 0 where the system does not say; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        return None if state in "ZX" else int(fields[18])  # one that nobody waits for has ended too
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return 0
    return 0


# What may be written


def claim_file(
    path: str | os.PathLike[str],
    maker: str,
    *,
    sources: Iterable[str | os.PathLike[str]] = (),
    is_ours: Callable[[Path], bool] | None = None,
) -> Path:
    """Returns the file to write, links followed; to be asked before any work.

    Args:
        path: as given; its folder may be made later.
        maker: the verb that writes: only what the same verb has made is replaced, and empty files.
        sources: files that are read; URIs count for nothing.
        is_ours: whether a file was made by the verb; by default `made_by` decides.

    Raises:
        OutputError: it is a source; it is a file that `maker` has not made, a folder, a device; it is protected; or
            its folder cannot be made or written.
    """
    given, target = os.fspath(path), Path(os.path.realpath(path))
    shown = given if str(target) == os.path.abspath(given) else f"{given} (a link to {target})"
    refuse_source(shown, target, sources)
    try:
        found = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as err:
        raise OutputError(unwritable(shown, err)) from err
    else:
        _refuse_foreign(
            shown, target, found, maker, is_ours or (lambda file: made_by(file) == maker)
        )
    check_writable(target.parent, shown)
    return target


def claim_folder(
    folder: str | os.PathLike[str],
    maker: str,
    names: Iterable[str],
    *,
    ours: bool,
    sources: Iterable[str | os.PathLike[str]] = (),
) -> Path:
    """Returns the folder to fill, links followed; to be asked before any work.

    Args:
        folder: as given; need not be there.
        maker: the verb that writes.
        names: of files and folders that will be written in it.
        ours: whether the folder is known as one that the verb has filled; else what is there under those names is
            somebody else's.
        sources: as of `claim_file`.

    Raises:
        OutputError: it is no folder or cannot be written, or one of the names is taken by somebody or is a source.
    """
    given, place = os.fspath(folder), Path(os.path.realpath(folder))
    if place.exists() and not place.is_dir():
        raise OutputError(f"{given} is not a folder: give the name of a folder to fill.")
    check_writable(place, given)
    there = [place / name for name in names if os.path.lexists(place / name)]
    sources = list(sources) if there else []
    for path in there:
        refuse_source(Path(given) / path.name, path, sources)
        if not ours:
            raise OutputError(
                f"{given} has {path.relative_to(place)} already, and `video-ssl {maker}` has not made it: it is not "
                "replaced. Give another folder, or move that away."
            )
    return place


def _refuse_foreign(
    shown: str,
    target: Path,
    found: os.stat_result,
    maker: str,
    is_ours: Callable[[Path], bool],
) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{shown} is a folder: give the name of a file to write.")
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{shown} is no regular file: give the name of a file to write.")
    if found.st_size and not is_ours(target):
        raise OutputError(
            f"{shown} is there already and was not made by `video-ssl {maker}`: it is not replaced. Give another name, "
            "or move that file away."
        )
    if not found.st_mode & 0o222:
        raise OutputError(
            f"{shown} is protected against writing: choose another place, or take the protection off (chmod u+w)."
        )


def refuse_source(
    shown: str | os.PathLike[str], target: Path, sources: Iterable[str | os.PathLike[str]]
) -> None:
    """Refuses a target that is one of the sources, by whatever name or link.

    Raises:
        OutputError: naming both.
    """
    taken = identity(target)
    if taken is None:
        return
    for source in sources:
        if identity(source) == taken:
            raise OutputError(
                f"{os.fspath(shown)} is {os.fspath(source)}, which is read: nothing is written over a source. Choose "
                "another place."
            )


def check_writable(folder: Path, shown: str | os.PathLike[str]) -> None:
    """Refuses a folder that cannot be made or written, without leaving a trace in it.

    Raises:
        OutputError: naming `shown` and what the system says.
    """
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
    except OSError as err:
        raise OutputError(unwritable(shown, err)) from err


def unwritable(shown: str | os.PathLike[str], err: OSError) -> str:
    """Returns the sentence about a place that the system does not let us write."""
    reason, what = (err.strerror or str(err)).lower(), "choose another place"
    if err.errno in FULL:
        what = "make room there, or choose another place"
    elif err.errno in (errno.EMFILE, errno.ENFILE):
        what = "allow more open files (`ulimit -n 8192`), or use fewer processes"
    return f"{os.fspath(shown)} cannot be written ({reason}): {what}."


@contextlib.contextmanager
def full_disk_is_named(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk into DiskFull, which says where, and that nothing is lost.

    Args:
        folder: where the block writes.
    """
    try:
        yield
    except OSError as err:
        if isinstance(err, DiskFull) or err.errno not in FULL:
            raise
        raise DiskFull(
            f"the disk is full, {full_place(err, folder)} cannot be written ({err.strerror}): free space and run the "
            "same command again, it goes on from here."
        ) from err


def full_place(err: OSError, likely: Path) -> Path:
    """Returns the place that an error of `FULL` is about: what it names, or else the one that has no room.

    Args:
        err: writing to an open file names none.
        likely: where the command writes; taken where no place looks full (a quota).
    """
    if isinstance(err.filename, str | os.PathLike) and os.fspath(err.filename):
        return Path(err.filename)
    places = (likely, Path("/dev/shm"), Path(tempfile.gettempdir()))
    return next((place for place in places if _has_no_room(place)), likely)


def _has_no_room(place: Path) -> bool:
    there = next((p for p in (place, *place.parents) if p.exists()), place)
    try:
        room = os.statvfs(there)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _CROWDED_BYTES or (room.f_files > 0 == room.f_favail)


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What a file is, by whatever name: hard links and symbolic ones lead to the same; None where there is nothing."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


# Whose a file is


def made_by(path: Path) -> str | None:
    """Returns the verb that has made a file, as the file itself says; None for anybody else's.

    Arrow files say it in the metadata of their schema, JSON (and its lines) under a key of the object (of the first
    line), YAML in its first line, pages in a `meta` tag, zip archives in their comment.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"ARROW1"):
            return _made_arrow(path)
        if head.startswith(b"PK\3\4"):
            with zipfile.ZipFile(path) as archive:
                return _verb(_JSON_MARK.match(archive.comment))
        begins = _JSON_MARK.match(head) or _TEXT_MARK.match(head)
        return _verb(begins or _PAGE_MARK.search(head.partition(b"<body")[0]))
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def page_mark(maker: str) -> str:
    """Returns the tag by which a page says which verb has made it; for its head."""
    return f'<meta name="generator" content="{made(maker)}">'


def text_mark(maker: str) -> str:
    """Returns the first line by which a file that takes comments says which verb has made it."""
    return f"# made by {made(maker)}\n"


def made(maker: str) -> str:
    """Returns how a file names the verb that has made it."""
    return f"video-ssl {maker}"


def _made_arrow(path: Path) -> str | None:
    """As a file begins with its schema, one that was cut off says it too."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as file:
            file.seek(8)  # behind the magic bytes a file is a stream
            metadata = pa.ipc.open_stream(file).schema.metadata or {}
    except (pa.ArrowException, OSError):
        return None
    word, _, verb = metadata.get(MADE_BY.encode(), b"").decode(errors="replace").partition(" ")
    return verb if word == "video-ssl" else None


def _verb(match: re.Match[bytes] | None) -> str | None:
    return match["verb"].decode() if match else None
