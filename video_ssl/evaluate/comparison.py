"""What separates encoders that were evaluated on the same videos: intervals, paired differences, classes.  No torch.

Two shares of the same test videos are compared video by video: what both get right, or both wrong, says nothing about
which is better, so that the interval of a difference is much narrower than those of the shares suggest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from video_ssl.evaluate.contract import Figure
from video_ssl.evaluate.evaluators import title_of
from video_ssl.evaluate.metrics import mcnemar_p, paired_difference, wilson_interval

_SHARE = Figure()


def compared(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what results.json says about its encoders, side by side, as JSON.

    Args:
        results: of an evaluation with `keep_predictions`; of its evaluators those are compared that give classes.

    For every evaluator: `encoders` (top1 with its interval, mean_class, every class), `differences` of all pairs
    (of the videos that both could read), `chance`, `majority`, `class_names` and `num_videos`.
    """
    found: dict[str, Any] = {}
    for evaluator in next(iter(results["encoders"].values()))["results"]:
        entries = {name: entry["results"][evaluator] for name, entry in results["encoders"].items()}
        if all("predictions" in entry["details"] for entry in entries.values()):
            found[evaluator] = _evaluator(evaluator, entries, results)
    recipe = results["recipe"]
    return {
        "name": results["name"],
        "train": recipe["train"] or "nothing",
        "test": recipe["test"],
        "seed": results["seed"],
        "date": results["date"],
        "specs": {name: entry["spec"] for name, entry in results["encoders"].items()},
        "skipped": {
            name: {split: len(lost) for split, lost in entry["skipped"].items()}
            for name, entry in results["encoders"].items()
        },
        "evaluators": found,
    }


def _evaluator(
    evaluator: str, entries: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any]
) -> dict[str, Any]:
    first = next(iter(entries.values()))
    own = _class_names(entries, results)
    names = list(dict.fromkeys(name for listed in own.values() for name in listed))
    return {
        "title": title_of(evaluator),
        "class_names": names,
        "num_videos": first["total"],
        "chance": first["chance"],
        "majority": first["details"]["majority"],
        "encoders": {name: _encoder(entry, own[name], names) for name, entry in entries.items()},
        "differences": [
            _difference(a, b, entries[a]["details"], entries[b]["details"])
            for a, b in combinations(entries, 2)
        ],
        "notes": list(dict.fromkeys(note for entry in entries.values() for note in entry["notes"])),
    }


