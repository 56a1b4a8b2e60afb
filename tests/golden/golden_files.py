"""Golden files: found by the kind that each states itself, read by its own settings, compared within its own tolerance.

A test takes a file from the fixture `golden` (or one of its cases from `golden_case`), computes, and says
`golden.check(NAME, result)` for every array that the file gives; what the file does not give is passed over, and
what it gives and nobody compared is listed at the end of the run (`golden_plugin.py`).
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from golden_tolerance import Deviation, Tolerance, compare, precision_of

SETTINGS = "settings_json"
#: Folders whose files do not say what they are: their tests go by the README beside them.
WITHOUT_SETTINGS = ("frozen_protocols",)


class GoldenError(ValueError):
    """A golden file that cannot be used as such; the text says which and why."""


def root() -> Path:
    """The folder that golden files are taken from: `VIDEO_SSL_GOLDEN`, or the project's copy."""
    return Path(os.environ.get("VIDEO_SSL_GOLDEN") or Path(__file__).parent / "data")


# What was compared --------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What was compared in this run: (file, array) -> the worst deviation."""

    seen: dict[tuple[Path, str], Deviation] = field(default_factory=dict)
    #: (file, array) -> why it is not compared.
    waived: dict[tuple[Path, str], str] = field(default_factory=dict)

    def note(self, file: Path, name: str, deviation: Deviation) -> None:
        known = self.seen.get((file, name))
        if known is None or deviation.share > known.share:
            self.seen[file, name] = deviation


LEDGER = Ledger()


# Files --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GoldenFile:
    """One npz; `golden[NAME]` is an array (numpy, not to be written to), `golden.settings` its settings."""

    path: Path
    settings: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.settings["kind"])

    @property
    def method(self) -> str:
        return str(self.settings["method"])

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the arrays that must come out."""
        return tuple(self.settings["given"])

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files if name != SETTINGS}
        for array in found.values():
            array.flags.writeable = False
        return found

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise KeyError(f"{self.path} has no array {name!r}: it has {sorted(self.arrays)}.")
        return self.arrays[name]

    def tensor(self, name: str) -> Any:
        """The array as a torch tensor of its own."""
        import torch

        return torch.from_numpy(np.array(self[name]))

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays below a prefix, under the names behind it."""
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def tensors(self, prefix: str = "param/") -> dict[str, Any]:
        """The arrays below a prefix as torch tensors: with the default, a reference's state dict."""
        return {name: self.tensor(prefix + name) for name in self.below(prefix)}

    def gives(self, *patterns: str) -> list[str]:
        """The given names that fit one of the patterns."""
        return [n for n in self.given if any(fnmatch.fnmatchcase(n, p) for p in patterns)]

    def given_below(self, prefix: str) -> list[str]:
        """The given names below a prefix, without it."""
        return [n.removeprefix(prefix) for n in self.given if n.startswith(prefix)]

    @property
    def cases(self) -> dict[str, Mapping[str, Any]]:
        """case -> its settings."""
        return dict(self.settings.get("cases", {}))

    def setting(self, dotted: str, default: Any = None) -> Any:
        """The setting under a dotted key (`encoder.cos_attention`)."""
        value: Any = self.settings
        for part in dotted.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    def companion(self, role: str) -> GoldenFile:
        """The file beside this one that it needs for `role`."""
        files = self.settings.get("files", {})
        if role not in files:
            raise GoldenError(
                f"{self.path} names no file for {role!r}, only {files}: see `files` of its settings."
            )
        return read_file(self.path.parent / files[role])

    def tolerance(self, name: str) -> Tolerance:
        return Tolerance.of(self.settings["tolerance"], name)

    # Comparing ------------------------------------------------------------------------------------

    def check(
        self,
        name: str,
        found: Any,
        *,
        precision: str | None = None,
        where: Any = None,
        units: Mapping[str, Any] | None = None,
    ) -> None:
        """Compares a result with the array `name` within the file's tolerance; not given = nothing to compare.

        Args:
            found: tensor, array, number or list.
            precision: of the run that made it; by default that of its numbers.
            where: the elements that count; for arrays whose tolerance says `only_where`, and for no others.
            units: see `Tolerance.bound`.

        Raises:
            AssertionError: too far away.
        """
        if name not in self.given:
            return
        tolerance, expected, found = self.tolerance(name), self[name], as_array(found)
        precision = precision or precision_of(found)
        if tolerance.skipped or not tolerance.applies_in(precision):
            return
        deviation = compare(
            found, expected, tolerance.words, precision=precision, where=where, units=units
        )
        LEDGER.note(self.path, name, deviation)
        assert deviation.share <= 1, (
            f"{name} of {self.path.parent.name}/{self.path.name} ({precision}): {deviation.text} "
            f"[{dict(tolerance.words)}]"
        )

    def check_all(self, found: Mapping[str, Any], **options: Any) -> None:
        """`check` for each."""
        for name, value in found.items():
            self.check(name, value, **options)

    def check_statistic(self, name: str, deviation: float, allowed: float) -> None:
        """Notes the comparison of an array whose tolerance is prose: the test has measured `deviation`, of which
        `allowed` is fine by that prose."""
        if name not in self.given:
            return
        words = self.tolerance(name)
        assert words.is_prose, f"{name} has a tolerance in numbers, {words.words}: use check()."
        LEDGER.note(self.path, name, Deviation(deviation / allowed))
        assert deviation <= allowed, (
            f"{name} of {self.path.parent.name}/{self.path.name}: {deviation} is more than {allowed} [{words.words}]"
        )


