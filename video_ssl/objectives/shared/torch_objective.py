"""What a torch objective is to the loop, to `bench` and to whoever else trains or times it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Self

from torch import Tensor, nn

from video_ssl.models.preprocess_config import Preprocess
from video_ssl.objectives.shared.frozen import FrozenNetwork


class StepOutput(NamedTuple):
    """What an objective makes of a batch.  A tuple, so that DDP, FSDP2 and torch.compile pass it on.

    Attributes:
        loss: 0-d, at least float32, with the graph of its gradient.
        figures: 0-d tensors without a graph that stand in metrics.jsonl beside the loss; the same names in every step.
        features: float32 (N, D) without a graph, of which the health of the features is told (spread, rank); None =
            there are none to tell of.
        clips: clips that this batch showed to the encoder, for the clips per second; None = `clips_per_record` of the
            settings for each of its records.
    """

    loss: Tensor
    figures: dict[str, Tensor]
    features: Tensor | None = None
    clips: int | None = None


class TrainedEncoder(NamedTuple):
    """An encoder that leaves a training.

    Attributes:
        module: a network of the table in `video_ssl.models`; part of the objective.
        preprocess: what it expects of a clip.
    """

    module: nn.Module
    preprocess: Preprocess


class TorchObjective(nn.Module, ABC):
    """Base of torch objectives: `Objective(config, stages=...)` in the module `objective` of their folder.

    `config` is the objective's `Config`, `stages` the path of everything that `config.stages()` names.

    Attributes:
        frozen: networks that never learn, by name; see `FrozenNetwork`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen: dict[str, FrozenNetwork] = {}

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """Returns the loss and what else is told of a batch, arrays as the docstring of `Config` says."""

    @abstractmethod
    def encoders(self) -> dict[str, TrainedEncoder]:
        """Returns what leaves the training, by name: the first goes to RUN/encoder, the others to RUN/encoders/NAME."""

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step; `progress` in (0, 1] is the share of the training that is done."""

    def classifier(self) -> nn.Linear | None:
        """Returns the layer behind the clip feature of the first encoder that names classes, which is exported beside
        it, maybe with a LayerNorm `norm` before it; None = there is none, then `scores` is not asked either."""
        return None

    def classifier_pooling(self) -> str:
        """Returns what the clip feature is that the classifier reads, by the names of `poolings` of the encoder."""
        return "mean"

    def classifier_unit_length(self) -> bool:
        """Returns whether that clip feature is scaled to length 1 before the classifier reads it."""
        return False

    def is_multilabel(self) -> bool:
        """Returns whether a clip may have any number of classes: scores are then read by a sigmoid each, not by a
        softmax of them all."""
        return False

    def scores(self, video: Tensor) -> Tensor:
        """Returns (N, K): how much each of N clips, uint8 (N, T, S, S, 3) or of an encoder of sound float32 (N,
        samples), looks or sounds like each class.

        Called in evaluation mode, without gradients."""
        raise NotImplementedError(f"{type(self).__name__} names no classes")

    def parts_beside(self) -> dict[str, Tensor]:
        """Returns weights beside the first encoder that a later stage may begin with, or that the code of others has a
        place for; they are kept in its folder (`decoder.safetensors`).  {} = none."""
        return {}

    def reconstructed(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Returns what the network makes of what it does not see: float (N, T, H, W, 3) in [0, 1], the clips of the
        batch that `Plan.shown` shows, one after the other, with what is hidden predicted, or, of a tokenizer, as their
        words show them; None = what it predicts is no picture.  Called in evaluation mode, without gradients."""
        return None

    def counted_words(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Returns how often each word of a vocabulary stands in the batch, int64 (K,); None = it trains no vocabulary.
        Called in evaluation mode, without gradients."""
        return None

    def related(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Returns how sure the network is that two records of the batch belong together: float (B, B) in [0, 1]; None =
        it judges no pairs.  Called in evaluation mode, without gradients."""
        return None

    def no_weight_decay(self) -> Collection[str]:
        """Returns names of parameters that are not decayed, beside biases and other 1-D tensors."""
        return ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Takes the frozen networks along when the objective moves to a device."""
        super()._apply(fn, recurse)
        for network in self.frozen.values():
            network.module._apply(fn)
        return self
