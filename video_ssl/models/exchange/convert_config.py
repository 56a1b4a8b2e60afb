"""Settings of `video-ssl convert`.  Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

To = Literal["ours", "original", "huggingface", "export"]


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What weights are read as, and written as.

    Attributes:
        to: format of the result.
        family: whose the source is; auto: what its keys say.  All but the ViTs can only be written as "ours".
        num_heads: where the width has no usual one.
        min_share: least share of the weights that must be filled.
        frame_stride: stated in the result; by default 4, or what an encoder of ours says.
    """

    to: To = "ours"
    family: str = "auto"
    num_heads: int | None = None
    min_share: float = 1.0
    frame_stride: int | None = None
