"""A few generated videos with their tables, as `video-ssl data demo` makes them: a whole folder takes a minute."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from video_ssl.datasets.demo.mp4 import write_mp4
from video_ssl.datasets.demo.rows import clip_row, segment_rows
from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.video import VideoPlan
from video_ssl.datasets.demo.worlds import plan_of, world_of
from video_ssl.datasets.table import Table
from video_ssl.recipes import to_plain


def settings_of(world: str = "demo", **nuisances: float) -> dict[str, Any]:
    """Returns what the metadata of a table say of its generator."""
    config = to_plain(NuisanceConfig(**nuisances))
    return {"format": world_of(world).format, "size": "tiny", "seed": 3, "nuisances": config}


def generated_table(folder: Path, split: str, indices: Iterable[int], **nuisances: float) -> Path:
    """Writes videos of a split and the table of them, of a split of sessions that of their segments."""
    settings, world, rows = settings_of(**nuisances), world_of("demo"), []
    for index in indices:
        plan = plan_of(settings, split, index)
        write_plan(folder, plan)
        rows += segment_rows(world, plan) if plan.topic is not None else [clip_row(world, plan)]
    path = folder / f"{split}.arrow"
    Table.from_rows(rows, root=folder, class_names=world.class_names, generator=settings).save(path)
    return path


def write_plan(folder: Path, plan: VideoPlan) -> None:
    """Writes the video of a plan below a folder."""
    path = folder / plan.source
    path.parent.mkdir(parents=True, exist_ok=True)
    size = plan.size
    write_mp4(path, plan.scene().frames(), plan.sound(), fps=size.fps, size=size.frame_px)
