"""At what rate folders of frames were embedded: a feature file notes it, for whoever looks for the pictures later."""

from __future__ import annotations

import numpy as np

from video_ssl.datasets.table import Table

__all__ = ["VARIOUS", "rate_of"]

#: In place of a rate, where a table gives more than one.
VARIOUS = "various"


def rate_of(table: Table) -> float | str | None:
    """Returns the rate that a table gives all its records, None where it gives none, `VARIOUS` where it gives several.

    >>> rate_of(Table.from_rows([{"id": "a", "source": "a", "fps": 10.0}]))
    10.0
    """
    if "fps" not in table.column_names:
        return None
    rates = np.unique(table.column("fps"))  # all NaN are one
    if len(rates) != 1:
        return VARIOUS
    return None if np.isnan(rates[0]) else float(rates[0])
