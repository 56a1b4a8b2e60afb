"""Weights out of the one kind of file that holds a pickled module and is worth it: OpenAI's tokenizer, `encoder.pkl`.

A pickle is a program that names classes and functions and calls them.  Here each name of a short list means a stand-in:
modules become `PickledModule`, which keeps parameters and children and does nothing, and any other name refuses the
file.  Neither the code of the file's authors nor any module of torch is made.

Source: papers/bevt.md section 10.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from video_ssl.pickled_names import StandIn

#: What such a file names of modules; the first must be there.
MODULES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.linear.Identity",
)
_DEEPEST = 20


class PickledModule:
    """Stands for a module: its parameters and its children, by name."""

    #: What torch asks of modules in files from before its archives; it may write files where this is true.
    dump_patches = False

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        self.parameters: dict[str, Tensor] = {}
        self.children: dict[str, PickledModule] = {}

    def __new__(cls, *_args: object, **_kwargs: object) -> PickledModule:
        made = object.__new__(cls)
        made.parameters, made.children = {}, {}
        return made

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, Mapping):
            raise pickle.UnpicklingError("a module without attributes")
        for place, kind in (("_parameters", Tensor), ("_modules", PickledModule)):
            entries = state.get(place, {})
            if not isinstance(entries, Mapping):
                raise pickle.UnpicklingError(f"{place} of a module that are no entries")
            own: dict[str, Any] = self.parameters if kind is Tensor else self.children
            own.update({str(k): v for k, v in entries.items() if isinstance(v, kind)})


_CALLS: Mapping[str, StandIn] = {
    "collections.OrderedDict": StandIn(lambda *items: OrderedDict(*items)),
    "torch._utils._rebuild_parameter": StandIn(lambda data, *_: data),
    "torch._utils._rebuild_tensor_v2": StandIn(torch._utils._rebuild_tensor_v2),
    "torch.device": StandIn(lambda *_: "cpu"),
    "builtins.set": StandIn(lambda *items: set(*items)),
    "__builtin__.set": StandIn(lambda *items: set(*items)),
}


class _Unpickler(pickle.Unpickler):
    """Reads such a pickle; what torch adds to it (storages) is its business."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in MODULES:
            # A class of its own for every name, so that a pickle that changes one changes nothing that stays.
            return type("PickledModule", (PickledModule,), {})
        if full in _CALLS:
            return _CALLS[full]
        raise pickle.UnpicklingError(f"names {full}, which only code could turn into an object")


class _RestrictedPickle:
    """What torch.load asks of a module like `pickle`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: IO[bytes], **_: Any) -> Any:
        return _Unpickler(file).load()


def is_known(names: Collection[str]) -> bool:
    """Returns whether the names that PyTorch's own reader refuses are those of OpenAI's tokenizer and no others."""
    return MODULES[0] in names and set(names) <= {*MODULES, *_CALLS}


def read_module(path: Path) -> dict[str, Tensor]:
    """Returns the parameters of a pickled module, by the names that its state dict would have.

    Only for files whose names are known (`is_known`); any other name in it raises all the same.

    Raises:
        pickle.UnpicklingError, RuntimeError, ...: damaged, or of something else.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source of its classes is not there
        content = torch.load(
            file, map_location="cpu", weights_only=False, pickle_module=_RestrictedPickle
        )
    if not isinstance(content, PickledModule):
        raise pickle.UnpicklingError(f"a {type(content).__name__} where a module was expected")
    found: dict[str, Tensor] = {}
    _collect(content, "", found, depth=0)
    return found


def _collect(module: PickledModule, prefix: str, found: dict[str, Tensor], depth: int) -> None:
    if depth > _DEEPEST or len(found) > 10_000:
        raise pickle.UnpicklingError("modules within modules without end")
    for name, value in module.parameters.items():
        found[prefix + name] = value.detach()
    for name, child in module.children.items():
        _collect(child, f"{prefix}{name}.", found, depth + 1)
