"""WHICH videos: tables of records, and where they come from (numpy and pyarrow only)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_ssl.datasets.opening import open_table as open_table


def __getattr__(name: str) -> Any:
    """Imports on use: every data worker passes through this file."""
    if name == "open_table":
        from video_ssl.datasets.opening import open_table

        return open_table
    raise AttributeError(f"module 'video_ssl.datasets' has no attribute {name!r}")
