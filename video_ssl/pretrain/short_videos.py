"""Videos that are too short for an objective are left out before its training, where their table knows it."""

from __future__ import annotations

import logging

import numpy as np

from video_ssl.clips.too_short import LONGER
from video_ssl.datasets.table import Table
from video_ssl.pretrain.errors import RunError

logger = logging.getLogger(__name__)

_NAMED = 50


def without_short(table: Table, least_sec: float) -> Table:
    """Returns the table without the records that are known to last less than `least_sec`, and says which these are.

    A table knows the frames and their rate from a scan, or the seconds from the names of files or from where a record
    begins and ends; a record of which it knows nothing stays.

    Raises:
        RunError: nothing is left.
    """
    if least_sec <= 0:
        return table
    short = np.flatnonzero(known_seconds(table) < least_sec)
    if not len(short):
        return table
    ids = table.column("id")
    named = ", ".join(str(ids[row]) for row in short[:_NAMED])
    more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
    if len(short) == len(table):
        raise RunError(
            f"{table.name}: every video is shorter than the {least_sec:.2f} s that the objective needs "
            f"({named}{more}): {LONGER}."
        )
    logger.warning(
        "%s: %d of %d videos are left out, as they are shorter than the %.2f s that the objective needs: %s%s",
        table.name,
        len(short),
        len(table),
        least_sec,
        named,
        more,
    )
    return table.select(np.setdiff1d(np.arange(len(table)), short))


def known_seconds(table: Table) -> np.ndarray:
    """Returns float64 (N,): how long each record lasts, infinite where the table does not know it."""

    def numbers(name: str) -> np.ndarray:
        if name not in table.column_names:
            return np.full(len(table), np.nan)
        return np.asarray(table.column(name), np.float64)

    counted = numbers("num_frames") / np.where(numbers("fps") > 0, numbers("fps"), np.nan)
    found = np.full(len(table), np.inf)
    for seconds in (numbers("end_sec") - numbers("start_sec"), numbers("duration_sec"), counted):
        found = np.where(np.isfinite(seconds), seconds, found)
    return found
