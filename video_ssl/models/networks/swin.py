"""Video Swin: attention within windows of space and time, and BEVT's path for pictures through the same blocks.

Source: papers/bevt.md section 3 (arXiv:2106.13230, arXiv:2112.01529 and their code).  Keys of the state dict are those
of the code, less the index of positions, which is computed.

Two things are as in that code although one would not write them so: a window that is smaller than the full one in rows
or columns takes the first rows of the full window's index, so that positions are mixed up (crops of less than 7 tokens
a side); and zeros that fill up a map are seen by the tokens beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.contract import CLIP, MOMENTS, TOKENS
from video_ssl.models.networks.layers import Mlp, hidden_width, spatial_cells
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.swin_tables import fitted_tables
from video_ssl.models.networks.token_features import TokenFeatures
from video_ssl.models.networks.windows import (
    Triple,
    cut,
    fitted,
    joined,
    may_attend,
    padded,
    relative_index,
    table_rows,
)

NORM_EPS = 1e-5
#: What is added to the logits of tokens that do not see each other: not -inf, since a row may have no other.
HIDDEN = -100.0


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a bias for every difference of two positions.

    Args:
        width: of the tokens.
        num_heads: their heads.
        window: the full one, whose differences the table knows.
    """

    index: Tensor

    def __init__(self, width: int, num_heads: int, window: Triple) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows(window), num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # Computed, so in no state dict.
        index = torch.from_numpy(relative_index(window).copy())
        self.register_buffer("index", index, persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, hidden: Tensor | None) -> Tensor:
        """Returns (B * M, N, C) for the windows of B maps.

        Args:
            windows: the same shape, in the order of the maps.
            hidden: float (M, N, N), what is added to the logits of tokens that do not see each other; None = all do.
        """
        count, length, width = windows.shape
        qkv = self.qkv(windows).view(count, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias(length).to(q.dtype)
        if hidden is not None:
            # (M, heads, N, N), the same for every map
            bias = bias + hidden[:, None].to(q.dtype)
            q, k, v = (x.unflatten(0, (-1, len(hidden))) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y if hidden is None else y.flatten(0, 1)
        return self.proj(y.transpose(1, 2).reshape(count, length, width))

    def bias(self, length: int) -> Tensor:
        """Returns the biases of the first tokens of a window, (heads, N, N)."""
        return self.relative_position_bias_table[self.index[:length, :length]].permute(2, 0, 1)


def _hidden(size: Triple, window: Triple, shift: Triple, device: torch.device) -> Tensor:
    """What is added to the logits of each window of a rolled map, float32 (M, N, N)."""
    if torch.compiler.is_compiling():
        return HIDDEN * (~may_attend(size, window, shift, device)).float()
    return _hidden_kept(size, window, shift, device)


@functools.lru_cache(maxsize=64)
def _hidden_kept(size: Triple, window: Triple, shift: Triple, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return HIDDEN * (~may_attend(size, window, shift, device)).float()


class SwinBlock(nn.Module):
    """Pre-norm: x += drop(attention in windows(norm1 x)); x += drop(mlp(norm2 x)).  Maps are (B, D, H, W, C)."""

    def __init__(
        self, width: int, num_heads: int, config: SwinConfig, *, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.drop_path = config.window, drop_path
        d, h, w = config.window
        self.shift: Triple = (d // 2, h // 2, w // 2) if shifted else (0, 0, 0)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = WindowAttention(width, num_heads, config.window)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, hidden_width(width, config.mlp_ratio))
        self._cut_always = config.image_shift_mask == "every_block"

    def forward(self, x: Tensor, *, picture: bool = False) -> Tensor:
        """Returns the map behind the block; a `picture` has one moment (D = 1)."""
        x = x + self._drop(self._attend(self.norm1(x), picture=picture))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, *, picture: bool) -> Tensor:
        size = (x.shape[1], x.shape[2], x.shape[3])
        window, shift, cut_by = self._windows_of_picture() if picture else self._windows(size)
        x = padded(x, window)
        full = (x.shape[1], x.shape[2], x.shape[3])
        hidden = _hidden(full, window, cut_by, x.device) if any(cut_by) else None
        if any(shift):
            x = torch.roll(x, [-s for s in shift], dims=(1, 2, 3))
        x = joined(self.attn(cut(x, window), hidden), window, full)
        if any(shift):
            x = torch.roll(x, shift, dims=(1, 2, 3))
        return x[:, : size[0], : size[1], : size[2]]

    def _windows(self, size: Triple) -> tuple[Triple, Triple, Triple]:
        window, shift = fitted(size, self.window, self.shift)
        return window, shift, shift

    def _windows_of_picture(self) -> tuple[Triple, Triple, Triple]:
        """Windows, shift, and the shift whose borders cut windows: of pictures the last holds in every block, as in the
        reference, and a map of one window is shifted too."""
        _, h, w = self.window
        cut_by = (0, h // 2, w // 2) if self._cut_always else (0, *self.shift[1:])
        return (1, h, w), (0, *self.shift[1:]), cut_by

    def _drop(self, y: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return y
        keep = 1.0 - self.drop_path
        kept = torch.rand(y.shape[0], 1, 1, 1, 1, device=y.device) < keep
        return y * (kept.to(y.dtype) / keep)


class PatchMerging(nn.Module):
    """Joins 2 x 2 tokens of a moment to one of twice the width; time is kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=NORM_EPS)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = padded(x, (1, 2, 2))
        parts = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Stage(nn.Module):
    """Blocks of one width, every other one with shifted windows, and what leads to the next stage."""

    def __init__(self, config: SwinConfig, number: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        width, heads = config.widths[number], config.heads[number]
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, config, shifted=i % 2 == 1, drop_path=rate)
            for i, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(width) if number < 3 else None

    def forward(self, x: Tensor, *, picture: bool = False) -> Tensor:
        """Returns the map behind the blocks, before tokens are joined."""
        for block in self.blocks:
            x = block(x, picture=picture)
        return x


class PatchEmbed(nn.Module):
    """A convolution over cubes (or squares) of pixels that do not overlap, and a norm: channels last."""

    def __init__(self, width: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = patch
        make = nn.Conv3d if len(patch) == 3 else nn.Conv2d
        self.proj = make(3, width, patch, stride=patch)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, [D,] H, W, C) for (B, 3, [T,] h, w); zeros fill up what does not divide."""
        missing = [-s % p for s, p in zip(x.shape[2:], self.patch, strict=True)]
        if any(missing):
            x = F.pad(x, [n for m in reversed(missing) for n in (0, m)])
        return self.norm(self.proj(x).movedim(1, -1))


def _like(whole: Tensor, target: Any) -> Tensor:
    """A tensor that every process holds, divided as `target` is."""
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = target.device_mesh, target.placements
    return distribute_tensor(whole, mesh, placements, src_data_rank=None)


class VideoSwin(TokenFeatures, nn.Module):
    """See `SwinConfig` for its settings.

    Videos are float (B, C, T, H, W), normalised, of any length and size.  Tokens are the cells of the last map, after
    the final norm; `layer` names a stage (0 to 3, or from the end), whose map is taken as it leaves its blocks.  BEVT
    trains the final norm on another input, so that its frozen features are those of `layer` 2 or 3.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.width
        assert config.embed_dim is not None
        self.patch_embed = PatchEmbed(config.embed_dim, config.patch)
        if config.images:
            self.patch_embed_2d = PatchEmbed(config.embed_dim, config.patch[1:])
        rates = np.linspace(0, config.drop_path, sum(config.blocks)).tolist()
        ends = np.cumsum(config.blocks).tolist()
        self.layers = nn.ModuleList(
            Stage(config, i, rates[end - count : end])
            for i, (count, end) in enumerate(zip(config.blocks, ends, strict=True))
        )
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def num_frames(self) -> int:
        """Frames of the clips that it is made for."""
        assert self.config.num_frames is not None
        return self.config.num_frames

    @property
    def num_blocks(self) -> int:
        """Stages, which `layer` may name."""
        return 4

    def embed(self, video: Tensor) -> Tensor:
        """Returns the input of the first stage, (B, D, H, W, C), for a video (B, 3, T, h, w)."""
        return self.patch_embed(video)

    def embed_images(self, images: Tensor) -> Tensor:
        """Returns the input of the first stage, (B, 1, H, W, C), for pictures (B, 3, h, w).

        Raises:
            ValueError: the network takes no pictures, or windows do not divide their maps.
        """
        if not self.config.images:
            raise ValueError("this Swin takes no pictures: set encoder.images: true.")
        (h, w), (_, ph, pw), (_, wh, ww) = images.shape[2:], self.config.patch, self.config.window
        if h % (8 * ph * wh) or w % (8 * pw * ww):
            raise ValueError(
                f"pictures of {h} x {w} pixels do not divide into windows of {wh} x {ww} tokens at all stages, and "
                f"those of pictures are not filled up: give multiples of {8 * ph * wh} x {8 * pw * ww} pixels."
            )
        return self.patch_embed_2d(images)[:, None]

    @torch.no_grad()
    def follow_images(self) -> None:
        """Makes the weights of clips those of pictures, as the reference's loader does (papers/bevt.md section 3).

        The embedding is repeated over the frames of a token and divided by them; a table of biases is for every
        difference in time what it is for none, which is all that pictures learn.  Of weights that are divided among
        processes (FSDP), all must call it.
        """
        frames = self.config.patch[0]
        for own, theirs in zip(
            self.patch_embed.parameters(), self.patch_embed_2d.parameters(), strict=True
        ):
            same = own.shape == theirs.shape
            own.copy_(theirs if same else theirs[:, :, None].expand_as(own) / frames)
        times = 2 * self.config.window[0] - 1
        for module in self.modules():
            if isinstance(module, WindowAttention):
                table: Any = module.relative_position_bias_table
                divided = hasattr(table, "full_tensor")
                whole = table.full_tensor() if divided else table
                new = whole.unflatten(0, (times, -1))[times // 2].repeat(times, 1)
                table.copy_(_like(new, table) if divided else new)

    def weights_from(self, source: VideoSwin) -> dict[str, Tensor]:
        """Returns the weights of another Swin for this one: tables of other windows are interpolated in space and time,
        and an embedding of pictures that it lacks is this one's own."""
        window = self.config.window
        state = fitted_tables(source.state_dict(), of=source.config.window, window=window)
        own = {k: v for k, v in self.state_dict().items() if k.startswith("patch_embed_2d.")}
        return {**own, **state}

    def stages(self, x: Tensor, *, picture: bool = False) -> list[Tensor]:
        """Returns the maps of the four stages, (B, D, H, W, C) each, for the input of the first one."""
        found = []
        for stage in self.layers:
            assert isinstance(stage, Stage)
            x = stage(x, picture=picture)
            found.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return found

    def forward(self, video: Tensor) -> Tensor:
        """Returns the last map after the final norm, channels first: (B, C, D, H, W)."""
        return self.norm(self.stages(self.embed(video))[-1]).movedim(-1, 1)

    def map_of(self, video: Tensor, layer: int | None = None) -> Tensor:
        """Returns the map of a stage, or of the last after the final norm, (B, D, H, W, C)."""
        if layer is None:
            return self(video).movedim(1, -1)
        return self.stages(self.embed(video))[layer]

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, D*H*W, C).

        Raises:
            ValueError: `keep`, as windows need all of their tokens.
        """
        if keep is not None:
            raise ValueError(
                "a Swin sees all of a clip in its windows: it cannot keep only some tokens."
            )
        return self.map_of(video).flatten(1, 3)

    def layer_outputs(self, video: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.map_of(video, layer).flatten(1, 3)
        return tokens[:, :0], tokens

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns the outputs of these names, see `TokenFeatures`; `layer` names a stage, each with its own grid."""
        self.check_outputs(names, layer=layer, pooling=pooling)
        found_map = self.map_of(inputs, layer)
        moments = spatial_cells(found_map, cells)
        tokens = found_map.flatten(1, 3)
        clip = tokens.amax(1) if pooling == "max" else moments.mean(1)
        found = {TOKENS: tokens, MOMENTS: moments, CLIP: clip}
        return {name: found[name] for name in names}

    def grid(self, video: Tensor) -> Triple:
        """Returns (D, H, W) of the last map of a video (B, C, T, h, w)."""
        return self.token_grid((*video.shape[2:], 3))

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output, which is that of the stage."""
        whole = super().output_dim(name, cells=cells, layer=layer)
        return whole if layer is None else whole // self.config.width * self.config.widths[layer]

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Returns the (t, h, w) of the tokens of a stage, for a clip of shape (T, H, W, 3)."""
        t, h, w = (-(-s // p) for s, p in zip(shape[:3], self.config.patch, strict=True))
        for _ in range(range(4)[-1 if layer is None else layer]):
            h, w = -(-h // 2), -(-w // 2)
        return t, h, w

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (D,), the middle of the frames of each token, in units of sampled frames."""
        d = self.config.patch[0]
        starts = np.arange(0, num_frames, d, dtype=np.float64)
        return (starts + np.minimum(starts + d, num_frames) - 1) / 2

    @property
    def num_layers(self) -> int:
        """Blocks, and what joins the tokens between stages: each counts as a layer (BEVT's layer decay)."""
        return sum(self.config.blocks) + 3

    def layer_of(self, name: str) -> int:
        """Returns how deep a parameter lies, see `TorchEncoder`; tables of biases are not in any layer (golden
        bevt/param_groups)."""
        depths = self.config.blocks
        match name.split("."):
            case [*_, "relative_position_bias_table"]:
                return self.num_layers + 1
            case ["patch_embed" | "patch_embed_2d", *_]:
                return 0
            case ["layers", stage, "blocks", block, *_]:
                return sum(depths[: int(stage)]) + int(stage) + int(block) + 1
            case ["layers", stage, "downsample", *_]:
                return sum(depths[: int(stage) + 1]) + int(stage) + 1
        return self.num_layers
