"""What every process of a job runs: finds its place, does the verb, and leaves word about its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from video_ssl.cpu_threads import let_waiting_threads_sleep
from video_ssl.error_sentences import lost_the_others, sentence_of
from video_ssl.errors import AlreadyReported, one_sentence
from video_ssl.launch.attempts import end_note, leave_note, note_start
from video_ssl.launch.batch import Batch, TaskSpec, read_batch
from video_ssl.pretrain.run_processes import LOST_AFTER

logger = logging.getLogger(__name__)

JOB, ATTEMPT = "VIDEO_SSL_JOB", "VIDEO_SSL_ATTEMPT"


def run_in_slurm(batch: str, index: int) -> None:
    """Does a task of a batch as one process of a SLURM job; submitit calls it."""
    from submitit.helpers import TorchDistributedEnvironment

    _sweep_result()
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    with one_sentence():  # submitit would print a traceback
        run_task(batch, index, job=slurm_job(), attempt=attempt)


def _sweep_result() -> None:
    """Removes what an attempt that broke off (killed, full disk) has left of its result: submitit stumbles over it."""
    from submitit import JobEnvironment

    result = JobEnvironment().paths.result_pickle
    result.with_name(f"{result.name}.save_tmp").unlink(missing_ok=True)


def slurm_job() -> str:
    """Returns the number of the job around us, `12_3` for an element of an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID", "local")


def run_task(path: str, index: int, *, job: str, attempt: str) -> None:
    """Does a task of a batch as process RANK of WORLD_SIZE.

    Raises:
        whatever the verb raises; a note about it is left first.
    """
    let_waiting_threads_sleep()
    batch = read_batch(path)
    spec = batch.tasks[index]
    rank = int(os.environ.get("RANK", "0"))
    os.environ.setdefault(LOST_AFTER, str(batch.lost_after_sec))
    logging.basicConfig(format="%(message)s", level=os.environ.get("VIDEO_SSL_LOG", "INFO"))
    note = end_note(spec.run, job, spec.name, attempt, rank)
    signal.signal(signal.SIGUSR2, _stop_now)  # until a training has its own way to stop
    try:
        if rank == 0:
            nodes = os.environ.get("SLURM_JOB_NODELIST", os.uname().nodename)
            note_start(spec.run, spec.name, job=job, nodes=nodes)
        _VERBS[spec.verb](spec, batch)
    except BaseException as err:
        leave_note(note, *describe(err))
        raise
    leave_note(note, "finished", "")


def describe(err: BaseException) -> tuple[str, str]:
    """Returns the outcome of a process that ends with an error, and the reason in a line.

    Outcome `alone`: it could not reach the others, who have their own story.
    """
    sentence = " ".join((sentence_of(err) or str(err)).split())
    text = f"{type(err).__name__}: {sentence}"[:300]
    name = getattr(err, "signal_name", "")
    if name == "SIGUSR2":
        return "preempted", text
    if name or isinstance(err, KeyboardInterrupt):
        return "stopped", text
    return "alone" if lost_the_others(err) else "failed", text


def _stop_now(number: int, frame: Any) -> NoReturn:
    from video_ssl.pretrain.errors import Interrupted

    raise Interrupted(number, "stopped before there was anything to save")


def _pretrain(spec: TaskSpec, batch: Batch) -> None:
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.start import run_recipe

    run_recipe(load_pretrain_recipe(spec.arguments[0], spec.arguments[1:]))


def _evaluate(spec: TaskSpec, batch: Batch) -> None:
    from video_ssl.evaluate.recipe import load_evaluate_recipe
    from video_ssl.evaluate.run import evaluate

    evaluate(load_evaluate_recipe(spec.arguments[0], spec.arguments[1:]))


def _command(spec: TaskSpec, batch: Batch) -> None:
    """A verb of the command line, in a process of its own; it goes on by itself where it was stopped."""
    from video_ssl.pretrain.errors import Interrupted

    code, counts = "from video_ssl.cli import main; main()", "stopped; what was written counts"
    signal.signal(signal.SIGTERM, _stop_now)  # it may have reached this process alone
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code, spec.verb, *spec.arguments], check=False
        )
    except Interrupted as err:
        # `run` has killed the verb (SIGKILL) and waited for it: rows since its last commit are lost, others count.
        # Its workers end by themselves, at a pipe that nobody reads.  SIGKILL to this process does not reach the verb.
        raise Interrupted(signal.Signals[err.signal_name], counts) from err
    if ended.returncode in (-signal.SIGUSR2, -signal.SIGTERM, -signal.SIGINT):
        raise Interrupted(-ended.returncode, counts)
    if ended.returncode < 0:
        os.kill(os.getpid(), -ended.returncode)  # killed: no word of ours, as without this process
    if ended.returncode:
        sentence = f"{spec.name} ended with exit code {ended.returncode}: see the log above"
        raise AlreadyReported(sentence, ended.returncode)


def _results(spec: TaskSpec, batch: Batch) -> None:
    from video_ssl.launch.results import write_results

    logger.info("%s", write_results(Path(spec.run)))


_VERBS: dict[str, Callable[[TaskSpec, Batch], None]] = {
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "embed": _command,
    "merge": _command,
    "results": _results,
}


def main(arguments: Sequence[str]) -> None:
    """`python -m video_ssl.launch.task BATCH INDEX`: a process on this machine, started by torchrun or alone."""
    job, attempt = os.environ.get(JOB, "local"), os.environ.get(ATTEMPT, "0")
    with one_sentence():
        run_task(arguments[0], int(arguments[1]), job=job, attempt=attempt)


if __name__ == "__main__":
    main(sys.argv[1:])
