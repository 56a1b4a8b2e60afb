"""An evaluation: embed with every encoder once, run the evaluators on the features, report.

    OUT/features/ENCODER-SPLIT-KEY.arrow    one feature file for every encoder and table
    OUT/files/ENCODER/...                   what evaluators leave beside their numbers (tracks)
    OUT/heads/ENCODER-HEAD/...              heads that were chosen, for `video-ssl predict`
    OUT/results.json                        every number, setting, seed and version

A feature file is used again as long as its key is the same; the key changes with the encoder's
weights, the settings that shape features, and the videos.

Several processes (torchrun, `video-ssl launch`) share the work: each embeds its part of every table, and those
evaluators that can, such as the probe, divide the features among them.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from video_ssl import __version__
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.embed.embed_videos import refuse_changed_contents
from video_ssl.embed.embedding import Embedder, EmbeddingError, write_side_by_side
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.embed.open_encoder import lasting_spec, open_encoder, partner_spec
from video_ssl.embed.partial import discard, partial_folder
from video_ssl.embed.shards import embed_together
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Result
from video_ssl.evaluate.evaluators import Evaluator
from video_ssl.evaluate.heads import ChosenHead, forget_other_heads, write_head
from video_ssl.evaluate.leftovers import safe_name
from video_ssl.evaluate.needs import (
    check_encoder,
    check_files,
    check_packages,
    check_processes,
    check_tables,
    embed_settings,
    sense_settings,
    told_about_classes,
    wanted_senses,
)
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.results_table import results_table, summary
from video_ssl.evaluate.row_shares import ALONE
from video_ssl.files import (
    MADE_BY,
    claim_file,
    claim_folder,
    made,
    write_atomically,
)
from video_ssl.limits import read_json
from video_ssl.models.contract import COMMON_WITH
from video_ssl.pretrain.processes import Processes, choose_device, join_processes
from video_ssl.progress import console_for_tables
from video_ssl.recipes import to_plain

logger = logging.getLogger(__name__)

#: Shards take their time, and a process that is lost breaks its connections anyway.
_PATIENCE_SEC = 7 * 24 * 3600.0
#: Of results that are read before they are replaced.
_MAX_BYTES = 2**28


def evaluate(recipe: EvaluateRecipe, *, quiet: bool = False) -> dict[str, Any]:
    """Returns the results of an evaluation, as they are in OUT/results.json, and prints a table.

    Under several processes every process calls it and gets the same.

    Args:
        recipe: what to do.
        quiet: print nothing.

    Raises:
        EncoderError, TableError, FeatureError, EmbeddingError: see there; encoders and tables are
            looked at before the first video is decoded.
        OutputError: OUT/results.json is not that of an evaluation, or the folder cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _evaluate(recipe, Processes(0, 1, choose_device(recipe.device)), quiet=quiet)
    with join_processes(recipe.device, patience_sec=_PATIENCE_SEC) as processes:
        return _evaluate(recipe, processes, quiet=quiet or not processes.is_main)


