"""Videos without sound are left out before a training on sounds, where their table knows it."""

from __future__ import annotations

import logging

import numpy as np

from video_ssl.datasets.table import Table
from video_ssl.pretrain.errors import RunError

logger = logging.getLogger(__name__)

_NAMED = 50


def without_mute(table: Table) -> Table:
    """Returns the table without the records that are known to have no sound, and says which these are.

    A table knows it from a scan (`video-ssl scan`); a record of which it knows nothing stays, and is skipped when it is
    read.

    Raises:
        RunError: nothing is left.
    """
    if "has_audio" not in table.column_names:
        return table
    mute = np.array([known is False for known in table.column("has_audio").tolist()])
    if not mute.any():
        return table
    ids = table.column("id")[mute]
    named = ", ".join(map(str, ids[:_NAMED]))
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    if mute.all():
        raise RunError(
            f"{table.name}: no video has sound ({named}{more}), which the objective learns from: give recordings with "
            "sound."
        )
    logger.warning(
        "%s: %d of %d videos are left out, as they have no sound: %s%s",
        table.name,
        len(ids),
        len(table),
        named,
        more,
    )
    return table.select(~mute)
