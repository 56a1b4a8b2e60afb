"""Settings of `video-ssl data demo`.  Free of everything that draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What is generated, and by how many processes.

    Attributes:
        world: what is generated: demo, or exercises, the first world, for old results.
        size: how much: tiny, small or large.  For tests, a laptop and a GPU.
        seed: same seed, same videos.  Another one gives other figures, backgrounds, motions and sounds.
        num_workers: processes; all cores if not given.  With 0 the calling one works.
    """

    world: str = "demo"
    size: str = "small"
    seed: int = 0
    num_workers: int | None = None