def _evaluate(recipe: EvaluateRecipe, processes: Processes, *, quiet: bool) -> dict[str, Any]:
    out = recipe.folder()
    evaluators, specs = recipe.make_evaluators(), recipe.encoder_specs()
    check_processes(evaluators, processes.world_size)
    processes.on_main(lambda: _claim(out))
    processes.on_main(lambda: _tell_replaced(out / "results.json", recipe, specs))
    check_packages(evaluators)
    settings = embed_settings(recipe.embed, evaluators)
    given = {name: given_features(spec) for name, spec in specs.items() if is_features(spec)}
    embedders: dict[str, Embedder] = {}
    partners: dict[str, dict[str, Embedder]] = {}
    for name, spec in specs.items():  # mistakes are reported now, not after an hour of decoding
        if name in given:
            check_files(name, given[name], evaluators)
        else:
            encoder = open_encoder(spec, recipe.device)
            check_encoder(name, encoder, evaluators, settings)
            embedders[name] = Embedder(encoder, settings, device=processes.device, name=name)
            partners[name] = _partners(name, spec, recipe, evaluators, processes)
    learns = any(evaluator.needs.train for evaluator in evaluators.values())
    tables = _open_tables(recipe, processes, learns=learns) if embedders else {}
    check_tables(tables, evaluators)
    if "train" in tables:
        for line in told_about_classes(tables["train"], tables["test"]):
            logger.info("%s", line)
    made = _features_of(embedders, tables, out / "features", processes, progress=not quiet)
    entries: dict[str, Any] = {}
    for name, spec in specs.items():
        embedder = embedders.pop(name, None)  # its memory is free again when its turn is over
        about: dict[str, Any] = {"source": {}, "fingerprint": None}
        files = given[name] if embedder is None else made[name]
        if embedder is not None:
            about = {"source": embedder.encoder.source, "fingerprint": embedder.fingerprint}
            senses = _features_of_senses(
                partners.pop(name), tables["test"], out / "features", processes, progress=not quiet
            )
            files = {**files, **senses}
        context = Context(
            train=files.get("train", files["test"]),
            test=files["test"],
            senses={s: file for s, file in files.items() if s in COMMON_WITH},
            seed=recipe.seed,
            keep_predictions=recipe.keep_predictions,
            processes=processes,
            device=processes.device,
            encoder=None if embedder is None else embedder.encoder,
            tables=tables,
            settings=settings,
            folder=out / "files" / safe_name(name),
        )
        results = {}
        heads: dict[str, ChosenHead] = {}
        for title, evaluator in evaluators.items():
            logger.info("%s: %s", name, title)
            result = _result(evaluator, context)
            heads |= result.heads
            results[title] = dataclasses.asdict(replace(result, heads={}))
            del results[title]["heads"]
        entries[name] = {
            "spec": spec,
            **about,
            "class_names": list(context.train.metadata.get("class_names") or ()),
            "features": {split: _where(file, out) for split, file in files.items()},
            "clips": {split: len(file) for split, file in files.items()},
            "skipped": {split: file.skipped for split, file in files.items()},
            "results": results,
            "heads": processes.on_main(
                partial(_write_heads, out, name, spec, recipe, heads, files)
            ),
        }
    found = _found(recipe, tables, entries, processes.device)
    written = {out / place for entry in entries.values() for place in entry["heads"].values()}
    processes.on_main(lambda: forget_other_heads(out / "heads", written))
    processes.on_main(lambda: _write_json(out / "results.json", found))
    if not quiet:
        _print(found, out)
    return found


def _print(found: Mapping[str, Any], out: Path) -> None:
    console = console_for_tables()
    console.print(results_table(found))
    # a notebook does not wrap what is long, it hides it
    console.print(found["summary"], soft_wrap=not console.is_jupyter, markup=False)
    console.print(f"Results: {out / 'results.json'}", soft_wrap=True, markup=False)


def _partners(
    name: str,
    spec: str,
    recipe: EvaluateRecipe,
    evaluators: Mapping[str, Evaluator],
    processes: Processes,
) -> dict[str, Embedder]:
    """Sense -> what embeds the test videos as they are heard or told, by the encoder of the same run."""
    found: dict[str, Embedder] = {}
    for sense in wanted_senses(evaluators):
        encoder = open_encoder(partner_spec(spec, sense), recipe.device)
        settings = sense_settings(recipe.embed, sense)
        found[sense] = Embedder(encoder, settings, device=processes.device, name=f"{name}_{sense}")
    return found


def _features_of_senses(
    embedders: Mapping[str, Embedder],
    table: Table,
    folder: Path,
    processes: Processes,
    *,
    progress: bool,
) -> dict[str, FeatureFile]:
    """Returns sense -> features of the test videos."""
    return {
        sense: cached_features([own], table, folder, "test", processes, progress=progress)[0]
        for sense, own in embedders.items()
    }


def _open_tables(recipe: EvaluateRecipe, processes: Processes, *, learns: bool) -> dict[str, Table]:
    """The tables of training and test videos; the first only where somebody learns from it."""
    named = {"train": recipe.train} if learns and recipe.train is not None else {}
    named["test"] = recipe.test
    # Generated videos that are missing are made by one process, while the others wait.
    processes.on_main(lambda: [len(open_table(table)) for table in named.values()])
    return {split: open_table(table) for split, table in named.items()}


