"""`video-ssl predict`: labels and scores of new videos, by a head that an evaluation chose or a fine-tuned classifier.

Videos become features as those did that the head has learned from; a head never sees the features of another encoder.
A video that cannot be read is named with its reason, in the file and in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from video_ssl.datasets.paths import at_home
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table, open_source
from video_ssl.embed.features import FeatureFile, open_features
from video_ssl.embed.open_encoder import open_encoder
from video_ssl.evaluate.accuracy import Accuracy, accuracy
from video_ssl.evaluate.heads import HeadError
from video_ssl.evaluate.judges import Judge, open_judge
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.evaluate.predictions import (
    Answer,
    Predictions,
    claim_predictions,
    write_predictions,
)
from video_ssl.files import temporary_folder

logger = logging.getLogger(__name__)

_NAMED = 5
#: Settings of an embedding that say where in a video its clips lie.
_PLACES = ("num_clips", "hop", "stride_sec", "overlap", "per_frame", "sampling")


def predict(
    head: str | Path,
    source: str,
    out: str | Path,
    *,
    encoder: str | None = None,
    device: str = "auto",
    features: Path | None = None,
    config: PredictConfig | None = None,
) -> Predictions:
    """Returns what a head says about videos, written to `out`.

    Args:
        head: the folder of a head, an evaluation that has left one, or a run (or encoder folder) with a classifier.
        source: a video, folder, list, table or data set; or `features:FILE`, features that are there already.
        out: ends in .json, .csv or .parquet.
        encoder: that the head was made for, where it lies elsewhere now.
        device: auto, cpu, cuda.
        features: where features are kept; a second call then goes on with them. None: nowhere.
        config: how labels are written.

    Raises:
        HeadError: no such head, a damaged one, or features of another encoder.
        OutputError: `out` is somebody else's file, or cannot be written.
        EncoderError, TableError, EmbeddingError: see there; of no video a single frame could be read.
    """
    config = config or PredictConfig()
    place = claim_predictions(Path(at_home(str(out))), [source])
    told = judged(head, source, encoder=encoder, device=device, features=features, config=config)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(place, told, top_k=config.top_k, each=config.each)
    logger.info("%s: %d videos by %s", place, len(told.answers), told.about["head"])
    if told.accuracy is not None:
        logger.info("%s", told.accuracy)
    for entry in told.unreadable[:_NAMED]:
        logger.warning("could not be read: %s: %s", entry["source"], entry["reason"])
    if len(told.unreadable) > _NAMED:
        logger.warning("and %d more, listed in %s", len(told.unreadable) - _NAMED, place)
    return told


def judged(
    head: str | Path,
    source: str,
    *,
    encoder: str | None = None,
    device: str = "auto",
    features: Path | None = None,
    config: PredictConfig | None = None,
) -> Predictions:
    """Returns what a head says about videos; as `predict`, but nothing is written."""
    config = config or PredictConfig()
    judge = open_judge(Path(at_home(str(head))), encoder, config, device)
    with _features(judge, source, device, features) as (found, table):
        answers, parts = judge.answers(found, table)
        skipped = [
            {"id": e.get("id"), "source": e.get("source"), "reason": e.get("reason")}
            for e in found.skipped
        ]
        right = None if parts == "segments" else _accuracy(judge.class_names, answers, found)
    return Predictions(
        class_names=judge.class_names,
        answers=answers,
        unreadable=skipped,
        parts="segments" if parts == "segments" else "clips",
        about={"head": judge.told, "encoder": judge.spec, "source": str(source)},
        accuracy=right,
    )


def _accuracy(
    class_names: Sequence[str], answers: Sequence[Answer], found: FeatureFile
) -> Accuracy | None:
    first, _ = found.records
    labels = dict(zip(found.ids[first].tolist(), found.labels[first].tolist(), strict=True))
    return accuracy(
        {answer.id: answer.whole.shares for answer in answers},
        labels,
        ours=class_names,
        theirs=found.metadata.get("class_names") or (),
    )


@contextmanager
def _features(
    judge: Judge, source: str, device: str, kept: Path | None
) -> Iterator[tuple[FeatureFile, Table | None]]:
    """The features that are judged, and the table they are of."""
    if source.startswith("features:"):
        found = open_features(source.removeprefix("features:"))
        _refuse_other_encoder(judge, _fingerprint_of(found), str(found.path))
        _refuse_other_settings(judge, found)
        yield found, None
        return
    if judge.spec is None:
        raise HeadError(
            f"{judge.told} was made for features of an encoder that it does not name: add --encoder, or give "
            "features:FILE in place of videos."
        )
    encoder = open_encoder(judge.spec, device)
    _refuse_other_encoder(judge, encoder.fingerprint, judge.spec)
    del encoder
    table = open_source(source)
    settings = {name: getattr(judge.embed, name) for name in _fields(judge.embed)}
    with temporary_folder("predict") as folder:
        place = folder / "features.arrow" if kept is None else kept
        yield embed_table(judge.spec, source, place, device=device, **settings), table


def _fields(config: EmbedConfig) -> Mapping[str, Any]:
    return config.__dataclass_fields__


def _fingerprint_of(found: FeatureFile) -> str | None:
    made = (found.metadata.get("encoder") or {}).get("fingerprint")
    return made if isinstance(made, str) else None


def _refuse_other_encoder(judge: Judge, fingerprint: str | None, where: str) -> None:
    if judge.fingerprint is None or fingerprint is None:
        logger.warning(
            "%s: nobody knows whether these are features of the encoder that %s was made for",
            where,
            judge.told,
        )
    elif judge.fingerprint != fingerprint:
        raise HeadError(
            f"{judge.told} was made for another encoder (fingerprint {judge.fingerprint[:12]}) than that of {where} "
            f"({fingerprint[:12]}): name the encoder that it was made for with --encoder, or evaluate this one."
        )


def _refuse_other_settings(judge: Judge, found: FeatureFile) -> None:
    """Features of the same encoder that were made otherwise are other numbers, of the same width."""
    there, wanted = found.metadata.get("settings") or {}, judge.embed.content
    free = {"backend", "frames", "outputs", *(_PLACES if judge.clips_apart else ())}
    other = [
        f"{name} {there[name]} (the head: {wanted[name]})"
        for name in wanted
        if name in there and name not in free and there[name] != wanted[name]
    ]
    if other:
        raise HeadError(
            f"{found.path} was embedded otherwise than what {judge.told} has learned from: {'; '.join(other)}. Give "
            "the videos, or embed them as it was made."
        )
