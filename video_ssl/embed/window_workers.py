"""Windows of every video of a table, in the order of the table, decoded by worker processes.

The training pipeline replaces what it cannot read and shuffles; an evaluation must do neither, and
it wants videos whole and in order, however long they are.  So workers here are plain processes, each with a pipe of its
own: record i belongs to worker i modulo W, the reader takes record after record from the pipe it
must come from, and a worker that is ahead waits in its pipe.  Memory is bounded by W messages of
at most `PIECE` windows and about `_PIECE_BYTES`, the order does not depend on W, and when a worker
dies (a decoder can crash a process) or hangs it is known at which record: that one is reported and
a new worker goes on behind it.

Free of torch, so that workers start fast and stay small.
"""

from __future__ import annotations

import functools
import multiprocessing
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from video_ssl.child_signals import deaf_children
from video_ssl.clips.contents import content_digest, content_key
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.processes.workers import WorkerDied
from video_ssl.clips.reading import open_record
from video_ssl.clips.sound_windows import SoundWindows, iterate_sound_windows
from video_ssl.clips.windows import Window, WindowConfig, iterate_windows
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.text_windows import TextWindows, iterate_text_windows
from video_ssl.error_sentences import Foreseen, Unforeseen, sentence_of
from video_ssl.errors import debugging

AnyWindows = WindowConfig | SoundWindows | TextWindows

PIECE = 4  # windows in one message, or fewer when they are large
_PIECE_BYTES = 16 * 2**20
_GRACE_SEC = 30.0  # beyond the reader's own limit, before a worker without a message is given up


@dataclass(frozen=True, kw_only=True)
class WindowJob:
    """What workers get: the table, the windows, the decoder and its time limit.

    Attributes:
        video_timeout_sec: for opening a video, and for every frame of it.
        check: read videos in full to note what they hold.
        first_record, first_window: where to begin; earlier records, and earlier windows of this one, are left out.
    """

    table: Table
    windows: AnyWindows
    backend: str = "pyav"
    video_timeout_sec: float | None = 120.0
    check: bool = False
    first_record: int = 0
    first_window: int = 0

    def records(self, offset: int = 0, step: int = 1) -> range:
        """Returns the numbers of the records to read, of worker `offset` of `step`."""
        return range(self.first_record + offset, len(self.table), step)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some windows of a record; the last piece of a record has `last`, and perhaps a `reason`.

    `reason` is why the record cannot be read; what came of it before is then void.  `content` and `digest` are what
    its file held, see `video_ssl.clips.contents`.
    """

    index: int
    windows: tuple[Window, ...] = ()
    last: bool = False
    reason: str | None = None
    content: str | None = None
    digest: str | None = None


def read_windows(job: WindowJob, num_workers: int) -> Iterator[Piece]:
    """Yields the pieces of all records in order; with 0 workers, from this process.

    Every record ends with a piece that has `last`.

    Raises:
        Foreseen: an error that is not the fault of the video, as a sentence.
        Unforeseen: one that nobody has foreseen, with the worker's traceback.
    """
    if num_workers == 0:
        for index in job.records():
            yield from record_pieces(job, job.table.record(index))
        return
    count = min(num_workers, len(job.records()))
    workers = [_Worker(job, job.first_record + n, count) for n in range(count)]
    try:
        for place, index in enumerate(job.records()):
            yield from workers[place % count].pieces(index)
    finally:
        for worker in workers:
            worker.stop()


def record_pieces(job: WindowJob, record: Record) -> Iterator[Piece]:
    """Yields the pieces of one record; a video that cannot be read ends with its reason."""
    waiting: list[Window] = []
    first = job.first_window if record.index == job.first_record else 0
    # What is noted is what is read from now on: a file that changes on the way has another time than the job knows.
    content = content_key(record)
    piece = functools.partial(
        Piece,
        index=record.index,
        content=content,
        digest=content_digest(record) if job.check and content else None,
    )
    try:
        for window in _windows_of(job, record, first):
            waiting.append(window)
            if len(waiting) >= min(PIECE, _PIECE_BYTES // window.clips.nbytes):
                yield piece(windows=tuple(waiting))
                waiting = []
    except BadVideo as err:
        yield piece(last=True, reason=err.reason)
    else:
        yield piece(windows=tuple(waiting), last=True)


def _windows_of(job: WindowJob, record: Record, first: int) -> Iterator[Window]:
    """The windows of a record from number `first` on, of its pictures, its sound or its captions."""
    if isinstance(job.windows, TextWindows):
        yield from iterate_text_windows(record, job.windows, first=first)
        return
    sound = isinstance(job.windows, SoundWindows)
    with open_record(
        record, job.backend, timeout_sec=job.video_timeout_sec, sound_alone=sound
    ) as reader:
        if isinstance(job.windows, SoundWindows):
            yield from iterate_sound_windows(record, reader, job.windows, first=first)
        else:
            yield from iterate_windows(record, reader, job.windows, first=first)


class _Worker:
    """A process that reads the records start, start + step, ... and sends their pieces."""

    def __init__(self, job: WindowJob, start: int, step: int) -> None:
        self.job, self.step = job, step
        self._launch(start)

    def _launch(self, start: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, sender = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(self.job, start, self.step, sender), daemon=True
        )
        with deaf_children():
            self.process.start()
        sender.close()
        self.begun = False

    def pieces(self, index: int) -> Iterator[Piece]:
        limit = self.job.video_timeout_sec
        while True:
            try:
                if not self.begun:
                    self._await_beginning()
                if limit is not None and not self.pipe.poll(limit + _GRACE_SEC):
                    reason = (
                        f"the decoder returned nothing for {limit + _GRACE_SEC:g} s and was stopped"
                    )
                    break
                piece = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join()
                reason = f"the decoder process died (exit code {self.process.exitcode})"
                break
            if isinstance(piece, (Foreseen, Unforeseen)):
                raise type(piece)(f"reading record {index} of {self.job.table} failed: {piece}")
            assert piece.index == index
            yield piece
            if piece.last:
                return
        self.stop()
        yield Piece(index=index, last=True, reason=reason)
        if index + self.step < len(self.job.table):
            self._launch(index + self.step)

    def _await_beginning(self) -> None:
        """A worker that dies before its first word is not the fault of a video."""
        try:
            self.pipe.recv()
        except (EOFError, OSError) as err:
            self.process.join()
            raise WorkerDied(
                f"a decoding process could not start (exit code {self.process.exitcode}). A script "
                'needs `if __name__ == "__main__":` around its calls; num_workers=0 needs nothing.'
            ) from err
        self.begun = True

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(job: WindowJob, start: int, step: int, sender: Connection) -> None:
    sender.send("ready")
    try:
        for index in range(start, len(job.table), step):
            for piece in record_pieces(job, job.table.record(index)):
                sender.send(piece)
    except BrokenPipeError:  # nobody listens any more
        return
    except Exception as err:
        sentence = None if debugging() else sentence_of(err)
        sender.send(Unforeseen(traceback.format_exc()) if sentence is None else Foreseen(sentence))


def describe(record: Record, piece: Piece) -> dict[str, Any]:
    """Returns the entry of a record in a skip list, given its last piece."""
    entry = {
        "index": record.index,
        "id": record.id,
        "source": record.source,
        "reason": piece.reason,
    }
    noted = {"content": piece.content, "digest": piece.digest}
    return entry | {name: value for name, value in noted.items() if value is not None}
