"""`video-ssl embed`: the whole of a table, or a shard of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_ssl.embed.embed_videos import embed_table, open_source
from video_ssl.embed.features import FeatureFile
from video_ssl.embed.shards import embed_shard


def embed(
    encoder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    restart: bool = False,
    shard: str | None = None,
    senses: str | Sequence[str] | None = None,
    **settings: Any,
) -> FeatureFile | None:
    """Returns the features of a table, written to `out`; or None where only a shard of it was embedded.

    Args:
        encoder, source, out, device, restart, senses: as `embed_table` takes them.
        shard: "k/n", only part k of n; `video-ssl merge` puts them together.
        settings: fields of `EmbedConfig`, the flags of `video-ssl embed`.

    Raises:
        EmbeddingError, OutputError, FeatureError: as `embed_table` and `embed_shard`.
    """
    options = {"device": device, "restart": restart, "senses": senses, **settings}
    name, place = os.fspath(encoder), Path(out)
    if shard is None:
        return embed_table(name, os.fspath(source), place, **options)
    embed_shard(name, open_source(os.fspath(source)), place, shard, **options)
    return None
