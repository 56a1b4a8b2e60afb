"""How deep the parameters of an encoder lie, by their names; for learning rates that fall from layer to layer."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_STEM = ("patch_embed", "cls_token", "pos_embed", "positions", "mask_token")


def layer_by_name(name: str, depth: int) -> int:
    """Returns the layer of an encoder's parameter: 0 the embedding, i + 1 block i, depth + 1 everything after them.

    >>> [layer_by_name(n, 12) for n in ("positions.table", "blocks.0.norm1.bias", "norm.weight")]
    [0, 1, 13]
    """
    if name.split(".")[0] in _STEM:
        return 0
    block = _BLOCK.match(name)
    return int(block[1]) + 1 if block else depth + 1


def depth_by_names(names: Iterable[str]) -> int:
    """Returns how many blocks an encoder's parameters are of, 0 if its blocks are not called `blocks.N.`."""
    blocks = (_BLOCK.match(name) for name in names)
    return 1 + max((int(match[1]) for match in blocks if match), default=-1)
