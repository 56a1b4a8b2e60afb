"""Rooms that are verbs too: `video_ssl.embed` is a package with modules in it, and a function.

A package that holds modules takes the place of whatever had its name in `video_ssl` as soon as one of them is imported,
so the function cannot stand beside it: the package itself is called.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

VERBS = "video_ssl.verbs"


class _Room(ModuleType):
    """A package that `VERBS` has a function of the same name for."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self._verb(*args, **settings)

    @property
    def _verb(self) -> Any:
        return getattr(import_module(VERBS), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._verb)


def make_callable(room: str) -> None:
    """Makes a package that is being imported callable; its verb is imported when it is first called."""
    sys.modules[room].__class__ = _Room
