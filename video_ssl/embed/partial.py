"""Feature files on their way: written as rows come, and taken up again after a kill, a crash or a full disk.

    OUT.partial/job.json        what is being embedded, how, and with what: only the same job goes on
    OUT.partial/rows.arrows     an Arrow stream, one record batch appended per commit
    OUT.partial/journal.jsonl   one line per commit: how much of the stream counts, and where to go on

Every piece names the job: the stream in its schema, the journal in every line.  Pieces of two jobs, however they came
together, are refused, and a restart moves the whole folder out of the way at once.

A commit syncs the rows and then writes its line.  Whatever the stream holds beyond the last line is cut off when the
job goes on, so no row is lost or doubled.  Rows of a video that breaks later are taken back.  When all is done the
stream is copied, batch by batch, into the feature file, which gets its name only then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from video_ssl.embed.feature_writer import (
    METADATA_KEY,
    FeatureWriter,
    feature_schema,
    larger_batches,
    rows_to_batch,
)
from video_ssl.embed.job_folder import JOB as JOB
from video_ssl.embed.job_folder import LOCK, JobFolder
from video_ssl.embed.job_folder import OtherJob as OtherJob
from video_ssl.embed.job_folder import discard as discard
from video_ssl.embed.job_folder import partial_folder as partial_folder
from video_ssl.embed.jobs import job_key
from video_ssl.embed.vector_columns import Column
from video_ssl.files import (
    OutputError,
    claim_file,
    made_by,
    remove_at_once,
)
from video_ssl.models.preprocess_config import MODALITIES

ROWS, JOURNAL = "rows.arrows", "journal.jsonl"
_JOB_KEY = b"video_ssl.job"


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a job stands.

    Attributes:
        size, rows: bytes of the stream and rows in them that count.
        records: records that are over, read or skipped.
        clips: rows of the next record that are among `rows`.
        closed_size, closed_rows: without the rows of the next record.
    """

    size: int
    rows: int = 0
    records: int = 0
    clips: int = 0
    closed_size: int
    closed_rows: int = 0


def part_name(sense: str) -> str:
    """Returns the name of the features of a sense in OUT.partial, where a feature file is to have several.

    >>> part_name("sound")
    'sound.arrow'
    """
    return f"{sense}.arrow"


