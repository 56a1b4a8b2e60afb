"""Weights from elsewhere: read without unpickling code, map by prefix, report every key.

`load_weights` never loads silently less than all: it logs what matched, what was renamed, what is
missing and what is unused, and fails below a share that the caller sets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from video_ssl.models.checkpoint_files import (
    Arguments,
    WeightsError,
    plain_options,
    read_content,
)

log = logging.getLogger(__name__)

#: (prefix in the file, prefix here); None drops the key.  The first prefix that fits is used.
Renames = Sequence[tuple[str, str | None]]

#: The last two are V-JEPA 2's.
CONTAINERS = (
    *("model", "module", "state_dict", "model_state_dict", "model_state"),
    *("target_encoder", "encoder"),
)
WRAPPERS = ("_orig_mod.", "module.")


@dataclass(frozen=True)
class LoadReport:
    """What happened to every key.

    Attributes:
        matched: keys of the module that were filled.
        renamed: key in the file -> key of the module, where the two differ.
        missing: keys of the module that the file does not have; they keep their values.
        unused: keys of the file without a place in the module, dropped ones included.
        mismatched: keys whose shapes differ, with both shapes; they keep their values.
        computed: keys of the file that hold a position table which the model computes by itself.
        notes: anything else a reader must know, as sentences.
    """

    matched: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Filled keys over all keys of the module."""
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        return len(self.matched) / total if total else 1.0

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} matched ({self.share:.0%}), {len(self.renamed)} of them renamed; "
            f"missing: {_some(self.missing)}; mismatched: {_some(self.mismatched)}; "
            f"unused: {_some(self.unused)}"
        )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Returns the tensors of a `.safetensors` file or of a PyTorch checkpoint, on the CPU.

    The container of a checkpoint is `model`, `module` or `state_dict` if there is one, else the
    file itself; prefixes that wrappers leave (`_orig_mod.`, `module.`) are taken off.

    Raises:
        WeightsError: no such file, a broken one, one that would have to run code to be read, or one
            without tensors.
    """
    return read_container(path)[0]


@dataclass(frozen=True)
class Checkpoint:
    """A weights file, read.

    Attributes:
        state: tensors by key.
        container: name of the container they were in ("" = none).
        arguments: options of the command line that a training script kept in it (`args`), those with plain values.
    """

    state: dict[str, Tensor]
    container: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_container(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Returns `read_state(path)` and the name of the container the tensors were in ("" = none)."""
    found = read_checkpoint(path)
    return found.state, found.container


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Returns what a weights file holds; arguments and errors as in `read_state`."""
    content = read_content(path)
    kept = content.get("args")
    arguments = kept.options if isinstance(kept, Arguments) else plain_options(kept)
    container = next((n for n in CONTAINERS if isinstance(content.get(n), Mapping)), "")
    if container:
        content = content[container]
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(
            f"{path} holds no tensors; its keys are {_some(tuple(map(str, content)))}. Expected a "
            f"state dict, bare or under one of {list(CONTAINERS)}."
        )
    return Checkpoint({_unwrap(key): value for key, value in state.items()}, container, arguments)


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    rename: Renames = (),
    min_share: float = 1.0,
) -> LoadReport:
    """Returns the report of filling `module` with `state`; the report is logged too.

    Args:
        module: filled in place, in its own dtype and on its own device.
        state: tensors by key, for example of `read_state`.
        rename: prefix rules, see `Renames`.
        min_share: least share of the module's keys that must be filled, in [0, 1].

    Raises:
        WeightsError: fewer keys were filled, or two keys of the file claim one place.
    """
    places = renamed_keys(state, rename)
    wanted = module.state_dict()
    fill: dict[str, Tensor] = {}
    mismatched = []
    for key, place in places.items():
        if place is None or place not in wanted:
            continue
        if place in fill:
            raise WeightsError(f"two keys of the file would fill {place!r}; one is {key!r}.")
        if wanted[place].shape != state[key].shape:
            shapes = f"{list(state[key].shape)} instead of {list(wanted[place].shape)}"
            mismatched.append(f"{place} {shapes}")
            continue
        fill[place] = state[key]
    wrong = {text.split(" ", 1)[0] for text in mismatched}
    report = LoadReport(
        matched=tuple(fill),
        renamed={k: p for k, p in places.items() if p is not None and p in fill and p != k},
        missing=tuple(key for key in wanted if key not in fill and key not in wrong),
        unused=tuple(key for key, place in places.items() if place not in wanted),
        mismatched=tuple(mismatched),
    )
    if report.share < min_share:
        raise WeightsError(
            f"only {report.share:.0%} of the weights would be filled, at least {min_share:.0%} is "
            f"required: {report}. Check that the file and the model's sizes belong together."
        )
    log.info("weights: %s", report)
    # Every key was looked at above: what is not filled here is named in the report.
    module.load_state_dict({**wanted, **fill})
    return report


def renamed_keys(
    keys: Mapping[str, object] | Sequence[str], rename: Renames
) -> dict[str, str | None]:
    """Returns key of the file -> key of the module (None = dropped)."""
    places: dict[str, str | None] = {}
    for key in keys:
        places[key] = key
        for prefix, target in rename:
            if key.startswith(prefix):
                places[key] = None if target is None else target + key[len(prefix) :]
                break
    return places


def _unwrap(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key.replace("._orig_mod.", ".")


def _some(names: Sequence[str], limit: int = 8) -> str:
    if not names:
        return "none"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" * (len(names) > limit))


__all__ = [
    "Checkpoint",
    "LoadReport",
    "Renames",
    "WeightsError",
    "load_weights",
    "read_checkpoint",
    "read_container",
    "read_state",
    "renamed_keys",
]
