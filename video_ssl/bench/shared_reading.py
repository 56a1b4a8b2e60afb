"""How often videos are truly decoded where several encoders of an evaluation see the same windows.

The decoder itself is counted: files that it opened and pictures that came out of it, while three small encoders, one
alone or one after the other, embed a few videos in this process.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from video_ssl.clips.decoders.pyav.reader import PyAVReader
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder
from video_ssl.evaluate.row_shares import ALONE
from video_ssl.evaluate.run import cached_features
from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import build_encoder, load_encoder, save_encoder
from video_ssl.models.preprocess_config import VideoPreprocess

ENCODERS = 3


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What the decoder did.

    Attributes:
        openings: of files.
        pictures: that it gave out, wanted or not.
    """

    openings: int
    pictures: int


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], Decoded]]:
    """Yields what says how much PyAV's reader has decoded within the block so far, in this process."""
    count = {"openings": 0, "pictures": 0}
    opening, frames = PyAVReader._open, PyAVReader._frames_after_seek

    def opens(reader: PyAVReader) -> None:
        count["openings"] += 1
        opening(reader)

    def gives(reader: PyAVReader, *words: Any) -> Iterator[Any]:
        for frame in frames(reader, *words):
            count["pictures"] += 1
            yield frame

    _replace({"_open": opens, "_frames_after_seek": gives})
    try:
        yield lambda: Decoded(**count)
    finally:
        _replace({"_open": opening, "_frames_after_seek": frames})


def _replace(methods: Mapping[str, Callable[..., Any]]) -> None:
    for name, method in methods.items():
        setattr(PyAVReader, name, method)


def embedders(folder: Path) -> list[Embedder]:
    """Returns small ViTs of other weights, which see the same windows; the first one's folder is made in `folder`."""
    config = ViTConfig(
        preset=None,
        embed_dim=96,
        depth=2,
        num_heads=2,
        image_size=64,
        num_frames=8,
        patch_size=16,
    )
    preprocess = VideoPreprocess(num_frames=8, frame_stride=4, size=64)
    save_encoder(
        folder / "encoder",
        build_encoder(config),
        architecture=config.architecture,
        preprocess=preprocess,
        source={},
    )
    settings = EmbedConfig(num_workers=0)
    return [
        Embedder(load_encoder(f"untrained:{folder}@{seed}"), settings, name=f"encoder {seed}")
        for seed in range(ENCODERS)
    ]


def embedding_ways(table: Table, folder: Path) -> dict[str, Callable[[], None]]:
    """Returns embedding as an evaluation does it: with one encoder, with all together, with all one after the other."""
    torch.manual_seed(0)
    encoders = embedders(folder)
    place = folder / "features"

    def way(*groups: list[Embedder]) -> Callable[[], None]:
        def act() -> None:
            shutil.rmtree(place, ignore_errors=True)  # or they would be read, not made
            place.mkdir()
            for group in groups:
                cached_features(group, table, place, "test", ALONE, progress=False)

        return act

    return {
        "one": way(encoders[:1]),
        "together": way(encoders),
        "apart": way(*([encoder] for encoder in encoders)),
    }


def decoded_by(ways: dict[str, Callable[[], None]]) -> dict[str, Decoded]:
    """Returns what the decoder did in each of some ways."""
    found = {}
    for name, act in ways.items():
        with counted() as so_far:
            act()
            found[name] = so_far()
    return found
