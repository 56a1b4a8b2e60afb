"""Video Swin's blocks beside the same blocks in plain torch, written from the sheet (not a test).

    python tests/bench/measure_swin.py [--rounds 5] [--depths 2 2 18 2] [--batch 1]

Swin-B on clips of 16 frames of 224 px, float32, forward and backward.  "plain" computes logits, biases, masks, softmax
and products one after the other, and its masks and biases anew in every block, as the description of the method reads
(papers/bevt.md section 3).  Outputs and gradients of both are compared first; then they take turns.  Threads: those of
torch (`OMP_NUM_THREADS`).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from video_ssl.models.networks.swin import HIDDEN, SwinBlock, VideoSwin, WindowAttention
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.windows import cut, joined, may_attend, padded


def plain_attention(attention: WindowAttention, windows: Tensor, hidden: Tensor | None) -> Tensor:
    count, length, width = windows.shape
    heads = attention.num_heads
    qkv = attention.qkv(windows).reshape(count, length, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    logits = (q * (width // heads) ** -0.5) @ k.transpose(-2, -1)
    places = attention.index[:length, :length].reshape(-1)
    bias = attention.relative_position_bias_table[places].view(length, length, heads)
    logits = logits + bias.permute(2, 0, 1).contiguous()[None]
    if hidden is not None:
        masks = len(hidden)
        logits = logits.view(count // masks, masks, heads, length, length) + hidden[None, :, None]
        logits = logits.view(count, heads, length, length)
    shares = logits.softmax(-1)
    return attention.proj((shares @ v).transpose(1, 2).reshape(count, length, width))


def plain_attend(block: SwinBlock, x: Tensor) -> Tensor:
    size = (x.shape[1], x.shape[2], x.shape[3])
    window, shift, _ = block._windows(size)
    x = padded(x, window)
    full = (x.shape[1], x.shape[2], x.shape[3])
    hidden = None
    if any(shift):
        hidden = HIDDEN * (~may_attend(full, window, shift, x.device)).float()
        x = torch.roll(x, [-s for s in shift], dims=(1, 2, 3))
    x = joined(plain_attention(block.attn, cut(x, window), hidden), window, full)
    if any(shift):
        x = torch.roll(x, shift, dims=(1, 2, 3))
    return x[:, : size[0], : size[1], : size[2]]


class PlainSwin:
    """Calls a network with its blocks as they are written above."""

    def __init__(self, network: VideoSwin) -> None:
        self.network = network

    def __call__(self, video: Tensor) -> Tensor:
        blocks = [m for m in self.network.modules() if isinstance(m, SwinBlock)]
        for block in blocks:
            block._attend = lambda x, picture, block=block: plain_attend(block, x)  # type: ignore[method-assign]
        try:
            return self.network(video)
        finally:
            for block in blocks:
                del block._attend


def gradient(call: object, network: VideoSwin, video: Tensor) -> tuple[Tensor, Tensor]:
    network.zero_grad(set_to_none=True)
    out: Tensor = call(video)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, out[0].numel()).view(
        out.shape[1:]
    )  # the norm of a norm has no slope
    (out * weights).mean().backward()
    first = next(network.layers[0].parameters()).grad
    assert first is not None
    return out.detach(), first.clone()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depths", type=int, nargs=4, default=(2, 2, 18, 2))
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    torch.manual_seed(0)
    config = SwinConfig(
        preset=None,
        embed_dim=128,
        depths=tuple(given.depths),
        num_heads=(4, 8, 16, 32),
        num_frames=16,
    )
    network = VideoSwin(config).train()
    video = torch.randn(given.batch, 3, 16, 224, 224)
    ways = {"ours": network, "plain": PlainSwin(network)}
    (out, slope), (plain_out, plain_slope) = (gradient(w, network, video) for w in ways.values())
    print(
        f"largest difference: outputs {(out - plain_out).abs().max():.1e}, gradients "
        f"{((slope - plain_slope).abs().max() / slope.abs().max()):.1e} of the largest"
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            begin = time.process_time()
            gradient(way, network, video)
            seconds[name].append(time.process_time() - begin)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for name, value in middle.items():
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        print(f"{name}: {value:.2f} s of processor time a step ({spread})")
    print(f"plain / ours: {middle['plain'] / middle['ours']:.2f}")


if __name__ == "__main__":
    main()
