"""How far what a frozen encoder says about places carries the masks of a first frame through its video.

Source: papers/frozen_protocols.md section 3 (DAVIS-2017, VIP; the notebook of RVM and 4DS, DINO).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from video_ssl.clips.decoders.reader import BadVideo, stream_frames
from video_ssl.datasets.demo.truth import frame_px
from video_ssl.datasets.table import Record
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.dense import label_maps, mask_metrics
from video_ssl.evaluate.dense.carried_video import write_masks_video
from video_ssl.evaluate.dense.frame_maps import FrameMaps
from video_ssl.evaluate.dense.mask_metrics import Statistics
from video_ssl.evaluate.dense.masks import Masks, masks_beside, masks_of_boxes, masks_of_figure
from video_ssl.evaluate.dense.propagation import PRESETS, PropagationConfig, Rule, propagate
from video_ssl.evaluate.leftovers import forget_others, name_of_row

logger = logging.getLogger(__name__)

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class LabelPropagationConfig:
    """Settings of the propagation of labels.

    Attributes:
        preset: "notebook"; "crw", its settings with the notebook's sizes and masks (ours: only the rule is known); or
            "dino" with its own settings, sizes and way back from maps to masks.
        rule: settings in place of those of the preset, see `PropagationConfig`.
        size: (height, width) that frames are scaled to; null = the encoder's own square, of "dino" the short side 480.
            The notebook has 480 x 880 for DAVIS, 448 x 880 for VIP.
        cubic: features between the moments of a tubelet by a cubic (4DS) in place of a line.
        masks: part of the path of a folder of frames -> what stands there for its masks; empty = boxes of every
            frame, painted.
        figure: the masks are those of the figure of generated videos.
        score: "objects" as DAVIS does, each mask by itself, without the first and last frame; "classes" as VIP does,
            all frames in one count.
        num_classes: of "classes", the background included.
        most_videos: of the table, evenly spread; null = all.
        device: where labels travel; auto = that of the evaluation.
        keep: write the masks that were found, as PNGs, into the folder of the evaluation.
        videos: so many are drawn there, as mp4s with the true masks on the left and those that were found on the right.
    """

    preset: Rule = "notebook"
    rule: PropagationConfig | None = None
    size: tuple[int, int] | None = None
    cubic: bool = False
    masks: dict[str, str] = field(default_factory=dict)
    figure: bool = False
    score: Literal["objects", "classes"] = "objects"
    num_classes: int = 20
    most_videos: int | None = None
    device: str = "auto"
    keep: bool = False
    videos: int = 4

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size={self.size} must be (height, width) of at least 1 pixel.")
        if self.videos < 0:
            raise ValueError(f"videos={self.videos} must not be negative.")
        if self.figure and self.masks:
            raise ValueError(
                f"figure=true takes the masks of generated videos, and masks={self.masks} those of files: give one."
            )
        if self.num_classes < 2 or (self.most_videos is not None and self.most_videos < 1):
            raise ValueError(
                f"num_classes={self.num_classes} must be at least 2, and most_videos={self.most_videos} at least 1, or "
                "null."
            )

    @property
    def settings(self) -> PropagationConfig:
        """Those of the rule, or of the preset."""
        return self.rule or PRESETS[self.preset]


class LabelPropagation:
    """The evaluator `propagation`."""

    Config = LabelPropagationConfig
    title = "label propagation"
    figures: ClassVar[dict[str, Figure]] = {
        "j_and_f": Figure(title="J&F"),
        "j": Figure(title="J"),
        "f": Figure(title="F"),
        "miou": Figure(title="mIoU"),
    }

    def __init__(self, config: LabelPropagationConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(
            labels=False,
            train=False,
            encoder=True,
            reader=True,
            maps=True,
            boxes=not self.config.masks and not self.config.figure,
            truth=frame_px if self.config.figure else None,
        )

    def evaluate(self, given: Context) -> Result:
        """Returns how well masks agree with the true ones, and beside it those of masks that stay where they are.

        Raises:
            FeatureError: an encoder or a size that does not do, masks that do not fit their video, or no video that has
                labels in its first frame.
        """
        assert given.encoder is not None
        own, still, lost = _Scores(self.config), _Scores(self.config), []
        written: list[Path] = []
        for record in self._records(given):
            try:
                truth, found = self._carried(given, record)
            except BadVideo as err:
                lost.append(str(err))
                continue
            except ValueError as err:  # masks, or a grid with fewer places than the rule takes
                raise FeatureError(str(err)) from err
            if not truth[0].any():
                lost.append(f"{record.id} has no labels in its first frame")
                continue
            own.add(truth, found)
            still.add(truth, np.repeat(truth[:1], len(truth), 0))
            if given.folder is not None:
                drawn = own.videos <= self.config.videos
                written += self._write(given, record, truth, found, drawn=drawn)
        if not own.videos:
            raise FeatureError(
                f"labels of no video could be carried: {'; '.join(lost[:_NAMED]) or 'test is empty'}."
            )
        if given.folder is not None:
            forget_others(given.folder / "propagation", written)
        return self._result(own, still, lost)

    def _records(self, given: Context) -> Iterator[Record]:
        table = given.tables["test"]
        count = min(self.config.most_videos or len(table), len(table))
        for row in ((np.arange(count) + 0.5) * len(table) / max(count, 1)).astype(int):
            yield table.record(int(row))

    def _carried(self, given: Context, record: Record) -> tuple[Masks, Masks]:
        """The true masks of a video and those that were found, int64 (T, H, W) both; the first is the true one."""
        config = self.config
        assert given.encoder is not None
        with given.open(record) as reader:
            info = reader.info
            if config.masks:
                truth = masks_beside(record.source, config.masks, info.num_frames)
            elif config.figure:
                table = given.tables["test"]
                truth = masks_of_figure(
                    table, record.index, info.num_frames, info.height, info.width
                )
            else:
                truth = masks_of_boxes(record, info.num_frames, info.height, info.width)
            size = config.size
            if config.preset == "dino" and size is None:
                size = label_maps.dino_size(info.height, info.width)
            maker = FrameMaps(given.encoder, size, cubic=config.cubic, settings=given.settings)
            features = maker.of_video(reader)
        device = device_of(config.device, given)
        found = self._masks(features, truth[0], maker.size, device)
        found[0] = truth[0]
        return truth, found

    def _masks(
        self, features: NDArray[np.float32], first: Masks, size: tuple[int, int], device: str
    ) -> Masks:
        config, grid = self.config, (features.shape[1], features.shape[2])
        known = np.where(first < 255, first, 0)  # 255 is "not known" where there are palettes
        if config.preset == "dino":
            start = label_maps.dino_map_of_mask(known, grid)
            labels = np.arange(start.shape[-1])
        else:
            start, labels = label_maps.map_of_mask(known, size, grid)
        maps = propagate(
            torch.from_numpy(features).to(device),
            torch.from_numpy(start).to(device),
            config.settings,
        )
        soft = maps.cpu().numpy()
        if config.preset == "dino":
            return label_maps.dino_masks_of_maps(soft, size[0] // grid[0], first.shape)
        return label_maps.masks_of_maps(soft, labels, size, first.shape)

    def _write(
        self, given: Context, record: Record, truth: Masks, found: Masks, *, drawn: bool
    ) -> list[Path]:
        """Writes what is wanted of a video, and returns the files."""
        assert given.folder is not None
        written = []
        name = name_of_row(record, record.id)
        if self.config.keep:
            folder = given.folder / "propagation" / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, mask in enumerate(found):
                written.append(folder / f"{number:05d}.png")
                Image.fromarray(mask.astype(np.uint8)).save(written[-1])
        if drawn:
            path = given.folder / "propagation" / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            with given.open(record) as reader:
                frames = stream_frames(reader, np.arange(len(found)))
                write_masks_video(
                    path, (picture for _, picture in frames), truth, found, reader.info.fps
                )
        return written

    def _result(self, own: _Scores, still: _Scores, lost: list[str]) -> Result:
        metrics, beside = own.metrics(), still.metrics()
        name = "miou" if self.config.score == "classes" else "j_and_f"
        figure = self.figures[name]
        notes = []
        if lost:
            notes = [f"{len(lost)} videos are left out: {'; '.join(lost[:_NAMED])}"]
        said = f"{figure.written(metrics[name])} % of {figure.title}"
        return Result(
            metrics=metrics,
            correct=0,
            total=own.videos,
            chance=float("nan"),
            details={
                "stays_where_it_is": beside,
                "preset": self.config.preset,
                "videos": own.videos,
                "objects": len(own.regions),
                "headline": {
                    "metric": name,
                    "found": figure.written(metrics[name]),
                    "position_only": figure.written(beside[name]),
                },
            },
            notes=notes,
            statement=f"carries the labels of the first frame of {own.videos} videos with {said}",
        )


class _Scores:
    """Adds up what was found in videos."""

    def __init__(self, config: LabelPropagationConfig) -> None:
        self.config, self.videos = config, 0
        self.regions: list[Statistics] = []
        self.boundaries: list[Statistics] = []
        self.histogram = np.zeros((config.num_classes, config.num_classes), np.int64)

    def add(self, truth: Masks, found: Masks) -> None:
        """Takes the masks of a video, int64 (T, H, W) both."""
        if self.config.score == "classes":
            count = self.config.num_classes
            inside = np.where(found < count, found, 0)
            self.histogram += mask_metrics.class_histogram(truth, inside, count)
            self.videos += 1
            return
        judged = slice(1, -1) if len(truth) > 2 else slice(1, None)
        objects = [k for k in np.unique(truth[0]) if 0 < k < 255]
        if len(truth) < 2 or not objects:
            return
        self.videos += 1
        for k in objects:
            pair = found[judged] == k, truth[judged] == k
            self.regions.append(mask_metrics.statistics_of(mask_metrics.region_similarity(*pair)))
            self.boundaries.append(
                mask_metrics.statistics_of(mask_metrics.boundary_accuracy(*pair))
            )

    def metrics(self) -> dict[str, float]:
        """What all videos come to."""
        if self.config.score == "classes":
            return {"miou": float(np.nanmean(mask_metrics.class_ious(self.histogram)))}
        total = mask_metrics.summed_up(self.regions, self.boundaries)
        names = {"j_and_f": "J&F-Mean", "j": "J-Mean", "f": "F-Mean"}
        more = ("J-Recall", "J-Decay", "F-Recall", "F-Decay")
        found = {ours: total[theirs] for ours, theirs in names.items()}
        return found | {name.lower().replace("-", "_"): total[name] for name in more}