def _found(
    recipe: EvaluateRecipe,
    tables: Mapping[str, Table],
    entries: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """What results.json holds."""
    found = {
        MADE_BY: made("evaluate"),
        "name": recipe.name,
        "recipe": to_plain(recipe),
        "seed": recipe.seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "video_ssl": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": _device_name(device),
        "videos": {split: len(table) for split, table in tables.items()},
        "class_names": list(next(iter(tables.values())).class_names) if tables else [],
        "encoders": dict(entries),
    }
    found["summary"] = summary(found)
    return found


def _write_heads(
    out: Path,
    name: str,
    spec: str,
    recipe: EvaluateRecipe,
    heads: Mapping[str, ChosenHead],
    files: Mapping[str, FeatureFile],
) -> dict[str, str]:
    """Leaves the heads that evaluators have chosen; name of the head -> its folder below `out`."""
    written: dict[str, str] = {}
    if not heads:
        return written
    made_with = files["train"].metadata
    encoder = made_with.get("encoder") or {}
    for title, head in heads.items():
        place = out / "heads" / safe_name(f"{name}-{title}")
        about = {
            "encoder": {
                "spec": None if is_features(spec) else lasting_spec(spec),
                "name": encoder.get("name", name),
                "fingerprint": encoder.get("fingerprint"),
            },
            "embed": made_with.get("settings") or {},
            "evaluation": {
                "name": recipe.name,
                "train": recipe.train,
                "seed": recipe.seed,
                "video_ssl": __version__,
            },
        }
        write_head(place, head, about)
        written[title] = os.path.relpath(place, out)
    return written


def _claim(out: Path) -> None:
    claim_folder(out / "features", "evaluate", (), ours=True)
    claim_folder(out / "heads", "evaluate", (), ours=True)
    claim_file(out / "results.json", "evaluate")


def _tell_replaced(file: Path, recipe: EvaluateRecipe, specs: Mapping[str, str]) -> None:
    """Warns of results of other videos or encoders in the same place: a fold replaces the one before."""
    try:
        found = read_json(file, max_bytes=_MAX_BYTES)
        theirs = {name: found["recipe"][name] for name in ("train", "test")}
        theirs["encoders"] = {name: entry["spec"] for name, entry in found["encoders"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # there is none, or nothing that can be told
    ours = {"train": recipe.train, "test": recipe.test, "encoders": dict(specs)}
    other = [
        f"{name}={theirs[name]} (now {ours[name]})" for name in ours if theirs[name] != ours[name]
    ]
    if other:
        logger.warning(
            "%s and the heads beside it are of %s: they will be replaced. To keep them, give this evaluation a folder "
            "of its own (out=FOLDER).",
            file,
            ", ".join(other),
        )


def is_features(spec: str) -> bool:
    """Returns whether what stands for an encoder names feature files: `features:TRAIN,TEST`."""
    return spec.startswith("features:")


def given_features(spec: str) -> dict[str, FeatureFile]:
    """Returns the feature files of `features:TRAIN,TEST[,text=FILE][,sound=FILE]`, ours or anybody's.

    They are named "train" (unless it is empty), "test", and by their senses; those that TEST has itself need no file.

    Raises:
        FeatureError: other names than these, or see `open_features`.
    """
    train, *more = spec.removeprefix("features:").split(",")
    test, *others = more or [""]
    named = {"train": train, "test": test} if train else {"test": test}
    for other in others:
        sense, _, file = other.partition("=")
        if sense not in COMMON_WITH or not file or sense in named:
            raise FeatureError(
                f"{spec!r}: {other!r} must be {' or '.join(f'{s}=FILE' for s in COMMON_WITH)}, each once."
            )
        named[sense] = file
    if not test:
        raise FeatureError(
            f"{spec!r} must name two files: features:TRAIN,TEST; TRAIN may be empty where nothing is learned."
        )
    opened = {name: open_features(file) for name, file in named.items()}
    return {**opened["test"].senses, **opened}


def _result(evaluator: Evaluator, context: Context) -> Result:
    """What an evaluator found, in every process; it gets what it has requested."""
    needs, processes = evaluator.needs, context.processes
    own = replace(
        context,
        processes=processes if needs.processes else ALONE,
        encoder=context.encoder if needs.encoder or needs.tokens else None,
        tables=context.tables if needs.reader or needs.tokens else {},
    )
    if needs.processes:
        return evaluator.evaluate(own)
    return processes.on_main(lambda: evaluator.evaluate(own))


def _features_of(
    embedders: Mapping[str, Embedder],
    tables: Mapping[str, Table],
    folder: Path,
    processes: Processes,
    *,
    progress: bool,
) -> dict[str, dict[str, FeatureFile]]:
    """Returns encoder -> split -> features."""
    made: dict[str, dict[str, FeatureFile]] = {name: {} for name in embedders}
    for split, table in tables.items():
        files = cached_features(
            list(embedders.values()), table, folder, split, processes, progress=progress
        )
        for name, file in zip(embedders, files, strict=True):
            made[name][split] = file
    return made


def cached_features(
    embedders: Sequence[Embedder],
    table: Table,
    folder: Path,
    split: str,
    processes: Processes,
    *,
    progress: bool,
) -> list[FeatureFile]:
    """Returns the features of a table by each encoder, from `folder` where the same were written before.

    Encoders that see the same clips share one decoding of the videos, in one process.  Called by every process.
    """
    paths = [_path_of(embedder, table, folder, split) for embedder in embedders]
    missing = []
    for embedder, path in zip(embedders, paths, strict=True):
        checked = table if embedder.config.check else None
        if processes.on_main(partial(_is_ready, path, checked)):
            logger.info("%s: features of %s are there already: %s", embedder.name, split, path)
        else:
            missing.append((embedder, path))
    if processes.world_size > 1:
        for embedder, path in missing:
            embed_together(embedder, table, path, processes, progress=progress)
    else:
        for group in _same_clips(missing):
            write_side_by_side(
                [embedder for embedder, _ in group],
                table,
                [path for _, path in group],
                progress=progress,
            )
    return [open_features(path) for path in paths]


def _path_of(embedder: Embedder, table: Table, folder: Path, split: str) -> Path:
    """Where the features of a table by an encoder lie; what lies there of others is told."""
    safe = re.sub(r"[^\w.-]+", "_", embedder.name)
    path = folder / f"{safe}-{split}-{embedder.key(table)}.arrow"
    others = sorted(folder.glob(f"{glob.escape(safe)}-{split}-*.arrow"))
    if others and path not in others:
        text = "%s: %d feature files of %s are of other videos, settings or weights, or of an earlier version: not used"
        logger.info(text, embedder.name, len(others), split)
    return path


def _same_clips(missing: Sequence[tuple[Embedder, Path]]) -> list[list[tuple[Embedder, Path]]]:
    """Groups encoders that see the same clips; one whose features an interrupted job has begun goes on alone."""
    groups: list[list[tuple[Embedder, Path]]] = []
    for embedder, path in missing:
        begun = partial_folder(path).exists()
        for group in groups:
            first, place = group[0]
            if (
                not begun
                and not partial_folder(place).exists()
                and embedder.windows == first.windows
            ):
                group.append((embedder, path))
                break
        else:
            groups.append([(embedder, path)])
    return groups


def _is_ready(path: Path, checked: Table | None) -> bool:
    """Whether there are features that can be used; clears away what is left of a killed job, or cannot be used."""
    ready = _usable(path, checked)
    if ready:
        discard(path)  # of a run that was killed after its last row
    else:
        path.unlink(missing_ok=True)
    return ready


def _usable(path: Path, checked: Table | None) -> bool:
    """Whether there are features that can be read, of what the videos of a table hold now, if it is given."""
    if not path.is_file():
        return False
    try:
        found = open_features(path)
        if checked is not None:
            refuse_changed_contents(found, checked)
    except (FeatureError, EmbeddingError) as err:
        logger.warning("%s is embedded again: %s", path, err)
        return False
    return True


def _where(file: FeatureFile, out: Path) -> str:
    assert file.path is not None
    return os.path.relpath(file.path, out)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(content), indent=1, default=str)
    write_atomically(path, text + "\n")


def _without_nan(value: Any) -> Any:
    """The same with null for numbers that are not finite: NaN is no JSON."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
