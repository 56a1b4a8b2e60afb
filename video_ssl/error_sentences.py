"""From an exception to one sentence for the user; None for what nobody has foreseen, which is a bug of ours.

Foreseen is
- every error class of this package, and every other exception that a `raise` of this package has given a text;
- what a machine does: no room, no memory, no permission, too many open files, a package that is not installed;
- what a library that reads files says about a file.  Its words are kept, the file is named.

Everything else (a TypeError, an IndexError, a ValueError of numpy) means nothing to a user and is not made to look as
if it did.  Free of torch, jax and pyarrow: data workers use it, and the name of a class is enough.
"""

from __future__ import annotations

import dis
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

_PACKAGE = __name__.partition(".")[0]
#: import name -> extra that installs it
EXTRAS = {
    "aiohttp": "remote",
    "array_record": "jax",
    "decord": "decord",
    "fairscale": "sharded",
    "flax": "jax",
    "fsspec": "remote",
    "huggingface_hub": "hub",
    "importlib_resources": "jax",
    "jax": "jax",
    "jaxlib": "jax",
    "matplotlib": "notebook",
    "mlflow": "mlflow",
    "nbclient": "notebook",
    "optax": "jax",
    "orbax": "jax",
    "pytorchvideo": "zoo",
    "sentencepiece": "hub",
    "skimage": "segments",
    "sklearn": "phases",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "tensorflow_datasets": "jax",
    "torchcodec": "torchcodec",
    "transformers": "hub",
    "usearch": "search",
    "wandb": "wandb",
}
# Libraries that read files: what they raise is about what they read.
_READERS = {
    "_csv",
    "_json",
    "array_record",
    "av",
    "bz2",
    "csv",
    "gzip",
    "json",
    "lzma",
    "orbax",
    "pickle",
    "PIL",
    "pyarrow",
    "safetensors",
    "safetensors_rust",
    "struct",
    "tarfile",
    "yaml",
    "zipfile",
    "zlib",
}
# Our parsers of users' files: a number that is none there is the file's.
_PARSERS = (f"{_PACKAGE}.datasets.",)
_SHOWN_CHARACTERS = 2000
_CROWDED_BYTES = 2**20
_MODE = "lower loader.num_workers and loader.prefetch_batches, or ask for more memory"
_GPU = "raise training.accumulation (smaller micro-batches), lower training.global_batch_size, or use a smaller input"
_OTHERS = (
    "connection closed by peer",
    "connection reset",
    "timed out",
    "broken pipe",
    "gloo",
    "nccl",
    "heartbeat",  # of jax's coordination service
    "coordination service",
)
# Depending on the moment jax reports a broken connection as its own error or as a ValueError.
_STATUS_OF_JAX = ("unknown: ", "unavailable: ", "aborted: ", "internal: ", "deadline_exceeded: ")
_OF_FRAMEWORKS = ("DistError", "JaxRuntimeError", "XlaRuntimeError")


class Foreseen(ValueError):
    """What another process has met, as the sentence it made of it."""


class Unforeseen(RuntimeError):
    """A bug that another process has met; the text holds its traceback."""


def sentence_of(err: BaseException) -> str | None:
    """Returns the message to the user about an exception, or None if it is a bug.

    Names of files and what a library says come from outside: control characters are written as escapes, and a text
    without end is cut off.
    """
    if isinstance(err, Unforeseen):
        return None
    for rule in _RULES:
        message = rule(err)
        if message:
            return printable(message)
    return None


