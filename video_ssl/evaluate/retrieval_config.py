"""Settings of the retrieval, as an evaluator and as `video-ssl retrieve`.  Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from video_ssl.evaluate.pooling import check_poolings


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Settings of the retrieval.

    Attributes:
        pooling: one vector of a clip: clip, mean, max, mean_std, concat_S.  See `pooling.py`.
        ks: R@k for these k.
        exclude: gallery videos that a query may not find: "video", itself; "group", all of its
            group (same person, same source).
        center: subtract the mean gallery vector before scaling; not part of the usual protocol.
        mean_ap: mean average precision too.  Over the whole gallery; takes a sort of every row.
        keep: nearest videos of each query that go into the results; 0 keeps none.
        chunk: rows and columns of a block of similarities.
    """

    pooling: str = "clip"
    ks: tuple[int, ...] = (1, 5, 10, 20)
    exclude: str = "video"
    center: bool = False
    mean_ap: bool = False
    keep: int = 0
    chunk: int = 2048

    def __post_init__(self) -> None:
        check_poolings([self.pooling])
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks={self.ks} must be numbers of at least 1.")
        if self.exclude not in ("video", "group"):
            raise ValueError(f"exclude={self.exclude!r} must be 'video' or 'group'.")
        if self.chunk < 1 or self.keep < 0:
            raise ValueError(f"chunk={self.chunk} must be at least 1 and keep={self.keep} 0.")


@dataclass(frozen=True, kw_only=True)
class RetrieveConfig(RetrievalConfig):
    """The same for the command, which is there for the neighbours.

    Attributes:
        keep: nearest videos of each query that are listed.
    """

    keep: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 1:
            raise ValueError(
                f"keep={self.keep} must be at least 1: so many neighbours of each query are kept."
            )