def _class_names(
    entries: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Encoder -> the names of its classes, in the order of its confusion.

    Feature files number their classes as they like: what is the same class is known by its name.  Numbers are all there
    is where one of them has no names, or has a name twice.
    """
    shared = results.get("class_names", [])
    known = {name: results["encoders"][name].get("class_names", shared) for name in entries}
    if any(not names or len(set(names)) < len(names) for names in known.values()):
        some: list[str] = next((names for names in (shared, *known.values()) if names), [])
        told = [n if some.count(n) == 1 else f"{n} ({place})" for place, n in enumerate(some)]
        known = dict.fromkeys(entries, told)
    return {
        name: [
            known[name][label] if label < len(known[name]) else str(label)
            for label in entry["details"]["classes"]
        ]
        for name, entry in entries.items()
    }


def _encoder(entry: Mapping[str, Any], own: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What is told about one encoder, its classes (`own`) in the order of `names`, among which they are."""
    places = [names.index(name) for name in own]
    confusion = np.zeros((len(names), len(names)), np.int64)
    confusion[np.ix_(places, places)] = entry["details"]["confusion"]
    right, totals = np.diag(confusion), confusion.sum(axis=1)
    return {
        "top1": entry["metrics"]["top1"],
        "interval": entry["details"]["top1_interval_95"],
        "mean_class": entry["metrics"]["mean_class"],
        "right": entry["correct"],
        "total": entry["total"],
        "classes": [
            {
                "right": int(r),
                "total": int(t),
                "share": float(r / t) if t else None,
                "interval": list(wilson_interval(int(r), int(t))) if t else None,
            }
            for r, t in zip(right, totals, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def _difference(a: str, b: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """How much better `a` is than `b` on the videos that both have read."""
    right = [
        dict(
            zip(
                entry["predictions"]["id"],
                np.equal(entry["predictions"]["predicted"], entry["predictions"]["true"]).tolist(),
                strict=True,
            )
        )
        for entry in (one, two)
    ]
    both = [name for name in right[0] if name in right[1]]
    if not both:
        return {"a": a, "b": b, "num_videos": 0}
    first, second = (np.array([side[name] for name in both], bool) for side in right)
    difference, low, high = paired_difference(first, second)
    return {
        "a": a,
        "b": b,
        "num_videos": len(both),
        "difference": difference,
        "interval": [low, high],
        "p": mcnemar_p(first, second),
        "only_a": int((first & ~second).sum()),
        "only_b": int((second & ~first).sum()),
    }


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """Returns, for the pairs of an evaluator of `compared`, which is better and how surely, as sentences."""
    lines = []
    for pair in found["differences"]:
        if not pair["num_videos"]:
            lines.append(f"{pair['a']} and {pair['b']} have read no test video in common")
            continue
        points, (low, high) = 100 * pair["difference"], (100 * end for end in pair["interval"])
        better, worse = (pair["a"], pair["b"]) if points >= 0 else (pair["b"], pair["a"])
        sign = 1 if points >= 0 else -1
        ends = sorted((sign * low, sign * high))
        text = f"{better} is {abs(points):.1f} points above {worse}"
        if abs(points) < 0.05:
            text = f"{better} and {worse} are level"
        if low * high <= 0:
            text += ", no more than chance may give"
        lines.append(f"{text} (95 %: {ends[0]:.1f} to {ends[1]:.1f}, p = {pair['p']:.2g})")
    return lines


def markdown(comparison: Mapping[str, Any]) -> str:
    """Returns a comparison as Markdown: for every evaluator its encoders, its pairs and its classes."""
    lines = [
        f"# {' , '.join(comparison['specs'])}".replace(" ,", ","),
        "",
        f"Learned from `{comparison['train']}`, tested on `{comparison['test']}`, seed {comparison['seed']}, "
        f"{comparison['date'][:10]}. In percent; in brackets 95 % intervals.",
        "",
        *(f"- {name}: `{spec}`" for name, spec in comparison["specs"].items()),
    ]
    for found in comparison["evaluators"].values():
        lines += ["", f"## {found['title']}, {found['num_videos']} test videos", ""]
        lines += _table(["encoder", "top-1", "class"], _rows(found))
        lines += ["", *(f"- {line}" for line in verdicts(found)), ""]
        head = ["class", "videos", *found["encoders"]]
        lines += _table(head, class_rows(found))
        lines += ["", *(f"- Note: {note}." for note in found["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [
            name,
            f"{_SHARE.written(own['top1'])} {bounds(own['interval'])}",
            _SHARE.written(own["mean_class"]),
        ]
        for name, own in found["encoders"].items()
    ]
    rows.append(["the most frequent class", _SHARE.written(found["majority"]), ""])
    rows.append(["guessing", _SHARE.written(found["chance"]), ""])
    return rows


def class_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns for every class its name, its test videos, and the share of them that each encoder names."""
    encoders = list(found["encoders"].values())
    return [
        [name, str(max(own["classes"][c]["total"] for own in encoders))]
        + [_SHARE.written(own["classes"][c]["share"]) for own in encoders]
        for c, name in enumerate(found["class_names"])
    ]


def bounds(interval: Sequence[float]) -> str:
    """Returns both ends of an interval of shares.

    >>> bounds([0.244, 0.756])
    '(24–76)'
    """
    return f"({'–'.join(_SHARE.bounds(interval))})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|---" * len(head) + "|", *map(line, rows)]
