"""What the evaluators on frame labels share: classes one by one, and position alone beside it.

Penn Action's protocol: train and test are restricted to one class, and the result is the unweighted
mean over the classes.  Phases are counted 0..K-1 within a class, in the order of their numbers.

Every result stands beside the same measurement on the encoding of t / L alone: an encoder that only
knows how far the video has run can do well on videos of regular course.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from video_ssl.datasets.class_names import listed, numbers_by_name
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.frames.frame_sequences import Sequences, frame_sequences, position_features
from video_ssl.evaluate.heads import ChosenHead
from video_ssl.evaluate.identity import overlap_notes
from video_ssl.evaluate.neighbours import unit_rows
from video_ssl.evaluate.videos import matched_labels


@dataclass(frozen=True, kw_only=True)
class FrameConfig:
    """Settings that all evaluators on frame labels have.

    Attributes:
        classes: "each" evaluates every class on its own and averages, as for Penn Action; "together"
            all videos as one; "auto" each where every video has a label and there are several.
        normalize: bring frame features to length 1, as CARL's are.
    """

    classes: Literal["auto", "each", "together"] = "auto"
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.classes not in ("auto", "each", "together"):
            raise ValueError(f"classes={self.classes!r} must be auto, each or together.")


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises ValueError unless there is a fraction and all lie in (0, 1]."""
    if not fractions or not all(0 < f <= 1 for f in fractions):
        raise ValueError(f"fractions={tuple(fractions)} must be numbers above 0, up to 1.")


class FrameEvaluator:
    """The base of the evaluators on frame labels; one measures a class, this class the rest."""

    Config: ClassVar[type] = FrameConfig
    title: ClassVar[str] = "frames"
    figures: ClassVar[Mapping[str, Figure]] = {}
    needs_labels: ClassVar[bool] = True
    #: Frames with the label -1 are measured, too (not those of videos without labels); otherwise they are left out.
    keeps_unlabelled: ClassVar[bool] = False
    extras: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(
            outputs=("clip", "moments"),
            labels=self.config.classes == "each",
            frame_labels=self.needs_labels,
            extras=self.extras,
        )

    def check(self, train: Sequences, test: Sequences) -> None:
        """Refuses videos, of all classes, of which nothing can be measured.

        Raises:
            FeatureError: saying what is missing.
        """

    def measure(self, train: Sequences, test: Sequences, *, seed: int) -> dict[str, float]:
        """Returns name -> number for the videos of one class; NaN where it is not defined."""
        raise NotImplementedError(f"{type(self).__name__} measures nothing")

    def head(self, train: Sequences, names: Sequence[str]) -> ChosenHead | None:
        """Returns what names the phases of new frames of these videos, if the evaluator makes such a thing.

        Args:
            train: training videos of one class, phases numbered as in the file.
            names: of all phases, by number.
        """
        return None

    def shown(self) -> list[str]:
        """Returns the names of the numbers that belong in the table."""
        raise NotImplementedError(f"{type(self).__name__} shows nothing")

    def say(self, found: dict[str, float]) -> str:
        """Returns the result as a part of a sentence whose subject is the encoder."""
        raise NotImplementedError(f"{type(self).__name__} has no summary")

    def lead(self) -> str:
        """Returns the metric that `say` names."""
        raise NotImplementedError(f"{type(self).__name__} has no leading metric")

    def headline(self, found: dict[str, float]) -> str:
        """Returns the number of the leading metric as it stands in a sentence."""
        return f"{Figure().written(found[self.lead()])} %"

    def _defined(self, found: dict[str, float]) -> bool:
        return not math.isnan(found[self.lead()])

    def _headline(self, found: dict[str, float]) -> str:
        return self.headline(found) if self._defined(found) else "not defined"

    def intervals(self, each: dict[str, dict[str, float]]) -> dict[str, list[float]]:
        """Returns the 95 % intervals of the means over the classes that have one."""
        return {}

    def evaluate(self, given: Given) -> Result:
        """Returns the mean over the classes, each class, and position alone.

        Raises:
            FeatureError: no frame features, no frame labels where they are needed, no class that
                is in train and in test, or see `check`.
        """
        train, test, seed = given.train, given.test, given.seed
        labelled = False if self.keeps_unlabelled else self.needs_labels or None
        classes, notes = matched_labels(train, test)
        phases, told = matched_phases(train, test)
        notes += told
        sequences = {
            "train": frame_sequences(train, labelled=labelled, annotated=self.keeps_unlabelled),
            "test": frame_sequences(
                test,
                labelled=labelled,
                annotated=self.keeps_unlabelled,
                classes=classes,
                phases=phases,
            ),
        }
        self.check(**sequences)
        notes += [f"{note} ({name})" for name, q in sequences.items() for note in q.notes]
        notes += overlap_notes(*(q.origins for q in sequences.values() if q.origins is not None))
        if self.config.normalize:
            sequences = {
                name: q.with_features([unit_rows(e) for e in q.embs])
                for name, q in sequences.items()
            }
        names = _joint_names(train, test)
        pairs, more = class_pairs(sequences["train"], sequences["test"], self.config.classes, names)
        each, alone = {}, {}
        heads: dict[str, ChosenHead] = {}
        for name, pair in pairs.items():
            own = self.head(pair[0], train.metadata.get("phase_names") or ())
            if own is not None:
                heads["phases" if name == "all" else f"phases-{name}"] = own
            pair = _counted_phases(*pair)
            each[name] = self.measure(*pair, seed=seed)
            places = [q.with_features([position_features(p) for p in q.places]) for q in pair]
            alone[name] = self.measure(*places, seed=seed)
        found, undefined = _mean(each)
        baseline, _ = _mean(alone)
        notes += more + _undefined_notes({n: undefined[n] for n in self.shown() if n in undefined})
        return Result(
            metrics={name: found[name] for name in self.shown()},
            correct=0,
            total=sequences["test"].num_frames,
            chance=float("nan"),
            statement=self.say(found) if self._defined(found) else "has no result on these videos",
            details={
                "all": found,
                "headline": {
                    "metric": self.lead(),
                    "found": self._headline(found),
                    "position_only": self._headline(baseline),
                },
                "num_classes": len(each),
                "position_only": {name: baseline[name] for name in self.shown()},
                "classes": each,
                "position_only_classes": alone,
                "videos": {name: len(q) for name, q in sequences.items()},
                "frames": {name: q.num_frames for name, q in sequences.items()},
                **{f"{k}_interval_95": v for k, v in self.intervals(each).items()},
            },
            notes=notes,
            heads=heads,
        )