@dataclass(frozen=True)
class GoldenCase:
    """One case of a file: its settings, and the arrays CASE/... under the names behind the stroke."""

    file: GoldenFile
    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.file.cases[self.name]

    def __contains__(self, name: str) -> bool:
        return f"{self.name}/{name}" in self.file

    def __getitem__(self, name: str) -> np.ndarray:
        return self.file[f"{self.name}/{name}"]

    def tensor(self, name: str) -> Any:
        return self.file.tensor(f"{self.name}/{name}")

    def gives(self, *patterns: str) -> list[str]:
        """The case's given names that fit one of the patterns."""
        names = self.file.given_below(f"{self.name}/")
        return [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]

    def check(self, name: str, found: Any, **options: Any) -> None:
        self.file.check(f"{self.name}/{name}", found, **options)


def as_array(found: Any) -> np.ndarray:
    """A tensor of torch or jax, an array, a number or a list of such as an array."""
    if hasattr(found, "detach"):
        found = found.detach().cpu()
        return found.float().numpy() if str(found.dtype) == "torch.bfloat16" else found.numpy()
    if isinstance(found, list | tuple) and found and hasattr(found[0], "detach"):
        return np.stack([as_array(part) for part in found])
    return np.asarray(found)


# Finding ------------------------------------------------------------------------------------------


@functools.cache
def read_file(path: Path) -> GoldenFile:
    """Returns the file with its settings.

    Raises:
        GoldenError: it has no settings, or they are not what the README of the golden files says.
    """
    with np.load(path, allow_pickle=False) as data:
        if SETTINGS not in data.files:
            raise GoldenError(f"{path} has no array {SETTINGS!r}: it does not say what it is.")
        settings = json.loads(str(data[SETTINGS]))
    lacking = [k for k in ("kind", "method", "inputs", "given", "tolerance") if k not in settings]
    if lacking:
        raise GoldenError(f"the settings of {path} lack {lacking}.")
    return GoldenFile(path, settings)


@functools.cache
def all_files(folder: Path) -> tuple[GoldenFile, ...]:
    """Every file below a folder that says what it is, in order of path."""
    found = []
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            says = SETTINGS in data.files
        if says:
            found.append(read_file(path))
    return tuple(found)


def silent_files(folder: Path) -> list[Path]:
    """Files that do not say what they are although they should."""
    said = {file.path for file in all_files(folder)}
    return [
        path
        for path in sorted(folder.rglob("*.npz"))
        if path not in said and not set(WITHOUT_SETTINGS) & set(path.relative_to(folder).parts[:-1])
    ]


def files_of(kind: str, folder: Path) -> list[GoldenFile]:
    return [file for file in all_files(folder) if file.kind == kind]


def has_relatives(kind: str, folder: Path) -> bool:
    """Whether there is a file of any kind with the same prefix."""
    prefix = kind.split("/")[0] + "/"
    return any(file.kind.startswith(prefix) for file in all_files(folder))


def label(file: GoldenFile, folder: Path) -> str:
    return str(file.path.relative_to(folder).with_suffix(""))


def uncompared(file: GoldenFile, ledger: Ledger) -> list[str]:
    """Given arrays that nothing compared, although their tolerance asks for it."""
    return [
        name
        for name in file.given
        if (file.path, name) not in ledger.seen
        and (file.path, name) not in ledger.waived
        and not file.tolerance(name).skipped
    ]


def worst(file: GoldenFile, ledger: Ledger) -> tuple[str, Deviation]:
    """The compared array with the largest deviation, as a share of what is allowed; there must be one."""
    seen = {n: ledger.seen[file.path, n] for n in file.given if (file.path, n) in ledger.seen}
    name = max(seen, key=lambda n: (seen[n].share, not seen[n].exact))
    return name, seen[name]
