"""Encoders of one run that share a space: of an encoder folder, the one beside it that has another sense.

    RUN/encoder         RUN/encoders/NAME
    FOLDER/step_N       FOLDER/step_N_NAME       exported from a checkpoint

Free of torch and jax.
"""

from __future__ import annotations

from pathlib import Path

from video_ssl.models.contract import COMMON_WITH
from video_ssl.models.encoder_folder import CONFIG, EncoderError, read_config
from video_ssl.models.preprocess_config import Modality

_ENCODER, _FURTHER = "encoder", "encoders"


def find_partner(folder: Path, sense: Modality) -> Path:
    """Returns the folder of the encoder beside another one that has a sense, and an output in a space with it.

    Args:
        folder: of an encoder; it may be the one that is looked for.
        sense: "video", "sound" or "text".

    Raises:
        EncoderError: there is none (those that are there are named), or there are several.
    """
    own = read_config(folder)
    asked = (sense, own.get("modality", "video"))
    common = next((COMMON_WITH[s] for s in asked if s in COMMON_WITH), None)
    there = {place: read_config(place) for place in _places(folder)}
    found = [
        place
        for place, about in there.items()
        if about.get("modality", "video") == sense and common in (None, *about.get("outputs", ()))
    ]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"{p} ({about.get('modality', 'video')})" for p, about in there.items())
    if found:
        raise EncoderError(
            f"beside {folder} there are several encoders of {sense}: {', '.join(map(str, found))}. Name one of them."
        )
    raise EncoderError(
        f"beside {folder} there is no encoder of {sense} that shares a space with it; there are {seen}. Take a run of "
        "an objective that trains both, such as vatt."
    )


def _places(folder: Path) -> list[Path]:
    """The folders of the encoders of the run, `folder` first."""
    run = folder.parent.parent if folder.parent.name == _FURTHER else folder.parent
    beside = [run / _ENCODER, *sorted((run / _FURTHER).glob("*"))]
    if folder not in beside:  # exported from a checkpoint
        beside = sorted(folder.parent.glob(f"{folder.name}_*"))
    return [folder, *(p for p in beside if p != folder and (p / CONFIG).is_file())]
