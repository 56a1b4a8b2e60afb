"""The folder OUT.partial of a feature file that is not complete: whose it is, and that only one process writes there.

OUT.partial/job.json   what is being embedded, how, and with what: only the same job goes on
OUT.partial/.lock      held by the process that writes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from video_ssl.embed.feature_arrays import FeatureError
from video_ssl.embed.jobs import job_changes, listed
from video_ssl.files import FULL, remove_at_once, remove_leftovers, write_atomically
from video_ssl.locks import try_lock

JOB, LOCK = "job.json", ".lock"


class OtherJob(FeatureError):
    """OUT.partial was begun by another job; the text lists the differences."""


def partial_folder(out: Path) -> Path:
    """Returns where the rows of an unfinished feature file are."""
    return out.with_name(f"{out.name}.partial")


def discard(out: Path) -> None:
    """Removes what is left of an unfinished feature file, unless another process is writing it."""
    folder = partial_folder(out)
    remove_leftovers(folder.parent, [folder.name])
    try:
        with open(folder / LOCK, "w", encoding="utf-8") as lock:
            if try_lock(lock):
                remove_at_once(folder)
    except OSError:
        return


class JobFolder:
    """The folder OUT.partial, held by one process for one job; a context manager.

    Args:
        out: the feature file that it becomes.
        job: JSON that is the same exactly when the features are the same.
        restart: throw away what is there.

    Raises:
        OtherJob: it belongs to another job.
        FeatureError: it is held by another process, is damaged, or cannot be written.
    """

    #: What holds rows without saying of which job: damage, where there is no `JOB`.
    holding: tuple[str, ...] = ()

    def __init__(self, out: Path, *, job: Mapping[str, Any], restart: bool = False) -> None:
        self.out = out
        self.folder = partial_folder(out)
        self._job, self._restart = job, restart

    def __enter__(self) -> Self:
        self._hold()
        try:
            if self._restart:
                remove_at_once(self.folder)
                self._lock.close()
                self._hold()
            remove_leftovers(self.folder.parent, [self.folder.name])
            self._check_job()
            self._begin()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def discard(self) -> None:
        """Removes the folder, which this process holds; nothing may be written any more."""
        remove_at_once(self.folder)

    def _begin(self) -> None:
        """What else is to be done with a folder that is held and of this job."""

    def _hold(self) -> None:
        """Makes the folder and keeps other processes out of it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / LOCK, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as err:
            raise self._unwritable(err) from err
        if not try_lock(self._lock):
            self._lock.close()
            raise FeatureError(
                f"{self.folder} is being written by another process. Wait for it, or give another output file."
            )

    def _check_job(self) -> None:
        path = self.folder / JOB
        text = json.dumps(self._job, indent=1, sort_keys=True)
        if not path.is_file():
            if any((self.folder / name).exists() for name in self.holding):
                raise self._damaged(f"it has rows, but no {JOB} that says of what")
            try:
                write_atomically(path, text + "\n")
            except OSError as err:
                raise self._unwritable(err) from err
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise self._damaged(f"{JOB} is not JSON: {err}") from err
        changes = job_changes(before, json.loads(text))
        if changes:
            raise OtherJob(
                f"{self.folder} was begun by another job (now <- before):\n  {listed(changes)}\n"
                "Undo the change, give another output file, or start over with --restart, which throws it away."
            )

    def _damaged(self, what: str) -> FeatureError:
        return FeatureError(f"{self.folder} is damaged: {what}. Start over with --restart.")

    def _unwritable(self, err: OSError) -> FeatureError:
        what = "Mend that"
        if err.errno in FULL:
            what = "Make room (finishing needs the size of the features twice)"
        return FeatureError(
            f"{self.out} cannot be written: {err.strerror or err}. {self._kept()} kept in {self.folder}. "
            f"{what}, then give the same command again: it goes on from there."
        )

    def _kept(self) -> str:
        """What is done, with its verb: "3 videos are done and"."""
        return "What is done is"
