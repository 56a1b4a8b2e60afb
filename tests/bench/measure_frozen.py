"""CARL's backbone with its frozen batch norms inside the convolutions, beside the same layers one by one (not a test).

    python tests/bench/measure_frozen.py [--rounds 3] [--frames 16]

ResNet-50 up to layer4, of which the last one learns, on frames of 224 px in float32, forward and backward.  "plain"
runs the layers one after the other with the channels first in memory.  Outputs are compared first; then all take turns.
Processor time; threads: those of torch (`OMP_NUM_THREADS`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from video_ssl.models.networks.resnet import ResNet50


def backbone() -> ResNet50:
    """A network as it is trained, with statistics as if it had been."""
    torch.manual_seed(0)
    found = ResNet50()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    found.freeze(4)
    return found.train()


def plain(net: ResNet50, frames: Tensor) -> Tensor:
    with torch.no_grad():
        for part in net.parts()[:4]:
            for module in part:
                frames = module(frames)
    for part in net.parts()[4:]:
        for module in part:
            frames = module(frames)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16)
    given = parser.parse_args()
    net, frames = backbone(), torch.randn(given.frames, 3, 224, 224)
    last = frames.contiguous(memory_format=torch.channels_last)
    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain(net, frames),
        "plain, channels last": lambda: plain(net, last),
        "ours": lambda: net(frames),
    }
    with torch.no_grad():
        expected, found = plain(net, frames), net(frames)
    print(
        f"largest difference {float((found - expected).abs().max()):.1e} of {float(expected.max()):.1f}"
    )
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            net.zero_grad()
            begin = time.process_time()
            way().square().mean().backward()
            taken[name].append(time.process_time() - begin)
    first = statistics.median(taken["plain"])
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{name}: {middle:.2f} s of processor time a step, {middle / first:.2f} of plain")


if __name__ == "__main__":
    main()
