"""Heads that an evaluation has chosen, left on disk as safetensors and JSON so that `video-ssl predict` can use them.

    OUT/heads/ENCODER-HEAD/head.json            what kind it is, its classes, how videos become features, which encoder
    OUT/heads/ENCODER-HEAD/head.safetensors     its weights

A head reads the features of one encoder, which is known by its fingerprint.  Nothing here unpickles anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from video_ssl.checksums import checksums, damage, file_sizes, seal_is_broken, sealed
from video_ssl.datasets.class_names import listed
from video_ssl.files import MADE_BY, folder_aside, made, made_by, write_json
from video_ssl.limits import read_json
from video_ssl.recipes import nearest

HEAD, WEIGHTS = "head.json", "head.safetensors"
FORMAT = "video_ssl.head"
KINDS = ("linear", "attentive", "frames")
_MAX_BYTES = 2**24


class HeadError(ValueError):
    """A head that is not there, cannot be read, or does not fit; the text says what was found and what to do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenHead:
    """A head that an evaluator has chosen and fitted.

    Attributes:
        kind: "linear" reads pooled features of clips, "attentive" tokens of videos, "frames" features of frames.
        class_names: K names, in the order of the scores.
        weights: name -> float32 array.
        settings: what it takes beside them to read features the same way, as JSON.
    """

    kind: str
    class_names: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedHead(ChosenHead):
    """A head as it was left.

    Attributes:
        folder: where it lies.
        about: the rest of its JSON: `encoder` (spec, fingerprint), `embed` (how videos become features), `evaluation`.
    """

    folder: Path
    about: Mapping[str, Any]

    @property
    def fingerprint(self) -> str | None:
        """That of the encoder whose features it reads; None where nobody knew it."""
        found = self.about["encoder"].get("fingerprint")
        return found if isinstance(found, str) else None

    @property
    def encoder(self) -> str | None:
        """What `open_encoder` was given for it; None for features of unknown making."""
        found = self.about["encoder"].get("spec")
        return found if isinstance(found, str) else None


def names_of(class_names: Any, classes: np.ndarray) -> tuple[str, ...]:
    """Returns the names of classes (K,) by number; the number itself where there is no name.

    >>> names_of(["run", "sit"], np.array([1, 5]))
    ('sit', '5')
    """
    names = list(class_names or ())
    return tuple(names[c] if 0 <= c < len(names) else str(c) for c in classes.tolist())


def write_head(place: Path, head: ChosenHead, about: Mapping[str, Any]) -> Path:
    """Returns the folder into which a head was written, complete or not at all; an older one is replaced.

    Args:
        place: the folder.
        head: what the evaluator has chosen.
        about: see `SavedHead`.
    """
    with folder_aside(place) as aside:
        arrays = {name: np.ascontiguousarray(a, np.float32) for name, a in head.weights.items()}
        save_file(arrays, aside / WEIGHTS)
        sizes = file_sizes(aside)
        content = {
            MADE_BY: made("evaluate"),
            "format": FORMAT,
            "version": 1,
            "kind": head.kind,
            "class_names": list(head.class_names),
            "settings": dict(head.settings),
            **about,
            "crc32": checksums(aside, sizes),
        }
        write_json(aside / HEAD, {MADE_BY: content.pop(MADE_BY), **sealed(content)})
    return place


def forget_other_heads(folder: Path, kept: Collection[Path]) -> None:
    """Removes heads of earlier evaluations from OUT/heads, which `find_head` would take for this one's."""
    for file in folder.glob(f"*/{HEAD}"):
        if file.parent not in kept and made_by(file) == "evaluate":
            shutil.rmtree(file.parent)


def find_head(path: Path) -> Path | None:
    """Returns the folder of the head that a path names: by itself, or as the only one of an evaluation.

    None where the path has no heads at all.

    Raises:
        HeadError: an evaluation, or a run with evaluations, that has left several; they are named.
    """
    if (path / HEAD).is_file():
        return path
    found = sorted(file.parent for file in path.glob(f"heads/*/{HEAD}"))
    found = found or sorted(file.parent for file in path.glob(f"evaluate/*/heads/*/{HEAD}"))
    if len(found) > 1:
        names = listed([str(folder.relative_to(path)) for folder in found])
        raise HeadError(
            f"{path} has {len(found)} heads: name one of them, {path}/... with {names}."
        )
    return found[0] if found else None


def read_head(folder: Path) -> SavedHead:
    """Returns the head of a folder.

    Raises:
        HeadError: files that are missing, damaged, or say something else than a head of this library.
    """
    file = folder / HEAD
    try:
        content = read_json(file, max_bytes=_MAX_BYTES)
    except (OSError, ValueError) as err:
        raise HeadError(f"{file} is not readable as JSON: {err}") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise HeadError(f"{file} does not describe a head that `video-ssl evaluate` has left.")
    if seal_is_broken({k: v for k, v in content.items() if k != MADE_BY}):
        raise HeadError(f"{file} was changed or damaged since it was written: evaluate again.")
    try:
        wrong = damage(folder, {WEIGHTS: str(content["crc32"][WEIGHTS])})
        if wrong:
            raise HeadError(
                f"{folder / WEIGHTS}: {wrong}. Copy the folder again, or evaluate again."
            )
        weights = load_file(folder / WEIGHTS)
        found = SavedHead(
            kind=str(content["kind"]),
            class_names=tuple(map(str, content["class_names"])),
            weights=weights,
            settings=dict(content["settings"]),
            folder=folder,
            about={key: dict(content[key]) for key in ("encoder", "embed", "evaluation")},
        )
    except HeadError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
        raise HeadError(
            f"the head in {folder} cannot be read ({err!r:.200}): evaluate again."
        ) from err
    if found.kind not in KINDS:
        raise HeadError(
            f"{file}: kind={found.kind!r} is not one of {list(KINDS)}.{nearest(found.kind, KINDS)}"
        )
    if len(found.class_names) < 2:
        raise HeadError(f"{file} names {len(found.class_names)} classes: a head has two or more.")
    if any(not np.isfinite(array).all() for array in weights.values()):
        raise HeadError(f"{folder / WEIGHTS} has weights that are not finite: evaluate again.")
    return found
