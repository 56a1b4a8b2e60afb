"""Settings of the single-view time-contrastive baseline (TCN, arXiv:1704.06888) as CARL's code trains it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.clips.config import ColorConfig, CropConfig
from video_ssl.clips.sampling.frame_sets import FrameSetConfig
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.objectives.shared.frame_plan import FrameSetSettings, with_unit_length


@dataclass(frozen=True, kw_only=True)
class Config(FrameSetSettings):
    """Settings of TCN; batches as in `FrameSetSettings`.  The defaults are the published ones (papers/tcc.md).

    Attributes:
        loss: "npairs" contrasts an anchor's positive with the positives of the view's other anchors (published; frames
            come as `frames.kind: anchor_positive`); "window" takes all near frames of a view at once (ours).
        unit_length: embeddings are normalised, in the loss and for evaluations.
        temperature: of the similarities; 1 = none, as published.
        norm_penalty: "npairs": a quarter of it times the mean squared lengths of anchors and positives is added.
        window: "window": frames of one view at most this many source frames apart are positives, all others negatives.
    """

    frames: FrameSetConfig = field(
        default_factory=lambda: FrameSetConfig(kind="anchor_positive", num_frames=40, num_views=1)
    )
    crop: CropConfig = field(default_factory=lambda: CropConfig(kind="whole", flip_probability=0.5))
    color: ColorConfig | None = field(default_factory=lambda: ColorConfig(law="tcc"))
    encoder: FrameTransformerConfig = field(
        default_factory=lambda: FrameTransformerConfig(head="conv")
    )
    loss: Literal["npairs", "window"] = "npairs"
    unit_length: bool = True
    temperature: float = 1.0
    norm_penalty: float = 0.002
    window: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "encoder", with_unit_length(self.encoder, self.unit_length))
        if self.window < 1 or self.temperature <= 0:
            raise ValueError(
                f"window={self.window} must be at least 1 frame and temperature={self.temperature} positive."
            )
        if self.norm_penalty < 0:
            raise ValueError(f"norm_penalty={self.norm_penalty} must not be negative.")
        if self.loss == "npairs" and self.frames.kind != "anchor_positive":
            raise ValueError(
                f"frames.kind={self.frames.kind!r}: loss='npairs' needs anchors and positives. Use "
                "frames.kind='anchor_positive', or loss='window'."
            )
