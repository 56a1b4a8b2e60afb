"""`video-ssl embed`: the whole of a table, or a shard of it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table, open_source
from video_ssl.embed.shards import embed_shard


def embed_from_command(
    encoder: str,
    source: str,
    out: Path,
    config: EmbedConfig,
    *,
    device: str,
    restart: bool,
    shard: str | None,
) -> None:
    """Writes the features of a table, or with `shard` those of a part of it."""
    options: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    options |= {"device": device, "restart": restart}
    if shard is not None:
        embed_shard(encoder, open_source(source), out, shard, **options)
    else:
        embed_table(encoder, source, out, **options)
