"""What is done at boxes of key frames: a head on frozen feature maps, judged by mean average precision.

Source: papers/const_cl.md section 6.1.  The encoder is frozen, and clips are seen as the reference's tests see them, in
training too: its fine-tuning and its training augmentation are not here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from video_ssl.clips.box_transforms import Geometry
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.datasets.class_names import numbers_by_name
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.places.boxes_picture import ShownBoxes, lines_of, write_boxes_sheet
from video_ssl.evaluate.places.frame_map import (
    KeyFrame as Judged,
)
from video_ssl.evaluate.places.frame_map import (
    average_precisions,
    mean_average_precision,
)
from video_ssl.evaluate.places.heads import ActionTransformerHead, RoIPoolHead, action_loss
from video_ssl.evaluate.places.key_frames import (
    KeyFrame,
    KeyFrameError,
    frame_of,
    jittered,
    key_frames,
    num_classes_of,
    read_key_clip,
)
from video_ssl.evaluate.videos import MATCHED
from video_ssl.models.contract import TOKENS
from video_ssl.models.networks.region_config import DecoderConfig
from video_ssl.models.preprocess_config import VideoPreprocess

logger = logging.getLogger(__name__)

Head = Literal["pool", "transformer"]
#: In the folder of the evaluation: key frames with their boxes.
SHEET = "boxes.png"
#: Names of lost key frames that stand in a note.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class LocalisationConfig:
    """Settings of action localisation.

    Attributes:
        head: "pool" looks at the samples inside a box, one dense layer; "transformer" is the published head, whose
            boxes attend to the whole clip.
        decoder: of the transformer.
        crop_size: samples of a box along each side.
        clip_px: side of the square that clips are scaled to; null = that of the encoder's clips.  Networks that take
            frames of any size have finer maps with larger ones.
        dropout: before the classifier of the transformer.
        per_video: key frames of each video, evenly spread; null = all that have boxes.
        jitter: boxes are tried a second time, moved and scaled by up to so much of their sides; null = not.
        false_boxes: so many boxes of anywhere are tried together with them.
        min_score: of a detector's boxes: 0.8 for AVA's, 0.2 for AVA-Kinetics'.
        most_boxes: of a key frame in training, the first ones.
        iou: overlap that makes a detection right.
        epochs, batch_size, lr, weight_decay: of the head's training by AdamW (ours), which begins at the shares that
            the classes have in training.  `lr` null = 0.01 of "pool", 0.001 of "transformer".
        clips_per_pass: key frames whose clips go through the encoder together.
        memory_gib: feature maps beyond that are computed again whenever they are needed.
        pictures: so many key frames of test are drawn into the folder of the evaluation, evenly spread, with true
            boxes, what is done there and what the head says.
    """

    head: Head = "pool"
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    crop_size: int = 4
    clip_px: int | None = None
    dropout: float = 0.0
    per_video: int | None = 2
    jitter: float | None = 0.15
    false_boxes: int = 2
    min_score: float = 0.0
    most_boxes: int = 32
    iou: float = 0.5
    epochs: int = 30
    batch_size: int = 32
    lr: float | None = None
    weight_decay: float = 1e-4
    clips_per_pass: int = 8
    memory_gib: float = 4.0
    pictures: int = 12

    def __post_init__(self) -> None:
        for name in ("crop_size", "most_boxes", "epochs", "batch_size", "clips_per_pass"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.clip_px is not None and self.clip_px < 1:
            raise ValueError(f"clip_px={self.clip_px} must be at least 1, or null.")
        if self.per_video is not None and self.per_video < 1:
            raise ValueError(f"per_video={self.per_video} must be at least 1, or null for all.")
        if self.pictures < 0:
            raise ValueError(f"pictures={self.pictures} must not be negative.")
        if self.false_boxes < 0 or (self.jitter is not None and not 0 <= self.jitter < 1):
            raise ValueError(
                f"jitter={self.jitter} must lie in [0, 1), and false_boxes={self.false_boxes} must not be negative."
            )
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou={self.iou} must lie in (0, 1].")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.memory_gib < 0:
            raise ValueError(
                f"lr={self.lr} must be positive, weight_decay={self.weight_decay} and memory_gib={self.memory_gib} not "
                "negative."
            )

    @property
    def learning_rate(self) -> float:
        """Of the head's training."""
        return (1e-2 if self.head == "pool" else 1e-3) if self.lr is None else self.lr


