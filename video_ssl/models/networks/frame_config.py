"""Settings of encoders that give one feature per frame of a long video.  Free of torch: recipes read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Parts of a backbone in the order of the forward pass; `frozen_parts` counts from the front.
PARTS = ("conv1", "layer1", "layer2", "layer3", "layer4")

#: Smallest frames of which a backbone, which divides them by 16, leaves the 5 x 5 cells that the head "conv" needs.
LEAST_CONV_SIZE = 65

_POSITIVE = (
    *("small_width", "chunk_frames", "hidden_dim", "num_layers", "num_heads", "ffn_dim"),
    *("embed_dim", "num_contexts", "context_stride", "conv_dim", "max_frames"),
)


@dataclass(frozen=True, kw_only=True)
class FrameTransformerConfig:
    """A backbone per frame and a small head over time (CARL; with `head: conv` the embedder of TCC).

    Attributes:
        backbone: "resnet50" in torchvision's layout, or "small", a conv net for a CPU.
        small_width: "small": channels of the first layer; they double three times.
        frozen_parts: how many of conv1, layer1, layer2, layer3, layer4 are kept as they are: no gradient, batch norm
            in evaluation mode.  Empty = 4 for the transformer of CARL, 0 (train all) for "conv" and for "small",
            which is one part.
        chunk_frames: time steps in one pass of the backbone, the whole batch at once; batch statistics are those of a
            chunk.
        head: "transformer" or "conv" (3-D convolutions over each frame and `num_contexts` - 1 frames before it, taken
            from layer3).
        num_frames: T, length of the frame sets in training; positions of videos of another length are stretched to
            it.  Empty = that of the objective.
        fc_dims: hidden layers between pooled backbone features and the transformer.
        hidden_dim, num_layers, num_heads, ffn_dim: of the transformer.
        positions: "sincos", or "none" where seeing the position would solve the task (TCC, TCN).
        position_dropout: share of views in training that are seen without positions, so that the others cannot be
            matched by counting (ours; 0 in CARL).
        standardize: head "transformer": bring every channel of the pooled backbone features to mean 0 and deviation 1
            over the valid frames of a video: what stays the same in it, such as clothes and background, is gone.  Ours,
            for backbones without pre-training.
        embed_dim: width of a frame feature.
        unit_length: frame features, as evaluations see them, have length 1.  Empty = as the objective compares them
            (TCC does not normalise them), else true.
        dropout: everywhere in the head.
        num_contexts, context_stride: head "conv": frames per feature, and source frames between two of them.
        conv_dim: head "conv": channels of its 3-D convolutions.
        max_frames: longest video in one pass of the head; a longer one is cut into equal chunks, each with its own
            range of positions.
    """

    backbone: Literal["resnet50", "small"] = "resnet50"
    small_width: int = 24
    frozen_parts: int | None = None
    chunk_frames: int = 40
    head: Literal["transformer", "conv"] = "transformer"
    num_frames: int | None = None
    fc_dims: tuple[int, ...] = (512, 512)
    hidden_dim: int = 256
    num_layers: int = 3
    num_heads: int = 8
    ffn_dim: int = 1024
    positions: Literal["sincos", "none"] = "sincos"
    position_dropout: float = 0.0
    standardize: bool = False
    embed_dim: int = 128
    unit_length: bool | None = None
    dropout: float = 0.1
    num_contexts: int = 2
    context_stride: int = 15
    conv_dim: int = 512
    max_frames: int = 1000

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames={self.num_frames} must be at least 1, or null.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1).")
        if not 0 <= self.position_dropout <= 1:
            raise ValueError(f"position_dropout={self.position_dropout} must lie in [0, 1].")
        if self.standardize and self.head == "conv":
            raise ValueError("standardize goes with head='transformer', not with head='conv'.")
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim={self.hidden_dim} is not divisible by num_heads={self.num_heads}: choose a multiple."
            )
        if not self.fc_dims or min(self.fc_dims) < 1:
            raise ValueError(f"fc_dims={self.fc_dims} must be one or more widths.")
        used = len(self.parts)
        if self.frozen_parts is None:
            object.__setattr__(self, "frozen_parts", 4 if used == 5 else 0)
        assert self.frozen_parts is not None
        if not 0 <= self.frozen_parts <= used:
            raise ValueError(
                f"frozen_parts={self.frozen_parts}: the backbone has the parts {list(self.parts)} here, so 0 to {used}."
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the backbone that run."""
        if self.backbone == "small":
            return ("layers",)
        return PARTS[:4] if self.head == "conv" else PARTS

    def refuse_small(self, *, height: int, width: int) -> None:
        """Raises ValueError for frames of which less is left than the convolutions of the head "conv" need."""
        if self.head == "conv" and min(height, width) < LEAST_CONV_SIZE:
            raise ValueError(
                f"frames of {height}x{width} pixels are too small for encoder.head='conv': it needs feature maps of at "
                f"least 5x5, which {LEAST_CONV_SIZE} pixels give. Use a larger crop (crop.size), or head='transformer'."
            )

    @property
    def length(self) -> int:
        """T of the training."""
        if self.num_frames is None:
            raise ValueError(
                "num_frames is not set: an encoder on its own needs it; inside an objective it is frames.num_frames."
            )
        return self.num_frames

    @property
    def depends_on_video(self) -> tuple[str, ...]:
        """What of the rest of its video the feature of a frame depends on: its "position", all "other frames"."""
        if self.head == "conv":
            return ()
        return ("other frames",) if self.positions == "none" else ("position", "other frames")

    @property
    def frames_per_feature(self) -> int:
        """Decoded frames behind one feature."""
        return self.num_contexts if self.head == "conv" else 1


@dataclass(frozen=True, kw_only=True)
class BackboneInit:
    """Where the weights of a backbone come from.

    Attributes:
        kind: "random"; "torchvision" = a resnet50 file of torchvision (keys `conv1.weight`, ...); "byol" = BYOL
            pre-training on ImageNet as CARL's paper names it (keys `module.encoder.conv1.weight`, ... under `model`).
        file: the file of "torchvision" and "byol".
    """

    kind: Literal["random", "torchvision", "byol"] = "random"
    file: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "random") != (self.file is None):
            raise ValueError(
                f"kind={self.kind!r} with file={self.file!r}: 'random' takes no file, "
                "'torchvision' and 'byol' need one."
            )
