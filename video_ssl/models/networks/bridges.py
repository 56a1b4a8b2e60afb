"""What the bridges between torch's weights and flax's share.  Free of both.

A bridge is a module of a network with two functions; `NETWORKS` names it:

    to_torch_state(variables)   flax {"params": ..., "batch_stats": ...} -> torch state dict of arrays
    to_flax_variables(state)    the other way; both raise BridgeError for a name that they do not know
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class BridgeError(ValueError):
    """Weights that do not fit the names of a network; the text says which."""


def shapes_of(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of a tree of arrays, names as `params/res2_block0/norm1/scale`."""
    return {"/".join(path): tuple(value.shape) for path, value in walk(variables)}


def walk(
    tree: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, leaf) for all leaves of a tree of mappings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from walk(value, (*path, str(name)))
        else:
            yield (*path, str(name)), value
