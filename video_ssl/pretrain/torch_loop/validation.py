"""How well a classifier in training names the classes of videos that it does not learn from.

Every video is read as evaluations read it: clips spread evenly over it, the middle of the picture, or squares along its
longer side; the softmax of its clips is averaged, or what stands before it.  Weights, optimizer and random numbers of
the training are left as they were: a run with trials ends in the same bits as one without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pipeline import LoaderConfig
from video_ssl.clips.reading import open_record
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.datasets import open_table
from video_ssl.datasets.class_names import listed, numbers_by_name, used_names
from video_ssl.datasets.table import Table
from video_ssl.models.preprocess import tensor_of
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.torch_objective import TorchObjective
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.recipe import ValidationConfig
from video_ssl.pretrain.torch_loop.sharding import is_sharded

logger = logging.getLogger(__name__)

#: Clips of earlier trials that are kept in memory, so that videos are decoded once.
_KEPT_BYTES = 2**29
NO_CLASSIFIER = (
    "validation tries a classifier, and this objective has none: set validation=null, and evaluate its encoder after "
    "the training (evaluate=probe)."
)
_UNREAD = -2  # what a video counts as that could not be read


@dataclass(kw_only=True)
class Validation:
    """The trials of a run.  Made by `open_validation`.

    Attributes:
        table: all of its rows are tried.
        labels: int64 (V,), classes as training numbers them, -1 for those that it does not have.
        train_labels: int64, of the training videos, for what guessing gives.
        found: figures of the last trial.
    """

    config: ValidationConfig
    objective: TorchObjective
    table: Table
    labels: np.ndarray
    train_labels: np.ndarray
    windows: WindowConfig
    loader: LoaderConfig
    precision: str
    processes: Processes
    found: dict[str, float] = field(default_factory=dict)
    _kept: dict[int, np.ndarray] = field(default_factory=dict)
    _kept_bytes: int = 0
    _unread: dict[int, str] = field(default_factory=dict)
    _read: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def run(self) -> dict[str, float]:
        """Returns `val_top1` and `val_mean_class`, shares of the videos and of the mean class; `val_loss`, the mean
        negative logarithm of the share given to the class; and `val_videos`, how many were read.

        Called by every process, which divide the videos among them.
        """
        predicted, losses = self._answers()
        self._read = read = predicted != _UNREAD
        right = predicted == self.labels
        known = np.unique(self.labels[read & (self.labels >= 0)])
        each = [right[read & (self.labels == label)].mean() for label in known]
        self.found = {
            "val_top1": float(right[read].mean()) if read.any() else float("nan"),
            "val_mean_class": float(np.mean(each)) if each else float("nan"),
            "val_loss": float(np.mean(losses[read & (self.labels >= 0)])) if each else float("nan"),
            "val_videos": int(read.sum()),
        }
        return self.found

    def told(self) -> str:
        """Returns the last trial as a sentence."""
        videos = int(self.found["val_videos"])
        right = round(self.found["val_top1"] * videos) if videos else 0
        return (
            f"names the class of {right} of {videos} videos of {self.config.table} "
            f"({100 * self.found['val_top1']:.1f} %, mean of the classes {100 * self.found['val_mean_class']:.1f} %)"
        )

    def yardsticks(self) -> str:
        """Returns what is right without looking: by guessing, and by always naming the most frequent training class."""
        common = int(np.bincount(self.train_labels).argmax())
        share = float((self.labels[self._read] == common).mean())
        guess = 1 / len(np.unique(self.train_labels))
        return f"guessing gives {100 * guess:.1f} %, the most frequent class {100 * share:.1f} %"

    # Inside

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        """The class that each video is given (V,), `_UNREAD` where it could not be read, and its loss (V,)."""
        total, world = len(self.table), self.processes.world_size
        own = list(range(self.processes.rank, total, world))
        most = -(-total // world)
        rows = torch.full((most, 3), -1.0, dtype=torch.float64)
        filled = 0
        training = self.objective.training
        self.objective.eval()
        try:
            with torch.no_grad():
                for part in self._parts(own, most):
                    for answer in self._named(part):
                        rows[filled] = torch.tensor(answer, dtype=torch.float64)
                        filled += 1
        finally:
            self.objective.train(training)
        gathered = self.processes.gather(rows.to(self.processes.device)).cpu().numpy()
        gathered = gathered[gathered[:, 0] >= 0]
        predicted, losses = np.full(total, _UNREAD), np.zeros(total)
        places = gathered[:, 0].astype(np.int64)
        predicted[places], losses[places] = gathered[:, 1].astype(np.int64), gathered[:, 2]
        return predicted, losses

    def _parts(self, own: Sequence[int], most: int) -> Iterator[list[int]]:
        """Rows that go through the network together; as many parts in every process, the last may be empty."""
        size = max(1, self.config.batch_size // (self.config.num_clips * self.config.num_crops))
        for begin in range(0, most, size):
            yield list(own[begin : begin + size])

    def _named(self, rows: list[int]) -> list[tuple[int, int, float]]:
        """(row, predicted class, loss) of some videos."""
        with ThreadPoolExecutor(max(1, self.loader.workers)) as threads:
            read = list(threads.map(self._clips, rows))
        clips = [found for found in read if found is not None]
        if not clips:  # of a divided network every process must run as often as the others
            if is_sharded(self.objective):
                c = self.windows
                self._scores(np.zeros((1, c.num_frames, c.size, c.size, 3), np.uint8))
            return [(row, _UNREAD, 0.0) for row in rows]
        scores = self._scores(np.concatenate(clips))
        answers, at = [], 0
        for row, found in zip(rows, read, strict=True):
            if found is None:
                answers.append((row, _UNREAD, 0.0))
                continue
            mean = self._merged(scores[at : at + len(found)])
            at += len(found)
            label = int(self.labels[row])
            loss = -np.log(max(float(mean[label]), 1e-12)) if label >= 0 else 0.0
            answers.append((row, int(mean.argmax()), float(loss)))
        return answers

    def _merged(self, scores: Tensor) -> Tensor:
        """float64 (K,): how sure it is of each class, by the scores (N, K) of the clips of one video."""
        if self.config.average == "logits":
            return scores.mean(0).softmax(0)
        return scores.softmax(1).mean(0)

    def _scores(self, clips: np.ndarray) -> Tensor:
        """float64 (N, K), before the softmax, of clips uint8 (N, T, S, S, 3)."""
        video = tensor_of(clips).to(self.processes.device)
        enabled = self.precision == "bf16"
        with torch.autocast(video.device.type, torch.bfloat16, enabled=enabled):
            scores = self.objective.scores(video)
        return scores.double().cpu()

    def _clips(self, row: int) -> np.ndarray | None:
        """The clips of a video, uint8 (N, T, S, S, 3); None if it cannot be read, which is told once."""
        if row in self._kept:
            return self._kept[row]
        if row in self._unread:
            return None
        record = self.table.record(row)
        loader = self.loader
        try:
            with open_record(
                record, loader.backend, timeout_sec=loader.video_timeout_sec
            ) as reader:
                clips = np.concatenate(
                    [window.clips for window in iterate_windows(record, reader, self.windows)]
                )
        except BadVideo as err:
            self._unread[row] = err.reason
            logger.warning("validation: left out, as it cannot be read: %s", err)
            return None
        if self._kept_bytes + clips.nbytes <= _KEPT_BYTES:
            self._kept_bytes += clips.nbytes
            self._kept[row] = clips
        return clips


def open_validation(
    config: ValidationConfig,
    objective: TorchObjective,
    trained: Table,
    *,
    loader: LoaderConfig,
    precision: str,
    processes: Processes,
) -> Validation:
    """Returns the trials of a run, and tells what is to be known of their classes.

    Args:
        config: of the recipe.
        objective: on its device.
        trained: the table that is trained on.
        loader, precision: of the recipe.
        processes: of the run.

    Raises:
        RunError: the objective names no classes, videos without a label, or no class that is trained.
        TableError: no such table.
    """
    if objective.classifier() is None:
        raise RunError(NO_CLASSIFIER)
    table = _videos(config)
    if is_sharded(
        objective
    ):  # what is divided is gathered for `forward` only, and for what is named here
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(objective, "scores")
    preprocess: Any = next(iter(objective.encoders().values())).preprocess
    assert isinstance(preprocess, VideoPreprocess)
    windows = WindowConfig(
        num_frames=preprocess.num_frames,
        frame_stride=preprocess.frame_stride,
        fps=preprocess.fps,
        sampling=preprocess.sampling,
        shuffle_frames=preprocess.shuffle_frames,
        num_clips=config.num_clips,
        num_crops=config.num_crops,
        crop="center" if config.num_crops == 1 else "spread",
        center_share=config.center_share,
        **preprocess.scaling(config.size),
    )
    return Validation(
        config=config,
        objective=objective,
        table=table,
        labels=_labels(config.table, table, trained),
        train_labels=trained.column("label"),
        windows=windows,
        loader=loader,
        precision=precision,
        processes=processes,
    )


def check_labels(config: ValidationConfig) -> None:
    """Raises RunError for videos without a label, and TableError for no such table: long before the run is built."""
    _own_labels(config.table, _videos(config))


def _videos(config: ValidationConfig) -> Table:
    """The videos that are tried, evenly spread over their table."""
    table = open_table(config.table)
    if len(table) <= config.max_videos:
        return table
    logger.info("validation: %d of %d videos of %s", config.max_videos, len(table), config.table)
    return table.select(np.linspace(0, len(table) - 1, config.max_videos).round())


def _own_labels(spec: str, table: Table) -> np.ndarray:
    """The classes of the videos as their own table numbers them."""
    labels = table.column("label") if "label" in table.column_names else np.full(len(table), -1)
    if (labels < 0).any():
        lacking = int((labels < 0).sum())
        raise RunError(
            f"validation needs the class of every video, but {lacking} of {len(table)} of {spec} have no label."
        )
    return labels


def _labels(spec: str, table: Table, trained: Table) -> np.ndarray:
    """The classes of the videos as `trained` numbers them, -1 for one that it does not have."""
    labels = _own_labels(spec, table)
    own = trained.column("label")
    numbers = numbers_by_name(trained.class_names, table.class_names)
    if numbers is not None:
        logger.info("%s numbers its classes otherwise: they are matched by name", spec)
        labels = numbers[labels]
    labels = np.where(np.isin(labels, own), labels, -1)
    if (labels < 0).all():
        names = listed(sorted(used_names(table.class_names, table.column("label"))))
        raise RunError(
            f"no class of {spec} ({names or 'numbers'}) is in the training table: the same names must stand for the "
            "same classes."
        )
    if (labels < 0).any():
        lone = used_names(table.class_names, table.column("label")) - used_names(
            trained.class_names, own
        )
        logger.info(
            "%d videos of %s are of classes that are not trained, and count as wrong: %s",
            int((labels < 0).sum()),
            spec,
            listed(sorted(lone)) or "numbers without names",
        )
    return labels.astype(np.int64)
