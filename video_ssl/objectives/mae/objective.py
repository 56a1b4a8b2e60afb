"""MAE (arXiv:2111.06377) on single frames of videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.layers import cut, joined, split_mask, take
from video_ssl.models.preprocess import to_model_input
from video_ssl.objectives.mae.config import Config
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.hog_targets import hog_targets, levels_of
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.shared.visible_loss import make_visible_loss

#: Added to the variance of a patch, inside the root.
EPS = 1e-6


class Objective(TorchObjective):
    """Regresses hidden patches of a normalised frame from the visible ones.

    Loss = mean over hidden patches and their elements of the squared error; with `visible_weight`, that at visible
    patches is added (`VisibleLoss`), and told beside it.
    The class token and the mask token are decayed, as in the reference.

    Source: the reference code as described in papers/mae.md; its target is made of the image AFTER the normalisation
    per color, unlike VideoMAE's.
    """

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.encoder = ImageViT(encoder)
        self.decoder = MaskedDecoder(
            config.decoder,
            in_dim=encoder.width,
            out_dim=config.values_per_token(),
            table="sincos_2d",
            grid=encoder.grid,
            qkv_bias=encoder.qkv_bias,
        )
        nn.init.normal_(self.decoder.mask_token, std=0.02)
        num_tokens = encoder.grid[1] * encoder.grid[2]
        self.num_visible = num_tokens - config.mask.num_masked(encoder.grid)
        self.visible_loss = make_visible_loss(config, encoder.grid)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        video = to_model_input(batch["video"], self.config.normalization)
        loss, encoded, figures = self.loss_of(video, batch["mask"].flatten(0, 1))
        features = encoded[:, self.encoder.num_prefix :].detach().float().mean(1)
        return StepOutput(loss, figures, features)

    def loss_of(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns the 0-d loss, at least in float32, the encoder's output (N, P+K, D), and the parts of the loss where
        there are two.

        Args:
            video: float (N, C, 1, H, W), normalised.
            mask: bool (N, L), True = hidden.
        """
        visible, hidden = split_mask(mask, self.num_visible)
        encoded = self.encoder(video, visible)
        at_visible = self.visible_loss is not None
        prediction = self.decoder(encoded, visible, hidden, at_visible=at_visible)
        with torch.autocast(prediction.device.type, enabled=False):
            target = self.targets(video, torch.cat([visible, hidden], 1) if at_visible else hidden)
            errors = (prediction.to(target.dtype) - target).square()
            if self.visible_loss is None:
                return errors.mean(), encoded, {}
            at_seen, at_hidden = errors[:, : self.num_visible], errors[:, self.num_visible :]
            parts = {
                "loss_hidden": at_hidden.mean(),
                "loss_visible": self.visible_loss(at_seen.mean(-1), visible, mask),
            }
            loss = self.visible_loss.add(parts["loss_hidden"], parts["loss_visible"])
            return loss, encoded, {name: part.detach() for name, part in parts.items()}

    def targets(self, video: Tensor, wanted: Tensor) -> Tensor:
        """Returns (N, M, E), at least float32, for a normalised video (N, C, 1, H, W) at patches (N, M)."""
        config, patch_size = self.config, self.config.encoder.patch_size
        if config.target == "hog":
            levels = levels_of(video, config.normalization)
            every = hog_targets(levels, config.hog, tubelet_size=1, patch_size=patch_size)
            return take(every, wanted)
        patches = cut(video, 1, patch_size, "channels_last")
        return patch_targets(take(patches, wanted), config.target)

    def reconstructed(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """One clip of all frames of a record; normalised predictions get the mean and deviation of the true patch."""
        if self.config.target == "hog":
            return None
        config, patch_size = self.config, self.config.encoder.patch_size
        video = to_model_input(batch["video"], config.normalization)
        visible, hidden = split_mask(batch["mask"].flatten(0, 1), self.num_visible)
        prediction = self.decoder(self.encoder(video, visible), visible, hidden).float()
        every = cut(video, 1, patch_size, "channels_last")
        if config.target == "normalized":
            mean, scale = _scales(take(every, hidden))
            prediction = prediction * scale + mean
        whole = every.scatter(1, hidden[..., None].expand_as(prediction), prediction)
        frames = joined(whole, config.encoder.grid, 1, patch_size)[:, :, 0].movedim(1, -1)
        mean, std = (
            torch.tensor(values, device=frames.device)
            for values in (config.normalization.mean, config.normalization.std)
        )
        return (frames * std + mean).clamp(0, 1).unflatten(0, batch["video"].shape[:2])

    def after_step(self, progress: float) -> None:
        if self.visible_loss is not None:
            self.visible_loss.after_step(progress)

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.evaluation, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def patch_targets(patches: Tensor, kind: Literal["normalized", "raw"]) -> Tensor:
    """Returns what the decoder must predict of each patch, (N, M, E), at least float32.

    Args:
        patches: (N, M, E) of the normalised image; E in the order row, column, color.
        kind: "raw" = the values themselves; "normalized" = (x - mean) / sqrt(variance + EPS), with the mean and the
            unbiased variance of all values of the patch, its colors together.  So a grey patch keeps an offset
            between its colors, which the normalisation of the image put there.
    """
    patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
    if kind == "raw":
        return patches
    mean, scale = _scales(patches)
    return (patches - mean) / scale


def _scales(patches: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a patch (N, M, E), and what its differences are divided by: (N, M, 1)."""
    variance, mean = torch.var_mean(patches, dim=-1, correction=1, keepdim=True)
    return mean, (variance + EPS).sqrt()
