"""The encoder of CARL: a backbone per frame, then a small head over time.  One feature per frame of a long video.

Keys of the heads' state dicts are those of the reference code, so that published weights map by prefix alone.

Source: papers/carl.md section 3 (arXiv:2203.14957); the conv head is TCC's embedder (arXiv:1904.07846) as CARL's code
has it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from video_ssl.models.contract import CLIP, MOMENTS, Arrays, Precision
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.resnet import FrameBackbone, ResNet50, SmallNet
from video_ssl.models.torch_encoder import TorchEncoder, as_arrays


def frame_position_table(length: int, dim: int, train_length: int) -> np.ndarray:
    """Returns float32 (length, dim), the positions of a video of `length` frames.

        angle = pos / 10000^(c / dim) for channel c;  sin for even c, cos for odd c
        pos = 0 .. length - 1 in training, else stretched to the same range: linspace(0, train_length - 1, length)

    The exponent uses the channel's own index, not that of its pair as usual: so does the reference.
    """
    if length == train_length:
        position = np.arange(length, dtype=np.float64)
    else:
        position = np.linspace(0, train_length - 1, length)
    channel = np.arange(dim)
    angle = position[:, None] / 10000.0 ** (channel / dim)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


class SelfAttention(nn.Module):
    """Multi-head attention with separate q, k, v and output projections; no dropout inside."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_Q2d = nn.Linear(dim, dim)
        self.linear_K2d = nn.Linear(dim, dim)
        self.linear_V2d = nn.Linear(dim, dim)
        self.linear_d2Q = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Returns (B, S, D); `mask` bool (B, S) names the keys, True = seen."""
        b, s, d = x.shape
        q, k, v = (
            layer(x).view(b, s, self.num_heads, d // self.num_heads).transpose(1, 2)
            for layer in (self.linear_Q2d, self.linear_K2d, self.linear_V2d)
        )
        keys = None if mask is None else mask[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.linear_d2Q(out.transpose(1, 2).reshape(b, s, d))


class FeedForward(nn.Module):
    """Linear, ReLU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class _Residual(nn.Module):
    """The norm before a branch and the dropout behind it."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer; matrices start from Xavier uniform."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.res_layer0 = _Residual(dim, dropout)
        self.res_layer1 = _Residual(dim, dropout)
        self.self_att = SelfAttention(dim, num_heads)
        self.feed_forward = FeedForward(dim, ffn_dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        first, second = self.res_layer0, self.res_layer1
        x = x + first.dropout(self.self_att(first.norm(x), mask))
        return x + second.dropout(self.feed_forward(second.norm(x)))


class LayerStack(nn.Module):
    """Layers that start as copies of one: all have the same weights before training, as in the reference."""

    def __init__(self, layer: EncoderLayer, num_layers: int) -> None:
        super().__init__()
        self.enc_layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.enc_layers:
            x = layer(x, mask)
        return x


class TransformerHead(nn.Module):
    """Global max pool, linear layers with batch norm over all frames, positions, transformer, linear."""

    positions: Tensor

    def __init__(self, config: FrameTransformerConfig, in_dim: int) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        dim = in_dim
        for width in config.fc_dims:
            layers += [nn.Dropout(config.dropout), nn.Linear(dim, width), nn.BatchNorm1d(width)]
            layers += [nn.ReLU()]
            dim = width
        self.fc_layers = nn.Sequential(*layers)
        self.video_emb = nn.Linear(dim, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        layer = EncoderLayer(config.hidden_dim, config.num_heads, config.ffn_dim, config.dropout)
        self.video_encoder = LayerStack(layer, config.num_layers)
        self.embedding_layer = nn.Linear(config.hidden_dim, config.embed_dim)
        table = frame_position_table(config.length, config.hidden_dim, config.length)
        self.register_buffer("positions", torch.from_numpy(table), persistent=False)
        self._tables: dict[tuple[int, torch.device], Tensor] = {}

    def pool(self, features: Tensor) -> Tensor:
        """Returns (N, C): the largest value of each channel of (N, C, h, w)."""
        return features.amax(dim=(2, 3))

    def forward(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (B, S, D), not normalised, for pooled features (B, S, C).

        `mask` bool (B, S), True = valid: frames that are not are no keys, but have an output.
        """
        if self.config.standardize:
            pooled = standardized(pooled, mask)
        x = self.embed(pooled)
        if self.config.positions != "none":
            table = self.table(x.shape[1], x.device).to(x.dtype)
            if self.training and self.config.position_dropout > 0:
                seen = torch.rand(len(x), 1, 1, device=x.device) >= self.config.position_dropout
                table = table * seen
            x = x + table
        x = self.video_encoder(self.dropout(x), mask)
        return self.embedding_layer(x)

    def embed(self, pooled: Tensor) -> Tensor:
        """Returns (B, S, hidden_dim), before the positions."""
        b, s, _ = pooled.shape
        return self.video_emb(self.fc_layers(pooled.flatten(0, 1))).view(b, s, -1)

    def table(self, length: int, device: torch.device) -> Tensor:
        """Returns float32 (length, hidden_dim) on a device; the tables of the last lengths are kept."""
        if length == self.config.length:
            return self.positions
        key = (length, device)
        if key not in self._tables:
            values = frame_position_table(length, self.config.hidden_dim, self.config.length)
            if len(self._tables) >= 8:
                self._tables.clear()
            self._tables[key] = torch.from_numpy(values).to(device)
        return self._tables[key]


