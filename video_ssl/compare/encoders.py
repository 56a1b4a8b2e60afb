"""`video-ssl compare A B ...`: encoders on the same videos, by one command, with what separates them.

OUT/results.json, OUT/features/    as of an evaluation: what is there is not embedded again
OUT/compare.json, compare.md       intervals, paired differences, classes; see `evaluate.comparison`
OUT/compare.html                   the same as a page
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_ssl.compare.recipe import ROOM
from video_ssl.datasets.paths import at_home
from video_ssl.evaluate.comparison import compared, markdown, verdicts
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.explore.pages.compare_page import COMPARISON, write_comparison
from video_ssl.files import MADE_BY, claim_file, made, write_atomically, write_json
from video_ssl.models.baselines import BASELINES
from video_ssl.models.encoder_folder import find_encoder, named_step
from video_ssl.models.exchange.convert import convert
from video_ssl.models.hub.kinds import HUB
from video_ssl.models.hub.processing import PROCESSORS
from video_ssl.recipes import ConfigError, list_recipes, nearest

logger = logging.getLogger(__name__)

TEXT, PAGE = "compare.md", "compare.html"
_MARK = "<!-- made by video-ssl compare -->\n"
_OVERRIDE = re.compile(r"[a-z_][a-z_0-9.]*=")
_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")
_LONGEST = 60
_DIGITS = 12
#: A size or a seed behind an encoder.
_BEHIND = re.compile(r"@\d+$")


def compare(words: Sequence[str], *, recipe: str = "probe") -> Path:
    """Returns the page that was written about the encoders.

    Args:
        words: encoders as `evaluate` takes them, or files of published weights, of which a folder is made; `pixels:`,
            `untrained:` and their like without more go with the first encoder.  In between `key=value`, keys of an
            evaluation: train=TABLE test=TABLE, out=FOLDER, ...
        recipe: the evaluation that is run, of the room `evaluate`.

    Raises:
        ConfigError: fewer than two encoders, or a wrong key.
        EncoderError, TableError, FeatureError: see `evaluate`; all of it is looked at before a video is decoded.
        OutputError: the folder holds files of others under these names.
    """
    specs = [word for word in words if not _OVERRIDE.match(word)]
    overrides = [word for word in words if _OVERRIDE.match(word)]
    if len(specs) < 2:
        raise ConfigError(
            f"compare takes two encoders or more, and got {specs or 'none'}: video-ssl compare runs/a runs/b "
            "train=TABLE test=TABLE. Nothing to compare with? Say pixels: or untrained:."
            f"{_meant_as_recipe(specs)}"
        )
    named = _named(_with_first(specs))
    settings = load_evaluate_recipe(recipe, overrides)
    out = Path(at_home(settings.out)) if settings.out else Path("runs/compare") / _folder_of(named)
    for name, is_ours in ((COMPARISON, None), (PAGE, None), (TEXT, _is_ours)):
        claim_file(out / name, "compare", is_ours=is_ours)
    settings = dataclasses.replace(
        settings,
        name="comparison",
        encoder=None,
        encoders={name: _converted(name, spec, out) for name, spec in named.items()},
        out=str(out),
        keep_predictions=True,
    )
    return _write(evaluate(settings), out)


def _write(results: dict[str, Any], out: Path) -> Path:
    comparison = compared(results)
    write_json(out / COMPARISON, {MADE_BY: made("compare"), **comparison})
    write_atomically(out / TEXT, _MARK + markdown(comparison))
    for found in comparison["evaluators"].values():
        for line in verdicts(found):
            logger.info("%s: %s", found["title"], line)
    return write_comparison(comparison, out / PAGE, verb="compare", origin=out)


def _with_first(specs: Sequence[str]) -> list[str]:
    """The encoders, those that name a kind only (`pixels:`) of the first run."""
    first = next((spec for spec in specs if not spec.endswith(":")), None)
    if first is None:
        raise ConfigError(
            f"{list(specs)} name no encoder: name a run too, video-ssl compare runs/a pixels:"
        )
    hub = re.search(rf"(?:^|:)({HUB}:.*)", first)
    plain = first.rpartition(":")[2] if "://" not in first else first
    of = hub[1] if hub else _by_folder(first, plain)
    return [spec + of if spec.endswith(":") else spec for spec in specs]


def _by_folder(first: str, plain: str) -> str:
    """The run of an encoder, and instead of RUN@STEP the folder of that encoder: behind a kind it would be a size or a
    seed, which what stands behind the first one's own kind is."""
    if first.partition(":")[0] in (*BASELINES, "untrained"):
        return plain if Path(at_home(plain)).exists() else _BEHIND.sub("", plain)
    return plain if named_step(plain) is None else str(find_encoder(plain))


def _meant_as_recipe(specs: Sequence[str]) -> str:
    """A sentence for one word that is no encoder: which comparisons of objectives there are."""
    if len(specs) != 1 or Path(at_home(specs[0])).exists() or ":" in specs[0]:
        return ""
    known = list_recipes(ROOM)
    return (
        f" Nor is {specs[0]!r} a comparison of objectives.{nearest(specs[0], known)} There are "
        f"{', '.join(known)}."
    )


def _named(specs: Sequence[str]) -> dict[str, str]:
    """A short name for every encoder, its folder or kind, longer where two would have the same."""
    if len(set(specs)) < len(specs):
        twice = next(spec for spec in specs if list(specs).count(spec) > 1)
        raise ConfigError(f"{twice} is named twice: an encoder is compared with others.")
    for parts in range(1, 10):
        names = [_name(spec, parts) for spec in specs]
        if len(set(names)) == len(names):
            return dict(zip(names, specs, strict=True))
    return {f"{number} {_name(spec, 1)}": spec for number, spec in enumerate(specs, 1)}


def _name(spec: str, parts: int) -> str:
    kind, colon, path = spec.rpartition(":")
    folders = [p for p in Path(path or spec).parts if p not in ("/", ".", "..")]
    folders = folders[:-1] if folders and folders[-1] == "encoder" and len(folders) > 1 else folders
    if colon and parts == 1:
        return kind
    place = "/".join(folders[-(parts - bool(colon)) :])
    return f"{kind} {place}" if colon else place


def _folder_of(named: dict[str, str]) -> str:
    """The names, short, and a digest of the whole places: others of these names have another folder."""
    short = re.sub(r"[^\w.@-]+", "_", "-".join(named))[:_LONGEST]
    places = [spec.rpartition(":") for spec in named.values()]
    whole = [[kind, os.path.abspath(at_home(path)) if path else ""] for kind, _, path in places]
    return f"{short}-{hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:_DIGITS]}"


def _converted(name: str, spec: str, out: Path) -> str:
    """The encoder, of published weights the folder that is made of them once, and again when they have changed."""
    file = Path(at_home(spec))
    if file.suffix not in _WEIGHTS or not file.is_file():
        return spec
    short = re.sub(r"[^\w.-]+", "_", Path(name).stem)
    folder = out / "encoders" / f"{short}-{_digest(file)}"
    if not folder.exists():
        convert(file, folder)
    return str(folder)


def _digest(file: Path) -> str:
    """Of the content of weights, and of the settings beside them, which are read too."""
    found = hashlib.sha256()
    for each in (file, *map(file.with_name, ("config.json", *PROCESSORS))):
        if each.is_file():
            with open(each, "rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()[:_DIGITS]


def _is_ours(file: Path) -> bool:
    with open(file, encoding="utf-8", errors="replace") as text:
        return text.readline() == _MARK
