"""How well a classifier in training names the classes of videos, or of sounds, that it does not learn from.

Every video is read as evaluations read it: clips spread evenly over it, the middle of the picture, or squares along its
longer side; the softmax of its clips is averaged, or what stands before it; where a recording has several classes, the
sigmoid.  Weights, optimizer and random numbers of
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
from video_ssl.clips.sound_windows import SoundWindows, iterate_sound_windows
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.datasets import open_table
from video_ssl.datasets.class_names import listed, numbers_by_name, used_names
from video_ssl.datasets.table import Table
from video_ssl.models.multilabel_metrics import average_precisions, d_prime, roc_aucs
from video_ssl.models.preprocess import tensor_of
from video_ssl.models.preprocess_config import SoundPreprocess, VideoPreprocess
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
    """The trials of a run whose videos have one class each.  Made by `open_validation`.

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
    windows: WindowConfig | SoundWindows
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
        answers = self._answers()
        self._read = read = ~np.isnan(answers[:, 0])
        predicted = np.where(read, answers[:, 0], _UNREAD).astype(np.int64)
        losses = answers[:, 1]
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

    @property
    def _width(self) -> int:
        """How many numbers are kept of a video: its class, and its loss."""
        return 2

    def _answer(self, row: int, scores: Tensor) -> list[float]:
        """What is kept of a video, by the scores (N, K) of its clips."""
        mean = self._merged(scores)
        label = int(self.labels[row])
        loss = -np.log(max(float(mean[label]), 1e-12)) if label >= 0 else 0.0
        return [float(mean.argmax()), float(loss)]

    def _answers(self) -> np.ndarray:
        """float64 (V, _width): what is kept of each video, NaN where it could not be read."""
        total, world = len(self.table), self.processes.world_size
        own = list(range(self.processes.rank, total, world))
        most = -(-total // world)
        rows = torch.full((most, 1 + self._width), -1.0, dtype=torch.float64)
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
        answers = np.full((total, self._width), np.nan)
        answers[gathered[:, 0].astype(np.int64)] = gathered[:, 1:]
        return answers

    def _parts(self, own: Sequence[int], most: int) -> Iterator[list[int]]:
        """Rows that go through the network together; as many parts in every process, the last may be empty."""
        size = max(1, self.config.batch_size // (self.config.num_clips * self.config.num_crops))
        for begin in range(0, most, size):
            yield list(own[begin : begin + size])

    def _named(self, rows: list[int]) -> list[list[float]]:
        """Row and answer of some videos."""
        with ThreadPoolExecutor(max(1, self.loader.workers)) as threads:
            read = list(threads.map(self._clips, rows))
        clips = [found for found in read if found is not None]
        if not clips:  # of a divided network every process must run as often as the others
            if is_sharded(self.objective):
                self._scores(_no_clip(self.windows))
            return [self._unanswered(row) for row in rows]
        scores = self._scores(np.concatenate(clips))
        answers, at = [], 0
        for row, found in zip(rows, read, strict=True):
            if found is None:
                answers.append(self._unanswered(row))
                continue
            answers.append([float(row), *self._answer(row, scores[at : at + len(found)])])
            at += len(found)
        return answers

    def _unanswered(self, row: int) -> list[float]:
        return [float(row), *[float("nan")] * self._width]

    def _merged(self, scores: Tensor) -> Tensor:
        """float64 (K,): how sure it is of each class, by the scores (N, K) of the clips of one video."""
        if self.config.average == "logits":
            return scores.mean(0).softmax(0)
        return scores.softmax(1).mean(0)

    def _scores(self, clips: np.ndarray) -> Tensor:
        """float64 (N, K), before the softmax, of clips uint8 (N, T, S, S, 3), or sounds float32 (N, samples)."""
        video = tensor_of(clips).to(self.processes.device)
        enabled = self.precision == "bf16"
        with torch.autocast(video.device.type, torch.bfloat16, enabled=enabled):
            scores = self.objective.scores(video)
        return scores.double().cpu()

    def _clips(self, row: int) -> np.ndarray | None:
        """The clips of a video, or of its sound; None if it cannot be read, which is told once."""
        if row in self._kept:
            return self._kept[row]
        if row in self._unread:
            return None
        record = self.table.record(row)
        loader = self.loader
        try:
            with open_record(
                record,
                loader.backend,
                timeout_sec=loader.video_timeout_sec,
                sound_alone=isinstance(self.windows, SoundWindows),
            ) as reader:
                found = (
                    iterate_sound_windows(record, reader, self.windows)
                    if isinstance(self.windows, SoundWindows)
                    else iterate_windows(record, reader, self.windows)
                )
                clips = np.concatenate([window.clips for window in found])
        except BadVideo as err:
            self._unread[row] = err.reason
            logger.warning("validation: left out, as it cannot be read: %s", err)
            return None
        if self._kept_bytes + clips.nbytes <= _KEPT_BYTES:
            self._kept_bytes += clips.nbytes
            self._kept[row] = clips
        return clips


@dataclass(kw_only=True)
class MultilabelValidation(Validation):
    """The trials of a run whose recordings have any number of classes each.

    Attributes:
        labels: bool (V, K), as training numbers the classes; those that it does not have are left out.
    """

    def run(self) -> dict[str, float]:
        """Returns `val_map`, `val_auc` and `val_d_prime`, means over the classes that some but not all of the
        recordings have (NaN where there is none, or a class is told apart without a mistake, whose d' is infinite);
        `val_classes`, how many these are; and `val_videos`, how many recordings were read.

        Called by every process, which divide the recordings among them.

        Source: papers/vatt.md section 6.
        """
        answers = self._answers()
        self._read = read = ~np.isnan(answers[:, 0])
        means = dict.fromkeys(("val_map", "val_auc", "val_d_prime"), float("nan"))
        known = np.zeros(0, bool)
        if read.any():
            precision = average_precisions(answers[read], self.labels[read])
            area = roc_aucs(answers[read], self.labels[read])
            known = ~np.isnan(area)
        if known.any():
            prime = float(d_prime(area[known]).mean())
            means = {
                "val_map": float(precision[known].mean()),
                "val_auc": float(area[known].mean()),
                "val_d_prime": prime if np.isfinite(prime) else float("nan"),
            }
        self.found = means | {"val_classes": int(known.sum()), "val_videos": int(read.sum())}
        return self.found

    def told(self) -> str:
        """Returns the last trial as a sentence."""
        if not self.found["val_classes"]:
            return f"cannot be judged on {self.config.table}: it has no class that some have and others lack"
        return (
            f"has a mean average precision of {100 * self.found['val_map']:.1f} % over "
            f"{int(self.found['val_classes'])} classes of {int(self.found['val_videos'])} recordings of "
            f"{self.config.table}"
        )

    def yardsticks(self) -> str:
        """Returns what scores that know nothing reach."""
        shares = self.labels[self._read].mean(0)
        known = shares[(shares > 0) & (shares < 1)]
        if not len(known):
            return "guessing is as good where nothing can be told apart"
        chance = float(known.mean())
        return f"guessing gives {100 * chance:.1f} %"

    @property
    def _width(self) -> int:
        return int(self.labels.shape[1])

    def _answer(self, row: int, scores: Tensor) -> list[float]:
        found: list[float] = self._merged(scores).tolist()
        return found

    def _merged(self, scores: Tensor) -> Tensor:
        """float64 (K,): how sure it is of each class, by the scores (N, K) of the clips of one recording."""
        if self.config.average == "logits":
            return scores.mean(0).sigmoid()
        return scores.sigmoid().mean(0)


def _no_clip(windows: WindowConfig | SoundWindows) -> np.ndarray:
    """One clip of nothing."""
    if isinstance(windows, SoundWindows):
        return np.zeros((1, windows.num_samples), np.float32)
    return np.zeros((1, windows.num_frames, windows.size, windows.size, 3), np.uint8)


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
    multilabel = objective.is_multilabel()
    settings: dict[str, Any] = {
        "config": config,
        "objective": objective,
        "table": table,
        "windows": _windows(config, next(iter(objective.encoders().values())).preprocess),
        "loader": loader,
        "precision": precision,
        "processes": processes,
    }
    if multilabel:
        head = objective.classifier()
        assert head is not None
        labels = _label_sets(config.table, table, trained, head.out_features)
        return MultilabelValidation(**settings, labels=labels, train_labels=np.zeros(0, np.int64))
    labels = _labels(config.table, table, trained)
    return Validation(**settings, labels=labels, train_labels=trained.column("label"))


def _windows(config: ValidationConfig, preprocess: Any) -> WindowConfig | SoundWindows:
    """Which clips of a video are looked at, or listened to.

    Raises:
        RunError: settings of pictures for an encoder of sound.
    """
    if isinstance(preprocess, SoundPreprocess):
        if config.num_crops != 1 or config.size is not None or config.center_share != 1:
            raise RunError(
                "validation.num_crops, size and center_share are settings of pictures, and this encoder hears: leave "
                "them out."
            )
        return SoundWindows(
            rate=preprocess.rate, num_samples=preprocess.num_samples, num_clips=config.num_clips
        )
    assert isinstance(preprocess, VideoPreprocess)
    return WindowConfig(
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


def check_labels(config: ValidationConfig, *, multilabel: bool | None = False) -> None:
    """Raises RunError for videos without a label, and TableError for no such table: long before the run is built.

    Args:
        config: of the recipe.
        multilabel: videos have any number of classes (the column `labels`); None = nobody knows yet, either will do.
    """
    table = _videos(config)
    if multilabel is None:
        multilabel = "labels" in table.column_names and table.arrow["labels"].null_count < len(
            table
        )
    if multilabel:
        _own_label_sets(config.table, table)
    else:
        _own_labels(config.table, table)


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


def _own_label_sets(spec: str, table: Table) -> list[list[int]]:
    """The classes of the recordings as their own table numbers them."""
    column = table.arrow["labels"] if "labels" in table.column_names else None
    lacking = len(table) if column is None else column.null_count
    if column is None or lacking:
        raise RunError(
            f"validation needs the classes of every recording, but {lacking} of {len(table)} of {spec} have none in "
            "the column `labels`: one without a class has an empty list."
        )
    found: list[list[int]] = column.to_pylist()
    return found


def _label_sets(spec: str, table: Table, trained: Table, count: int) -> np.ndarray:
    """bool (V, count): the classes of the recordings as `trained` numbers them."""
    numbers = numbers_by_name(trained.class_names, table.class_names)
    if numbers is not None:
        logger.info("%s numbers its classes otherwise: they are matched by name", spec)
    found, lone = np.zeros((len(table), count), bool), 0
    for row, own in enumerate(_own_label_sets(spec, table)):
        for label in own:
            known = numbers is None or label < len(numbers) - 1
            number = label if numbers is None else int(numbers[label]) if known else count
            if number < count:
                found[row, number] = True
            else:
                lone += 1
    if not found.any():
        raise RunError(
            f"no class of {spec} is in the training table: the same names must stand for the same classes."
        )
    if lone:
        logger.info("%d labels of %s are of classes that are not trained: left out", lone, spec)
    return found
