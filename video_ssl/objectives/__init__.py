"""The table of objectives: one folder here, its recipes, its tests and one line below."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True)
class Entry:
    """Where an objective lives: `Config`, `Plan` and `Objective` in the modules of these names."""

    package: str
    framework: Literal["torch", "flax"] = "torch"

    def config(self) -> Any:
        return import_module(f"{self.package}.config").Config

    def plan(self) -> Any:
        return import_module(f"{self.package}.plan").Plan

    def objective(self) -> Any:
        return import_module(f"{self.package}.objective").Objective


OBJECTIVES: dict[str, Entry] = {
    "mae": Entry("video_ssl.objectives.mae"),
    "videomae": Entry("video_ssl.objectives.videomae"),
    "mvd": Entry("video_ssl.objectives.mvd"),
    "supervised": Entry("video_ssl.objectives.supervised"),
    "carl": Entry("video_ssl.objectives.carl"),
    "tcc": Entry("video_ssl.objectives.tcc"),
    "tcn": Entry("video_ssl.objectives.tcn"),
}