def matched_phases(train: FeatureFile, test: FeatureFile) -> tuple[np.ndarray | None, list[str]]:
    """Returns what numbers the phases of `test` have in `train` (see `numbers_by_name`), by their names, and notes.

    Where one of the files does not name its phases, numbers are all there is.
    """
    names = [list(file.metadata.get("phase_names") or ()) for file in (train, test)]
    numbers = numbers_by_name(*names)
    if numbers is None:
        return None, []
    only = [sorted({*names[i]} - {*names[1 - i]}) for i in (0, 1)]
    note = "the files number their phases differently: they are matched by name"
    for lone, side in zip(only, ("train", "test"), strict=True):
        note += f"; named in {side} only: {listed(lone)}" if lone else ""
    return numbers, [note]


def _joint_names(train: FeatureFile, test: FeatureFile) -> list[str]:
    """The names of classes as they are numbered in train, then those that only test has."""
    ours, theirs = (list(file.metadata.get("class_names") or ()) for file in (train, test))
    return ours + [name for name in theirs if name not in ours] if ours else theirs


def class_pairs(
    train: Sequences, test: Sequences, classes: str, names: Sequence[str] = ()
) -> tuple[dict[str, tuple[Sequences, Sequences]], list[str]]:
    """Returns class -> its training and test videos, and notes; one entry `all` without classes.

    Raises:
        FeatureError: a video without a class where all need one, or no class in both.
    """
    unknown = int((train.classes < 0).sum() + (test.classes < 0).sum())
    several = len(np.unique(train.classes)) > 1
    if classes == "together" or (classes == "auto" and (unknown or not several)):
        return {"all": (train, test)}, []
    if unknown:
        raise FeatureError(
            f"{unknown} videos have no label, but every class is to be evaluated on its own: use a "
            'table with labels, or classes="together".'
        )

    def called(label: int) -> str:
        return names[label] if label < len(names) else str(label)

    both = np.intersect1d(train.classes, test.classes)
    if not len(both):
        raise FeatureError("no class is in train and in test: nothing can be evaluated.")
    notes = []
    for name, own in (("train", train.classes), ("test", test.classes)):
        others = [called(label) for label in np.setdiff1d(own, both).tolist()]
        if others:
            notes.append(f"the classes {listed(others)} are in {name} only and are left out")
    pairs = {}
    for label in both.tolist():
        rows = [np.flatnonzero(q.classes == label) for q in (train, test)]
        pairs[called(label)] = (train.select(rows[0]), test.select(rows[1]))
    return pairs, notes


def _counted_phases(train: Sequences, test: Sequences) -> tuple[Sequences, Sequences]:
    """Phases as 0..K-1 by the order of their numbers; unknown ones stay -1."""
    known = np.unique(np.concatenate([*train.labels, *test.labels]))
    known = known[known >= 0]

    def counted(q: Sequences) -> Sequences:
        return replace(q, labels=[np.where(p < 0, -1, np.searchsorted(known, p)) for p in q.labels])

    return counted(train), counted(test)


def _mean(each: dict[str, dict[str, float]]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """The mean over the classes where a number is defined, and the classes where it is not."""
    found, undefined = {}, {}
    for name in next(iter(each.values())):
        values = np.array([own[name] for own in each.values()])
        known = np.isfinite(values)
        found[name] = float(values[known].mean()) if known.any() else float("nan")
        if not known.all():
            undefined[name] = [c for c, ok in zip(each, known, strict=True) if not ok]
    return found, undefined


def _undefined_notes(undefined: dict[str, list[str]]) -> list[str]:
    """One note for all numbers that are not defined for the same classes."""
    by_classes: dict[tuple[str, ...], list[str]] = {}
    for name, classes in undefined.items():
        by_classes.setdefault(tuple(classes), []).append(name)
    return [
        f"{', '.join(names)} not defined for {', '.join(classes)}: not in the mean"
        for classes, names in by_classes.items()
    ]
