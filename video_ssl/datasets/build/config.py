"""Settings of `video-ssl data build`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How videos are packed.

    Attributes:
        num_shards: per split; of about 256 MiB if not given.  At most one per video; an unfinished build keeps its own.
        num_workers: shards written at once; all cores if not given.  The files do not depend on it.
        check: compare all bytes with the videos, not sizes and times.
    """

    num_shards: int | None = None
    num_workers: int | None = None
    check: bool = False
