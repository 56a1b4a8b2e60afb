"""VideoMAE (arXiv:2203.12602), with the dual masking of VideoMAE V2 (arXiv:2303.16727)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.layers import cut, joined, split_mask, take
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess import normalize, to_pixels
from video_ssl.objectives.shared.export import preprocess_of
from video_ssl.objectives.shared.hog_targets import hog_targets, levels_of
from video_ssl.objectives.shared.torch_objective import (
    StepOutput,
    TorchObjective,
    TrainedEncoder,
)
from video_ssl.objectives.shared.visible_loss import make_visible_loss
from video_ssl.objectives.videomae.config import Config

#: Added to the standard deviation of a color of a tubelet.
EPS = 1e-6


class Objective(TorchObjective):
    """Regresses the pixels of hidden tubelets from the visible ones.

    Loss = mean over hidden tokens and their elements of the squared error.  With a decoder mask
    (V2), the mean is over tokens that are both decoded and hidden from the encoder.  With
    `visible_weight`, that at all visible tokens is added (`VisibleLoss`), and told beside it.

    Source: the reference code as described in the project's sheet; the target comes from the pixels
    themselves, where the reference undoes the input normalisation (equal up to rounding).
    """

    def __init__(self, config: Config, *, stages: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.encoder = VideoViT(encoder)
        self.decoder = MaskedDecoder(
            config.decoder,
            in_dim=encoder.width,
            out_dim=config.values_per_token(),
            table=encoder.positions,
            grid=encoder.grid,
            embed_bias=False,
            qkv_bias=encoder.qkv_bias,
        )
        # The reference never runs its own init on this layer.
        self.decoder.embed.reset_parameters()
        t, h, w = encoder.grid
        self.num_visible = t * h * w - config.mask.num_masked(encoder.grid)
        self.num_decoded = (
            t * h * w - config.decoder_mask.num_masked(encoder.grid)
            if config.decoder_mask is not None
            else None
        )
        self.visible_loss = make_visible_loss(config, encoder.grid)

    def forward(self, batch: Mapping[str, Tensor]) -> StepOutput:
        pixels = to_pixels(batch["video"])
        mask = batch["mask"].flatten(0, 1)
        decoder_mask = None if self.num_decoded is None else batch["decoder_mask"].flatten(0, 1)
        video = normalize(pixels, self.config.normalization)
        prediction, wanted, encoded = self.predict(video, mask, decoder_mask)
        target = self.targets(pixels, wanted)
        figures: dict[str, Tensor] = {}
        if self.visible_loss is None:
            loss = self.pixel_loss(prediction, target, mask, wanted)
        else:
            loss, figures = self.two_losses(prediction, target, mask, wanted)
        features = encoded[:, self.encoder.num_prefix :].detach().float().mean(1)
        return StepOutput(loss, figures, features)

    def predict(
        self, video: Tensor, mask: Tensor, decoder_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns predictions (N, M, E), their token indices (N, M), and the encoder's output; with
        `visible_weight`, K visible tokens come before the others, (N, K+M, E) and (N, K+M).

        Args:
            video: float (N, C, T, H, W), normalised.
            mask: bool (N, L), True = hidden from the encoder.
            decoder_mask: bool (N, L), True = not decoded.
        """
        visible, wanted = split_mask(mask, self.num_visible)
        if decoder_mask is not None:
            assert self.num_decoded is not None
            wanted, _ = split_mask(decoder_mask, self.num_decoded)
        encoded = self.encoder(video, visible)
        if self.visible_loss is None:
            return self.decoder(encoded, visible, wanted), wanted, encoded
        prediction = self.decoder(encoded, visible, wanted, at_visible=True)
        return prediction, torch.cat([visible, wanted], 1), encoded

    def targets(self, pixels: Tensor, wanted: Tensor) -> Tensor:
        """Returns (N, M, E), at least float32, for pixels (N, C, T, H, W) in [0, 1] at tokens (N, M)."""
        config, size = self.config, self.config.encoder
        if config.target == "hog":
            every = hog_targets(
                levels_of(pixels),
                config.hog,
                tubelet_size=size.tubelet_size,
                patch_size=size.patch_size,
            )
            return take(every, wanted)
        cubes = cut(pixels, size.tubelet_size, size.patch_size, "channels_last")
        return tubelet_targets(take(cubes, wanted), config.target)

    def pixel_loss(
        self, prediction: Tensor, target: Tensor, mask: Tensor, wanted: Tensor
    ) -> Tensor:
        """Returns the 0-d loss, at least in float32."""
        with torch.autocast(prediction.device.type, enabled=False):
            errors = (prediction.to(target.dtype) - target).square().mean(-1)
            if self.num_decoded is None:
                return errors.mean()
            hidden = mask.gather(1, wanted).to(errors.dtype)
            return (errors * hidden).sum() / hidden.sum()

    def two_losses(
        self, prediction: Tensor, target: Tensor, mask: Tensor, wanted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the 0-d loss at hidden and at visible tokens, and its parts; arrays as `predict` gives them."""
        assert self.visible_loss is not None
        k = self.num_visible
        visible, decoded = wanted[:, :k], wanted[:, k:]
        predicted = mask & torch.zeros_like(mask).scatter(1, decoded, True)
        with torch.autocast(prediction.device.type, enabled=False):
            errors = (prediction[:, :k].to(target.dtype) - target[:, :k]).square().mean(-1)
            parts = {
                "loss_hidden": self.pixel_loss(prediction[:, k:], target[:, k:], mask, decoded),
                "loss_visible": self.visible_loss(errors, visible, predicted),
            }
            loss = self.visible_loss.add(parts["loss_hidden"], parts["loss_visible"])
        return loss, {name: part.detach() for name, part in parts.items()}

    def reconstructed(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Normalised predictions get the mean and the deviation of the true cube, as the papers' pictures do."""
        if self.config.target == "hog":
            return None
        size, pixels = self.config.encoder, to_pixels(batch["video"])
        mask = batch["mask"].flatten(0, 1)
        prediction, wanted, _ = self.predict(normalize(pixels, self.config.normalization), mask)
        hidden = wanted.shape[1] - (self.num_visible if self.visible_loss is not None else 0)
        prediction, wanted = prediction[:, -hidden:].float(), wanted[:, -hidden:]
        cubes = cut(pixels, size.tubelet_size, size.patch_size, "channels_last")
        if self.config.target == "normalized":
            mean, scale = _scales(take(cubes, wanted).unflatten(-1, (-1, 3)))
            prediction = (prediction.unflatten(-1, (-1, 3)) * scale + mean).flatten(-2)
        whole = cubes.scatter(1, wanted[..., None].expand_as(prediction), prediction)
        video = joined(whole, size.grid, size.tubelet_size, size.patch_size)
        return video.movedim(1, -1).clamp(0, 1)

    def after_step(self, progress: float) -> None:
        if self.visible_loss is not None:
            self.visible_loss.after_step(progress)

    def no_weight_decay(self) -> set[str]:
        names = {"decoder.mask_token"}
        return names | {"encoder.cls_token"} if self.encoder.cls_token is not None else names

    def encoders(self) -> dict[str, TrainedEncoder]:
        config = self.config
        preprocess = preprocess_of(config.clip, config.crop.size, config.normalization)
        return {"encoder": TrainedEncoder(self.encoder, preprocess)}


def tubelet_targets(cubes: Tensor, kind: Literal["normalized", "raw"]) -> Tensor:
    """Returns what the decoder must predict of each tubelet, (N, M, E), at least float32.

    Args:
        cubes: (N, M, E), pixels in [0, 1]; E in the order time, row, column, color.
        kind: "raw" = the pixels; "normalized" = (x - mean) / (standard deviation + EPS) of each color of the tubelet
            on its own, with the unbiased variance.  A constant tubelet gives 0.
    """
    cubes = cubes.to(torch.promote_types(cubes.dtype, torch.float32))
    if kind == "raw":
        return cubes
    colors = cubes.unflatten(-1, (-1, 3))
    mean, scale = _scales(colors)
    return ((colors - mean) / scale).flatten(-2)


def _scales(colors: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each color of a tubelet (N, M, pixels, 3), and what its differences are divided by: (N, M, 1, 3)."""
    variance, mean = torch.var_mean(colors, dim=-2, correction=1, keepdim=True)
    return mean, variance.sqrt() + EPS
