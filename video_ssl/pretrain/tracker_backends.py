"""The trackers of `trackers.TRACKERS`.  Each sends nothing anywhere unless its own environment variables say so."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from video_ssl.files import write_json
from video_ssl.limits import parse_json
from video_ssl.pretrain.run_folder import RECIPE
from video_ssl.pretrain.trackers import TrackedRun
from video_ssl.recipes import load_yaml

#: Where runs are filed whose user names no project (experiment).
PROJECT = "video_ssl"

_KEPT = "run.json"
_LONGEST_VALUE = 500  # of MLflow's early versions; later ones take more


class TensorBoardTracker:
    """Scalars in RUN/tensorboard, written with its own package alone."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        session = event_pb2.SessionLog
        self._writer = EventFileWriter(str(run.folder / "tensorboard"))
        start = session(status=session.START)  # hides what is repeated from here on
        self._writer.add_event(
            self._event(wall_time=time.time(), step=run.start_step + 1, session_log=start)
        )

    def write(self, row: Mapping[str, Any]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value) for name, value in numbers_of(row)
        ]
        summary = self._summary(value=values)
        event = self._event(wall_time=time.time(), step=row["step"], summary=summary)
        self._writer.add_event(event)  # raises what its thread has failed with at the row before

    def close(self, *, finished: bool) -> None:
        self._writer.close()


class MLflowTracker:
    """A run of MLflow: at $MLFLOW_TRACKING_URI, without it in RUN/tracking/mlflow/mlflow.db; in the experiment
    $MLFLOW_EXPERIMENT_NAME, without it `video_ssl`.  A continued run goes on in its run; steps that are trained again
    are there twice.  The keys of the recipe are its parameters.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tables being made
        self._metric = Metric
        local = "sqlite:///" + str((run.own / "mlflow.db").absolute())
        uri = os.environ.get("MLFLOW_TRACKING_URI") or local
        run.own.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=uri)
        kept = read_kept(run.own)
        self._run_id = kept.get("run_id", "") if kept.get("uri") == uri else ""
        if self._run_id:
            self._client.update_run(self._run_id, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(experiment)
        artifacts = (run.own / "artifacts").absolute().as_uri() if uri == local else None
        number = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(experiment, artifact_location=artifacts)
        )
        tags = {"mlflow.source.name": "video-ssl pretrain", "folder": str(run.folder.absolute())}
        self._run_id = self._client.create_run(number, run_name=run.name, tags=tags).info.run_id
        write_json(run.own / _KEPT, {"run_id": self._run_id, "uri": uri})
        settings = [Param(key, value[:_LONGEST_VALUE]) for key, value in settings_of(run.folder)]
        for first in range(0, len(settings), 100):  # MLflow takes 100 at once
            self._client.log_batch(self._run_id, params=settings[first : first + 100])

    def write(self, row: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, row["step"]) for name, value in numbers_of(row)]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


class WandbTracker:
    """A run of Weights & Biases: in RUN/tracking/wandb (`wandb sync` sends it), sent at once where $WANDB_MODE is
    `online`; in the project $WANDB_PROJECT, without it `video_ssl`.  A continued run goes on in its run.  Neither code,
    nor git state, nor what stands on the terminal is kept.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import
        os.environ.setdefault("WANDB_SILENT", "true")  # else it asks for a key, beside a training
        import wandb

        run.own.mkdir(parents=True, exist_ok=True)
        kept = read_kept(run.own)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=kept.get("run_id"),
            resume="allow",
            mode=os.environ.get("WANDB_MODE") or "offline",
            dir=str(run.own.absolute()),
            config=dict(settings_of(run.folder)),
            reinit="create_new",  # leaves a run of the user's own program alone
            settings=wandb.Settings(
                console="off", disable_git=True, save_code=False, silent=True, finish_timeout=10
            ),
        )
        write_json(run.own / _KEPT, {"run_id": self._run.id})

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(numbers_of(row)), step=row["step"])

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields what of a row a tracker draws: every number but the step."""
    for name, value in row.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step":
            yield name, value


def settings_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (dotted key, value as text) of the recipe of a run."""
    yield from _leaves(load_yaml(folder / RECIPE))


def _leaves(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, str(content)


def read_kept(own: Path) -> dict[str, Any]:
    """Returns what a tracker has kept of an earlier start of the run; {} if that is none, or not readable."""
    try:
        kept = parse_json((own / _KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
