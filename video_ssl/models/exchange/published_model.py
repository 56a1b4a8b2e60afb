"""A published checkpoint: the file that is asked about, and the model that was read out of it.

A reader is a module that `NETWORKS` names under the families it reads, with one function:

    read(source, *, family, sizes, num_heads, min_share) -> Published | None

and, where their code can read weights of ours back,

    original_state(model) -> tensors under the names of that code
    lost_parts(model) -> names of the parts that it has no place for
    CONTAINER, in which it keeps them

`read` gives None where `family` is "auto" and the file is none of its own, and raises WeightsError for one that it
cannot read, or that is not what `family` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor

from video_ssl.models import classifier_folder
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.preprocess_config import Preprocess, VideoPreprocess
from video_ssl.models.weights import Checkpoint, LoadReport, read_checkpoint

#: Settings of `Sizes` that say for what clips a model is to be.
CLIPS = ("image_size", "num_frames")


@dataclass(frozen=True)
class Source:
    """A file or folder from elsewhere; several readers look at it, and it is read once."""

    path: Path

    @property
    def is_file(self) -> bool:
        return self.path.is_file()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What the file holds.

        Raises:
            WeightsError: unreadable.
        """
        return read_checkpoint(self.path)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint, read.

    Attributes:
        encoder: a network of `NETWORKS`, on the CPU, in training mode.
        preprocess: how its clips are made.
        family: of the readers' families.
        report: what became of every key.
        layout, form, container: how the file named and wrapped its tensors.
        table: the position table, in words.
        head: `fc_norm.*` and `head.*` of a fine-tuned model; `head.*` is absent where the file has
            only the norm, `fc_norm.*` where it reads its first token.  Empty = no classifier.
        decoders: `decoder.*`, or `decoders.image.*` and `decoders.video.*`, or what BEVT has around its encoder; empty
            = none.
        about: what else is known of where it comes from, for the model card.
        classifier: `weight` and `bias` of a layer on the clip feature, and what `classifier_folder` has beside them;
            empty = none, or one in `head`.
        protocol: of that layer, where the source has one.
        heeds: settings of `Sizes`, `num_heads` and `min_share` that the reading follows; others that are given must be
            refused.
    """

    encoder: Any
    preprocess: Preprocess
    family: str
    report: LoadReport = field(default_factory=lambda: LoadReport(matched=()))
    layout: str = "original"
    form: str = "pretrained"
    container: str = ""
    table: str = "none"
    head: Mapping[str, Tensor] = field(default_factory=dict)
    decoders: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: Mapping[str, Tensor] = field(default_factory=dict)
    protocol: classifier_folder.Protocol | None = None
    heeds: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Outputs of the head, 0 without one."""
        weight = self.head.get("head.weight", self.classifier.get("weight"))
        return 0 if weight is None else len(weight)

    def state(self) -> dict[str, Tensor]:
        """Returns the whole model under our names, without position tables that are a formula."""
        own = {f"encoder.{key}": value for key, value in self.encoder.state_dict().items()}
        layer = {f"classifier.{key}": value for key, value in self.classifier.items()}
        return {**own, **self.head, **self.decoders, **layer}

    def with_clips(self, preprocess: Preprocess) -> Self:
        """Returns the model for clips that are made in another way; what the protocol says of the old ones, their size
        and the accuracy that was found, goes."""
        protocol = self.protocol
        if protocol is not None and preprocess != self.preprocess:
            protocol = replace(protocol, validation={})
            sides = [
                p.size for p in (preprocess, self.preprocess) if isinstance(p, VideoPreprocess)
            ]
            if len(set(sides)) > 1:
                protocol = replace(protocol, size=None)
        return replace(self, preprocess=preprocess, protocol=protocol)


class Reader(Protocol):
    """The module that reads the files of a family."""

    def read(
        self,
        source: Source,
        *,
        family: str,
        sizes: Sizes,
        num_heads: int | None,
        min_share: float,
    ) -> Published | None:
        """Returns the model of a file, see the head of this module."""