class PartialFeatures(JobFolder):
    """The folder OUT.partial, held by one process; a context manager.

    Args:
        out: the feature file that it becomes.
        embed_dim: width of the features.
        metadata: of the feature file.
        columns: of outputs that it has beside clip features and moments.
        job: JSON that is the same exactly when the features are the same.
        restart: throw away what is there.

    Raises:
        OtherJob: it belongs to another job.
        FeatureError: it is held by another process, is damaged, or cannot be written.
    """

    holding = (JOURNAL, ROWS)

    def __init__(
        self,
        out: Path,
        *,
        embed_dim: int,
        metadata: Mapping[str, Any],
        job: Mapping[str, Any],
        columns: Sequence[Column] = (),
        restart: bool = False,
    ) -> None:
        super().__init__(out, job=job, restart=restart)
        self.embed_dim = embed_dim
        self.metadata = metadata
        self.columns = tuple(columns)
        self.schema = feature_schema(embed_dim, metadata, columns)
        self.skipped: list[dict[str, Any]] = []
        self._job_key = job_key(job)
        self._new_skips: list[dict[str, Any]] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._journal.close()
        super().__exit__(kind, error, trace)

    @property
    def num_rows(self) -> int:
        return self.state.rows

    # Writing

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows (see `FeatureWriter.write`); they count from the next commit on.

        Raises:
            FeatureError: a feature that is not finite or of another width, or a disk that is full.
        """
        batch = rows_to_batch(rows, self.schema, self.embed_dim)
        try:
            _write_all(self._stream, batch.serialize())
        except OSError as err:
            raise self._unwritable(err) from err
        self._pending_rows += len(rows)

    def skip(self, entry: dict[str, Any]) -> None:
        """Adds an unreadable record to the skip list; it counts from the next commit on."""
        self.skipped.append(entry)
        self._new_skips.append(entry)

    def take_back(self) -> None:
        """Removes the rows of the record that is not over, written or not."""
        self._pending_rows = 0
        self._commit(
            State(
                size=self.state.closed_size,
                rows=self.state.closed_rows,
                records=self.state.records,
                closed_size=self.state.closed_size,
                closed_rows=self.state.closed_rows,
            )
        )
        self._stream.truncate(self.state.size)
        self._stream.seek(self.state.size)

    def commit(self, *, records: int, clips: int) -> None:
        """Makes everything since the last commit count.

        Args:
            records: records that are over.
            clips: rows of the next one that were appended so far; they must have been appended apart from others.
        """
        size, rows = self._stream.tell(), self.state.rows + self._pending_rows
        before = self.state
        closed = (size, rows) if clips == 0 else (before.closed_size, before.closed_rows)
        try:
            os.fsync(self._stream.fileno())
        except OSError as err:
            raise self._unwritable(err) from err
        self._pending_rows = 0
        self._commit(
            State(
                size=size,
                rows=rows,
                records=records,
                clips=clips,
                closed_size=closed[0],
                closed_rows=closed[1],
            )
        )

    def _commit(self, state: State) -> None:
        content = {"job": self._job_key, **asdict(state), "skipped": self._new_skips}
        line = json.dumps(content) + "\n"
        try:
            _write_all(self._journal, line.encode())
            os.fsync(self._journal.fileno())
        except OSError as err:
            raise self._unwritable(err) from err
        self.state = state
        self._new_skips = []

    def finish(self) -> None:
        """Copies the rows into the feature file and removes the folder.

        Raises:
            FeatureError: the disk is full; the folder stays, and the same job will only copy again.
        """
        try:
            with FeatureWriter(
                self.out, embed_dim=self.embed_dim, metadata=self.metadata, columns=self.columns
            ) as writer:
                writer.skipped.extend(self.skipped)
                with pa.OSFile(str(self.folder / ROWS)) as file:
                    for batch in larger_batches(pa.ipc.open_stream(file)):
                        writer.write_batch(batch)
        except OSError as err:
            raise self._unwritable(err) from err
        remove_at_once(self.folder)

    # Beginning

    def _begin(self) -> None:
        lines = self._read_journal()
        path = self.folder / ROWS
        try:
            self._stream = open(path, "r+b" if lines else "w+b", buffering=0)  # noqa: SIM115
            self._journal = open(self.folder / JOURNAL, "ab", buffering=0)  # noqa: SIM115
            self._pending_rows = 0
            if lines:
                self._resume(lines)
                return
            named = self.schema.with_metadata(
                {**(self.schema.metadata or {}), _JOB_KEY: self._job_key}
            )
            size = _write_all(self._stream, named.serialize())
            self._commit(State(size=size, closed_size=size))
        except OSError as err:
            raise self._unwritable(err) from err

    def _read_journal(self) -> list[dict[str, Any]]:
        path = self.folder / JOURNAL
        lines: list[dict[str, Any]] = []
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line cut off by a crash does not count
        for line in whole.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError as err:
                raise self._damaged(f"line {len(lines) + 1} of {JOURNAL} is not JSON") from err
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        return lines

    def _resume(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line.pop("job", None) != self._job_key:
                raise self._damaged(f"{JOURNAL} has lines of another job")
            self.skipped.extend(line.pop("skipped"))
        self.state = State(**lines[-1])
        there = os.fstat(self._stream.fileno()).st_size
        if there < self.state.size:
            raise self._damaged(f"{ROWS} has {there} bytes, but {self.state.size} were written")
        if self._job_of_rows() != self._job_key:
            raise self._damaged(f"{ROWS} has rows of another job")
        self._stream.truncate(self.state.size)
        self._stream.seek(self.state.size)

    def _job_of_rows(self) -> str:
        try:
            with pa.OSFile(str(self.folder / ROWS)) as file:
                metadata = pa.ipc.open_stream(file).schema.metadata or {}
        except (pa.ArrowInvalid, OSError) as err:
            raise self._damaged(f"{ROWS} cannot be read ({err})") from err
        return str(metadata.get(_JOB_KEY, b"").decode())

    def _kept(self) -> str:
        done = self.state.records if hasattr(self, "state") else 0
        return f"{done} videos are done and"


def claim_features(out: str | Path, *, sources: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Returns the feature file to write, links followed; to be asked before any work.

    Raises:
        OutputError: see `claim_file`; or OUT.partial is something else than an unfinished feature file.
    """
    out = claim_file(out, "embed", sources=sources, is_ours=_is_of_embed)
    folder = partial_folder(out)
    if not os.path.lexists(folder):
        return out
    inside = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    foreign = [n for n in inside if not _is_of_partial(n)]
    if foreign:
        raise OutputError(
            f"{folder}, where the features are kept until they are complete, has {foreign[0]}, which is not of "
            "`video-ssl embed`: it is not replaced. Give another output file, or move that away."
        )
    return out


def _is_of_partial(name: str) -> bool:
    """Whether something in OUT.partial is of an unfinished feature file, of one sense or of several."""
    own = name in (JOB, ROWS, JOURNAL, LOCK) or name.endswith(".tmp")
    return own or name.removeprefix(".").startswith(tuple(part_name(s) for s in MODALITIES))


def _is_of_embed(path: Path) -> bool:
    """Whether a file was embedded, also by a version that did not write down who makes a file."""
    if made_by(path) == "embed":
        return True
    try:
        with pa.OSFile(str(path)) as file:
            metadata = pa.ipc.open_file(file).schema.metadata or {}
        return "job" in json.loads(metadata.get(METADATA_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return False


def _write_all(file: Any, data: Any) -> int:
    """Writes all of `data` to an unbuffered file and returns its length; a full disk is an OSError."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += file.write(view[done:])
    return len(view)
