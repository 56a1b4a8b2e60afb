"""The transformer block that every encoder and decoder here is built of, and the embeddings of patches."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention, x (B, L, D) -> (B, L, D).

    `qkv_bias`: "q_v" learns a bias for queries and values and fixes that of the keys at zero
    (`q_bias`, `v_bias`), "full" learns all three (`qkv.bias`), "none" has no bias.

    `cosine`: the logits are exp(scale) times the cosine of query and key instead of their product
    over sqrt(head dim); `scale` is learned per head, starts at log 10 and stays below log 100.
    Source: an option of VideoMAE V2's code (`cos_attn`).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: Literal["q_v", "full", "none"],
        *,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias == "full")
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "q_v" else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "q_v" else None
        self.scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10))) if cosine else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, length, dim = x.shape
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        qkv = qkv.view(b, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.scale is None:
            # The default scale is head_dim^-0.5.
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            # 4.6052 = log 100 is the reference's own rounding.
            q = F.normalize(q, dim=-1) * self.scale.clamp(max=4.6052).exp().to(q.dtype)
            y = F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, scale=1.0)
        return self.proj(y.transpose(1, 2).reshape(b, length, dim))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def hidden_width(dim: int, mlp_ratio: float) -> int:
    """Returns the width inside an MLP, rounded down except for the last rounding error: ratios such
    as V2's 48/11 have no exact float.

    >>> hidden_width(1408, 48 / 11), hidden_width(1408, 6144 / 1408)
    (6144, 6144)
    """
    return int(dim * mlp_ratio + 1e-6)


class Block(nn.Module):
    """Pre-norm block: x += drop(gamma_1 attn(norm1 x)); x += drop(gamma_2 mlp(norm2 x)).

    `layer_scale` is the initial value of both gammas, 0 leaves them out; `drop_path` is the chance
    that a sample skips a branch in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: Literal["q_v", "full", "none"] = "q_v",
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads, qkv_bias, cosine=cosine)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, hidden_width(dim, mlp_ratio))
        self.drop_path = drop_path
        self.layer_scale = layer_scale
        self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale else None
        self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.norm1(x))
        x = x + self._drop(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(x))
        return x + self._drop(y if self.gamma_2 is None else self.gamma_2 * y)

    def _drop(self, y: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return y
        keep = 1.0 - self.drop_path
        kept = torch.rand(y.shape[0], 1, 1, device=y.device) < keep
        return y * (kept.to(y.dtype) / keep)


class PatchEmbed(nn.Module):
    """Linear embedding of cubes (3-D, `proj` is a Conv3d) or patches (2-D, `proj` is a Conv2d).

    The convolution holds the parameters under their usual names; as kernel and stride are equal it
    is computed as one matrix product, over the kept tokens alone.
    """

    def __init__(self, dim: int, patch_size: int, tubelet_size: int | None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        space = (patch_size, patch_size)
        self.proj: nn.Conv2d | nn.Conv3d
        if tubelet_size is None:
            self.proj = nn.Conv2d(3, dim, space, stride=space)
        else:
            self.proj = nn.Conv3d(3, dim, (tubelet_size, *space), stride=(tubelet_size, *space))

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns tokens (B, L, D) of a video (B, C, T, H, W), or (B, K, D) of those in `keep`."""
        cubes = cut(video, self.tubelet_size or 1, self.patch_size, "channels_first")
        if keep is not None:
            cubes = take(cubes, keep)
        return F.linear(cubes, self.proj.weight.flatten(1), self.proj.bias)


class ConvStem(nn.Module):
    """Small convolutions in place of the linear embedding, within each cube (or patch) on its own: the pixels of a
    token reach no other token, so that what is hidden stays hidden, and only the kept cubes are computed.

    The frames of a cube lie side by side on the channels. 3 x 3 convolutions with stride 2, zeros around the cube,
    and GELU follow until one pixel is left (four of them for 16 px), each twice as wide as the one before and the last
    as wide as the tokens; then a linear layer.  No norm: one over a batch would let tokens see each other.

    Source: the stem of "Early Convolutions Help Transformers See Better", arXiv:2106.14881, there over whole images
    and with batch norm.
    """

    def __init__(self, dim: int, patch_size: int, tubelet_size: int | None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size or 1
        count = (patch_size - 1).bit_length()  # halvings, rounded up, until one pixel is left
        widths = [3 * self.tubelet_size, *(max(8, dim >> i) for i in reversed(range(count)))]
        convs = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)]
        self.convs = nn.ModuleList(convs)
        self.project = nn.Linear(widths[-1], dim)
        for conv in convs:
            # Keeps the size of signals through the layers, where there is no norm.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns tokens (B, L, D) of a video (B, C, T, H, W), or (B, K, D) of those in `keep`."""
        cubes = cut(video, self.tubelet_size, self.patch_size, "channels_first")
        if keep is not None:
            cubes = take(cubes, keep)
        x = cubes.flatten(0, 1).unflatten(1, (-1, self.patch_size, self.patch_size))
        for conv in self.convs:
            x = F.gelu(conv(x))
        return self.project(x.flatten(1)).unflatten(0, cubes.shape[:2])


def make_stem(
    kind: Literal["linear", "conv"], dim: int, patch_size: int, tubelet_size: int | None
) -> PatchEmbed | ConvStem:
    """Returns the layer that makes tokens of cubes, or of patches where `tubelet_size` is None."""
    return (ConvStem if kind == "conv" else PatchEmbed)(dim, patch_size, tubelet_size)


def cut(
    video: Tensor,
    tubelet_size: int,
    patch_size: int,
    order: Literal["channels_first", "channels_last"],
) -> Tensor:
    """Returns the cubes of a video (B, C, T, H, W) as rows, (B, L, elements), tokens by time, row,
    column.

    "channels_first" orders the elements as a convolution weight: color, time, row, column;
    "channels_last" as the pixel targets of MAE and VideoMAE: time, row, column, color.
    """
    b, c, t, h, w = video.shape
    p, d = patch_size, tubelet_size
    x = video.reshape(b, c, t // d, d, h // p, p, w // p, p)
    if order == "channels_first":
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)
    else:
        x = x.permute(0, 2, 4, 6, 3, 5, 7, 1)
    return x.reshape(b, (t // d) * (h // p) * (w // p), c * d * p * p)


def joined(cubes: Tensor, grid: tuple[int, int, int], tubelet_size: int, patch_size: int) -> Tensor:
    """Returns the video (B, C, T, H, W) of its cubes (B, L, elements): the inverse of `cut` with "channels_last"."""
    (t, h, w), d, p = grid, tubelet_size, patch_size
    x = cubes.unflatten(1, grid).unflatten(-1, (d, p, p, -1))
    x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(len(cubes), -1, t * d, h * p, w * p)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Returns tokens (B, K, D) of (B, L, D), or of (1, L, D) or (L, D) shared by all; index (B, K)."""
    if tokens.dim() == 2 or tokens.shape[0] == 1:
        return tokens.reshape(-1, tokens.shape[-1])[index]
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def spatial_cells(tokens: Tensor, cells: int) -> Tensor:
    """Returns the means of `cells` x `cells` equal parts of every moment, side by side: tokens
    (B, T', h, w, D) -> (B, T', cells * cells * D), parts in the order row, column."""
    b, t, _, _, d = tokens.shape
    pooled = F.adaptive_avg_pool2d(tokens.flatten(0, 1).permute(0, 3, 1, 2), cells)
    return pooled.permute(0, 2, 3, 1).reshape(b, t, cells * cells * d)


def make_blocks(
    dim: int,
    depth: int,
    num_heads: int,
    *,
    mlp_ratio: float,
    qkv_bias: Literal["q_v", "full", "none"],
    drop_path: float,
    layer_scale: float = 0.0,
    cosine: bool = False,
) -> nn.ModuleList:
    """Returns `depth` blocks whose `drop_path` rises linearly from 0 to the given rate."""
    rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
    return nn.ModuleList(
        Block(
            dim,
            num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path=rate,
            layer_scale=layer_scale,
            cosine=cosine,
        )
        for rate in rates
    )


def init_transformer(module: nn.Module) -> None:
    """Draws the weights of all Linear and LayerNorm layers below `module` as MAE, VideoMAE and MVD
    do: xavier uniform, biases 0, LayerNorm 1 and 0.  Convolutions keep PyTorch's own init."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def split_mask(mask: Tensor, num_visible: int) -> tuple[Tensor, Tensor]:
    """Returns the indices of visible and of hidden tokens, int64 (B, num_visible) and the rest,
    each in token order, without waiting for the device.

    Args:
        mask: bool (B, L), True = hidden; every row has exactly `num_visible` visible tokens.

    Raises:
        RuntimeError: a row has another count (on an accelerator: reported by the device, later).
    """
    right = (mask.sum(dim=1) == mask.shape[1] - num_visible).all()
    torch._assert_async(
        right, f"a mask does not leave exactly {num_visible} of {mask.shape[1]} tokens visible"
    )
    order = torch.argsort(mask.to(torch.uint8), dim=1, stable=True)
    return order[:, :num_visible], order[:, num_visible:]
