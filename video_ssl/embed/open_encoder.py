"""Frozen encoders of either framework for the embedder: torch's by name, flax's behind `flax:`.

    RUN, RUN@STEP, untrained:RUN[@SEED], ...  see `load_encoder`, also for further baselines; a run of flax gives its
                                              torch twin
    flax:RUN, flax:untrained:RUN[@SEED]       the flax encoder of a run of either framework, computed by jax

`untrained:flax:RUN`, `pixels:flax:RUN` and their like are understood too: recipes need not know what `{encoder}` is.
"""

from __future__ import annotations

from typing import cast

import torch

import video_ssl
from video_ssl.models.baselines import BASELINES
from video_ssl.models.contract import Encoder
from video_ssl.models.encoders import EncoderError, load_encoder
from video_ssl.pretrain.processes import choose_device

FLAX = "flax:"


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
