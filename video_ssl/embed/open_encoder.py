"""Frozen encoders of either framework for the embedder: torch's by name, flax's behind `flax:`.

    RUN, RUN@STEP, untrained:RUN[@SEED], ...  see `load_encoder`, also for further baselines; a run of flax gives its
                                              torch twin
    hub:FOLDER, hub:NAME                      a model of Hugging Face's transformers, see docs/hub.md
    flax:RUN, flax:untrained:RUN[@SEED]       the flax encoder of a run of either framework, computed by jax

`untrained:flax:RUN`, `pixels:flax:RUN` and their like are understood too: recipes need not know what `{encoder}` is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import cast

import torch

import video_ssl
from video_ssl.datasets.paths import at_home
from video_ssl.models.baselines import BASELINES
from video_ssl.models.contract import Encoder
from video_ssl.models.encoder_folder import find_encoder, read_config
from video_ssl.models.encoder_partners import find_partner
from video_ssl.models.encoders import EncoderError, load_encoder
from video_ssl.models.hub.kinds import HUB, HUB_KINDS, HUB_TEXT
from video_ssl.models.preprocess_config import Modality
from video_ssl.pretrain.processes import choose_device

FLAX = "flax:"
UNTRAINED = "untrained:"


def open_encoder(spec: str, device: str | torch.device = "cpu") -> Encoder:
    """Returns a frozen encoder.

    Args:
        spec: see the head of this file.
        device: where it computes.  "auto": torch takes CUDA where there is one, jax what it prefers (a TPU); otherwise
            flax takes the first device of the same kind.

    Raises:
        RunError: torch has no such device.
        EncoderError: see `load_encoder`; or jax is not installed or sees no such device.
    """
    plain = without_flax(spec)
    if plain != spec and hub_parts(plain) is not None:
        raise EncoderError(
            f"{spec}: models of transformers are computed by torch: leave out {FLAX!r}."
        )
    if plain == spec or plain.partition(":")[0] in BASELINES:
        return load_encoder(plain, choose_device(str(device)))
    try:
        load = video_ssl.load_flax_encoder
    except ImportError as err:
        raise EncoderError(f"{spec}: {err}, or leave out {FLAX!r} for its torch twin.") from err
    kind = None if device == "auto" else torch.device(device).type
    return cast(Encoder, load(plain, device=kind))


def without_flax(spec: str) -> str:
    """Returns what is left of a specification without `flax:`.

    >>> without_flax("flax:runs/a"), without_flax("untrained:flax:runs/a@3"), without_flax("runs/a")
    ('runs/a', 'untrained:runs/a@3', 'runs/a')
    """
    for kind in ("", "untrained:", *(f"{name}:" for name in BASELINES)):
        if spec.startswith(kind + FLAX):
            return kind + spec.removeprefix(kind + FLAX)
    return spec


def lasting_spec(spec: str) -> str:
    """Returns a specification that means the same from any folder: the place of its encoder is absolute.

    Args:
        spec: an encoder, as `open_encoder` takes it; what stands before the place, and a seed or size behind it, stay.
    """
    before = re.match(r"(?:[a-z_]+:)*", spec)
    begin = before[0] if before else ""
    place, behind = spec.removeprefix(begin), ""
    if not Path(at_home(place)).exists():
        place, at, behind = place.rpartition("@")
        behind = at + behind
    known = place and Path(at_home(place)).exists()
    return f"{begin}{os.path.abspath(at_home(place))}{behind}" if known else spec


def hub_parts(spec: str) -> tuple[str, str, str] | None:
    """Returns what stands before a model of the hub, which of its towers is meant, and its name; None where it is none.

    >>> hub_parts("untrained:hub:google/siglip-base@3"), hub_parts("runs/a")
    (('untrained:', 'hub', 'google/siglip-base@3'), None)
    """
    fresh = UNTRAINED if spec.startswith(UNTRAINED) else ""
    kind, _, named = spec.removeprefix(fresh).partition(":")
    return (fresh, kind, named) if kind in HUB_KINDS else None


def partner_spec(spec: str, sense: Modality) -> str:
    """Returns the specification of the encoder of the same run that has another sense, in a common space with it.

    What stands before the run (`flax:`, `untrained:`) and a seed behind it stay.

    Args:
        spec: an encoder, as `open_encoder` takes it.
        sense: "sound" or "text" for an encoder of video, "video" for the others.

    Raises:
        EncoderError: there is no such encoder, or a baseline without weights, which has none.
    """
    plain = without_flax(spec)
    kind = plain.partition(":")[0]
    if kind in BASELINES:
        raise EncoderError(f"{spec} shares no space with {sense}: name a run there.")
    of_hub = hub_parts(plain)
    if of_hub is not None:
        if sense == "sound":
            raise EncoderError(f"{spec} shares no space with sound: name a run there.")
        return f"{of_hub[0]}{HUB_TEXT if sense == 'text' else HUB}:{of_hub[2]}"
    fresh = UNTRAINED if plain.startswith(UNTRAINED) else ""
    place, seed = plain.removeprefix(fresh), ""
    if fresh and not Path(at_home(place)).exists():
        place, at, number = place.rpartition("@")
        seed = at + number
    folder = find_encoder(place)
    content = read_config(folder)
    if sense == "text" and content["architecture"] == HUB and "hub" in content["source"]:
        # A model that was converted left its tower of texts where it came from.
        return f"{HUB_TEXT}:{content['source']['hub']}"
    partner = find_partner(folder, sense)
    return f"{fresh}{FLAX if plain != spec else ''}{partner}{seed}"