class ActionLocalisation:
    """The evaluator `localisation`."""

    Config = LocalisationConfig
    title = "action localisation"
    figures: ClassVar[dict[str, Figure]] = {
        "true_boxes": Figure(title="mAP true"),
        "true_boxes_reference": Figure(title="true, ref. rule"),
        "jittered_boxes": Figure(title="mAP jittered"),
        "jittered_boxes_reference": Figure(title="jittered, ref. rule"),
        "detected_boxes": Figure(title="mAP detected"),
        "detected_boxes_reference": Figure(title="detected, ref. rule"),
    }

    def __init__(self, config: LocalisationConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(labels=False, encoder=True, reader=True, maps=True, boxes=True)

    def evaluate(self, given: Context) -> Result:
        """Returns the mean average precision at true, jittered and detected boxes, by both rules of `frame_map`.

        Key frames that cannot be read are left out, named and counted.

        Classes are numbered as in train; those of test that train does not have get numbers behind its own.

        Raises:
            FeatureError: no key frame of training with an action, or none of the test that can be read; a label without
                a name, where classes have names.
        """
        config = self.config
        tables = given.tables
        numbers = numbers_by_name(*(tables[split].class_names for split in ("train", "test")))
        num_classes = num_classes_of(tables["train"], tables["test"])
        if numbers is not None:
            num_classes = max(num_classes, 1 + int(numbers.max()))
        clips = {}
        for split, table in tables.items():
            renumbered = numbers if split == "test" else None
            frames = list(key_frames(table, num_classes, config.per_video, renumbered))
            clips[split] = _Clips(given, split, frames, config)
        train, test = clips["train"], clips["test"]
        train.keep([i for i, f in enumerate(train.frames) if len(f.boxes)])
        train.drop_unreadable()
        test.drop_unreadable()
        if not any(f.targets.any() for f in train.frames):
            raise FeatureError(
                f"no key frame of train has a box with an action ({len(train.lost)} could not be read): it takes "
                "tables with boxes and box_labels, or boxes of videos with labels."
            )
        if not test.frames:
            raise FeatureError(f"none of the {len(test.lost)} key frames of test can be read.")
        center, spread = train.statistics()
        width = len(center)
        metrics: dict[str, float] = {}
        classes: dict[str, Any] = {}
        alone: dict[str, float] = {}
        for name in ("features", "position"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(given.seed)  # of first weights and of dropout
                model: nn.Module = _Position(num_classes)
                if name == "features":
                    model = _Standard(self._head(width, num_classes), center, spread)
                _begin_at_shares(_last_layer(model), train.frames)
                _fit(model, train, config, given.seed)
            for source in self._sources(test.frames):
                found = _scored(model, test, config, source, given.seed)
                own = {
                    source: average_precisions(found, num_classes, iou=config.iou),
                    f"{source}_reference": average_precisions(
                        found, num_classes, iou=config.iou, rule="reference"
                    ),
                }
                means = {key: mean_average_precision(values) for key, values in own.items()}
                if name == "features":
                    if source == "true_boxes":
                        self._draw(given, test, found)
                    metrics |= means
                    classes |= {key: values.tolist() for key, values in own.items()}
                else:
                    alone |= means
        result = self._result(metrics, alone, classes, num_classes, clips)
        if numbers is not None:
            result.notes.append(MATCHED)
        return result

    def _draw(self, given: Context, test: _Clips, found: Sequence[Judged]) -> None:
        """Draws some key frames with what was found at their true boxes; those of an earlier evaluation go."""
        if given.folder is None:
            return
        path = given.folder / SHEET
        path.unlink(missing_ok=True)
        boxed = [i for i, frame in enumerate(test.frames) if len(frame.boxes)]
        count = min(self.config.pictures, len(boxed))
        if not count:
            return
        names = list(given.tables["train"].class_names)
        shown = []
        for place in ((np.arange(count) + 0.5) * len(boxed) / count).astype(int):
            frame, judged = test.frames[boxed[place]], found[boxed[place]]
            record = test.table.record(frame.row)
            try:
                with given.open(record) as reader:
                    picture = reader.frames([frame_of(record, frame.moment, reader)])[0]
            except (BadVideo, KeyFrameError, OSError):
                continue  # it was there a minute ago, and nothing but its picture is missing
            lines = lines_of(frame.targets, judged.scores, names)
            shown.append(ShownBoxes(picture=picture, boxes=frame.boxes, lines=lines))
        if shown:
            write_boxes_sheet(path, shown)

    def _head(self, width: int, num_classes: int) -> nn.Module:
        config = self.config
        if config.head == "pool":
            return RoIPoolHead(width, num_classes, crop_size=config.crop_size)
        return ActionTransformerHead(
            width,
            num_classes,
            decoder=config.decoder,
            crop_size=config.crop_size,
            dropout=config.dropout,
        )

    def _sources(self, frames: Sequence[KeyFrame]) -> list[str]:
        found = ["true_boxes"]
        if self.config.jitter is not None:
            found.append("jittered_boxes")
        if any(len(frame.detections) for frame in frames):
            found.append("detected_boxes")
        return found

    def _result(
        self,
        metrics: dict[str, float],
        alone: dict[str, float],
        classes: dict[str, Any],
        num_classes: int,
        clips: dict[str, _Clips],
    ) -> Result:
        lead = "detected_boxes" if "detected_boxes" in metrics else "true_boxes"
        written = f"{100 * metrics[lead]:.1f} %"
        present = sum(not np.isnan(value) for value in classes[lead])
        notes = [
            f"{len(part.lost)} key frames of {split} could not be used and are left out: "
            f"{'; '.join(part.lost[:_NAMED])}{'; ...' if len(part.lost) > _NAMED else ''}"
            for split, part in clips.items()
            if part.lost
        ]
        test = clips["test"].frames
        return Result(
            metrics=metrics,
            correct=0,
            total=len(test),
            chance=float("nan"),
            statement=f"has a mean average precision of {written} at {lead.replace('_', ' ')}",
            details={
                "headline": {
                    "metric": lead,
                    "found": written,
                    "position_only": f"{100 * alone[lead]:.1f} %",
                },
                "position_only": alone,
                "num_classes": present,
                "classes_of_boxes": num_classes,
                "average_precisions": classes,
                "key_frames": {split: len(part.frames) for split, part in clips.items()},
                "key_frames_without_action": sum(not f.targets.any() for f in test),
            },
            notes=notes,
        )


def _key(frame: KeyFrame) -> tuple[int, int]:
    """What names a key frame of a table."""
    return frame.row, frame.moment


class _Clips:
    """The key frames of a table and their feature maps, kept as far as the memory goes."""

    def __init__(
        self, given: Context, split: str, frames: list[KeyFrame], config: LocalisationConfig
    ) -> None:
        assert given.encoder is not None
        preprocess = given.encoder.preprocess
        if not isinstance(preprocess, VideoPreprocess):
            raise FeatureError("action localisation needs an encoder of videos.")
        if config.clip_px is not None:
            preprocess = replace(preprocess, size=config.clip_px)
        self.given, self.frames, self.preprocess = given, frames, preprocess
        self.table = given.tables[split]
        self.encoder = given.encoder
        self.lost: list[str] = []
        self.per_pass = config.clips_per_pass
        self.room = int(config.memory_gib * 2**30 / 2)  # training and test share it
        self.kept: dict[tuple[int, int], NDArray[np.float16]] = {}
        #: Of every key frame that was looked at: small, and all that is needed of those whose maps are not.
        self.geometries: dict[tuple[int, int], Geometry] = {}
        shape = (preprocess.num_frames, preprocess.size, preprocess.size, 3)
        self.layer = given.settings.layer
        self.grid = self.encoder.token_grid(shape, layer=self.layer)

    def keep(self, indices: Sequence[int]) -> None:
        self.frames = [self.frames[i] for i in indices]

    def drop_unreadable(self) -> None:
        """Looks at every key frame once; those that cannot be used are noted and left out."""
        good = []
        for part in self._parts(self.frames):
            clips = []
            for frame in part:
                try:
                    clips.append((frame, self._clip_of(frame)))
                except (BadVideo, KeyFrameError, OSError) as err:
                    self.lost.append(str(err))
            self._encoded(clips)
            good += [frame for frame, _ in clips]
        self.frames = good

    def maps_of(self, frames: Sequence[KeyFrame]) -> list[NDArray[np.float16]]:
        """Returns the feature maps of key frames, (t, h, w, D) each; those that are not kept are made again."""
        found = {_key(f): self.kept[_key(f)] for f in frames if _key(f) in self.kept}
        missing = [frame for frame in frames if _key(frame) not in found]
        for part in self._parts(missing):
            found |= self._encoded([(frame, self._clip_of(frame)) for frame in part])
        return [found[_key(frame)] for frame in frames]

    def _parts(self, frames: Sequence[KeyFrame]) -> list[Sequence[KeyFrame]]:
        """Those that go through the encoder together."""
        starts = range(0, len(frames), self.per_pass)
        return [frames[start : start + self.per_pass] for start in starts]

    def _clip_of(self, frame: KeyFrame) -> NDArray[np.uint8]:
        """Returns the clip around a key frame, and notes the geometry of its boxes."""
        record = self.table.record(frame.row)
        with self.given.open(record) as reader:
            clip, self.geometries[_key(frame)] = read_key_clip(
                reader, frame_of(record, frame.moment, reader), self.preprocess
            )
        return clip

    def _encoded(
        self, clips: Sequence[tuple[KeyFrame, NDArray[np.uint8]]]
    ) -> dict[tuple[int, int], NDArray[np.float16]]:
        """Returns the maps of clips, in one pass of the encoder, and keeps as many as there is room for."""
        if not clips:
            return {}
        read = np.stack([clip for _, clip in clips])
        if self.encoder.framework == "flax" and len(read) < self.per_pass:
            # Another number of clips would be compiled again, which takes longer than a few clips too many.
            read = np.concatenate([read, np.repeat(read[-1:], self.per_pass - len(read), 0)])
        tokens = self.encoder.outputs_of_arrays(read, [TOKENS], layer=self.layer)[TOKENS]
        # Half precision holds 65504 at most; no feature worth a head is that large.
        maps = (
            tokens[: len(clips)]
            .reshape(len(clips), *self.grid, -1)
            .clip(-6e4, 6e4)
            .astype(np.float16)
        )
        found = {}
        for (frame, _), made in zip(clips, maps, strict=True):
            found[_key(frame)] = made
            if self.room >= made.nbytes and _key(frame) not in self.kept:
                self.room -= made.nbytes
                self.kept[_key(frame)] = made.copy()
        return found

    def statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns mean and deviation of every channel, of up to 500 key frames."""
        some = self.maps_of(self.frames[:: max(1, len(self.frames) // 500)])
        flat = np.concatenate([m.reshape(-1, m.shape[-1]).astype(np.float32) for m in some])
        return flat.mean(0), flat.std(0) + 1e-5

    def batches(
        self, order: Sequence[int], size: int, boxes_of: Any, *, with_maps: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, list[Any]]]:
        """Yields maps (B, t, h, w, D), boxes (B, N, 4) in shares of the view, mask (B, N), and what `boxes_of` says.

        Without maps these are empty, and nothing is decoded.
        """
        for start in range(0, len(order), size):
            frames = [self.frames[i] for i in order[start : start + size]]
            told = [boxes_of(frame) for frame in frames]
            count = max(1, max(len(boxes) for boxes, _ in told))
            boxes = np.zeros((len(frames), count, 4), np.float32)
            mask = np.zeros((len(frames), count), bool)
            maps = (
                np.stack(self.maps_of(frames)).astype(np.float32)
                if with_maps
                else np.empty(0, np.float32)
            )
            for i, (frame, (own, _)) in enumerate(zip(frames, told, strict=True)):
                geometry = self.geometries[_key(frame)]
                boxes[i, : len(own)], _ = geometry.boxes(own)
                mask[i, : len(own)] = True
            x, b, m = (torch.from_numpy(array) for array in (maps, boxes, mask))
            yield x, b, m, [more for _, more in told]


class _Standard(nn.Module):
    """A head on features whose channels have mean 0 and deviation 1 in training, so that encoders are alike to it."""

    def __init__(self, head: nn.Module, center: NDArray[Any], spread: NDArray[Any]) -> None:
        super().__init__()
        self.head = head
        self.center: Tensor
        self.spread: Tensor
        self.register_buffer("center", torch.from_numpy(center))
        self.register_buffer("spread", torch.from_numpy(spread))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        out: Tensor = self.head((features - self.center) / self.spread, boxes)
        return out


class _Position(nn.Module):
    """What the place and the size of a box alone tell; it takes no maps."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([boxes, boxes[..., 2:] - boxes[..., :2]], -1))
        return out


def _last_layer(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _begin_at_shares(classifier: nn.Linear, frames: Sequence[KeyFrame]) -> None:
    """Lets a classifier say of every box what it says best without looking: the shares of the classes in training.

    From a half each, a head is still unlearning what is not done when its training ends, and everything is at chance.
    """
    targets = np.concatenate([frame.targets for frame in frames if len(frame.targets)])
    shares = torch.from_numpy(targets.mean(0)).float().clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        nn.init.normal_(classifier.weight, std=0.01)
        classifier.bias.copy_(torch.logit(shares))


def _fit(model: nn.Module, clips: _Clips, config: LocalisationConfig, seed: int) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    rng = np.random.default_rng(seed)

    def boxes_of(frame: KeyFrame) -> tuple[Any, Any]:
        return frame.boxes[: config.most_boxes], frame.targets[: config.most_boxes]

    model.train()
    for _ in range(config.epochs):
        order = rng.permutation(len(clips.frames)).tolist()
        for maps, boxes, mask, targets in clips.batches(
            order, config.batch_size, boxes_of, with_maps=not isinstance(model, _Position)
        ):
            wanted = torch.zeros(*mask.shape, targets[0].shape[1])
            for row, own in zip(wanted, targets, strict=True):
                row[: len(own)] = torch.from_numpy(own)
            loss = action_loss(model(maps, boxes), wanted, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _scored(
    model: nn.Module, clips: _Clips, config: LocalisationConfig, source: str, seed: int
) -> list[Judged]:
    """What the head says at the boxes of a source, times how sure the source is of each box."""
    rng = np.random.default_rng([seed, 1])  # the same jitter for every encoder

    def boxes_of(frame: KeyFrame) -> tuple[Any, Any]:
        if source == "detected_boxes":
            sure = frame.scores >= config.min_score
            return frame.detections[sure], (frame, frame.detections[sure], frame.scores[sure])
        own = frame.boxes
        if source == "jittered_boxes":
            assert config.jitter is not None
            own = jittered(own, config.jitter, config.false_boxes, rng)
        return own, (frame, own, np.ones(len(own), np.float32))

    model.eval()
    judged = []
    with torch.no_grad():
        order = range(len(clips.frames))
        for maps, boxes, _, told in clips.batches(
            order, config.batch_size, boxes_of, with_maps=not isinstance(model, _Position)
        ):
            shares = torch.sigmoid(model(maps, boxes)).numpy()
            for row, (frame, own, sure) in zip(shares, told, strict=True):
                judged.append(Judged(own, row[: len(own)] * sure[:, None], *frame.truth))
    return judged
