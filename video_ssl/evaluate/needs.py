"""Whether evaluators will get what they need; asked before the first video is decoded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from video_ssl.datasets.class_names import listed, numbers_by_name, used_names
from video_ssl.datasets.table import Table, TableError
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.evaluators import Evaluator
from video_ssl.models.contract import COMMON_WITH, TOKENS, Encoder
from video_ssl.models.preprocess_config import Modality

#: Extra of video_ssl -> (module that is imported, package that brings it).
EXTRAS = {"phases": ("sklearn", "scikit-learn")}


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


def sense_settings(config: EmbedConfig, sense: Modality) -> EmbedConfig:
    """Returns how the test videos are embedded as they are heard or told: what `config` says of frames is left out."""
    plain = replace(config.without_frames, strict=config.strict)
    if sense == "text":
        return plain
    return replace(plain, num_clips=config.num_clips, stride_sec=config.stride_sec)


def wanted_senses(evaluators: Mapping[str, Evaluator]) -> tuple[Modality, ...]:
    """Returns the senses beside video that evaluators need, each once."""
    return tuple(dict.fromkeys(sense for own in evaluators.values() for sense in own.needs.senses))


def check_encoder(
    name: str, encoder: Encoder, evaluators: Mapping[str, Evaluator], settings: EmbedConfig
) -> None:
    """Raises FeatureError where an encoder does not have the outputs that an evaluator needs, or would give all tokens
    where `settings` ask for a part of them."""
    for title, evaluator in evaluators.items():
        if evaluator.needs.tokens:
            _refuse_thinned(settings, f"evaluators.{title}")
        _check_outputs(title, evaluator, encoder.output_names, f"the encoder {name!r} has")
        if evaluator.needs.visual_words and encoder.vocab_size is None:
            raise FeatureError(
                f"evaluators.{title} looks at the words of a tokenizer, and the encoder {name!r} has none: take the "
                "encoder of a training of the objective tokenizer."
            )
        if (evaluator.needs.maps or evaluator.needs.tokens) and TOKENS not in encoder.output_names:
            raise FeatureError(
                f"evaluators.{title} looks at tokens, of places in the frame, but the encoder {name!r} gives only "
                f"{', '.join(encoder.output_names)}: take one that gives tokens."
            )


def _refuse_thinned(settings: EmbedConfig, who: str) -> None:
    """Raises FeatureError where a part of the tokens is asked for, but all that the encoder makes would be read."""
    if settings.tokens_side is not None or settings.tokens_every != 1:
        raise FeatureError(
            f"{who} reads all tokens that the encoder makes of the videos, and embed.tokens_side="
            f"{settings.tokens_side}, embed.tokens_every={settings.tokens_every} keep a part of them: leave these out, "
            "or embed with them (video-ssl embed --outputs clip,tokens) and name features:TRAIN,TEST."
        )


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
        if needs.train and "train" not in files:
            raise FeatureError(
                f"evaluators.{title} learns, but encoders.{name} names no features of train: features:TRAIN,TEST."
            )
        for sense in needs.senses:
            if sense not in files:
                raise FeatureError(
                    f"evaluators.{title} needs features of {sense}: write features:TRAIN,TEST,{sense}=FILE behind "
                    f"encoders.{name}."
                )
            lacking = COMMON_WITH[sense] not in files[sense].outputs
            if lacking:
                raise FeatureError(
                    f"evaluators.{title} needs the output {COMMON_WITH[sense]!r}, but {files[sense].path} has "
                    f"{', '.join(files[sense].outputs)} only."
                )
        for split in ("train", "test"):
            if split in files and (needs.train or split == "test"):
                where = f"{files[split].path or 'the features'} has"
                there = tuple(files[split].outputs)
                _check_outputs(title, evaluator, there, where)
                if needs.tokens and TOKENS not in there:
                    raise FeatureError(
                        f"evaluators.{title} needs tokens, but {where} {', '.join(there)} only: embed again with "
                        "outputs=tokens (video-ssl embed --outputs clip,tokens), or name a run there."
                    )


def check_processes(evaluators: Mapping[str, Evaluator], world_size: int) -> None:
    """Raises FeatureError where an evaluator that must be alone would run under several processes."""
    for title, evaluator in evaluators.items():
        if world_size > 1 and evaluator.needs.alone:
            raise FeatureError(
                f"evaluators.{title} is for one process, and there are {world_size}: start it without torchrun, or "
                "leave it out."
            )


def check_packages(evaluators: Mapping[str, Evaluator]) -> None:
    """Raises FeatureError where an extra of video_ssl is not installed that an evaluator needs."""
    for title, evaluator in evaluators.items():
        for extra in evaluator.needs.extras:
            module, package = EXTRAS[extra]
            if importlib.util.find_spec(module) is None:
                raise FeatureError(
                    f"evaluators.{title} needs {package}: pip install 'video_ssl[{extra}]', or leave it out."
                )


def check_tables(tables: Mapping[str, Table], evaluators: Mapping[str, Evaluator]) -> None:
    """Raises FeatureError where a table lacks the labels, or the truth, that an evaluator needs, or has one class."""
    for title, evaluator in evaluators.items():
        told = "text" not in evaluator.needs.senses or all(
            _has_captions(table) for split, table in tables.items() if split == "test"
        )
        if not told:
            raise FeatureError(
                f"evaluators.{title} needs captions, but no video of test has one. Use a table with them "
                "(docs/data.md)."
            )
        for split, table in tables.items():
            if split == "train" and not evaluator.needs.train:
                continue
            if evaluator.needs.labels and (lacking := _without_label(table)):
                raise FeatureError(
                    f"evaluators.{title} needs the class of every video, but {lacking} of {len(table)} videos of "
                    f"{split} are without a label. Use a table with labels, or select its labelled rows."
                )
            if evaluator.needs.several_classes and split == "train":
                _refuse_one_class(title, table)
            if evaluator.needs.frame_labels and not _has_frame_labels(table):
                raise FeatureError(
                    f"evaluators.{title} needs labels of frames, but no video of {split} has frame_labels. Use a table "
                    "with them."
                )

            if evaluator.needs.boxes and "boxes" not in table.column_names:
                raise FeatureError(
                    f"evaluators.{title} needs boxes, but {split} has no column boxes. Use a table with them "
                    "(docs/data.md)."
                )
            if evaluator.needs.truth is not None:
                try:
                    evaluator.needs.truth(table)
                except TableError as err:
                    raise FeatureError(
                        f"evaluators.{title} cannot judge videos of {split}: {err}"
                    ) from err


def _refuse_one_class(title: str, table: Table) -> None:
    found = np.unique(table.column("label"))
    if len(found) < 2:
        names = table.class_names
        name = names[found[0]] if found[0] < len(names) else str(found[0])
        raise FeatureError(
            f"evaluators.{title} tells classes apart, but all {len(table)} videos of train are of one class ({name}). "
            "Use a table with several."
        )


def told_about_classes(train: Table, test: Table) -> list[str]:
    """Returns what there is to say about the classes of two tables, which are the same where their names are.

    Raises:
        FeatureError: both tables have labels with names, and not one name is in both.
    """
    ours, theirs = train.class_names, test.class_names
    if not ours or not theirs:
        return []
    learned, asked = (used_names(t.class_names, _all_labels(t)) for t in (train, test))
    if not learned or not asked:
        return []
    if not learned & asked:
        raise FeatureError(
            f"no class of test ({listed(sorted(asked))}) is in train ({listed(sorted(learned))}): the same names must "
            "stand for the same classes."
        )
    lines = []
    if numbers_by_name(ours, theirs) is not None:
        lines.append("train and test number their classes differently: they are matched by name")
    if learned - asked:
        lines.append(f"classes without a test video: {listed(sorted(learned - asked))}")
    if asked - learned:
        several = "labels" in train.column_names or "labels" in test.column_names
        what = "nothing is learned of them" if several else "their videos count as wrong"
        lines.append(
            f"classes of test that train does not have, so that {what}: {listed(sorted(asked - learned))}"
        )
    return lines


def _all_labels(table: Table) -> np.ndarray:
    """The classes of all videos, those of the column `label` and those of `labels`."""
    found = [table.column("label")] if "label" in table.column_names else []
    if "labels" in table.column_names:
        several = pc.drop_null(pc.list_flatten(table.arrow["labels"]))
        found.append(several.to_numpy())
    return np.concatenate([np.zeros(0, np.int32), *found])


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


def _has_captions(table: Table) -> bool:
    if "captions" not in table.column_names:
        return False
    return any(table.record(index).captions for index in range(len(table)))


def _has_frame_labels(table: Table) -> bool:
    if "frame_labels" not in table.column_names:
        return False
    labels = (table.record(index).frame_labels for index in range(len(table)))
    return any(own is not None and len(own) > 0 for own in labels)
