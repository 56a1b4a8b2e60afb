"""What `video-ssl embed` is told: the whole of a table, or a shard of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table, open_source
from video_ssl.embed.shards import embed_shard
from video_ssl.recipes import build_config


def embed_from_command(encoder: str, source: str, out: Path, **options: Any) -> None:
    """Does what `video-ssl embed` is told; settings are checked as those of a recipe are."""
    device, restart, shard = (options.pop(name) for name in ("device", "restart", "shard"))
    build_config(EmbedConfig, options, "embed")
    if shard is not None:
        videos = open_source(source)
        embed_shard(encoder, videos, out, shard, device=device, restart=restart, **options)
        return
    embed_table(encoder, source, out, device=device, restart=restart, **options)
