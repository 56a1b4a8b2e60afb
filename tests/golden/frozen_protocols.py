"""Golden files of the frozen-feature protocols, which do not say what they are: found by the beginning of their names,
as the README beside them has it (a longer kind wins), and every array is compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from golden_files import as_array, root

FOLDER = "frozen_protocols"
#: What goes in, by the beginnings of names.
INPUTS = ("settings/", "param/", "init/", "train/")


@dataclass(eq=False)
class Frozen:
    """One file; `check` compares an array, `done` refuses arrays that nothing was compared with."""

    name: str
    arrays: dict[str, np.ndarray]
    seen: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def setting(self, name: str) -> Any:
        value = self.arrays[f"settings/{name}"]
        return value.item() if value.ndim == 0 else value.tolist()

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def check(self, name: str, found: Any, *, atol: float = 0.0, rtol: float = 0.0) -> None:
        expected = self.arrays[name]
        self.seen.add(name)
        np.testing.assert_allclose(
            as_array(found), expected, atol=atol, rtol=rtol, err_msg=f"{name} of {self.name}"
        )

    def done(self, *inputs: str) -> None:
        """Raises AssertionError where an array is neither an input (by the beginning of its name) nor compared."""
        left = [
            name
            for name in self.arrays
            if name not in self.seen and not name.startswith((*INPUTS, *inputs))
        ]
        assert not left, f"{self.name}: nothing was compared with {left}"


def files_of(kind: str, *longer: str) -> list[Any]:
    """Returns a parameter for every file whose name begins with the kind, but with none of `longer`."""
    folder = root() / FOLDER
    paths = sorted(folder.glob(f"{kind}*.npz"))
    paths = [path for path in paths if not path.stem.startswith(longer)] if longer else paths
    if not paths and not folder.is_dir():
        reason = pytest.mark.skip(reason=f"{root()} has no folder {FOLDER}")
        return [pytest.param(None, marks=reason, id=kind)]
    if not paths:
        return [pytest.param(None, id=kind)]  # fails in `read`
    return [pytest.param(path, id=path.stem) for path in paths]


def read(path: Any) -> Frozen:
    assert path is not None, f"{root()}/{FOLDER} has no file of this kind"
    with np.load(path, allow_pickle=False) as data:
        return Frozen(path.name, {name: data[name] for name in data.files})
