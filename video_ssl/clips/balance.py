"""Class-balanced batches: groups of several videos of several classes, for objectives that pair videos of a label.

A group holds `classes` different classes and `videos` different videos of each, drawn with equal chances for every
class.  It is a function of the seed and of its number alone, so a run is resumed anywhere, and the groups of a step do
not depend on the number of workers; every host gets whole groups, and all hosts together those that one host would get.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from video_ssl.datasets.table import Table

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """What a group of a class-balanced batch holds; the batch of a process is one group or several.

    A video that cannot be read is replaced by the next one of the table, whatever its class.

    Attributes:
        classes: different classes in a group.
        videos: different videos of each.
    """

    classes: int = 2
    videos: int = 2

    def __post_init__(self) -> None:
        if self.classes < 1 or self.videos < 1:
            raise ValueError(f"classes={self.classes} and videos={self.videos} must be at least 1.")

    @property
    def group_size(self) -> int:
        """Videos in a group."""
        return self.classes * self.videos

    def check_batch(self, batch_size: int, num_parts: int = 1) -> None:
        """Raises ValueError unless a batch is made of whole groups, as many in each of its equal parts."""
        if batch_size % (self.group_size * num_parts):
            parts = f" in each of {num_parts} parts (processes, micro-batches)" * (num_parts > 1)
            raise ValueError(
                f"global_batch_size={batch_size} is not made of groups of classes={self.classes} x "
                f"videos={self.videos}{parts}: use a multiple of {self.group_size * num_parts}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class BalancedOrder:
    """The endless order of the rows of a table, group after group; see `balanced_order`.

    Attributes:
        rows: for every class its rows, int64.
    """

    config: BalanceConfig
    seed: int
    rows: tuple[Rows, ...] = field(repr=False)

    def row(self, index: int) -> int:
        """Returns the row at a place of the order."""
        number, place = divmod(index, self.config.group_size)
        return int(self.group(number)[place])

    def group(self, number: int) -> Rows:
        """Returns the rows of a group, int64 (classes * videos,), those of a class side by side."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, number]))
        chosen = rng.choice(len(self.rows), self.config.classes, replace=False)
        videos = self.config.videos
        return np.concatenate([rng.choice(self.rows[c], videos, replace=False) for c in chosen])


def balanced_order(table: Table, config: BalanceConfig, *, seed: int) -> BalancedOrder:
    """Returns the order of a table; records without a label are never drawn.

    Raises:
        ValueError: no labels, fewer classes than a group needs, or a class with too few videos.
    """
    labels = table.column("label") if "label" in table.column_names else np.array([-1])
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise ValueError(
            f"class-balanced batches need labels, and {table} has none: leave data.balance empty, or use a table "
            "with a column `label`."
        )
    if len(classes) < config.classes:
        raise ValueError(
            f"balance.classes={config.classes}, but {table} has videos of {len(classes)} classes only: lower it."
        )
    few = classes[counts < config.videos]
    if len(few):
        names = [_name(table, int(label)) for label in few[:5]]
        least = int(counts.min())
        raise ValueError(
            f"balance.videos={config.videos}, but {len(few)} of {len(classes)} classes have fewer videos (the least "
            f"{least}): {', '.join(names)}. Lower it, or train on a table without these classes."
        )
    rows = tuple(np.flatnonzero(labels == label) for label in classes)
    return BalancedOrder(config=config, seed=seed, rows=rows)


def _name(table: Table, label: int) -> str:
    return table.class_names[label] if label < len(table.class_names) else str(label)
