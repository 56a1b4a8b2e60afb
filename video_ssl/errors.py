"""The edge of every command: an exception ends in one sentence and an exit code, a bug in what is needed to report it.

Exit codes: 2 a mistake or a machine that cannot, 1 a bug, 130 Ctrl-C, 141 nobody reads what is printed.
`--debug` (or VIDEO_SSL_DEBUG=1, which child processes inherit) shows the traceback of everything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from importlib import metadata

from video_ssl import __version__
from video_ssl.error_sentences import lost_the_others, printable, sentence_of

DEBUG = "VIDEO_SSL_DEBUG"
MISTAKE, BUG, NO_READER = 2, 1, 128 + signal.SIGPIPE
# How long a process that misses another one gives it to say why it ends.
_PATIENCE_SEC = 3.0
_words: list[socket.socket] = []
# Verbs that keep what is finished when they are stopped.
_GOING_ON = (
    *("pretrain", "evaluate", "embed", "scan", "transcode", "launch"),
    *("data demo", "data build"),
)
_SECRET_KEY = r"[\w.-]*(?:secret|token|passw|credential|signature|api_?key|access_?key)[\w.-]*"


class AlreadyReported(Exception):
    """Another process has printed what was wrong; this one ends with its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def debugging() -> bool:
    """Returns whether tracebacks are shown."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def take_debug(arguments: list[str]) -> list[str]:
    """Returns the words of a command without `--debug`, which may stand anywhere before `--`, and acts on it.

    >>> take_debug(["scan", "a", "b"])
    ['scan', 'a', 'b']
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [word for word in arguments[:end] if word != "--debug"]
    if len(kept) < end:
        os.environ[DEBUG] = "1"
    return [*kept, *arguments[end:]]


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Whatever is raised within it is printed on stderr and ends the process."""
    try:
        yield
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as err:
        sys.exit(report(err))


def report(err: BaseException) -> int:
    """Prints what there is to say about an exception, and returns the exit code."""
    if isinstance(err, AlreadyReported):
        return err.code
    if isinstance(err, BrokenPipeError) and _nobody_reads():
        return NO_READER
    code, text = _ending(err)
    if not _is_said_by_another(err):
        _say(text)
    return code


def _ending(err: BaseException) -> tuple[int, str]:
    """Exit code and text."""
    if isinstance(err, KeyboardInterrupt):
        goes_on = ": the same command goes on from what is finished." if _goes_on() else "."
        return 128 + signal.SIGINT, f"stopped by Ctrl-C{goes_on}"
    sentence = sentence_of(err)
    if sentence is None:
        return BUG, f"{_traceback(err)}{_report(err)}"
    return MISTAKE, f"{_traceback(err) if debugging() else ''}error: {sentence}"


def _goes_on() -> bool:
    """Whether the command of this process keeps what it has finished, for the same command."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    return bool(words) and (words[0] in _GOING_ON or " ".join(words[:2]) in _GOING_ON)


def _traceback(err: BaseException) -> str:
    return hide_secrets("".join(traceback.format_exception(err)))


def _report(err: BaseException) -> str:
    lines = [
        f"error: {type(err).__name__}, which {__package__} has not foreseen: a bug. Please report it, with the lines",
        "above and these (read them first: remove what is not for others), and with the recipe or RUN/recipe.yaml:",
        f"  {__package__} {__version__}, {_versions()}",
        f"  command: {hide_secrets(' '.join(sys.argv))}",
    ]
    return printable("\n".join(lines))


def _versions() -> str:
    found = [f"python {platform.python_version()}"]
    for name in ("torch", "jax", "numpy", "pyarrow", "av", "grain"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join([*found, platform.platform(terse=True)])


def hide_secrets(text: str) -> str:
    """Returns the text without passwords and queries of URIs and without values whose key says what they are.

    >>> hide_secrets("s3://me:pw@host/a.mp4?X-Sig=1 api_key=abc lr=1")
    's3://***@host/a.mp4?*** api_key=*** lr=1'
    """
    text = re.sub(r"(\w://)[^\s/@'\"]+@", r"\1***@", text)
    text = re.sub(r"(\w://[^\s?'\"]+\?)[^\s'\"]+", r"\1***", text)
    return re.sub(rf"(?i)({_SECRET_KEY}['\"]?\s*[=:]\s*)[^\s,;)]+", r"\1***", text)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or on a full disk
        print(text, file=sys.stderr, flush=True)


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has gone (`| head`); Python must not complain about it at its end."""
    try:
        number = sys.stdout.fileno()
        asked = select.poll()
        asked.register(number, select.POLLOUT)
        gone = any(events & select.POLLERR for _, events in asked.poll(0))
        if gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    except (OSError, ValueError):  # no file of its own, or closed
        return False
    return gone


def _is_said_by_another(err: BaseException) -> bool:
    """Whether another process that torchrun has started here, on the same terminal, has the word.

    The first one that asks has it, and keeps it until it has ended: the name of a socket without a file, which no
    crash leaves behind.  What the others have to say is mostly the same, or that they miss the first.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return False
    if lost_the_others(err):
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_PATIENCE_SEC)
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    key = "|".join([run, str(os.getppid()), *(os.environ.get(name, "") for name in names)])
    word = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        word.bind(f"\0{__package__}.{hashlib.sha256(key.encode()).hexdigest()}")
    except OSError as taken:
        return taken.errno == errno.EADDRINUSE
    _words.append(word)
    return False
