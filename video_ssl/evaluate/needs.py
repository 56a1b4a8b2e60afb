"""Whether evaluators will get what they need; asked before the first video is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.evaluators import Evaluator
from video_ssl.models.contract import Encoder


def embed_settings(config: EmbedConfig, evaluators: Mapping[str, Evaluator]) -> EmbedConfig:
    """Returns the settings under which all outputs that evaluators need are embedded, beside those of `config`.

    Raises:
        FeatureError: `config.frames` is false and an evaluator needs moments.
    """
    names = list(config.names)
    for title, evaluator in evaluators.items():
        for name in evaluator.needs.outputs:
            if name == "moments" and not config.frames:
                raise FeatureError(
                    f"evaluators.{title} needs the output 'moments', which embed.frames=false leaves out: take that "
                    "away, or give it other settings (such as pooling 'clip')."
                )
            if name not in names:
                names.append(name)
    return replace(config, outputs=tuple(names))


def check_encoder(name: str, encoder: Encoder, evaluators: Mapping[str, Evaluator]) -> None:
    """Raises FeatureError where an encoder does not have the outputs that an evaluator needs."""
    for title, evaluator in evaluators.items():
        _check_outputs(title, evaluator, encoder.output_names, f"the encoder {name!r} has")


def check_files(
    name: str, files: Mapping[str, FeatureFile], evaluators: Mapping[str, Evaluator]
) -> None:
    """Raises FeatureError where given feature files do not hold what an evaluator needs."""
    for title, evaluator in evaluators.items():
        needs = evaluator.needs
        if needs.encoder or needs.reader:
            what = "an encoder" if needs.encoder else "the videos"
            raise FeatureError(
                f"evaluators.{title} needs {what}, but encoders.{name} names feature files: name a run there."
            )
        for file in files.values():
            where = f"{file.path or 'the features'} has"
            _check_outputs(title, evaluator, tuple(file.outputs), where)


def check_tables(tables: Mapping[str, Table], evaluators: Mapping[str, Evaluator]) -> None:
    """Raises FeatureError where a table lacks the labels that an evaluator needs."""
    for title, evaluator in evaluators.items():
        for split, table in tables.items():
            if evaluator.needs.labels and (lacking := _without_label(table)):
                raise FeatureError(
                    f"evaluators.{title} needs the class of every video, but {lacking} of {len(table)} videos of "
                    f"{split} are without a label. Use a table with labels, or select its labelled rows."
                )
            if evaluator.needs.frame_labels and not _has_frame_labels(table):
                raise FeatureError(
                    f"evaluators.{title} needs labels of frames, but no video of {split} has frame_labels. Use a table "
                    "with them."
                )


def _check_outputs(title: str, evaluator: Evaluator, there: tuple[str, ...], where: str) -> None:
    lacking = [name for name in evaluator.needs.outputs if name not in there]
    if lacking:
        raise FeatureError(
            f"evaluators.{title} needs the output {lacking[0]!r}, but {where} {', '.join(there)} only. Leave it out, "
            "or give it other settings."
        )


def _without_label(table: Table) -> int:
    if "label" not in table.column_names:
        return len(table)
    return int((table.column("label") < 0).sum())


def _has_frame_labels(table: Table) -> bool:
    if "frame_labels" not in table.column_names:
        return False
    labels = (table.record(index).frame_labels for index in range(len(table)))
    return any(own is not None and len(own) > 0 for own in labels)
