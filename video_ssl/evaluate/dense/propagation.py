"""Labels of the first frame carried through a video: each place takes those of the places that look most alike.

Sources of a frame are the first one, whose labels are given, and the last `context` frames with the labels that were
found for them.  Of all places of all sources the `topk` most similar count, weighted by the exponential of their
similarity over the temperature.  The published rules differ:

    notebook    (RVM, 4DS) the queue of sources begins full of copies of the first frame, which is predicted too;
                places in the queue must be nearer than `radius` cells, in the first frame any counts; of equal
                similarities at the end of the `topk` some are left out
    crw         as the notebook's, but the labels of the first frame stay as they were given
    dino        the queue begins empty, the first frame is not predicted; places of every source must lie in a square
                of 2 * radius + 1 cells; of equal similarities all count

Source: papers/frozen_protocols.md section 3.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["notebook", "crw", "dino"]

#: Similarity of a place that does not count.
_FAR = -1e10
#: Numbers in the table of similarities of a frame that are held at a time.
_TABLE = 2**26


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """How labels travel.  The defaults are those of the notebook on DAVIS and JHMDB; VIP has topk 10.

    Attributes:
        rule: see the head of this file; `PRESETS` has the settings of each project.
        context: frames in the queue.
        topk: places that count.
        radius: in cells; null = anywhere.
        temperature: of the similarities.
    """

    rule: Rule = "notebook"
    context: int = 20
    topk: int = 7
    radius: float | None = 20.0
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.context < 1 or self.topk < 1:
            raise ValueError(f"context={self.context} and topk={self.topk} must be at least 1.")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive.")
        if self.radius is not None and not self.radius >= 0:
            raise ValueError(f"radius={self.radius} must not be negative; null looks anywhere.")


DINO = PropagationConfig(rule="dino", context=7, topk=5, radius=12.0, temperature=0.1)
CRW = PropagationConfig(rule="crw", context=20, topk=10, radius=12.0, temperature=0.05)
PRESETS: dict[Rule, PropagationConfig] = {
    "notebook": PropagationConfig(),
    "crw": CRW,
    "dino": DINO,
}


def propagate(features: Tensor, first: Tensor, config: PropagationConfig) -> Tensor:
    """Returns the labels of every frame, float32 (T, h, w, K).

    Args:
        features: float (T, h, w, C); brought to unit length here.
        first: float (h, w, K), the labels of the first frame, soft or 0 and 1.
        config: the rule.

    Returns:
        (T, h, w, K): of "dino" and "crw" the first is `first` itself.  Not divided by anything: of "dino" too they are
        as the queue holds them.

    Raises:
        ValueError: shapes that do not belong together, or fewer places than `topk`.
    """
    h, w = _checked(features, first, config)
    unit = F.normalize(features.float(), dim=-1).flatten(1, 2)
    allowed = _allowed(h, w, config, features.device)
    own = first.float().flatten(0, 1)
    queue: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.context)
    found = []
    if config.rule != "dino":
        queue.extend([(unit[0], own)] * config.context)
    for t in range(len(features)):
        if t == 0 and config.rule != "notebook":
            found.append(own)
            continue
        labels = _carried(unit[t], [(unit[0], own), *queue], allowed, config)
        found.append(labels)
        queue.append((unit[t], labels))
    return torch.stack(found).unflatten(1, (h, w))


def _checked(features: Tensor, first: Tensor, config: PropagationConfig) -> tuple[int, int]:
    if features.ndim != 4 or first.ndim != 3 or first.shape[:2] != features.shape[1:3]:
        raise ValueError(
            f"features {tuple(features.shape)} and labels {tuple(first.shape)} do not belong together: give "
            "(T, h, w, C) and (h, w, K)."
        )
    h, w = features.shape[1:3]
    if h * w < config.topk:
        raise ValueError(f"a frame has {h} x {w} places, fewer than topk={config.topk}.")
    return h, w


def _allowed(h: int, w: int, config: PropagationConfig, device: torch.device) -> Tensor | None:
    """Which places of a source count for each place, bool (h w, h w); None = all."""
    if config.radius is None:
        return None
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1).double().to(device)
    apart = place[:, None] - place[None]
    if config.rule == "dino":
        return (apart.abs() <= config.radius).all(-1)
    return apart.pow(2).sum(-1).sqrt() < config.radius


def _carried(
    query: Tensor,
    sources: list[tuple[Tensor, Tensor]],
    allowed: Tensor | None,
    config: PropagationConfig,
) -> Tensor:
    """The labels (h w, K) of the places of a frame, (h w, C)."""
    keys = torch.cat([key for key, _ in sources])
    labels = torch.cat([label for _, label in sources])
    everywhere = config.rule != "dino"  # the first source has no radius
    step = max(1, _TABLE // len(keys))
    parts = []
    for begin in range(0, len(query), step):
        alike = query[begin : begin + step] @ keys.T / config.temperature
        if allowed is not None:
            near = allowed[begin : begin + step].repeat(1, len(sources))
            if everywhere:
                near[:, : len(query)] = True
            alike = alike.masked_fill(~near, _FAR)
        parts.append(_weighted(alike, labels, config))
    return torch.cat(parts)


def _weighted(alike: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """(Q, S) similarities and (S, K) labels -> (Q, K)."""
    values, places = alike.topk(config.topk, dim=1)
    if config.rule == "dino":
        kept = alike >= values[:, -1:]
        return alike.masked_fill(~kept | (alike == _FAR), -torch.inf).softmax(1) @ labels
    shares = values.softmax(1)
    return torch.einsum("qk,qkc->qc", shares, labels[places])
