"""Which classes records of a training have: one each (`label`), or any number (`labels`).  Free of torch and jax."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow.compute as pc

from video_ssl.datasets.class_names import listed
from video_ssl.datasets.table import Table
from video_ssl.objectives.supervised.config import count_classes

logger = logging.getLogger(__name__)


def read_classes(
    tables: Sequence[Table], *, multilabel: bool | None, stated: int | None
) -> tuple[bool, int]:
    """Returns whether records have any number of classes rather than one, and how many classes there are.

    Args:
        tables: of the training.
        multilabel: what the settings say; None = what the tables have.
        stated: number of classes that the settings say; None = as many as the tables have.

    Raises:
        ValueError: records without classes, tables that have both kinds or different ones, that number their classes
            differently, or another number of classes than stated.
    """
    if multilabel is None:
        multilabel = _has_several(tables)
    return multilabel, _count_several(tables, stated) if multilabel else count_classes(
        tables, stated
    )


def _has_several(tables: Sequence[Table]) -> bool:
    """What all tables have."""
    kinds = []
    for table in tables:
        name, one, multilabel = table.name or "the table", _has_one(table), _filled(table, "labels")
        if one and multilabel:
            raise ValueError(
                f"{name} has both `label` (one class of each record) and `labels` (any number of them): say which is "
                "to be learned, objective.multilabel=false or objective.multilabel=true."
            )
        if not one and not multilabel:
            raise ValueError(
                f"{name} has no classes: give a table with the column `label` (one class of each recording) or "
                "`labels` (any number of them), or sub-folders as classes."
            )
        kinds.append(multilabel)
    if len(set(kinds)) > 1:
        raise ValueError(
            f"of the tables {[table.name for table in tables]} some have one class of each record (`label`) and some "
            "any number (`labels`): write them alike."
        )
    return kinds[0]


def _has_one(table: Table) -> bool:
    return "label" in table.column_names and bool((table.column("label") >= 0).any())


def _filled(table: Table, name: str) -> bool:
    return name in table.column_names and table.arrow[name].null_count < len(table)


def _count_several(tables: Sequence[Table], stated: int | None) -> int:
    """The number of classes where every record has a list of them."""
    names, counts = [], []
    for table in tables:
        name = table.name or "the table"
        column = table.arrow["labels"] if "labels" in table.column_names else None
        lacking = len(table) if column is None else column.null_count
        if lacking:
            raise ValueError(
                f"objective.multilabel=true needs the classes of every recording, but {lacking} of {len(table)} of "
                f"{name} have none in the column `labels`: fill it (one without a class has an empty list), or set "
                "objective.multilabel=false to learn from `label`."
            )
        classes = pc.list_flatten(column)
        if not len(classes):
            raise ValueError(
                f"no recording of {name} has a class: every list of `labels` is empty."
            )
        empty = int((pc.list_value_length(column).to_numpy() == 0).sum())
        if empty:
            logger.info(
                "%s: %d of %d recordings have no class, and weigh nothing in the loss",
                name,
                empty,
                len(table),
            )
        names.append(table.class_names)
        counts.append(int(pc.max(classes).as_py()) + 1)
    if len(set(names)) > 1:
        raise ValueError(
            f"the tables {[table.name for table in tables]} number their classes differently: put their rows into one "
            "table."
        )
    count = max(len(names[0]), *counts)
    if stated is None:
        return count
    if stated < count or (names[0] and stated != count):
        named = f" ({listed(names[0])})" if names[0] else ""
        raise ValueError(
            f"objective.num_classes={stated}, but {tables[0].name or 'the table'} has {count} classes{named}: leave it "
            "out (null), it is counted there."
        )
    return stated
