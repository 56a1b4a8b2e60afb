"""The child of `video_ssl.clips.upkeep.isolated`: calls one function on what comes in by stdin, answers by stdout.

Messages are pickles with their length (8 bytes, little-endian) in front.  In: (sys.path, "module:function")
once, then one argument per task.  Out: ("ready",), then per task any number of ("beat", share, seconds) and one of
("done", result), ("bad", reason), ("away", reason), ("full", text), ("error", text, traceback).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from video_ssl.error_sentences import sentence_of
from video_ssl.files import FULL

_BEAT_SEC = 0.5
_answers: BinaryIO | None = None
_last_beat = 0.0


def beat(share: float | None = None, video_sec: float = 0.0) -> None:
    """Reports progress to the parent: the time limit starts anew.  Does nothing elsewhere.

    Args:
        share: of the task that is done, where it is known.
        video_sec: seconds of video that those are.
    """
    global _last_beat
    if _answers is not None and time.monotonic() - _last_beat > _BEAT_SEC:
        _last_beat = time.monotonic()
        _send(("beat", share, video_sec))


def _send(message: tuple[Any, ...]) -> None:
    assert _answers is not None
    content = pickle.dumps(message)
    _answers.write(struct.pack("<Q", len(content)) + content)
    _answers.flush()


def main() -> None:
    with contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
        _serve()
    os._exit(0)  # the parent is gone, perhaps within its first word


def _serve() -> None:
    global _answers
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not disturb the answers
    path, target = pickle.loads(_receive())
    sys.path[:] = path
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    _send(("ready",))
    while True:
        _send(_answer(function, pickle.loads(tasks.get())))


def _listen(tasks: queue.SimpleQueue[bytes]) -> None:
    """Ends the process when the parent is gone, whatever it is doing.  Unpickling, which imports, is not done here."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(_receive())
    os._exit(0)


def _receive() -> bytes:
    """The next message, or EOFError."""
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        raise EOFError
    return sys.stdin.buffer.read(struct.unpack("<Q", head)[0])


def _answer(function: Callable[[Any], Any], argument: Any) -> tuple[Any, ...]:
    from video_ssl.clips.decoders.reader import BadVideo, SlowVideo
    from video_ssl.datasets.remote.errors import Unreachable

    try:
        return ("done", function(argument))
    except BadVideo as err:
        if _is_full(err.__cause__):
            return ("full", str(err.__cause__))
        return ("slow" if isinstance(err, SlowVideo) else "bad", err.reason)
    except Unreachable as err:
        return ("away", f"cannot be reached now: {err.reason}")
    except Exception as err:
        if _is_full(err):
            return ("full", str(err))
        sentence = sentence_of(err)
        if sentence is not None:
            return ("bad", sentence)
        return ("error", f"{type(err).__name__}: {err}", traceback.format_exc())


def _is_full(err: BaseException | None) -> bool:
    return getattr(err, "errno", None) in FULL


if __name__ == "__main__":
    # Under its importable name, so that `beat` of a task is the `beat` of this process.
    from video_ssl.clips.upkeep import isolated_worker

    isolated_worker.main()
