"""What a golden file calls near enough: one entry of its `tolerance`, as the README of the golden files defines its
words, and the comparison under it.

>>> compare(np.float32([1.0, 2.0]), np.array([1.0, 2.00001]), {"atol": 1e-4}).share
0.0999...
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Bounds by the name of the word: the amount that `value` allows, given the expected array.
_AMOUNTS = {
    "atol": lambda value, expected: value,
    "rtol": lambda value, expected: value * np.abs(expected),
    "of_max": lambda value, expected: value * _largest(expected),
    "allow_lsb": lambda value, expected: value,
    "levels": lambda value, expected: value,
}
#: Words that bound nothing by themselves: they are prose, or `Tolerance` answers them.
_SILENT = {"exact", "note", "only_where", "only_if", "skip", "statistic", "support"}
_PRECISIONS = ("float64", "float32")


class ToleranceError(ValueError):
    """A tolerance that says nothing we know, or that is used for what it does not say."""


@dataclass(frozen=True)
class Tolerance:
    """The entry that counts for one array: the first whose pattern fits its name."""

    words: Mapping[str, Any]

    @classmethod
    def of(cls, tolerances: Mapping[str, Mapping[str, Any]], name: str) -> Tolerance:
        for pattern, words in tolerances.items():
            if fnmatch.fnmatchcase(name, pattern):
                return cls(words)
        raise ToleranceError(f"no pattern of tolerance {list(tolerances)} fits {name!r}.")

    @property
    def skipped(self) -> bool:
        """The file itself says that the number is not to be compared."""
        return bool(self.words.get("skip"))

    @property
    def is_prose(self) -> bool:
        """Described in words ("statistic", "support", "only_if"): the test decides how it is met."""
        return any(word in self.words for word in ("statistic", "support", "only_if"))

    @property
    def only_where(self) -> str | None:
        return self.words.get("only_where")

    def applies_in(self, precision: str) -> bool:
        """Whether a run in that precision is to be compared at all."""
        if isinstance(self.words.get(precision), str):
            return False
        named = [p for p in _PRECISIONS if any(w == p or w.startswith(p + "_") for w in self.words)]
        return not named or precision in named or bool(self.words.keys() & _AMOUNTS.keys())

    def bound(
        self, expected: np.ndarray, precision: str, units: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Returns the largest allowed deviation of every element.

        Args:
            expected: the array of the file.
            precision: of the run, "float64" or "float32".
            units: what words of a unit of their own are multiplied by, by the word's ending: `per_element` for
                `atol_per_element`, `of_base_lr`, and `frames`, whose tolerance is so many of that many frames.
        """
        units = units or {}
        total = np.zeros(expected.shape)
        words = {_plain(w, precision): v for w, v in self.words.items() if _counts(w, precision)}
        for word, value in words.items():
            if word in _SILENT or isinstance(value, str):
                continue
            if word in _AMOUNTS:
                amount = _AMOUNTS[word](value, expected)
                last = words.get(f"{word}_last_column")
                if last is not None:
                    amount = np.array(np.broadcast_to(amount, expected.shape))
                    amount[..., -1] = _AMOUNTS[word](last, expected[..., -1])
            elif word.endswith("_last_column") and word.removesuffix("_last_column") in _AMOUNTS:
                continue
            elif word == "frames":
                # The last bits of a division that both sides made.
                amount = value / np.asarray(_unit(units, word)) + 1e-12
            elif word.startswith("atol_"):
                amount = value * np.asarray(_unit(units, word.removeprefix("atol_")))
            else:
                raise ToleranceError(
                    f"the word {word!r} of a tolerance is not known: known are {sorted(_AMOUNTS)}, "
                    "*_last_column, frames, atol_UNIT, float64_*, float32_* and the words of prose. "
                    "Give it a meaning in tests/golden/golden_tolerance.py."
                )
            total = total + amount
        return total


@dataclass(frozen=True)
class Deviation:
    """How far a result is from the file: `share` is the largest part of an allowed deviation that was used."""

    share: float
    exact: bool = False
    text: str = ""


def compare(
    found: Any,
    expected: np.ndarray,
    words: Mapping[str, Any],
    *,
    precision: str | None = None,
    where: np.ndarray | None = None,
    units: Mapping[str, Any] | None = None,
) -> Deviation:
    """Returns the deviation of `found`; a share above 1 is a failure, `text` says where.

    Args:
        found: anything numpy takes; NaN where the file has NaN, and only there.
        expected: the array of the file.
        words: its entry of `tolerance`.
        precision: of the run; by default that of `found`'s numbers ("float32" for lower ones).
        where: bool, broadcast over the array; what is False is not compared.
        units: see `Tolerance.bound`.
    """
    found = np.asarray(found)
    if found.shape != expected.shape:
        return _failure(f"has shape {found.shape}, expected is {expected.shape}")
    if (where is not None) != ("only_where" in words):
        raise ToleranceError(
            f"where is {'given' if where is not None else 'missing'}, but the tolerance {dict(words)} has "
            f"{'no' if where is not None else 'an'} only_where."
        )
    if where is not None:
        chosen = np.broadcast_to(np.asarray(where, bool), expected.shape)
        found, expected = found[chosen], expected[chosen]
    if expected.dtype.kind in "US" or found.dtype.kind in "USO":
        return _compare_text(found, expected)
    tolerance = Tolerance(words)
    bound = tolerance.bound(expected, precision or precision_of(found), units)
    deviation = _compare_numbers(found, expected, bound)
    exact = bool(words.get("exact")) and not np.any(bound)
    return Deviation(deviation.share, exact, deviation.text)


def precision_of(found: np.ndarray) -> str:
    """ "float32" for half, single and their like, else "float64", which is the stricter one."""
    return "float32" if found.dtype.kind == "f" and found.dtype.itemsize < 8 else "float64"


def _compare_numbers(found: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> Deviation:
    if not expected.size:
        return Deviation(0.0)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    # Equal infinities do not deviate; NaN stands for itself alone.
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(found - expected))
    distance = np.where(np.isnan(distance), np.inf, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(distance == 0, 0.0, distance / bound)
    share = np.where(np.isnan(share), np.inf, share)
    place = np.unravel_index(np.argmax(share), share.shape)
    where = list(map(int, place)) if place else "the value"
    return Deviation(
        float(share[place]),
        text=f"{where} is {found[place]!r}, expected {expected[place]!r}: off by {distance[place]:.3g}, allowed "
        f"{bound[place]:.3g}; {np.count_nonzero(share > 1)} of {share.size} values are too far",
    )


def _compare_text(found: np.ndarray, expected: np.ndarray) -> Deviation:
    pairs = zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True)
    wrong = [(a, b) for a, b in pairs if str(a) != str(b)]
    if wrong:
        return _failure(
            f"{len(wrong)} of {expected.size} words differ: {wrong[0][0]!r} for {wrong[0][1]!r}"
        )
    return Deviation(0.0, exact=True)


def _failure(text: str) -> Deviation:
    return Deviation(float("inf"), text=text)


def _counts(word: str, precision: str) -> bool:
    return not word.startswith(_PRECISIONS) or word.startswith(precision)


def _plain(word: str, precision: str) -> str:
    return word.removeprefix(precision + "_")


def _unit(units: Mapping[str, Any], name: str) -> Any:
    if name not in units:
        raise ToleranceError(f"the tolerance is in units of {name!r}: give check(units={{...}}).")
    return units[name]


def _largest(expected: np.ndarray) -> float:
    finite = np.abs(expected[np.isfinite(expected)])
    return float(finite.max()) if finite.size else 0.0
