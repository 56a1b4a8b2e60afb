"""The network that BEVT trains: a Swin, the vector that stands for what is hidden, and a decoder for each stream.

Source: papers/bevt.md section 3 (arXiv:2112.01529, as its code does it).  Names of parameters are those of the code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.swin import VideoSwin


class MaskedSwin(nn.Module):
    """Makes of a clip or picture with hidden parts one vector for each frame and cell of 16 x 16 pixels.

    Decoders have no non-linearity: they join the maps of the last two stages, as the blocks leave them.  The final norm
    of the encoder stands behind the decoders here, and so is trained on their output.

    Args:
        encoder: a Swin that takes pictures too.
        videos, images: which of the two it is for; what only the other needs is left out, or does not learn.
    """

    def __init__(self, encoder: VideoSwin, *, videos: bool = True, images: bool = True) -> None:
        super().__init__()
        config = encoder.config
        assert config.embed_dim is not None
        third, last = config.widths[2:]
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if images:
            self.lm_down = nn.Linear(third + last, last)
            self.fpn = nn.ModuleList([nn.ConvTranspose2d(last, last, 2, stride=2)])
        if videos:
            frames = config.patch[0]
            self.lm_down_st = nn.ModuleList([nn.Linear(third + last, last)])
            self.fpn_s = nn.ModuleList([_upsampling((1, 2, 2), last)])
            self.fpn_t = nn.ModuleList([_upsampling((frames, 1, 1), last)])
        for module in self.children():
            for linear in module.modules() if module is not encoder else ():
                if isinstance(linear, nn.Linear):
                    nn.init.trunc_normal_(linear.weight, std=0.02)
                    nn.init.zeros_(linear.bias)
        unused = [] if videos else [encoder.patch_embed]
        unused += [] if images else [encoder.patch_embed_2d]
        for module in unused:
            module.requires_grad_(False)

    def forward(self, video: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Returns (B, T * g * g', C) in the order time, row, column, for a video (B, 3, T, H, W).

        Args:
            video: normalised.
            hidden: bool (B, T / 2, g, g'), cells that the encoder does not see; None = it sees all.
        """
        return self.forward_with_features(video, hidden)[0]

    def forward_with_features(
        self, video: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, and the means of the last map, float32 (B, C) without a graph."""
        third, last = self.video_stages(video, hidden)[2:]
        up = self.fpn_s[0](last.movedim(-1, 1)).movedim(1, -1)
        joined = self.lm_down_st[0](torch.cat([third, up], -1))
        each_frame = self.fpn_t[0](joined.movedim(-1, 1))
        return self.encoder.norm(each_frame.flatten(2).transpose(1, 2)), _pooled(last)

    def images(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Returns (B, g * g', C) for pictures (B, 3, H, W); `hidden` bool (B, g, g')."""
        return self.images_with_features(images, hidden)[0]

    def images_with_features(
        self, images: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same of pictures."""
        third, last = (x[:, 0] for x in self.image_stages(images, hidden)[2:])
        up = self.fpn[0](last.movedim(-1, 1)).movedim(1, -1)
        vectors = self.encoder.norm(self.lm_down(torch.cat([third, up], -1)).flatten(1, 2))
        return vectors, _pooled(last[:, None])

    def video_stages(self, video: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """Returns the maps of the stages, (B, D, H, W, C) each."""
        return self.encoder.stages(self.covered(self.encoder.embed(video), hidden))

    def image_stages(self, images: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """Returns the maps of the stages, (B, 1, H, W, C) each."""
        hidden = None if hidden is None else hidden[:, None]
        x = self.covered(self.encoder.embed_images(images), hidden)
        return self.encoder.stages(x, picture=True)

    def covered(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Returns a map (B, D, H, W, C) whose hidden cells, bool (B, D, g, g'), are the mask token."""
        if hidden is None:
            return x
        size = (x.shape[2], x.shape[3])
        mask = F.interpolate(hidden.to(x.dtype), size=size, mode="nearest")[..., None]
        return x * (1 - mask) + self.mask_token.to(x.dtype) * mask


def _upsampling(factor: tuple[int, int, int], width: int) -> nn.Module:
    return nn.ConvTranspose3d(width, width, factor, stride=factor)


def _pooled(x: Tensor) -> Tensor:
    return x.detach().mean((1, 2, 3)).float()
