"""A linear layer on frozen features where a clip has any number of classes (AudioSet): mAP, AUC and d-prime.

Classes are those of the column `labels` of both tables, or `label` where a video has no others; they are the same
where their names are, whatever numbers each table gives them.  Logits are averaged over the clips of a video.  The loss
is the published one of fine-tuning, in which rare classes count as much as frequent ones; that only a linear layer is
trained is ours.

Source: papers/vatt.md sections 5 and 6 (AudioSet), arXiv:2104.11178.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from video_ssl.datasets.class_names import numbers_by_name
from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.videos import MATCHED, Videos, shared_notes, videos_of
from video_ssl.models.multilabel_loss import multilabel_loss
from video_ssl.models.multilabel_metrics import average_precisions, d_prime, roc_aucs


@dataclass(frozen=True, kw_only=True)
class MultilabelProbeConfig:
    """Settings of the probe.

    Attributes:
        learning_rate: of Adam, at the start of a cosine that ends at 0.
        epochs: passes over the training clips.
        batch_size: clips in a step.
        device: where it is trained; auto = that of the evaluation.
    """

    learning_rate: float = 1e-3
    epochs: int = 100
    batch_size: int = 256
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(
                f"epochs={self.epochs} and batch_size={self.batch_size} must be at least 1, "
                f"learning_rate={self.learning_rate} above 0."
            )


class MultilabelProbe:
    """The evaluator `multilabel_probe`."""

    Config = MultilabelProbeConfig
    title = "linear probe of several classes"
    figures: ClassVar[Mapping[str, Figure]] = {"d_prime": Figure(title="d'", unit="", digits=2)}

    def __init__(self, config: MultilabelProbeConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(labels=False, reader=True)

    def evaluate(self, given: Context) -> Result:
        """Returns mAP, AUC and d-prime on `test`, means over the classes that some but not all test videos have.

        Raises:
            FeatureError: a video without a class in train, no class that can be judged, or a class without a name where
                classes are matched by their names.
        """
        train, test = (videos_of(file, labelled=False) for file in (given.train, given.test))
        ours, theirs = given.tables["train"], given.tables["test"]
        numbers = numbers_by_name(ours.class_names, theirs.class_names)
        if numbers is None:
            count = max(_num_classes(table) for table in (ours, theirs))
        else:
            count = max(len(ours.class_names), int(numbers.max()) + 1)
        own = None if numbers is None else np.arange(len(ours.class_names))
        learned = class_table(train, ours, count, own)
        truth = class_table(test, theirs, count, None if numbers is None else numbers[:-1])
        logits = self._logits(given, learned[train.index], count)
        scores = test.mean(logits)
        precision, area = average_precisions(scores, truth), roc_aucs(scores, truth)
        known = ~np.isnan(area)
        if not known.any():
            raise FeatureError(
                "no class can be judged: each of them is of all test videos, or of none. Use a table with several."
            )
        prime = d_prime(area[known])
        found = {"mAP": float(precision[known].mean()), "AUC": float(area[known].mean())}
        found["d_prime"] = float(prime.mean())
        notes = [] if numbers is None else [MATCHED]
        notes += shared_notes(train, test)
        if (~known).any():
            notes.append(
                f"{int((~known).sum())} of {count} classes are of no test video, or of all: left out"
            )
        if np.isinf(prime).any():
            notes.append(
                f"{int(np.isinf(prime).sum())} classes are told apart without a mistake: their d' is infinite"
            )
        chance = float(truth[:, known].mean())
        told = f"{100 * found['mAP']:.1f} %"
        return Result(
            metrics=found,
            correct=0,
            total=len(test),
            chance=chance,
            details={
                "chance": {"mAP": chance, "AUC": 0.5, "d_prime": 0.0},
                "headline": {"metric": "mAP", "found": told, "guessing": f"{100 * chance:.1f} %"},
                "num_classes": int(known.sum()),
                "average_precision": precision.tolist(),
                "auc": area.tolist(),
            },
            notes=notes,
            statement=f"has a mean average precision of {told}",
        )

    def _logits(self, given: Context, learned: np.ndarray, count: int) -> np.ndarray:
        """float64 (N, K) of the test clips, by a layer that was trained on the standardised training clips."""
        config, device = self.config, device_of(self.config.device, given)
        rows = torch.from_numpy(np.array(given.train.features, np.float32))
        asked = torch.from_numpy(np.array(given.test.features, np.float32))
        deviation, mean = torch.std_mean(rows, dim=0, correction=0)
        scale = torch.where(deviation > 1e-6 * (1e-12 + mean.abs()), 1 / deviation, 0.0)
        x = ((rows - mean) * scale).to(device)
        y = torch.from_numpy(learned.astype(np.float32)).to(device)
        generator = torch.Generator().manual_seed(given.seed)
        layer = torch.nn.Linear(x.shape[1], count, device=device)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, -math.log(max(count - 1, 1)))
        optimizer = torch.optim.Adam(layer.parameters(), lr=config.learning_rate)
        steps = config.epochs * math.ceil(len(x) / config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(config.epochs):
            for batch in torch.randperm(len(x), generator=generator).split(config.batch_size):
                optimizer.zero_grad()
                multilabel_loss(layer(x[batch]), y[batch]).backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            found = layer(((asked - mean) * scale).to(device))
        return np.asarray(found.cpu().numpy(), np.float64)


def _num_classes(table: Table) -> int:
    named = len(table.class_names)
    seen = (max(_classes(table, index), default=-1) + 1 for index in range(len(table)))
    return max(named, *seen, 0)


def _classes(table: Table, index: int) -> tuple[int, ...]:
    record = table.record(index)
    if record.labels is not None:
        return record.labels
    return () if record.label is None else (record.label,)


def class_table(
    videos: Videos, table: Table, count: int, numbers: np.ndarray | None = None
) -> np.ndarray:
    """Returns bool (V, count): the classes of each video.

    Args:
        videos: of a feature file of the table.
        table: says their classes.
        count: of classes.
        numbers: int64 (names,), the number of each name of the table; None = those of the table.

    Raises:
        FeatureError: no video has a class, the table has not all of the videos, or there are `numbers` and a class has
            no name.
    """
    rows = {str(key): row for row, key in enumerate(table.column("id").tolist())}
    found = np.zeros((len(videos), count), bool)
    for video, key in enumerate(videos.ids.tolist()):
        if key not in rows:
            raise FeatureError(f"the table has no record {key!r} any more: embed it again.")
        classes = list(_classes(table, rows[key]))
        if numbers is not None:
            classes = _named(classes, numbers, f"{table.path or 'the table'}: row {rows[key] + 1}")
        found[video, classes] = True
    if not found.any():
        raise FeatureError(
            f"no video of {table.path or 'the table'} has a class: fill the column labels (docs/data.md)."
        )
    return found


def _named(classes: list[int], numbers: np.ndarray, row: str) -> list[int]:
    """The classes by other numbers; raises FeatureError for one without a name."""
    nameless = [label for label in classes if label >= len(numbers)]
    if nameless:
        raise FeatureError(
            f"{row} has the class {nameless[0]}, but there are {len(numbers)} names of classes, by which both tables "
            "are matched: name it too, or use the same numbers without names in both."
        )
    return [int(numbers[label]) for label in classes]
