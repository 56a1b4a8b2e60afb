"""BEVT (arXiv:2112.01529): which visual word stands where the encoder does not look, in pictures and clips at once?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from video_ssl.models.color_changes import apply_color
from video_ssl.models.encoder_folder import DECODER
from video_ssl.models.encoders import find_encoder, load_encoder, read_beside
from video_ssl.models.exchange.tokenizer_weights import load_tokenizer
from video_ssl.models.networks.layers import take
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.preprocess import normalize
from video_ssl.models.tokenizers.contract import Tokenizer
from video_ssl.models.weights import WeightsError, load_weights
from video_ssl.objectives.bevt.config import CELL_PX, TOKEN_PX, Config
from video_ssl.objectives.bevt.loss import TokenLoss, token_loss
from video_ssl.objectives.bevt.model import MaskedSwin
from video_ssl.objectives.bevt.plan import IMAGES, VIDEO
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.frozen import FrozenNetwork
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)

log = logging.getLogger(__name__)


class FrozenTokenizer(FrozenNetwork):
    """Words of pictures, int64 (N, g, g) for float (N, 3, S, S) in [0, 1]."""

    module: Tokenizer

    def compute(self, inputs: Tensor) -> Tensor:
        return self.module.encode(inputs)


class Objective(TorchObjective):
    """The mean cross-entropy over the hidden cells of the clips, plus that of the pictures.

    With pictures alone, what only clips use does not learn; the embedding of clips follows that of pictures, so that
    the encoder that leaves the training sees clips too.
    """

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        places = stages or {}
        tokenizer = _tokenizer(places.get("tokenizer"), config)
        self.frozen = {"tokenizer": FrozenTokenizer(tokenizer)}
        self._sees_large = tokenizer.stride == CELL_PX
        self.network = MaskedSwin(
            VideoSwin(config.encoder),
            videos=config.streams != "images",
            images=config.streams != "video",
        )
        if config.init is not None:
            start_from(self.network, places.get("init"))
        self.lm_head = nn.Linear(config.encoder.width, tokenizer.vocab_size)
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        config = self.config
        losses: dict[str, TokenLoss] = {}
        features = None
        if config.streams != "images":
            losses[VIDEO], features = self._of_videos(batch)
        if config.streams != "video":
            prefix = "" if config.streams == "images" else f"{IMAGES}/"
            own = {k.removeprefix(prefix): v for k, v in batch.items() if k.startswith(prefix)}
            losses[IMAGES], pooled = self._of_images(own)
            features = pooled if features is None else features
        weights = {VIDEO: config.video_weight, IMAGES: config.image_weight}
        loss = torch.stack([weights[name] * found.loss for name, found in losses.items()]).sum()
        figures = {f"loss_{name}": found.loss.detach() for name, found in losses.items()}
        figures |= {f"accuracy_{name}": found.accuracy for name, found in losses.items()}
        return StepOutput(loss, figures, features)

    def _of_videos(self, batch: Mapping[str, Tensor]) -> tuple[TokenLoss, Tensor]:
        config, mask = self.config, batch["mask"]
        pixels = batch["video"].movedim(-1, 1).float() / 255
        seen = batch["video"] if self._sees_large else batch["words"]
        words = self._words(seen.flatten(0, 1).movedim(-1, 1).float() / 255)
        hidden = mask.repeat_interleave(config.encoder.patch[0], dim=1)
        vectors, features = self.network.forward_with_features(
            normalize(pixels, config.normalization), mask
        )
        most = config.clip.num_frames * config.mask.count
        return self._guessed(vectors, words.view(hidden.shape), hidden, most), features

    def _of_images(self, batch: Mapping[str, Tensor]) -> tuple[TokenLoss, Tensor]:
        config = self.config
        views = [
            batch[name].movedim(-1, 1)[:, :, None].float() / 255 for name in ("picture", "words")
        ]
        if config.color is not None:
            views = [apply_color(view, batch["color"], config.color.law) for view in views]
        picture, small = views
        words = self._words((picture if self._sees_large else small)[:, :, 0])
        vectors, features = self.network.images_with_features(
            normalize(picture, config.normalization)[:, :, 0], batch["mask"]
        )
        return self._guessed(vectors, words, batch["mask"], config.mask.count), features

    def _words(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.frozen["tokenizer"](pictures)
        return found

    def _guessed(self, vectors: Tensor, words: Tensor, hidden: Tensor, most: int) -> TokenLoss:
        """The loss of a stream.  The head sees `most` cells of each sample, among them all hidden ones: a number
        that does not depend on the mask, so that nobody has to look at it."""
        where = hidden.flatten(1)
        first = where.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        logits = self.lm_head(take(vectors, first)).flatten(0, 1)
        with torch.autocast(logits.device.type, enabled=False):
            return token_loss(
                logits.float(),
                words.flatten(1).gather(1, first).flatten(),
                where.gather(1, first).flatten(),
            )

    def after_step(self, progress: float) -> None:
        if self.config.streams == "images":
            self.network.encoder.follow_images()

    def parts_beside(self) -> dict[str, Tensor]:
        """Returns the mask token, the decoders of what is trained, and the head, under the names of the reference."""
        network = self.network.state_dict()
        own = {k: v for k, v in network.items() if not k.startswith("encoder.")}
        return {**own, **{f"lm_head.{k}": v for k, v in self.lm_head.state_dict().items()}}

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.network.encoder, preprocess)}


def _tokenizer(path: Path | None, config: Config) -> Tokenizer:
    """The tokenizer of an encoder folder.

    Raises:
        ValueError: none was given, or its cells are not those of the masks.
        TypeError: it is another network.
    """
    if path is None:
        raise ValueError("BEVT needs a tokenizer: set objective.tokenizer.run, file or recipe.")
    module = load_tokenizer(path)
    if module.stride not in (TOKEN_PX, CELL_PX):
        raise ValueError(
            f"the tokenizer of {path} has cells of {module.stride} pixels, but BEVT's words stand for {TOKEN_PX} of "
            f"its own picture, or {CELL_PX} of the one that the encoder sees."
        )
    return module


def start_from(network: MaskedSwin, path: Path | None) -> None:
    """Begins with the network of an earlier stage: with its encoder, with its mask token and, as far as they are there,
    its decoders.  The head starts anew, as in the reference; an embedding of pictures that is not there stays random.

    Raises:
        ValueError: no encoder was given, or it is no Swin of this shape.
        WeightsError: decoders of other shapes.
    """
    if path is None:
        raise ValueError("init is set, but no encoder was given for it.")
    encoder, source = network.encoder, load_encoder(path)
    if not isinstance(source, VideoSwin) or _shape(source) != _shape(encoder):
        raise ValueError(
            f"{path} is no Swin of the widths {encoder.config.widths}, {encoder.config.blocks} blocks and "
            f"{encoder.config.heads} heads: objective.init takes a run of BEVT's first stage of the same encoder."
        )
    load_weights(encoder, encoder.weights_from(source), min_share=1.0)
    own = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    there = {k: v for k, v in read_beside(find_encoder(path), DECODER).items() if k in own}
    for name, value in there.items():
        if value.shape != own[name].shape:
            raise WeightsError(
                f"{path}: {name} has the shape {list(value.shape)}, but {list(own[name].shape)} is needed here."
            )
    network.load_state_dict({**network.state_dict(), **there})
    log.info("begun with the encoder of %s and with %s", path, ", ".join(there) or "nothing else")


def _shape(swin: VideoSwin) -> tuple[object, ...]:
    config = swin.config
    return config.widths, config.blocks, config.heads, config.patch, config.mlp_ratio
