"""Encoder folders on disk, free of torch and jax: what is in them, how they are found, read and written.

A folder holds `model.safetensors` (weights under torch's names, whichever framework trained them), `config.json`,
`README.md`, the model card, and of a text encoder `vocabulary.txt`, its words, one a line.  `config.json` says what the
encoder sees ("modality") and how clips are made for it, and keeps the checksums of the other files, and its own.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from video_ssl import __version__
from video_ssl.checksums import SEAL, checksums, damage, file_sizes, seal_is_broken, sealed
from video_ssl.datasets.paths import at_home
from video_ssl.files import (
    check_writable,
    folder_aside,
    write_atomically,
    write_json,
)
from video_ssl.limits import read_json
from video_ssl.models.baselines import BASELINES
from video_ssl.models.model_card import model_card
from video_ssl.models.preprocess_config import (
    MODALITIES,
    PREPROCESS,
    VOCABULARY,
    Preprocess,
    TextPreprocess,
    described,
)
from video_ssl.recipes import build_config, nearest, to_plain

logger = logging.getLogger(__name__)

FORMAT = "video_ssl.encoder"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
#: Other parts of a model, kept beside its encoder.
HEAD, DECODER = "head.safetensors", "decoder.safetensors"
REPORT = "conversion.json"  # only in what `video-ssl convert` has written
CLASSIFIER = "classifier.json"  # see `classifier_folder`


#: What makes an encoder of `RUN@STEP`: runs are above this room, so it is only named, and looked up when it is needed.
OF_STEP = "video_ssl.pretrain.export:encoder_of_step"
_STEP = re.compile(r"(?P<run>.+)@(?P<step>\d+)")

_MAX_CONFIG_BYTES, _MAX_VOCABULARY_BYTES = 2**22, 2**26

_KINDS = (
    ("architecture", str, "a name"),
    ("config", dict, "keys and values"),
    ("preprocess", dict, "keys and values"),
    ("source", dict, "keys and values"),
)


class EncoderError(ValueError):
    """An encoder that cannot be read or written; the text says what was found and expected."""


def write_encoder_folder(
    folder: str | Path,
    write: Callable[[Path], None],
    *,
    architecture: str,
    config: Any,
    preprocess: Preprocess,
    source: dict[str, Any],
    num_parameters: int,
    embed_dim: int,
    output_names: Sequence[str],
    versions: dict[str, str],
) -> Path:
    """Returns the folder into which an encoder was written: complete, or not at all.

    It is written under a temporary name beside its place, then renamed. An encoder folder that is already there is
    replaced; any other folder with content is refused.

    Args:
        folder: where to.
        write: puts `model.safetensors`, and what else belongs there, into the folder it is given.
        architecture, config, preprocess, source: as `save_encoder` of either framework takes them.
        num_parameters, embed_dim, output_names: for the card.
        versions: of the framework that wrote the weights.

    Raises:
        EncoderError: a place that is taken by something else.
    """
    folder = claim_encoder_folder(folder)
    content = {
        "format": FORMAT,
        "version": 1,
        "architecture": architecture,
        "config": to_plain(config),
        "modality": preprocess.modality,
        "preprocess": described(preprocess),
        "num_parameters": num_parameters,
        "embed_dim": embed_dim,
        "outputs": list(output_names),
        **_dependence(config),
        "source": source,
        "versions": {"video_ssl": __version__, **versions},
    }
    with folder_aside(folder) as aside:
        write(aside)
        if isinstance(preprocess, TextPreprocess):
            write_atomically(aside / VOCABULARY, "".join(f"{w}\n" for w in preprocess.vocabulary))
        sizes = file_sizes(aside)
        content |= {"bytes": sizes, "crc32": checksums(aside, sizes)}
        write_json(aside / CONFIG, sealed(content))
        write_atomically(aside / CARD, model_card(content))
        _readable_like(aside / CONFIG)
    return folder


def _dependence(config: Any) -> dict[str, list[str]]:
    """What the features of frames depend on beside the frames of their clip, for the folder and its card."""
    found = getattr(config, "depends_on_video", ())
    return {"depends_on_video": list(found)} if found else {}


def fill_report(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Returns "" where names and shapes agree, else which are missing, unexpected or mismatched."""
    lists = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "mismatched": [
            f"{k} {list(found[k])} instead of {list(wanted[k])}"
            for k in sorted(wanted.keys() & found.keys())
            if found[k] != wanted[k]
        ],
    }
    return "; ".join(
        f"{len(names)} {word}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for word, names in lists.items()
        if names
    )


