"""The table of objectives: one folder here, its recipes, its tests and one line below."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from video_ssl.objectives.shared.objective_config import ObjectiveConfig
from video_ssl.objectives.shared.objective_plan import ObjectivePlan


@dataclass(frozen=True)
class Entry:
    """Where an objective lives: `Config`, `Plan`, `Objective` in modules of these names, or `objective_flax`.

    Attributes:
        package: its folder, dotted.
        framework: of its `Objective`.
        several_streams: it takes several streams of data: in place of `Plan` its module `plan` has a function
            `plans(config)`, name of the stream -> plan, the main one first.
    """

    package: str
    framework: Literal["torch", "flax"] = "torch"
    several_streams: bool = False

    def config(self) -> type[ObjectiveConfig]:
        return import_module(f"{self.package}.config").Config

    def plans(self, config: Any) -> dict[str, ObjectivePlan]:
        """Returns the plans of the streams of data, the main one first; its name stands nowhere else."""
        module = import_module(f"{self.package}.plan")
        found: dict[str, ObjectivePlan] = (
            module.plans(config) if self.several_streams else {"main": module.Plan(config)}
        )
        return found

    def main_plan(self, config: Any) -> ObjectivePlan:
        """Returns the plan of the main stream."""
        return next(iter(self.plans(config).values()))

    def objective(self) -> Any:
        module = "objective" if self.framework == "torch" else f"objective_{self.framework}"
        return import_module(f"{self.package}.{module}").Objective


OBJECTIVES: dict[str, Entry] = {
    "mae": Entry("video_ssl.objectives.mae"),
    "videomae": Entry("video_ssl.objectives.videomae"),
    "mvd": Entry("video_ssl.objectives.mvd"),
    "supervised": Entry("video_ssl.objectives.supervised"),
    "supervised_sound": Entry("video_ssl.objectives.supervised_sound"),
    "carl": Entry("video_ssl.objectives.carl"),
    "tcc": Entry("video_ssl.objectives.tcc"),
    "tcn": Entry("video_ssl.objectives.tcn"),
    "cvrl": Entry("video_ssl.objectives.cvrl", "flax"),
    "teg": Entry("video_ssl.objectives.teg", "flax"),
    "const_cl": Entry("video_ssl.objectives.const_cl", "flax"),
    "bevt": Entry("video_ssl.objectives.bevt", several_streams=True),
    "tokenizer": Entry("video_ssl.objectives.tokenizer"),
    "hico": Entry("video_ssl.objectives.hico"),
    "vatt": Entry("video_ssl.objectives.vatt", "flax"),
}
