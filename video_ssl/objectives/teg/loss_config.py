"""Settings of TeG's loss and heads, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Negatives = Literal["intra", "inter", "both"]
Match = Literal["interp", "nearest"]


@dataclass(frozen=True, kw_only=True)
class TegLossConfig:
    """TeG's loss: omega * fine-grained + (1 - omega) * persistent.

    All of it is our specification (papers/teg.md section 4), as the text of the paper was not available; that there are
    two such objectives, and a study of their mixture, is the paper's.

    Attributes:
        omega: share of the fine-grained loss: 0 is persistent only, 1 is fine-grained only.
        temperature: of the fine-grained loss.
        persistent_temperature: of the persistent one.
        negatives: of an anchor: other moments of its own video ("intra"), all moments of other videos ("inter"), or
            "both".
        match: the positive: interpolated between two moments of the long clip, or the "nearest" one.
        intra_weight: factor of the own video's negatives within the sum; lower it for static videos, 0 leaves them out.
    """

    omega: float = 0.5
    temperature: float = 0.1
    persistent_temperature: float = 0.1
    negatives: Negatives = "both"
    match: Match = "interp"
    intra_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.omega <= 1:
            raise ValueError(f"omega={self.omega} must lie in [0, 1].")
        for name in ("temperature", "persistent_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")
        if self.negatives not in get_args(Negatives):
            raise ValueError(f"negatives={self.negatives!r} must be one of {get_args(Negatives)}.")
        if self.match not in get_args(Match):
            raise ValueError(f"match={self.match!r} must be one of {get_args(Match)}.")
        if self.intra_weight < 0:
            raise ValueError(
                f"intra_weight={self.intra_weight} must not be negative; 0 leaves intra negatives out."
            )


@dataclass(frozen=True, kw_only=True)
class TegHeadsConfig:
    """TeG's two projection heads.

    Source: papers/teg.md section 3 (our specification).

    Attributes:
        hidden_dims, out_dim: of both.
        share_heads: one head for moments and for the whole clip.
        global_from_dense: the embedding of the whole is the mean of those of its moments, without a head of its own.
    """

    hidden_dims: tuple[int, ...] = (2048, 2048, 2048)
    out_dim: int = 128
    share_heads: bool = False
    global_from_dense: bool = False

    def __post_init__(self) -> None:
        if self.out_dim < 1 or any(width < 1 for width in self.hidden_dims):
            raise ValueError(
                f"hidden_dims={self.hidden_dims} and out_dim={self.out_dim} must be positive."
            )
        if self.share_heads and self.global_from_dense:
            raise ValueError(
                "share_heads and global_from_dense exclude each other: the latter has no global head. Use one of them."
            )
