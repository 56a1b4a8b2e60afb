"""What a pickle may name and call when it is read without the code behind its names."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NoReturn


class StandIn:
    """A function in the place of one that a pickle names; without attributes, so that the pickle cannot change it.

    >>> StandIn(lambda *items: sum(items))(1, 2)
    3
    """

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("changes a function")