class ConvHead(nn.Module):
    """3-D convolutions over a frame and its context frames, a global max pool, linear layers."""

    def __init__(self, config: FrameTransformerConfig, in_dim: int) -> None:
        super().__init__()
        self.config = config
        convs: list[nn.Module] = []
        dim = in_dim
        for _ in range(2):
            convs += [
                nn.Conv3d(dim, config.conv_dim, 3, padding=(1, 0, 0)),
                nn.BatchNorm3d(config.conv_dim),
                nn.ReLU(),
            ]
            dim = config.conv_dim
        self.conv_layers = nn.Sequential(*convs)
        layers: list[nn.Module] = []
        for width in config.fc_dims:
            layers += [nn.Dropout(config.dropout), nn.Linear(dim, width), nn.ReLU()]
            dim = width
        self.fc_layers = nn.Sequential(*layers)
        self.embedding_layer = nn.Linear(dim, config.embed_dim)

    def pool(self, features: Tensor) -> Tensor:
        """Returns (N, conv_dim) for (N, c, C, h, w): frames with their contexts, the frame itself last."""
        return self.conv_layers(features.transpose(1, 2)).amax(dim=(2, 3, 4))

    def forward(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (B, S, D) for pooled features (B, S, conv_dim); every frame on its own."""
        return self.embedding_layer(self.fc_layers(pooled))


class ProjectionHead(nn.Module):
    """Linear, batch norm, ReLU, Linear over all frames: between the encoder and the loss, in training only."""

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = dim if hidden is None else hidden
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, S, D) for (B, S, D), not normalised."""
        return self.net(x.flatten(0, 1)).view(x.shape)


class FrameTransformer(TorchEncoder, nn.Module):
    """One feature per frame of a video; see `FrameTransformerConfig`.

    Videos are float (B, 3, S, H, W), normalised.  A feature may depend on every frame of the video, so a video is given
    whole (`max_frames`); memory holds the backbone's maps of `chunk_frames` time steps and one vector per frame.
    """

    def __init__(self, config: FrameTransformerConfig) -> None:
        super().__init__()
        assert config.length
        self.config = config
        self.embed_dim = config.embed_dim
        self.backbone = build_backbone(config)
        head = TransformerHead if config.head == "transformer" else ConvHead
        self.head = head(config, self.backbone.out_dim)

    @property
    def num_frames(self) -> int:
        """T of the training; other lengths are welcome."""
        return self.config.length

    @property
    def max_frames(self) -> int:
        """Longest video whose frames see each other."""
        return self.config.max_frames

    def forward(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (B, S, D), not normalised, for a video (B, 3, S, H, W), and for `head: conv` (B, 3, S * c, H, W):
        every frame behind its context frames.

        Args:
            video: normalised.
            mask: bool (B, S), True = valid; each row needs one.
        """
        return self.head(self.pooled(video), mask)

    def pooled(self, video: Tensor) -> Tensor:
        """Returns (B, S, C), the pooled backbone features, in chunks of time steps."""
        self.config.refuse_small(height=video.shape[-2], width=video.shape[-1])
        c = self.config.frames_per_feature
        step = self.config.chunk_frames * c
        pieces = [
            self._pooled(video[:, :, i : i + step], c) for i in range(0, video.shape[2], step)
        ]
        return torch.cat(pieces, dim=1)

    def _pooled(self, video: Tensor, contexts: int) -> Tensor:
        b, _, n = video.shape[:3]
        features = self.backbone(video.transpose(1, 2).flatten(0, 1))
        if self.config.head == "conv":
            features = features.unflatten(0, (-1, contexts))
        return self.head.pool(features).view(b, n // contexts, -1)

    def embed(self, video: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Returns (B, S, D), not normalised, for all S frames of a video (B, 3, S, H, W) of any length.

        More than `max_frames` frames are cut into ceil(S / max_frames) equal chunks, each with its own positions.
        """
        pieces = []
        for start, end in chunks(video.shape[2], self.max_frames):
            part = video[:, :, start:end]
            if self.config.head == "conv":
                part = video[:, :, self._with_contexts(start, end, video.device)]
            pieces.append(self(part, None if mask is None else mask[:, start:end]))
        return torch.cat(pieces, dim=1)

    def _with_contexts(self, start: int, end: int, device: torch.device) -> Tensor:
        """The frames of `context_indices` for the frames start..end of a video, flat."""
        config = self.config
        back = torch.arange(config.num_contexts - 1, -1, -1, device=device) * config.context_stride
        steps = torch.arange(start, end, device=device)
        return (steps[:, None] - back).clamp(min=0).flatten()

    def frame_features(self, video: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Returns float32 (B, S, D), before the projection: what evaluations use.  Of unit length, unless
        `config.unit_length` is false."""
        self.check_input(video)
        return self._finished(self.embed(video, mask=mask))

    def frame_features_of(self, pieces: Iterable[Tensor]) -> Tensor:
        """Returns what `frame_features` gives for the pieces (B, 3, n, H, W) of a video one after the other.

        With the transformer head memory holds one piece, and one vector per frame; in evaluation mode only, where the
        backbone sees every frame alone.  Context frames of the conv head begin with the first piece.
        """
        assert not self.training
        if self.config.head == "conv":  # looks back over context frames
            return self.frame_features(torch.cat(list(pieces), dim=2))
        pooled = torch.cat([self.pooled(piece) for piece in pieces], dim=1)
        parts = [self.head(pooled[:, a:b]) for a, b in chunks(pooled.shape[1], self.max_frames)]
        return self._finished(torch.cat(parts, dim=1))

    def _finished(self, frames: Tensor) -> Tensor:
        frames = frames.float()
        return frames if self.config.unit_length is False else F.normalize(frames, dim=-1)

    def clip_features(self, video: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Returns (B, D): the mean over the valid frames."""
        return masked_mean(self.frame_features(video, mask=mask), mask)

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns "clip" (B, D) and "moments" (B, S, D) of one forward pass.

        The head has pooled over space, so there are no tokens and `cells` changes nothing.
        """
        self.check_outputs(names, layer=layer, pooling=pooling)
        return _named(self.frame_features(inputs), names)

    @torch.inference_mode()
    def outputs_of_pieces(
        self, pieces: Iterable[np.ndarray], names: Sequence[str], *, precision: Precision
    ) -> Arrays:
        """Returns the outputs of a video that comes in pieces of frames; see `frame_features_of` for the memory."""
        self.check_outputs(names)
        with self.products(precision):
            frames = self.frame_features_of(self.model_input(piece) for piece in pieces)
        return as_arrays(_named(frames, names))

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (S,): every frame has its own feature."""
        return np.arange(num_frames, dtype=np.float64)


def _named(frames: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The outputs that frame features (B, S, D) are."""
    found = {CLIP: frames.mean(1), MOMENTS: frames}
    return {name: found[name] for name in names}


def build_backbone(config: FrameTransformerConfig) -> FrameBackbone:
    """Returns the backbone of a config with its first parts frozen."""
    backbone: FrameBackbone
    if config.backbone == "small":
        backbone = SmallNet(config.small_width)
    else:
        backbone = ResNet50(until=config.parts[-1])
    assert config.frozen_parts is not None
    backbone.freeze(config.frozen_parts)
    return backbone


def chunks(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of ceil(length / most) chunks of ceil(length / number) frames; the last may be shorter.

    >>> list(chunks(10, 4)), list(chunks(4, 4))
    ([(0, 4), (4, 8), (8, 10)], [(0, 4)])
    """
    size = math.ceil(length / math.ceil(length / most))
    for start in range(0, length, size):
        yield start, min(start + size, length)


def standardized(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Returns (B, S, D) with mean 0 and deviation 1 of every channel over the frames whose mask (B, S) is True.

    A channel that does not change becomes 0.
    """
    with torch.autocast(frames.device.type, enabled=False):
        x = frames.float()
        x = x - masked_mean(x, mask)[:, None]
        scale = torch.rsqrt(masked_mean(x.square(), mask)[:, None] + 1e-5)
        return (x * scale).to(frames.dtype)


def masked_mean(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Returns (B, D), the mean of (B, S, D) over the frames whose mask (B, S) is True; over all without a mask."""
    if mask is None:
        return frames.mean(1)
    weights = mask.to(frames.dtype)[..., None]
    return (frames * weights).sum(1) / weights.sum(1).clamp(min=1)
