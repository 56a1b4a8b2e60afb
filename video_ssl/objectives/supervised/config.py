"""Settings of supervised classification, and what of them follows from the labels and from an encoder that is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from video_ssl.clips.config import ClipConfig, ColorConfig, CropConfig
from video_ssl.clips.erasing import EraseConfig
from video_ssl.clips.mixing import MixConfig
from video_ssl.clips.rand_augment import RandAugmentConfig
from video_ssl.datasets.class_names import listed
from video_ssl.datasets.table import Table
from video_ssl.models.config import Normalization, ViTConfig
from video_ssl.models.encoder_config import EncoderConfig, choosable
from video_ssl.models.encoder_folder import find_encoder, read_config, read_preprocess
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder
from video_ssl.recipes import build_config, to_plain

#: Settings of encoders that leave the meaning of weights alone, or follow from the shapes.
_MAY_DIFFER = ("preset", "drop_path", "image_size", "num_frames", "table_size")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of supervised classification.

    A batch holds `video` uint8 (B, V, T, S, S, 3) with V = clip.num_views, T = clip.num_frames, S = crop.size,
    `label` int64 (B,) in [0, num_classes), where `color` is set `color` float32 (B, V, NUM_PARAMETERS), where `erase`
    is set `erased` int64 (B, V, 4), and where `mix` is set `mix` float64 (B, 6), of which the first row counts.

    Attributes:
        num_classes: K; null = as many as the table names.
        init: an encoder to start from (fine-tuning); null = random weights.
        augment: RandAugment of the whole frames before the crop, in the workers; null = none.
        color: changes of color, applied on the device; null = none.
        erase: a rectangle that is not shown; null = none.
        mix: mixup and CutMix of the clips of a batch, the same in all of them, on each device for itself; the number of
            clips there must be even. `accuracy` of the metrics is then that of the mixed clips, by the own label. null
            = none.
        encoder: `architecture: vit` (as in the other objectives), `r2plus1d`, `r3d`, `zoo` (pytorchvideo's networks) or
            another of the table of networks; null = as that of `init.run`, its normalization too.
        readout: what the linear head reads. "clip": the clip feature of the encoder, of a ViT the mean of its tokens
            behind the final norm. "patch_mean": the mean of the tokens of the last block, and a fresh LayerNorm of it
            in place of the final norm, which goes (VideoMAE, MVD, MAE). "class_token": that behind the final norm, of
            images the mean of those of the frames.  "clip_unit": as "clip", scaled to length 1 (CVRL's protocol).
        head_scale: factor on the fresh weights of the head, N(0, 0.02); 0.001 in the fine-tuning of VideoMAE and MVD.
        label_smoothing: share of the target spread over all classes.
        dropout: of the pooled feature before the linear head.
        learns: "all"; "head": the encoder stays as it is, in evaluation mode; "head_and_statistics": its weights stay,
            but its batch norms use and follow the statistics of the batches, as HiCo's "linear" fine-tuning does
            (papers/hico.md section 6), so that the features are not those of the frozen encoder.
    """

    num_classes: int | None = None
    init: EncoderSource | None = None
    clip: ClipConfig = field(default_factory=ClipConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: RandAugmentConfig | None = None
    color: ColorConfig | None = None
    erase: EraseConfig | None = None
    mix: MixConfig | None = None
    encoder: EncoderConfig | None = field(default_factory=ViTConfig)
    normalization: Normalization = field(default_factory=Normalization)
    readout: Literal["clip", "clip_unit", "patch_mean", "class_token"] = "clip"
    head_scale: float = 1.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    learns: Literal["all", "head", "head_and_statistics"] = "all"

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"num_classes={self.num_classes} must be at least 2.")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1).")
        if not 0 <= self.head_scale < float("inf"):
            raise ValueError(f"head_scale={self.head_scale} must be 0 or a positive number.")
        if self.encoder is None:
            if self.init is None or self.init.run is None:
                raise ValueError(
                    "encoder=null takes the settings of a trained encoder: name it, init.run=RUN, or give the settings."
                )
            return
        encoder = fit_encoder(self.encoder, size=self.crop.size, num_frames=self.clip.num_frames)
        object.__setattr__(self, "encoder", encoder)
        _check_readout(self.readout, encoder)

    @property
    def clips_per_record(self) -> int:
        return self.clip.num_views

    def stages(self) -> dict[str, EncoderSource]:
        return {} if self.init is None else {"init": self.init}

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Settings of the encoder that may differ from those of `init`, as the read-out leaves that part out."""
        return ("final_norm",) if self.readout == "patch_mean" else ()

    @property
    def is_settled(self) -> bool:
        return self.num_classes is not None and self.encoder is not None

    def settled(self, tables: Sequence[Table]) -> Config:
        """Returns the settings with everything filled in that follows from the tables and from the encoder of `init`.

        Args:
            tables: that the training takes its records from.

        Raises:
            ValueError: records without a label, tables that number classes differently, another number of classes than
                the tables have, or an encoder of other settings than the one it starts from.
            EncoderError: `init.run` has no encoder.
        """
        found = replace(self, num_classes=count_classes(tables, self.num_classes))
        if self.init is None or self.init.run is None:
            return found
        if self.encoder is not None and not Path(self.init.run).exists():
            return found  # who needs it says so; a run that is finished does not
        folder = find_encoder(self.init.run)
        content = read_config(folder)
        if content["modality"] != "video":
            raise ValueError(
                f"the encoder of {folder} takes {content['modality']}, and videos are to be classified: name an "
                "encoder of video, or fine-tune one of sound with the objective supervised_sound (video-ssl pretrain "
                f"supervised_sound/small objective.init.run={folder})."
            )
        if self.encoder is not None:
            refuse_other_settings(
                self.encoder, content["config"], str(folder), free=self.not_compared
            )
            return found
        kinds = choosable("video")
        if content["architecture"] not in kinds:
            raise ValueError(
                f"{folder} is a {content['architecture']}, which cannot be fine-tuned: {sorted(kinds)} can."
            )
        kind = kinds[content["architecture"]]
        dropped = (*_FROM_CLIPS, *getattr(kind, "only_pretraining", ()))
        free = {name: value for name, value in content["config"].items() if name not in dropped}
        encoder = build_config(kind, free, "objective.encoder")
        preprocess = read_preprocess(content, folder)
        assert isinstance(preprocess, VideoPreprocess)
        normalization = Normalization(mean=preprocess.mean, std=preprocess.std)
        if self.normalization not in (Normalization(), normalization):
            raise ValueError(
                f"objective.normalization={to_plain(self.normalization)}, but the encoder of {folder} was trained with "
                f"{to_plain(normalization)}: leave it out."
            )
        return replace(found, encoder=encoder, normalization=normalization)


#: Settings of an encoder that follow from clips and crops of the training.
_FROM_CLIPS = ("image_size", "num_frames")


def _check_readout(readout: str, encoder: Any) -> None:
    """Raises ValueError for a read-out that an encoder of this config does not offer."""
    if readout == "patch_mean" and not hasattr(encoder, "final_norm"):
        raise ValueError(
            f"readout='patch_mean' takes the final norm of a ViT away, and a {encoder.architecture} has none to take: "
            "use readout='clip'."
        )
    if readout == "class_token" and not getattr(encoder, "cls_token", False):
        raise ValueError(
            "readout='class_token', but this encoder has no class token (encoder.cls_token): use readout='clip' or "
            "'patch_mean'."
        )


def refuse_other_settings(
    encoder: Any, before: dict[str, Any], where: str | Path, *, free: Sequence[str] = ()
) -> None:
    """Raises ValueError if weights of an encoder of the settings `before` would mean something else in one of the
    config `encoder`; what its `adaptable` names is made up for when they are filled in, and `free` is not looked at."""
    now = to_plain(encoder)
    of_network = ("adaptable", "only_pretraining")
    free = (
        *free,
        *_MAY_DIFFER,
        *(name for kind in of_network for name in getattr(encoder, kind, ())),
    )
    differ = [k for k in now if k not in free and k in before and before[k] != now[k]]
    if differ:
        wanted = ", ".join(f"{k}={before[k]!r} (not {now[k]!r})" for k in differ)
        raise ValueError(
            f"the encoder of {where} was trained with other settings than this one: {wanted}. Set them so in "
            "objective.encoder, or take all of them from it with objective.encoder=null."
        )


def count_classes(tables: Sequence[Table], stated: int | None) -> int:
    """The number of classes, of which every record has one."""
    names, counts = [], []
    for table in tables:
        labels = table.column("label") if "label" in table.column_names else None
        lacking = len(table) if labels is None else int((labels < 0).sum())
        if lacking:
            raise ValueError(
                f"supervised training needs the class of every video, but {lacking} of {len(table)} of "
                f"{table.name or 'the table'} have no label: give a table with labels, or sub-folders as classes."
            )
        assert labels is not None
        names.append(table.class_names)
        counts.append(int(labels.max()) + 1)
    if len(set(names)) > 1:
        raise ValueError(
            f"the tables {[table.name for table in tables]} number their classes differently: put their rows into one "
            "table."
        )
    count = max(len(names[0]), *counts)
    if count < 2:
        raise ValueError(
            f"all of {tables[0].name or 'the table'} is of one class{f' ({names[0][0]})' if names[0] else ''}: two are "
            "needed to tell apart."
        )
    if stated is None:
        return count
    named = f" ({listed(names[0])})" if names[0] else ""
    if stated < count or (names[0] and stated != count):
        raise ValueError(
            f"objective.num_classes={stated}, but {tables[0].name or 'the table'} has {count} classes{named}: leave it "
            "out (null), it is counted there."
        )
    return stated
