"""Settings of VATT's losses, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

NCE = Literal["asymmetric", "symmetric"]
Combination = Literal["average", "sum"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How clips and their sounds and captions are told from those of the other videos of the batch.

    Attributes:
        kind: "asymmetric" has one denominator for both directions (the published models), "symmetric" one for each.
        temperature: similarities are divided by it.
        sound_weight, text_weight: of the losses of video with sound and of video with captions; 0 leaves one out.
        combine: "average" divides the weighted sum by the sum of the weights (the code), "sum" does not (the paper).
        positives_twice: the positives stand in the denominator of the asymmetric loss twice, once for each direction,
            as in the code: no pair can then cost less than log 2 = 0.693.  False: once, as in the paper.
        padded_captions: where a clip has fewer captions than `num_captions`, those that are only padding are candidates
            all the same, as in the code.  False (ours): they are neither positives nor negatives.
        replicas: into so many parts, in order, the batch is divided; each averages over its own videos that have the
            modality before the parts are averaged, and one without any counts as 0.  1 = all pairs of the batch weigh
            the same, on any number of devices; the reference's value is its number of replicas.

    Source: papers/vatt.md section 4 (arXiv:2104.11178).
    """

    kind: NCE = "asymmetric"
    temperature: float = 0.07
    sound_weight: float = 1.0
    text_weight: float = 1.0
    combine: Combination = "average"
    positives_twice: bool = True
    padded_captions: bool = True
    replicas: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("kind", get_args(NCE)), ("combine", get_args(Combination))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}."
                )
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive.")
        weights = (self.sound_weight, self.text_weight)
        if min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(
                f"sound_weight={self.sound_weight} and text_weight={self.text_weight} must not be negative, and one of "
                "them must be positive: there is no other loss."
            )
        if self.kind == "symmetric" and not self.positives_twice:
            raise ValueError(
                "positives_twice=false is a choice of kind='asymmetric': the symmetric loss has every positive once in "
                "each denominator. Leave it out."
            )
        if self.replicas < 1:
            raise ValueError(f"replicas={self.replicas} must be at least 1.")
