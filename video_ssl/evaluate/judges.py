"""Heads that are ready to judge features: a classifier that was fine-tuned, or what an evaluation has chosen.

Each says which encoder it needs, how videos become features for it, and what it makes of features.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.embed.open_encoder import open_encoder
from video_ssl.evaluate.attentive.probe import AttentiveConfig, head_maker
from video_ssl.evaluate.attentive.tokens import ClipTokens, LiveTokens, StoredTokens, VideoTokens
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.evaluate.heads import HEAD, HeadError, SavedHead, find_head, read_head
from video_ssl.evaluate.linear import LinearHeads
from video_ssl.evaluate.neighbours import unit_rows
from video_ssl.evaluate.pooling import outputs_of, pooled_features
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.evaluate.predictions import (
    Answer,
    Span,
)
from video_ssl.models.classifier_folder import Classifier, load_classifier
from video_ssl.models.contract import TOKENS
from video_ssl.models.encoder_folder import CLASSIFIER, EncoderError, find_encoder
from video_ssl.pretrain.processes import choose_device
from video_ssl.recipes import ConfigError, build_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """A head that is ready.

    Attributes:
        told: what it is, in words.
        spec: of the encoder; None where only features are judged.
        fingerprint: of the encoder that it was made for; None where nobody knows.
        clips_apart: it judges every clip for itself, wherever in the video that lies.
        answers: of features, and the table they are of (None where there is none), and what their parts are.
    """

    told: str
    spec: str | None
    fingerprint: str | None
    class_names: tuple[str, ...]
    embed: EmbedConfig
    clips_apart: bool
    answers: Callable[[FeatureFile, Table | None], tuple[list[Answer], str]]


def open_judge(path: Path, encoder: str | None, config: PredictConfig, device: str) -> Judge:
    """Returns the head that a path names.

    Raises:
        HeadError: there is none, or it is damaged.
    """
    if path.is_dir() and not (path / HEAD).is_file() and (own := _classifier_of(path)) is not None:
        # Heads of its evaluations are of other classes, and of frozen features.
        if encoder is not None:
            raise HeadError(f"{path} brings its own encoder: leave out --encoder.")
        if any(path.glob(f"evaluate/*/heads/*/{HEAD}")):
            logger.info("by the classifier of %s; heads of its evaluations: name their folder", own)
        return _fine_tuned_judge(own, config)
    folder = find_head(path) if path.is_dir() else None
    if folder is not None:
        return _saved_judge(read_head(folder), encoder, config, device)
    if not path.exists():
        raise HeadError(f"no head {path}: give a folder of {HEAD}, of an evaluation, or of a run.")
    try:
        place = find_encoder(path)
    except EncoderError as err:
        raise HeadError(f"{path} has neither a head ({HEAD}) nor an encoder: {err}") from err
    raise HeadError(
        f"{path} has no classifier ({place / CLASSIFIER}) and no head of an evaluation: fine-tune it (video-ssl "
        f"pretrain supervised/finetune_demo objective.init.run={path} data.table=TABLE), or evaluate it (video-ssl "
        f"evaluate probe encoder={path} train=TABLE test=TABLE)."
    )


def _classifier_of(path: Path) -> Path | None:
    """The encoder of a run that has a classifier; None where there is none."""
    try:
        place = find_encoder(path)
    except EncoderError:
        return None
    return place if (place / CLASSIFIER).is_file() else None


def _fine_tuned_judge(place: Path, config: PredictConfig) -> Judge:
    classifier = load_classifier(place)
    protocol = classifier.protocol
    made = EmbedConfig(
        num_clips=protocol.clips,
        num_crops=protocol.crops,
        crop="spread" if protocol.crops > 1 else "center",
        center_share=protocol.center_share if protocol.crops == 1 else 1.0,
        pooling=_pooling(protocol.pooling),
        frames=False,
    )
    encoder = open_encoder(str(place))
    seen = getattr(encoder.preprocess, "size", None)
    if protocol.size not in (None, seen):
        logger.warning(
            "the accuracy in %s was found on squares of %d px; videos are shown at %s px here, that of the encoder",
            place / CLASSIFIER,
            protocol.size,
            seen,
        )
    names = tuple(protocol.name(label) for label in range(protocol.num_classes))

    def answers(found: FeatureFile, table: Table | None) -> tuple[list[Answer], str]:
        _refuse_width(found, classifier.weight.shape[1])
        given = _of_clips(found, _clip_shares(classifier, found.features))
        if protocol.merges_scores:  # which is not the mean of what is said of each
            own = (classifier.shares(found.features[found.ids == answer.id]) for answer in given)
            given = [
                replace(answer, whole=replace(answer.whole, shares=shares))
                for answer, shares in zip(given, own, strict=True)
            ]
        return given, "clips"

    return Judge(
        told=f"the classifier of {place}",
        spec=str(place),
        fingerprint=encoder.fingerprint,
        class_names=names,
        embed=config.embed(made, may_move=True),
        clips_apart=True,
        answers=answers,
    )


def _clip_shares(classifier: Classifier, features: np.ndarray) -> np.ndarray:
    return np.stack([classifier.shares(clip[None]) for clip in features])


def _pooling(name: str) -> Any:
    if name not in ("mean", "cls"):
        raise HeadError(f"the classifier reads the pooling {name!r}; there are mean and cls.")
    return name


def _saved_judge(head: SavedHead, encoder: str | None, config: PredictConfig, device: str) -> Judge:
    try:
        made = build_config(EmbedConfig, head.about["embed"], f"{head.folder / HEAD}: embed")
    except ConfigError as err:
        raise HeadError(f"{err} Evaluate again with this version.") from err
    spec = encoder or head.encoder
    apart = head.kind == "linear" or head.settings.get("clips") == "apart"
    if config.each == "clip" and head.kind == "attentive" and not apart:
        raise HeadError(
            f"{head.folder} judges all clips of a video together, so there is no row for each clip (each=clip): ask "
            "for videos (--each video), or evaluate again with evaluators.attentive.clips=apart."
        )
    makers = {"linear": _linear, "attentive": _attentive, "frames": _frames}
    own = config.embed(made, may_move=apart)
    if head.kind == "linear" and outputs_of([str(head.settings.get("pooling"))]) == ("clip",):
        own = replace(own, frames=False)
    answers = makers[head.kind](head, spec, own, device)
    return Judge(
        told=f"the head in {head.folder}",
        spec=spec,
        fingerprint=head.fingerprint,
        class_names=head.class_names,
        embed=own,
        clips_apart=apart,
        answers=answers,
    )


_Answers = Callable[[FeatureFile, Table | None], tuple[list[Answer], str]]


def _linear(head: SavedHead, spec: str | None, embed: EmbedConfig, device: str) -> _Answers:
    try:
        model = LinearHeads.of_arrays(head.weights)
    except (KeyError, ValueError) as err:
        raise HeadError(f"{head.folder}: {err} Evaluate again.") from err
    if model.num_classes != len(head.class_names):
        raise _other_classes(head, model.num_classes)

    def answers(found: FeatureFile, table: Table | None) -> tuple[list[Answer], str]:
        x = pooled_features(found, str(head.settings["pooling"]))
        if x.shape[1] != len(model.mean):
            raise _other_width(found, x.shape[1], len(model.mean))
        return _of_clips(found, model.predict(x)[:, 0]), "clips"

    return answers


def _attentive(head: SavedHead, spec: str | None, embed: EmbedConfig, device: str) -> _Answers:
    settings = head.settings
    kept = ("pooler", "depth", "num_heads", "clips", "frame_positions")
    shown = {key: settings[key] for key in kept if key in settings}
    try:
        config = build_config(AttentiveConfig, shown, f"{head.folder / HEAD}: settings")
    except ConfigError as err:
        raise HeadError(str(err)) from err

    stored = settings.get("tokens") == "stored"
    thinned = embed.tokens_side is not None or embed.tokens_every != 1
    if not stored and "tokens" not in settings and spec is not None and thinned:
        raise HeadError(
            f"{head.folder} was left by an earlier version, which did not say which tokens it has learned from, and "
            "its features keep a part of them only: evaluate again."
        )

    def answers(found: FeatureFile, table: Table | None) -> tuple[list[Answer], str]:
        if not stored and (table is None or spec is None):
            raise HeadError(
                f"{head.folder} reads tokens, which the encoder makes of videos: give videos, and --encoder where the "
                "head does not name one."
            )
        where = choose_device(device)
        source: ClipTokens
        if stored:
            source = StoredTokens(found)
            width = found.require(TOKENS).width
        else:
            assert table is not None
            assert spec is not None
            given = Context(
                train=found,
                test=found,
                device=where,
                encoder=open_encoder(spec, device),
                tables={"test": table},
                settings=embed,
            )
            source = LiveTokens(given, "test", found, frame_positions=config.frame_positions)
            width = source.encoder.output_dim(TOKENS, layer=embed.layer)
        tokens = VideoTokens(
            source, num_crops=int(settings.get("num_crops", 1)), layout=config.layout, room=0
        )
        try:
            model = head_maker(config, width, len(head.class_names))()
            model.load_state_dict({k: torch.tensor(v) for k, v in head.weights.items()})
        except (ValueError, RuntimeError) as err:
            raise HeadError(
                f"the weights in {head.folder} do not fit its settings and tokens of {width} numbers: {err}"
            ) from err
        model = model.to(where).eval()
        first, index = found.records
        shares, clips = [], []
        with torch.no_grad():
            for video in range(len(first)):  # one by one: they may have different numbers of clips
                ((_, batch),) = tokens.batches([video], 1)
                views = torch.from_numpy(batch).to(where).float()[0]
                own = model(views).float().softmax(-1).cpu().numpy()
                shares.append(own.mean(0))
                rows = int((index == video).sum())  # of a sequence of clips there is one answer
                clips.append(own if len(own) == rows else np.repeat(own[:1], rows, 0))
        order = np.concatenate([np.flatnonzero(index == v) for v in range(len(first))])
        flat = np.empty((len(index), len(head.class_names)))
        flat[order] = np.concatenate(clips)
        answered = _of_clips(found, flat)
        return [
            replace(
                answer,
                whole=replace(answer.whole, shares=own),
                parts=answer.parts if config.layout == "apart" else [],
            )
            for answer, own in zip(answered, shares, strict=True)
        ], "clips"

    return answers


def _frames(head: SavedHead, spec: str | None, embed: EmbedConfig, device: str) -> _Answers:
    weight, bias = (head.weights.get(name) for name in ("weight", "bias"))
    if weight is None or bias is None or weight.shape[:1] != bias.shape:
        raise HeadError(f"{head.folder} lacks weight and bias that fit: evaluate again.")
    if len(bias) != len(head.class_names):
        raise _other_classes(head, len(bias))
    scale, shift = weight.T.astype(np.float64), bias.astype(np.float64)

    def answers(found: FeatureFile, table: Table | None) -> tuple[list[Answer], str]:
        _refuse_width(found, len(scale))
        frames = frame_sequences(found, labelled=False)
        places = {key: row for row, key in reversed(list(enumerate(found.ids.tolist())))}
        sources = found.table["source"]
        given = []
        for key, embs, times in zip(frames.ids, frames.embs, frames.times, strict=True):
            x = unit_rows(embs) if head.settings.get("normalize", True) else embs
            scores = x.astype(np.float64) @ scale + shift
            shares = _softmax(scores)
            source = sources[places[key]].as_py()
            given.append(_segmented(key, source or "", shares, times))
        return given, "segments"

    return answers


def _segmented(key: str, source: str, shares: np.ndarray, times: np.ndarray) -> Answer:
    """Maximal stretches with one surest class; each ends where the next begins, the last with the last frame."""
    labels = shares.argmax(axis=1)
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    ends = [*starts[1:].tolist(), len(labels)]
    parts = [
        Span(
            start_sec=float(times[a]),
            end_sec=float(times[b] if b < len(times) else times[-1]),
            shares=shares[a:b].mean(axis=0),
        )
        for a, b in zip(starts.tolist(), ends, strict=True)
    ]
    whole = Span(start_sec=float(times[0]), end_sec=float(times[-1]), shares=shares.mean(axis=0))
    return Answer(id=key, source=source, whole=whole, parts=parts)


def _of_clips(found: FeatureFile, shares: np.ndarray) -> list[Answer]:
    """Every video: the mean of its clips (N, K)."""
    first, index = found.records
    starts, ends = (
        found.table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        if found.table[name].null_count < len(found)
        else np.full(len(found), np.nan)
        for name in ("start_sec", "end_sec")
    )
    crops = int((found.metadata.get("settings") or {}).get("num_crops", 1))
    windows = found.table["clip"].to_numpy() // crops
    answers = []
    for video, row in enumerate(first.tolist()):
        rows = np.flatnonzero(index == video)
        rows = rows[np.argsort(starts[rows], kind="stable")]
        known = np.isfinite(starts[rows]).any()
        whole = Span(
            start_sec=float(np.nanmin(starts[rows])) if known else float("nan"),
            end_sec=float(np.nanmax(ends[rows])) if known else float("nan"),
            shares=shares[rows].mean(axis=0),
        )
        parts = [
            Span(start_sec=starts[own[0]], end_sec=ends[own[0]], shares=shares[own].mean(axis=0))
            for own in _windows(rows, windows)
        ]
        source = found.table["source"][row].as_py() or ""
        answers.append(Answer(id=str(found.ids[row]), source=source, whole=whole, parts=parts))
    return answers


def _windows(rows: np.ndarray, windows: np.ndarray) -> list[np.ndarray]:
    """The rows of each window of a video, its crops together, in the order of `rows`."""
    _, first, index = np.unique(windows[rows], return_index=True, return_inverse=True)
    return [rows[index == number] for number in np.argsort(first, kind="stable")]


def _refuse_width(found: FeatureFile, width: int) -> None:
    if found.embed_dim != width:
        raise _other_width(found, found.embed_dim, width)


def _other_width(found: FeatureFile, there: int, wanted: int) -> FeatureError:
    return FeatureError(
        f"{found.path or 'the features'}: {there} numbers a clip, but the head reads {wanted}: embed as it was made."
    )


def _other_classes(head: SavedHead, count: int) -> HeadError:
    return HeadError(
        f"{os.fspath(head.folder)} has weights of {count} classes and names of {len(head.class_names)}: evaluate again."
    )


def _softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
    return found
