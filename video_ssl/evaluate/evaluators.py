"""The table of evaluators: one file each, and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar, Protocol

from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.recipes import ConfigError, nearest

EVALUATORS: dict[str, str] = {
    "probe": "video_ssl.evaluate.probe:LinearProbe",
    "attentive": "video_ssl.evaluate.attentive.probe:AttentiveProbe",
    "finetune": "video_ssl.evaluate.finetune:Finetune",
    "knn": "video_ssl.evaluate.knn:NearestNeighbours",
    "low_shot": "video_ssl.evaluate.low_shot:LowShot",
    "retrieval": "video_ssl.evaluate.retrieval:Retrieval",
    "bottleneck_probe": "video_ssl.evaluate.bottleneck_probe:BottleneckProbe",
    "svm": "video_ssl.evaluate.svm:Svm",
    "multilabel_probe": "video_ssl.evaluate.multilabel_probe:MultilabelProbe",
    "text_to_video": "video_ssl.evaluate.pair_retrieval:TextToVideo",
    "video_to_text": "video_ssl.evaluate.pair_retrieval:VideoToText",
    "sound_to_video": "video_ssl.evaluate.pair_retrieval:SoundToVideo",
    "video_to_sound": "video_ssl.evaluate.pair_retrieval:VideoToSound",
    "phases": "video_ssl.evaluate.frames.phase_classification:PhaseClassification",
    "progression": "video_ssl.evaluate.frames.phase_progression:PhaseProgression",
    "kendalls_tau": "video_ssl.evaluate.frames.kendalls_tau:KendallsTau",
    "frame_retrieval": "video_ssl.evaluate.frames.frame_retrieval:FrameRetrieval",
    "frame_probe": "video_ssl.evaluate.frames.frame_probe:FrameProbe",
    "segmentation": "video_ssl.evaluate.frames.segmentation:Segmentation",
    "repetitions": "video_ssl.evaluate.frames.repetitions:Repetitions",
    "localisation": "video_ssl.evaluate.places.localisation:ActionLocalisation",
    "tracking": "video_ssl.evaluate.places.tracking:Tracking",
    "propagation": "video_ssl.evaluate.dense.label_propagation:LabelPropagation",
    "joints": "video_ssl.evaluate.dense.joint_propagation:JointPropagation",
    "visual_words": "video_ssl.evaluate.visual_words:VisualWords",
    "few_shot_phases": "video_ssl.evaluate.frames.few_shot:FewShotPhases",
}


class Evaluator(Protocol):
    """What an evaluator is: a class that is made from its settings.

    Attributes:
        Config: frozen dataclass of its settings.
        title: its name in tables and sentences.
        figures: metric -> how it is written, or what stands before its @; those that are not listed are shares, in
            percent, under their own name.
    """

    Config: ClassVar[type]
    title: ClassVar[str]
    figures: ClassVar[Mapping[str, Figure]]

    def __init__(self, config: Any) -> None: ...

    @property
    def needs(self) -> Needs:
        """What it works with, with these settings."""

    def evaluate(self, given: Context) -> Result:
        """Returns what features of `given.test` are worth to something fitted on `given.train` only.

        One that works on feature files alone asks for no more than `Given`.

        Raises:
            FeatureError: features that it cannot use.
        """


def evaluator_class(name: str) -> type[Evaluator]:
    """Returns the class of an evaluator by its name.

    Raises:
        ConfigError: no such evaluator; the nearest is named.
    """
    if name not in EVALUATORS:
        raise ConfigError(
            f"unknown evaluator {name!r}: there are {sorted(EVALUATORS)}.{nearest(name, EVALUATORS)}"
        )
    module, attribute = EVALUATORS[name].split(":")
    found: type[Evaluator] = getattr(import_module(module), attribute)
    return found


def title_of(evaluator: str) -> str:
    """Returns the title of an evaluator by its name; the name itself where the table has it no longer."""
    return evaluator_class(evaluator).title if evaluator in EVALUATORS else evaluator


def learns_on(evaluator: str) -> bool:
    """Whether encoders learn on in an evaluator, by its name, in place of being frozen."""
    return evaluator in EVALUATORS and getattr(evaluator_class(evaluator), "learns_on", False)


def figure_of(evaluator: str, metric: str) -> Figure:
    """Returns how a number of an evaluator is written, its title filled in; `R2@50%` as `R2` where it has no own."""
    figures = evaluator_class(evaluator).figures if evaluator in EVALUATORS else {}
    found = figures.get(metric) or figures.get(metric.partition("@")[0], Figure())
    return found if found.title else replace(found, title=metric)
