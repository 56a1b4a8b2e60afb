"""Settings of TCC (arXiv:1904.07846) as CARL's code trains it for comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from video_ssl.clips.config import ColorConfig, CropConfig
from video_ssl.clips.sampling.frame_sets import FrameSetConfig
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.objectives.shared.frame_plan import FrameSetSettings, with_unit_length
from video_ssl.objectives.shared.objective_config import refuse_few

Pairs = Literal["all", "label", "video"]
LossKind = Literal["regression_mse_var", "regression_mse", "regression_huber", "classification"]


@dataclass(frozen=True, kw_only=True)
class Config(FrameSetSettings):
    """Settings of TCC; batches as in `FrameSetSettings`.  The defaults are the published ones (papers/tcc.md).

    Attributes:
        pairs: between which views cycles run: "all" = any two different views of the batch of a process, whatever they
            show; "label" = views of different videos with one label (ours: a batch without such a pair has loss 0);
            "video" = views of one video (ours).
        loss: of where a cycle ends: "regression_mse_var", "regression_mse", "regression_huber" (delta 1) or
            "classification"; see `objective.py`.
        similarity: "l2" = the negative squared distance, "cosine" = the product.
        unit_length: embeddings are normalised, in the loss and for evaluations.
        divide_by_width: similarities are divided by the width of the embeddings too, not by `temperature` alone.
        temperature: of the similarities.
        label_smoothing: share of the label that lies on the other frames; it moves the time that a cycle must find.
        normalize_indices: time is the share of the video, else the number of the frame.
        variance_weight: "regression_mse_var": of the log variance of where a cycle ends.
        variance_floor: "regression_mse_var": least variance (ours); 0 = none, as published.  A video whose frames all
            have one time (a single frame) has variance 0, and its loss is not finite without a floor.
        mask_padding: slots beyond the end of a short video are left out (ours); published they count like others.
    """

    frames: FrameSetConfig = field(
        default_factory=lambda: FrameSetConfig(kind="offset_uniform", num_frames=40, num_views=1)
    )
    crop: CropConfig = field(default_factory=lambda: CropConfig(kind="whole", flip_probability=0.5))
    color: ColorConfig | None = field(default_factory=lambda: ColorConfig(law="tcc"))
    encoder: FrameTransformerConfig = field(
        default_factory=lambda: FrameTransformerConfig(head="conv")
    )
    pairs: Pairs = "all"
    loss: LossKind = "regression_mse_var"
    similarity: Literal["l2", "cosine"] = "l2"
    unit_length: bool = False
    divide_by_width: bool = True
    temperature: float = 0.1
    label_smoothing: float = 0.1
    normalize_indices: bool = True
    variance_weight: float = 0.001
    variance_floor: float = 0.0
    mask_padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "encoder", with_unit_length(self.encoder, self.unit_length))
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 1).")
        for name in ("variance_weight", "variance_floor"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")
        if self.pairs == "video" and self.frames.num_views < 2:
            raise ValueError(
                f"frames.num_views={self.frames.num_views}: pairs='video' needs 2 views. Or use pairs='label'."
            )

    def check_records(self, count: int) -> None:
        """Raises ValueError if so many records have no two views for a cycle; the loss would be a constant 0."""
        if self.pairs == "label":
            refuse_few(count, 2, "pairs='label' goes from a video to another one with its label.")
        elif self.frames.num_views == 1:
            refuse_few(count, 2, "a cycle goes from a view to another one, and frames.num_views=1.")
