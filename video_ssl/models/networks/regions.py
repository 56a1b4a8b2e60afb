"""Regions of feature maps in torch: RoIAlign, position channels and the decoder of ConST-CL, with parameters of the
names of their flax twins (`regions_flax.py`).

Feature maps are channels last, (B, T', h, w, D), boxes [x_min, y_min, x_max, y_max] as shares of width and height.
Source: papers/const_cl.md sections 3.3 and 6.1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.region_config import (
    POSITION_HIDDEN,
    POSITION_OUT,
    DecoderConfig,
)


def roi_align(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Returns the bins of every box, (B, N, size, size, D), of maps (B, h, w, D) and boxes (B, N, 4).

    A bin is one bilinear sample at its middle, without a shift by half a pixel.  Beyond the last pixel that pixel is
    repeated; sides of boxes may be shorter than a cell.  Boxes are meant to lie in [0, 1].
    """
    height, width = features.shape[1:3]
    x0, y0, x1, y1 = boxes.to(features.dtype).unbind(-1)
    down, across = _weights(y0, y1, height, size), _weights(x0, x1, width, size)
    return torch.einsum("bnyh,bnxw,bhwd->bnyxd", down, across, features)


def _weights(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    middles = (torch.arange(size, device=low.device) + 0.5) / size
    at = (low[..., None] + (high - low)[..., None] * middles) * cells
    first = at.floor().clamp(0, cells - 1)
    second = (first + 1).clamp(max=cells - 1)
    share = (at - first)[..., None]
    places = torch.arange(cells, device=low.device)
    return (places == first[..., None]) * (1 - share) + (places == second[..., None]) * share


class PositionChannels(nn.Module):
    """Appends 16 channels to a map (B, t, h, w, D): 8 of the place in time and 8 of that in the frame."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in (("temporal", 1), ("spatial", 2)):
            self.add_module(f"{name}0", glorot(nn.Linear(width, POSITION_HIDDEN)))
            self.add_module(f"{name}1", glorot(nn.Linear(POSITION_HIDDEN, POSITION_OUT)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, t, h, w, D + 16)."""
        time, down, across = (
            torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1) / 2 for n in x.shape[1:4]
        )
        places = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)
        shape = (*x.shape[:4], POSITION_OUT)
        parts = [
            self._mlp("temporal", time[:, None])[:, None, None].expand(shape),
            self._mlp("spatial", places).expand(shape),
        ]
        return torch.cat([x, *parts], -1)

    def _mlp(self, name: str, places: Tensor) -> Tensor:
        hidden = F.relu(self.get_submodule(f"{name}0")(places))
        out: Tensor = self.get_submodule(f"{name}1")(hidden)
        return out


class DecoderUnit(nn.Module):
    """One head, see the flax twin."""

    def __init__(self, config: DecoderConfig, query_dim: int, memory_dim: int) -> None:
        super().__init__()
        width = config.num_channels
        self.query = glorot(nn.Linear(query_dim, width))
        self.key = glorot(nn.Linear(memory_dim, width))
        self.value = glorot(nn.Linear(memory_dim, width))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.ffn1 = glorot(nn.Linear(width, width))
        self.ffn2 = glorot(nn.Linear(width, width))

    def forward(self, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B, N, num_channels) and the attention (B, N, L), of (B, N, Dq) and (B, L, Dm)."""
        q = self.query(query)
        logits = q @ self.key(memory).transpose(1, 2) / math.sqrt(q.shape[-1])
        attention = logits.float().softmax(-1)
        x = self.norm((attention.to(q.dtype) @ self.value(memory) + q).float())
        return self.ffn2(F.gelu(self.ffn1(x))), attention


class RegionDecoder(nn.Module):
    """Layers of units side by side, see the flax twin."""

    def __init__(self, config: DecoderConfig, query_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.config = config
        for layer in range(config.num_layers):
            for head in range(config.num_heads):
                unit = DecoderUnit(config, config.width if layer else query_dim, memory_dim)
                self.add_module(f"layer{layer}_unit{head}", unit)

    def forward(self, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B, N, heads * channels), and the attention of the first layer (heads, B, N, L)."""
        first = None
        for layer in range(self.config.num_layers):
            units = [
                self.get_submodule(f"layer{layer}_unit{head}")(query, memory)
                for head in range(self.config.num_heads)
            ]
            query = torch.cat([x for x, _ in units], -1)
            first = torch.stack([attention for _, attention in units]) if first is None else first
        assert first is not None
        return query, first


def glorot(layer: nn.Linear) -> nn.Linear:
    """Returns a dense layer initialised as the reference's: uniform after Glorot, no bias."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
