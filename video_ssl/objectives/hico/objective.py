"""HiCo (arXiv:2204.03017): clips near in time look alike, all clips of an untrimmed video are of one topic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from video_ssl.models.collectives import gather_with_grad
from video_ssl.models.color_changes import augmented_input
from video_ssl.models.contract import CLIP
from video_ssl.models.encoders import build_encoder
from video_ssl.objectives.hico.config import Config
from video_ssl.objectives.hico.heads import Projection, TopicJudge
from video_ssl.objectives.hico.losses import VisualLoss, simclr_loss, topical_loss, visual_loss
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)


class Objective(TorchObjective):
    """The visual loss over the clips of all processes, the topical one over those of each (or of all, `topic_pairs`).

    Both heads see the pooled features of the encoder, and both send gradients through it.
    """

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        assert config.hidden_dims is not None
        shape = (config.encoder.width, config.hidden_dims, config.out_dim)
        if "visual" in config.terms:
            self.visual = Projection(*shape)
        if "topical" in config.terms:
            self.topical = Projection(*shape)
            self.judge = TopicJudge(config.out_dim, config.topic_hidden)
        self.encoder.check_outputs((CLIP,), pooling=config.pooling)
        if config.freeze_patches:
            _frozen_patches(self.encoder)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        """See `TorchObjective`.

        Raises:
            ValueError: a batch of one video, which leaves nothing to tell it from.
        """
        self.config.check_records(len(batch["video"]))
        return self.step_output(self._features(batch))

    def _features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the heads see of every clip, (B, V, D)."""
        config = self.config
        video = augmented_input(
            batch["video"], batch.get("color"), config.normalization, config.color
        )
        if config.pooling == "mean":
            features = self.encoder.clip_features(video)
        else:
            features = self.encoder.outputs(video, (CLIP,), pooling=config.pooling)[CLIP]
        return features.unflatten(0, batch["video"].shape[:2])

    def step_output(self, features: Tensor) -> StepOutput:
        """Returns the loss and its figures for the features of the encoder, (B, V, D)."""
        config = self.config
        loss = features.new_zeros((), dtype=torch.promote_types(features.dtype, torch.float32))
        figures: dict[str, Tensor] = {}
        if "visual" in config.terms:
            z = gather_with_grad(self.visual_embeddings(features))
            visual = self._visual_loss(z)
            loss = loss + config.visual_weight * visual.loss
            pair = (z[:, 0] * z[:, 1]).sum(-1).mean()
            figures |= {"loss_visual": visual.loss.detach(), "pair_similarity": pair.detach()}
        if "topical" in config.terms:
            logits, owner = self.topic_logits(features)
            with torch.autocast(logits.device.type, enabled=False):
                wide = logits.to(loss.dtype)
                topical = topical_loss(wide, owner, focus=config.focus)
            loss = loss + config.topical_weight * topical
            accuracy = topic_accuracy(logits.detach(), owner)
            figures |= {"loss_topical": topical.detach(), "topic_accuracy": accuracy}
        return StepOutput(loss, figures, features.detach().flatten(0, 1).float())

    def related(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The mean over the pairs of clips (of pairs of clips in HiCo++), none of a clip with itself."""
        if "topical" not in self.config.terms:
            return None
        logits, owner = self.topic_logits(self._features(batch))
        sure = logits.sigmoid()
        others = 1 - torch.eye(len(owner), device=owner.device)
        belongs = torch.nn.functional.one_hot(owner).to(sure.dtype)
        count = belongs.T @ others @ belongs
        return (belongs.T @ (sure * others) @ belongs) / count.clamp(min=1)

    def visual_embeddings(self, features: Tensor) -> Tensor:
        """Returns (B, V, out_dim), at least float32."""
        return _projected(self.visual, features)

    def topic_logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the judgements (M, M) and the video int64 (M,) of each of the M things judged: clips, or the pairs of
        HiCo++, whose embedding is the mean of those of its two clips."""
        h = _projected(self.topical, features)
        if self.config.method == "hicopp":
            h = h.unflatten(1, (-1, 2)).mean(2)
        if self.config.topic_pairs == "all":
            h = gather_with_grad(h)
        owner = torch.arange(len(h), device=h.device).repeat_interleave(h.shape[1])
        return self.judge(h.flatten(0, 1)), owner

    def _visual_loss(self, z: Tensor) -> VisualLoss:
        config = self.config
        with torch.autocast(z.device.type, enabled=False):
            if config.method == "simclr":
                return simclr_loss(z, temperature=config.temperature)
            found = visual_loss(
                z, temperature=config.temperature, all_pairs=config.method == "hicopp"
            )
        if config.visual_factor == "one":
            return found
        factor = 2 * config.temperature
        return VisualLoss(factor * found.loss, found.positive, found.negative)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name == "encoder.cls_token"}

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def topic_accuracy(logits: Tensor, owner: Tensor) -> Tensor:
    """Returns the mean of the shares of pairs of one video and of pairs of two that are judged right, 0-d; a judge who
    does not look gets 0.5."""
    same = owner[:, None] == owner
    others = ~torch.eye(len(owner), dtype=torch.bool, device=owner.device)
    hits = (logits[same & others] > 0).float().mean()
    return (hits + (logits[~same] <= 0).float().mean()) / 2


def _projected(head: Projection, features: Tensor) -> Tensor:
    found: Tensor = head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _frozen_patches(encoder: nn.Module) -> None:
    for name, parameter in encoder.named_parameters():
        if name.startswith("patch_embed."):
            parameter.requires_grad_(False)
