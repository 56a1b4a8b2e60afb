"""The classifier beside an encoder: what names the classes of videos, as safetensors and JSON.  Free of torch and jax.

`classifier.safetensors` holds `weight` float32 (K, D) and `bias` float32 (K,): scores of a clip are its clip feature
(D,) times the weight, plus the bias; with `unit_length` it is scaled to length 1 before. Where the file holds
`norm.weight` and `norm.bias` (D,) too, the feature goes through that LayerNorm (eps 1e-6) first. `classifier.json` says
which class is which, how a video is read (clips spread evenly over it, `clips`; how each is made stands in the
encoder's `preprocess`), what the clip feature is (`pooling` of the encoder's outputs: "mean" or "cls") and how its
clips are put together (`merge`: the mean of their softmax, or with `multilabel` classes of a video of their sigmoids).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from video_ssl.files import write_json
from video_ssl.limits import read_json
from video_ssl.models.encoder_folder import (
    CLASSIFIER,
    EncoderError,
    check_unchanged,
    find_encoder,
)

CLASSIFIER_WEIGHTS = "classifier.safetensors"
FORMAT = "video_ssl.classifier"
_MAX_BYTES = 2**26
_NORM_EPS = 1e-6
MERGES = {"softmax": "mean of the softmax", "logits": "softmax of the mean"}
"""`validation.average` -> what `classifier.json` says of it."""
MULTILABEL_MERGES = {"softmax": "mean of the sigmoid", "logits": "sigmoid of the mean"}
"""The same where a video has any number of classes."""
_LENGTH_EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a video gets its class.

    Attributes:
        class_names: of the K classes, in the order of the scores; empty where the table had none.
        num_classes: K.
        clips: of a video, spread evenly over it.
        crops: squares of every clip along the longer side of the picture; 1 = the one in the middle.
        size: side in pixels of the squares that the accuracy was found with; None = that of the encoder.
        feature: of the encoder, that the classifier reads.
        pooling: what that feature is made of: "mean" of the tokens, or "cls", the class token.
        unit_length: that feature is scaled to length 1 first.
        center_share: side of the one square in the middle as a share of the short side of the video.
        multilabel: a video has any number of classes, each with a share of its own.
        merge: how the clips of a video become one answer, a value of `MERGES`, or of `MULTILABEL_MERGES`.
        labels: the table whose labels were learned.
        validation: accuracy that was found last, and on which table; empty where nothing was.
    """

    class_names: tuple[str, ...]
    num_classes: int
    clips: int
    crops: int = 1
    size: int | None = None
    center_share: float = 1.0
    feature: str = "clip"
    pooling: str = "mean"
    unit_length: bool = False
    multilabel: bool = False
    merge: str = MERGES["softmax"]
    labels: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def merges_scores(self) -> bool:
        """Whether the clips are put together before the softmax or the sigmoid, not behind it."""
        return self.merge in (MERGES["logits"], MULTILABEL_MERGES["logits"])

    def name(self, label: int) -> str:
        """Returns the name of a class, its number where it has none."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A classifier as it was exported: `weight` float32 (K, D), `bias` float32 (K,), `norm` the float32 (D,) weight and
    bias of the LayerNorm before it, None where there is none."""

    weight: np.ndarray
    bias: np.ndarray
    protocol: Protocol
    norm: tuple[np.ndarray, np.ndarray] | None = None

    def shares(self, clips: np.ndarray) -> np.ndarray:
        """Returns float64 (K,): how sure it is of each class, for the clips (N, D) of one video; they add up to 1 where
        a video has one class."""
        features = clips.astype(np.float64)
        if self.protocol.unit_length:
            length = np.linalg.norm(features, axis=1, keepdims=True)
            features = features / np.maximum(length, _LENGTH_EPS)
        if self.norm is not None:
            spread = features.var(axis=1, keepdims=True)
            features = (features - features.mean(axis=1, keepdims=True)) / np.sqrt(
                spread + _NORM_EPS
            )
            features = features * self.norm[0] + self.norm[1]
        scores = features @ self.weight.T + self.bias
        if self.protocol.merges_scores:
            scores = scores.mean(axis=0, keepdims=True)
        if self.protocol.multilabel:
            each: np.ndarray = 0.5 * (1 + np.tanh(scores / 2))  # the sigmoid, which cannot overflow
            return np.asarray(each.mean(axis=0))
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        found: np.ndarray = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        return found


def write_protocol(folder: Path, protocol: Protocol) -> None:
    """Writes `classifier.json` into an encoder folder that is being made."""
    names: Sequence[str] = protocol.class_names
    write_json(
        folder / CLASSIFIER,
        {
            "format": FORMAT,
            "version": 1,
            "class_names": list(names),
            "num_classes": protocol.num_classes,
            "clips": protocol.clips,
            "crops": protocol.crops,
            "size": protocol.size,
            "center_share": protocol.center_share,
            "feature": protocol.feature,
            "pooling": protocol.pooling,
            "unit_length": protocol.unit_length,
            "multilabel": protocol.multilabel,
            "merge": protocol.merge,
            "labels": protocol.labels,
            "validation": dict(protocol.validation),
        },
    )


def load_classifier(path: str | Path) -> Classifier:
    """Returns the classifier beside the encoder of a run or encoder folder.

    Raises:
        EncoderError: no encoder there, one without a classifier, or files that are damaged or say something else.
    """
    folder = find_encoder(path)
    file = folder / CLASSIFIER
    if not file.is_file():
        raise EncoderError(
            f"{folder} has no {CLASSIFIER}: its encoder was trained without labels. Fine-tune it: video-ssl pretrain "
            f"supervised/finetune_demo objective.init.run={path} data.table=TABLE"
        )
    check_unchanged(folder, CLASSIFIER, CLASSIFIER_WEIGHTS)
    try:
        content = read_json(file, max_bytes=_MAX_BYTES)
        weights = load_file(folder / CLASSIFIER_WEIGHTS)
        protocol = Protocol(
            class_names=tuple(map(str, content["class_names"])),
            num_classes=int(content["num_classes"]),
            clips=int(content["clips"]),
            crops=int(content.get("crops", 1)),
            size=None if content.get("size") is None else int(content["size"]),
            center_share=float(content.get("center_share", 1.0)),
            feature=str(content["feature"]),
            pooling=str(content.get("pooling", "mean")),
            unit_length=bool(content.get("unit_length", False)),
            multilabel=bool(content.get("multilabel", False)),
            merge=str(content["merge"]),
            labels=str(content["labels"]),
            validation=dict(content["validation"]),
        )
        found = Classifier(
            weight=weights["weight"],
            bias=weights["bias"],
            protocol=protocol,
            norm=(weights["norm.weight"], weights["norm.bias"])
            if "norm.weight" in weights
            else None,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
        raise EncoderError(
            f"the classifier of {folder} cannot be read ({err}): copy it again."
        ) from err
    if content.get("format") != FORMAT or found.weight.shape[:1] != (protocol.num_classes,):
        raise EncoderError(
            f"{file} does not describe the classifier in {CLASSIFIER_WEIGHTS}: copy both again."
        )
    return found