def printable(text: str) -> str:
    """Returns the text without control characters (lines stay) and not longer than a page.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    text = text.strip().encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]} ... (and {len(text) - _SHOWN_CHARACTERS:,} characters more)"
    return re.sub(r"[^\S \n\t]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def lost_the_others(err: BaseException) -> bool:
    """Returns whether a process could not reach the other ones of its run, who have their own story."""
    kinds = {cls.__name__ for cls in type(err).__mro__}
    message = str(err).lower()
    of_jax = type(err) is ValueError and message.startswith(_STATUS_OF_JAX)
    generic = type(err) is RuntimeError or of_jax or kinds.intersection(_OF_FRAMEWORKS)
    return "DistError" in kinds or bool(generic and any(word in message for word in _OTHERS))


# What is ours


def is_of_this_package(err: BaseException) -> bool:
    """Returns whether the class of an exception is one of ours."""
    return _root(type(err)) == _PACKAGE


def _ours(err: BaseException) -> str | None:
    if is_of_this_package(err) or _raised_by_us(err):
        return str(err.args[0]) if isinstance(err, KeyError) and err.args else str(err)
    return None


def _raised_by_us(err: BaseException) -> bool:
    """Whether a `raise` of this package made it, in contrast to a call that failed in a line of ours."""
    last = _last(err.__traceback__)
    if last is None or isinstance(err, (AssertionError, NotImplementedError)):
        return False
    if not _is_ours(last.tb_frame):
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


# What the machine does


def _system(err: BaseException) -> str | None:
    if not isinstance(err, OSError) or err.errno is None:
        return None
    what = err.strerror or os.strerror(err.errno)
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _no_room(err, what)
    place = _place_of(err)
    advice = _ADVICE.get(err.errno)
    message = what[:1].lower() + what[1:]
    if place is not None:
        return f"{place}: {message}; {advice or 'look at this place, then give the same command again'}."
    return f"{message}: {advice}." if advice else None


_ADVICE = {
    errno.EMFILE: "allow more open files (`ulimit -n 8192`), or lower loader.num_workers",
    errno.ENFILE: "the machine has too many open files: end other programs",
    errno.ENOENT: "write the name as it is on the disk, or make it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a file is needed here",
    errno.EEXIST: "choose another name, or remove it",
    errno.ENOTEMPTY: "choose another folder, or empty it",
    errno.EROFS: "choose another place, this one cannot be written",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link points to itself",
    errno.EIO: "the disk or its network does not answer: try again, then look at the disk",
    errno.ESTALE: "the network disk has lost the file: give the same command again",
    errno.ETXTBSY: "another program uses it",
    errno.EBUSY: "another program uses it",
    errno.ENOMEM: f"memory is full: {_MODE}",
    errno.EAGAIN: "the machine starts no more processes (`ulimit -u`): lower loader.num_workers",
    errno.EADDRINUSE: "the port is taken: choose another MASTER_PORT, or end the program that has it",
    errno.ECONNREFUSED: "nobody answers there: look at the address and at the network",
    errno.ECONNRESET: "the other side has ended: look at its log",
    errno.ETIMEDOUT: "look at the address and at the network, then try again",
    errno.ENETUNREACH: "look at the network, then try again",
    errno.EHOSTUNREACH: "look at the network, then try again",
}


def _place_of(err: OSError) -> str | None:
    names = [str(name) for name in (err.filename, err.filename2) if name not in (None, "", b"")]
    return " -> ".join(names) if names and not isinstance(err.filename, int) else None


def _no_room(err: OSError, what: str) -> str:
    """Names the place that is full: not always the one that the user thinks of (/dev/shm, the temporary folder)."""
    goes_on = "free some, then give the same command again: it goes on from what is finished"
    if err.errno == errno.EFBIG:
        return f"{_place_of(err) or 'a file'} has grown to the largest size that is allowed (`ulimit -f`): allow more."
    place = _place_of(err)
    if place is not None:
        return (
            f"{place} cannot be written ({what[:1].lower()}{what[1:]}, {_room(place)}): {goes_on}."
        )
    crowded = list(dict.fromkeys(p for p in _candidates() if _is_full(p)))
    if crowded:
        return f"no room left in {', '.join(f'{p} ({_room(p)})' for p in crowded)}: {goes_on}."
    return f"{what[:1].lower()}{what[1:]}, in a place that the system does not name (a quota?): {goes_on}."


def _candidates() -> Iterator[str]:
    """Where a command writes: the folders it names, the working folder, shared memory, temporary files, the cache."""
    for word in sys.argv[1:]:
        for name in filter(None, (word, word.partition("=")[2])):
            place = Path(os.path.abspath(name))
            yield str(place if place.is_dir() else place.parent)
    yield from (os.getcwd(), "/dev/shm", tempfile.gettempdir())
    yield from filter(None, (os.environ.get("VIDEO_SSL_CACHE"),))


def _is_full(folder: str) -> bool:
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _CROWDED_BYTES or (room.f_files > 0 == room.f_favail)


def _room(place: str) -> str:
    folder = next((p for p in (Path(place), *Path(place).parents) if p.is_dir()), Path("."))
    try:
        room = os.statvfs(folder)
    except OSError:
        return "room unknown"
    return f"{room.f_bavail * room.f_frsize / 2**20:,.1f} MiB free"


def _memory(err: BaseException) -> str | None:
    message = str(err).strip()
    first = message.splitlines()[0] if message else ""
    of_device = type(err).__name__ == "OutOfMemoryError" or "CUDA out of memory" in message
    if of_device or (_root(type(err)) in ("jax", "jaxlib") and "RESOURCE_EXHAUSTED" in message):
        return f"the device has not enough memory ({first}): {_GPU}."
    if isinstance(err, MemoryError) or "can't allocate memory" in message:
        return f"not enough memory{f' ({first})' if first else ''}: {_MODE}."
    return None


def _missing(err: BaseException) -> str | None:
    if not isinstance(err, ImportError):
        return None
    name = (err.name or "").partition(".")[0]
    if not name or name == _PACKAGE:
        return None
    if name in EXTRAS:
        return f"this needs {name}, which is not installed: pip install '{_PACKAGE}[{EXTRAS[name]}]' ({err})."
    if isinstance(err, ModuleNotFoundError):
        return (
            f"{name} is not installed, but {_PACKAGE} needs it: pip install --upgrade {_PACKAGE}."
        )
    return f"{name} is installed but cannot be loaded ({err}): install it again."


def _others(err: BaseException) -> str | None:
    if not lost_the_others(err):
        return None
    first = str(err).strip().splitlines()[0]
    return (
        f"the other processes of this run do not answer ({first}): "
        "one has ended, its log says why; or the network is down."
    )


def _too_deep(err: BaseException) -> str | None:
    file = file_in_reach(err)
    if not isinstance(err, RecursionError) or file is None:
        return None
    return f"{file} is nested too deeply to be what it should be: write it again, or name another file."


# What a library says about a file


def _damaged(err: BaseException) -> str | None:
    if not isinstance(err, Exception) or not _is_about_a_file(err):
        return None
    file = file_in_reach(err, frames=2 if _of_a_reader(err) else 1)
    if file is None:
        return None
    what = next(iter(str(err).strip().splitlines()), "") or "it ends too early"
    return (
        f"{file} cannot be read: it is damaged or not of the kind that is expected{_line(err, file)} "
        f"({type(err).__name__}: {what}). Write it again, or name another file (--debug shows where)."
    )


def _is_about_a_file(err: Exception) -> bool:
    if _of_a_reader(err):
        return True
    module = _module(err)
    return isinstance(err, (ValueError, OverflowError)) and module.startswith(_PARSERS)


def _of_a_reader(err: Exception) -> bool:
    if _root(type(err)) in _READERS or isinstance(err, (UnicodeDecodeError, EOFError)):
        return True
    last = _last(err.__traceback__)
    if last is None:
        return False
    return _module(err).partition(".")[0] in _READERS or _of_pyarrow(last.tb_frame)


def _module(err: Exception) -> str:
    """The module whose line has failed."""
    last = _last(err.__traceback__)
    return "" if last is None else str(last.tb_frame.f_globals.get("__name__", ""))


def _of_pyarrow(frame: FrameType) -> bool:
    """Frames of compiled modules have no module, only the name of their source."""
    return "pyarrow" in frame.f_code.co_filename


def _line(err: Exception, file: str) -> str:
    """Where in the file, if the exception has it."""
    mark = getattr(err, "problem_mark", None) or getattr(err, "context_mark", None)  # YAML
    if mark is not None:
        return f", line {mark.line + 1}"
    if isinstance(getattr(err, "lineno", None), int):  # JSON
        return f", line {err.lineno}"  # type: ignore[attr-defined]
    if isinstance(err, UnicodeDecodeError):
        return _line_of_bytes(err, file)
    return ""


def _line_of_bytes(err: UnicodeDecodeError, file: str) -> str:
    try:
        with open(file, "rb") as opened:
            for number, line in enumerate(opened, 1):
                try:
                    line.decode(err.encoding)
                except UnicodeDecodeError:
                    return f", line {number} (text must be UTF-8)"
    except OSError:
        pass
    return " (text must be UTF-8)"


def file_in_reach(err: BaseException, *, frames: int = 2) -> str | None:
    """Returns the existing file that our innermost function on the way to `err` works on, or its caller; or None.

    Two files are named both: the wrong one would be worse than none.  For the same reason nobody further up is asked.
    """
    ours = [frame for frame, _ in traceback.walk_tb(err.__traceback__) if _is_ours(frame)]
    for frame in ours[: -frames - 1 : -1]:
        files = [str(value) for value in frame.f_locals.values() if _is_file(value)]
        if files:
            return " or ".join(dict.fromkeys(files))
    return None


def _is_file(value: object) -> bool:
    if not isinstance(value, (str, Path)) or not 0 < len(str(value)) < 4096:
        return False
    try:
        return os.path.isfile(value)
    except (OSError, ValueError):
        return False


def _last(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE


def _root(cls: type) -> str:
    return cls.__module__.partition(".")[0]


_RULES: tuple[Callable[[BaseException], str | None], ...] = (
    _system,
    _memory,
    _missing,
    _ours,
    _others,
    _too_deep,
    _damaged,
)