def find_encoder(path: str | Path) -> Path:
    """Returns the encoder folder named by a run (the folder above `encoder/`), by itself, or by a checkpoint of a run.

    `RUN@STEP` is the encoder of that checkpoint, which is exported to RUN/exports/step_STEP when it is not there yet.

    Raises:
        EncoderError: nothing there, a file, or a folder without an encoder; the text lists what is
            there, checkpoints too.
    """
    path = Path(at_home(str(path)))
    if not path.exists():
        asked = named_step(path)
        if asked is not None:
            return _encoder_of_step(*asked)
        raise EncoderError(_not_there(path))
    if path.is_file():
        raise EncoderError(
            f"{path} is a file, but an encoder is a folder with {WEIGHTS} and {CONFIG}; give the "
            f"folder. "
            "Weights of other projects are converted with `video-ssl convert`."
        )
    for folder in (path, path / "encoder"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    there = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
    listing = ", ".join(there[:12]) + (" ..." if len(there) > 12 else "") if there else "nothing"
    steps = sorted(int(p.parent.name[5:]) for p in path.glob("checkpoints/step_*/meta.json"))
    hint = (
        f" The run has not ended. The encoder of a checkpoint is RUN@STEP, {path}@{steps[-1]} for example: there are "
        f"{', '.join(map(str, steps))}."
        if steps
        else ""
    )
    raise EncoderError(
        f"{path} holds no encoder: expected {WEIGHTS} and {CONFIG} in it or in its sub-folder "
        f"encoder/; there is {listing}.{hint}"
    )


def named_step(path: str | Path) -> tuple[Path, int] | None:
    """Returns run and step of `RUN@STEP`; None where the text names something else."""
    match = _STEP.fullmatch(at_home(str(path)))
    if match is None or Path(match[0]).exists() or not Path(match["run"]).is_dir():
        return None
    return Path(match["run"]), int(match["step"])


def _encoder_of_step(run: Path, step: int) -> Path:
    module, _, name = OF_STEP.partition(":")
    made: Path = getattr(import_module(module), name)(run, step)
    return made


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the content of an encoder's `config.json`.

    Raises:
        EncoderError: not JSON, or not the configuration of an encoder of this library.
    """
    file = folder / CONFIG
    try:
        content = read_json(file, max_bytes=_MAX_CONFIG_BYTES)
    except (OSError, ValueError) as err:
        raise EncoderError(f"{file} is not readable as JSON: {err}") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EncoderError(
            f'{file} does not describe a video_ssl encoder (it has no "format": "{FORMAT}"). '
            "Weights of other projects are converted with `video-ssl convert`."
        )
    lacking = [k for k in ("architecture", "config", "preprocess") if k not in content]
    if lacking:
        raise EncoderError(f"{file} lacks {lacking}; save the encoder again with save_encoder.")
    content.setdefault("source", {})
    content.setdefault("modality", "video")  # what all folders were for before it was written
    for key, kind, what in _KINDS:
        if not isinstance(content[key], kind):
            raise EncoderError(
                f"{file}: {key}={content[key]!r:.80} must be {what}; save the encoder again with save_encoder."
            )
    if content["modality"] not in MODALITIES:
        raise EncoderError(
            f"{file}: modality={content['modality']!r:.80} must be one of {', '.join(MODALITIES)}."
        )
    # A setting of training, in folders from before it left the encoder.
    content["config"].pop("checkpoint_blocks", None)
    return content


def read_preprocess(content: Mapping[str, Any], folder: Path) -> Preprocess:
    """Returns how clips are made for the encoder of a folder whose `config.json` says `content`.

    Raises:
        EncoderError: settings that there are not, or a vocabulary that is missing, damaged or none.
    """
    settings, where = dict(content["preprocess"]), f"{folder / CONFIG}: preprocess"
    cls = PREPROCESS[content["modality"]]
    try:
        if cls is not TextPreprocess:
            found: Preprocess = build_config(cls, settings, where)
            return found
        # The words are many, and not what a recipe would say.
        del settings["num_words"]
        settings.pop("unknown", None)  # said for those who read the file
        text = build_config(TextPreprocess, {**settings, "vocabulary": ["<pad>", "<unk>"]}, where)
        return replace(text, vocabulary=_read_vocabulary(folder))
    except EncoderError:
        raise
    except KeyError as err:
        raise EncoderError(
            f"{where} lacks {err}; save the encoder again with save_encoder."
        ) from err
    except ValueError as err:
        raise EncoderError(f"{err}") from err


def _read_vocabulary(folder: Path) -> tuple[str, ...]:
    file = folder / VOCABULARY
    if not file.is_file():
        raise EncoderError(
            f"{folder} has no {VOCABULARY}, the words of its encoder: copy it again."
        )
    if file.stat().st_size > _MAX_VOCABULARY_BYTES:
        raise EncoderError(f"{file} has {file.stat().st_size:,} bytes: more than any vocabulary.")
    check_unchanged(folder, VOCABULARY)
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as err:
        raise EncoderError(f"{file} is no text: {err}.") from err


def check_unchanged(folder: Path, *names: str) -> None:
    """Raises EncoderError if the files of an encoder folder are not what was written; reads them once.

    Args:
        folder: of the encoder.
        names: the files that are about to be used, beside `config.json`; one that is not there is not checked.
    """
    file = folder / CONFIG
    content = read_json(file, max_bytes=_MAX_CONFIG_BYTES)
    if seal_is_broken(content):
        raise EncoderError(
            f"{file} is not what was written: it is damaged, or was changed by hand. Copy or save the encoder again; "
            f'if the change is yours, remove its line "{SEAL}".'
        )
    sums = content.get("crc32")
    if not isinstance(sums, Mapping):
        logger.info(
            "%s is of an earlier version, without checksums: whether it is damaged cannot be checked",
            folder,
        )
        return
    problem = damage(folder, {name: sums[name] for name in names if name in sums})
    if problem:
        again = (
            f"; or remove {folder} and start its run again, which exports it once more"
            if (folder.parent / "checkpoints").is_dir()
            else ""
        )
        raise EncoderError(f"{folder} is damaged: {problem}. Copy or save it again{again}.")


def _not_there(path: Path) -> str:
    parent = next((p for p in path.parents if p.is_dir()), Path("."))
    names = sorted(p.name for p in parent.iterdir() if p.is_dir())
    rest = path.relative_to(parent) if parent in path.parents else path
    hint = nearest(rest.parts[0], names) if rest.parts else ""
    words = "RUN, RUN@STEP, RUN/encoder, RUN/encoders/NAME, untrained:PATH[@SEED], no_positions:PATH, hub:NAME, "
    words += f"pixels[:SIZE] or KIND:PATH[@SIZE] with KIND of {', '.join(BASELINES)}"
    kinds = ["untrained", "no_positions", "hub", *BASELINES]
    kind = nearest(str(path).partition(":")[0], kinds) if ":" in str(path) else ""
    lacking = rest.parts[0] if rest.parts else path
    return f"no encoder {str(path)!r}: the folder {parent} has no {lacking}.{hint}{kind} Allowed are {words}."


def claim_encoder_folder(folder: str | Path) -> Path:
    """Returns the folder into which an encoder may be written; to be asked before any work.

    Raises:
        EncoderError: it is a file, or holds something else than an encoder of ours, or something beside it.
        OutputError: it cannot be written.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise EncoderError(f"{folder} is a file; an encoder needs a folder of its own.")
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    ours = _is_encoder(folder)
    foreign = [name for name in inside if not ours or not _is_of_encoder(name)]
    if foreign:
        kind = "has" if ours else "is no encoder folder, but has"
        raise EncoderError(
            f"{folder} {kind} {foreign[0]}, which is no part of an encoder: it is not overwritten. Name a new folder, "
            "or move that away."
        )
    check_writable(folder.parent, folder)
    return folder


def _is_encoder(folder: Path) -> bool:
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _is_of_encoder(name: str) -> bool:
    return name in (CONFIG, CARD, REPORT, VOCABULARY, CLASSIFIER) or name.endswith(".safetensors")


def _readable_like(config: Path) -> None:
    """safetensors writes for the owner alone; a folder that others may read is read whole."""
    mode = config.stat().st_mode
    for file in config.parent.iterdir():
        file.chmod(mode)
