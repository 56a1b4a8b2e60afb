"""How much the features of an encoder in training tell about a small labelled table, every so many steps.

Videos are read once, as evaluations read them, and kept; the framework's loop gives the features of their clips.  It
changes nothing of the training: not weights, running statistics or the order of the data, and what a step draws at
random follows from its number.  A run with probes ends in the same bits as one without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pipeline import LoaderConfig
from video_ssl.clips.reading import open_record
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.models.preprocess_config import Preprocess, VideoPreprocess
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.probe_figures import (
    effective_rank,
    leave_one_out_accuracy,
    rankme,
    ridge_accuracy,
)
from video_ssl.pretrain.recipe import ProbeConfig

logger = logging.getLogger(__name__)

#: Features float (N, D) of clips uint8 (N, T, S, S, 3).
Encode = Callable[[np.ndarray], np.ndarray]
_KEPT_BYTES = 2**30


@dataclass(kw_only=True)
class TrainingProbe:
    """The probes of a run.  Made by `open_probe`.

    Attributes:
        table: all of its rows are looked at.
        labels: int64 (V,).
        found: figures of the last probe.
    """

    config: ProbeConfig
    table: Table
    labels: np.ndarray
    windows: WindowConfig
    loader: LoaderConfig
    found: dict[str, float] = field(default_factory=dict)
    _clips: np.ndarray | None = None
    _rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def run(self, encode: Encode) -> dict[str, float]:
        """Returns the figures: `probe_knn` and `probe_linear`, shares of videos whose class is named;
        `probe_rankme` and `probe_effective_rank` of the features; `probe_videos`, how many could be read.

        Raises:
            RunError: fewer than two videos can be read.
        """
        if self._clips is None:
            self._read()
        assert self._clips is not None
        clips, size = self._clips, self.config.batch_size
        parts = [
            np.asarray(encode(clips[begin : begin + size]), np.float64)
            for begin in range(0, len(clips), size)
        ]
        features = np.concatenate(parts)
        means = features.reshape(len(self._rows), -1, features.shape[1]).mean(axis=1)
        labels = self.labels[self._rows]
        self.found = {
            "probe_knn": leave_one_out_accuracy(means, labels, k=self.config.k),
            "probe_linear": ridge_accuracy(means, labels),
            "probe_rankme": rankme(means),
            "probe_effective_rank": effective_rank(means - means.mean(axis=0)),
            "probe_videos": len(labels),
        }
        return self.found

    def told(self) -> str:
        """Returns the last probe as a sentence."""
        found = self.found
        common = np.unique(self.labels[self._rows], return_counts=True)[1].max()
        return (
            f"probe of {found['probe_videos']} videos of {self.config.table}: kNN {100 * found['probe_knn']:.1f} %, "
            f"linear {100 * found['probe_linear']:.1f} % (most frequent class "
            f"{100 * common / found['probe_videos']:.1f} %), RankMe {found['probe_rankme']:.1f}, "
            f"effective rank {found['probe_effective_rank']:.1f}"
        )

    def _read(self) -> None:
        """Decodes all clips; a video that cannot be read is told and left out."""
        kept, rows = [], []
        for row in range(len(self.table)):
            record = self.table.record(row)
            try:
                with open_record(
                    record, self.loader.backend, timeout_sec=self.loader.video_timeout_sec
                ) as reader:
                    windows = iterate_windows(record, reader, self.windows)
                    kept.append(np.concatenate([window.clips for window in windows]))
            except BadVideo as err:
                logger.warning("probe: left out, as it cannot be read: %s", err)
                continue
            rows.append(row)
        if len(rows) < 2:
            raise RunError(
                f"training.probe.table={self.config.table}: {len(rows)} videos can be read, at least 2 are needed."
            )
        self._clips, self._rows = np.concatenate(kept), np.array(rows, np.int64)


def open_probe(
    config: ProbeConfig, preprocess: Preprocess, *, loader: LoaderConfig, whole: bool
) -> TrainingProbe:
    """Returns the probes of a run.

    Args:
        config: of the recipe.
        preprocess: of the first encoder of the objective.
        loader: of the recipe.
        whole: every process has all weights.

    Raises:
        RunError: the encoder takes no video; weights are divided among processes; videos without a label, or of one
            class; or more clips than are kept in memory.
        TableError: no such table.
    """
    if not isinstance(preprocess, VideoPreprocess):
        raise RunError(
            f"training.probe looks at encoders of video, and this one takes {preprocess.modality}: set it to null."
        )
    if not whole:
        raise RunError(
            "training.probe needs all weights in one process: set training.probe=null, or training.sharding=ddp "
            "(a flax training: one process)."
        )
    table, labels = probe_videos(config)
    windows = WindowConfig(
        num_frames=preprocess.num_frames,
        frame_stride=preprocess.frame_stride,
        fps=preprocess.fps,
        sampling=preprocess.sampling,
        shuffle_frames=preprocess.shuffle_frames,
        num_clips=config.num_clips,
        **preprocess.scaling(),
    )
    needed = len(table) * config.num_clips * windows.num_frames * windows.size**2 * 3
    if needed > _KEPT_BYTES:
        raise RunError(
            f"training.probe keeps its clips in memory, which would take {needed / 2**30:.1f} GiB of at most "
            f"{_KEPT_BYTES / 2**30:.0f}: lower training.probe.max_videos={config.max_videos} or num_clips."
        )
    return TrainingProbe(
        config=config,
        table=table,
        labels=labels,
        windows=windows,
        loader=loader,
    )


def probe_videos(config: ProbeConfig) -> tuple[Table, np.ndarray]:
    """Returns the table of the videos that are looked at, and their labels, int64 (V,).

    Raises:
        RunError: videos without a label, or of one class.
        TableError: no such table.
    """
    table = open_table(config.table)
    if len(table) > config.max_videos:
        logger.info("probe: %d of %d videos of %s", config.max_videos, len(table), config.table)
        table = table.select(np.linspace(0, len(table) - 1, config.max_videos).round())
    labels = table.column("label") if "label" in table.column_names else np.full(len(table), -1)
    lacking = int((labels < 0).sum())
    if lacking:
        raise RunError(
            f"training.probe needs the class of every video, but {lacking} of {len(table)} of {config.table} have no "
            "label."
        )
    if len(np.unique(labels)) < 2:
        raise RunError(
            f"training.probe.table={config.table} has {len(np.unique(labels))} class: at least 2 are needed."
        )
    return table, labels.astype(np.int64)
