"""Settings of classification of sounds, and what of them follows from the labels and from an encoder that is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from video_ssl.clips.pair_mixing import PairMixConfig
from video_ssl.datasets.table import Table
from video_ssl.models.encoder_config import SoundEncoderConfig, choosable
from video_ssl.models.encoder_folder import EncoderError, find_encoder, read_config, read_preprocess
from video_ssl.models.encoder_partners import find_partner
from video_ssl.models.preprocess_config import SoundPreprocess
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.supervised.config import refuse_other_settings
from video_ssl.objectives.supervised_sound.classes import read_classes
from video_ssl.recipes import build_config

#: Settings of an encoder that follow from the sounds of the training, or only say how many positions there were.
FROM_SOUNDS = ("num_samples", "table_samples")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of classification of sounds.

    A batch holds `sound` float32 (B, N) in -1..1 (with noise beyond) with N = num_samples; `label` int64 (B,) in
    [0, num_classes), or with `multilabel` `labels` bool (B, num_classes); and where `mix` is set `mix` float64 (B, 2).
    A recording without a sound track makes no sample.

    Attributes:
        num_classes: K; null = as many as the table names.
        multilabel: recordings have any number of classes (the column `labels`): sigmoids, and a loss in which rare
            classes weigh more (`models/multilabel_loss.py`).  False: one each (`label`), a softmax.  Null = what the
            table has.
        init: an encoder of sound to start from (fine-tuning), RUN/encoders/sound of VATT; null = random weights.
        encoder: of a network that hears; null = as that of `init.run`.
        rate: samples a second, files of other rates are resampled; null = as the encoder of `init.run` hears.
        num_samples: of the stretch of a recording that is heard, at a random place; a shorter recording goes on at its
            beginning.  Null = as the encoder of `init.run` hears.
        noise: standard deviation of the noise that is added, in shares of the largest magnitude; 0 = none.
        mix: mixup of the sounds of a batch and of their classes, on each device for itself; null = none.  `accuracy` of
            the metrics is then that of the mixed sounds, by the own classes (any of them, of several).
        label_smoothing: share of the target spread over all classes; of one class each only.
        dropout: of the clip feature before the linear head.
        learns: "all"; "head": the encoder stays as it is, in evaluation mode.

    Source: papers/vatt.md section 5, fine-tuning of audio (arXiv:2104.11178).
    """

    #: Videos of which the table knows that they have no sound are left out before the training.
    needs_sound: ClassVar[bool] = True

    num_classes: int | None = None
    multilabel: bool | None = None
    init: EncoderSource | None = None
    encoder: SoundEncoderConfig | None = None
    rate: int | None = None
    num_samples: int | None = None
    noise: float = 0.0
    mix: PairMixConfig | None = None
    label_smoothing: float = 0.0
    dropout: float = 0.0
    learns: Literal["all", "head"] = "all"

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"num_classes={self.num_classes} must be at least 2.")
        for name in ("rate", "num_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1).")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise={self.noise} must not be negative; 0 = no noise.")
        if self.multilabel and self.label_smoothing:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} goes with one class of each recording, not with "
                "multilabel=true: set it to 0."
            )
        if self._run is None:
            lacking = [n for n in ("encoder", "rate", "num_samples") if getattr(self, n) is None]
            if lacking:
                raise ValueError(
                    f"{', '.join(lacking)} of null: that is taken from a trained encoder of sound. Name it, "
                    "init.run=RUN/encoders/sound, or give the settings."
                )
        if getattr(self.encoder, "heads", None) is not None:
            raise ValueError(
                "encoder.heads lead into the common spaces of a pre-training, where nothing is learned here: leave "
                "them out (null)."
            )
        if self.encoder is not None and self.num_samples is not None:
            object.__setattr__(self, "encoder", _fitted(self.encoder, self.num_samples))

    @property
    def _run(self) -> str | None:
        return None if self.init is None else self.init.run

    @property
    def clips_per_record(self) -> int:
        return 1

    @property
    def preprocess(self) -> SoundPreprocess:
        """What the encoder expects of a sound."""
        assert self.rate is not None, "the settings are settled"
        assert self.num_samples is not None, "the settings are settled"
        return SoundPreprocess(rate=self.rate, num_samples=self.num_samples)

    def stages(self) -> dict[str, EncoderSource]:
        return {} if self.init is None else {"init": self.init}

    @property
    def is_settled(self) -> bool:
        found = (self.num_classes, self.multilabel, self.encoder, self.rate, self.num_samples)
        return all(value is not None for value in found)

    def settled(self, tables: Sequence[Table]) -> Config:
        """Returns the settings with everything filled in that follows from the tables and from the encoder of `init`.

        Args:
            tables: that the training takes its records from.

        Raises:
            ValueError: see `read_classes`; an encoder that does not hear, or one of other settings than `encoder`.
            EncoderError: `init.run` has no encoder.
        """
        multilabel, count = read_classes(
            tables, multilabel=self.multilabel, stated=self.num_classes
        )
        found = replace(self, multilabel=multilabel, num_classes=count)
        if self._run is None or (self.encoder is not None and not Path(self._run).exists()):
            return found  # who needs it says so; a run that is finished does not
        folder = find_encoder(self._run)
        content = read_config(folder)
        refuse_other_sense(content["modality"], folder)
        preprocess = read_preprocess(content, folder)
        assert isinstance(preprocess, SoundPreprocess)
        before = content["config"]
        table = before.get("table_samples") or before.get("num_samples")
        if self.encoder is not None:
            refuse_other_settings(self.encoder, before, str(folder), free=FROM_SOUNDS)
            encoder: Any = self.encoder
        else:
            kinds = choosable("sound")
            if content["architecture"] not in kinds:
                raise ValueError(
                    f"{folder} is a {content['architecture']}, which cannot be fine-tuned: {sorted(kinds)} can."
                )
            kind = kinds[content["architecture"]]
            dropped = (*FROM_SOUNDS, *getattr(kind, "only_pretraining", ()))
            free = {name: value for name, value in before.items() if name not in dropped}
            encoder = build_config(kind, free, "objective.encoder")
        if hasattr(encoder, "table_samples"):
            encoder = replace(encoder, table_samples=table)
        return replace(
            found,
            encoder=encoder,
            rate=self.rate or preprocess.rate,
            num_samples=self.num_samples or preprocess.num_samples,
        )


def _fitted(encoder: Any, num_samples: int) -> Any:
    """The config of an encoder for sounds of so many samples, where it asks how many there are."""
    if not hasattr(encoder, "num_samples"):
        return encoder
    if encoder.num_samples not in (None, num_samples):
        raise ValueError(
            f"encoder.num_samples={encoder.num_samples}, but num_samples={num_samples}: leave encoder.num_samples "
            "empty, or make them equal."
        )
    return replace(encoder, num_samples=num_samples)


def refuse_other_sense(modality: str, folder: Path) -> None:
    """Raises ValueError for an encoder that does not hear, and names the one beside it that does."""
    if modality == "sound":
        return
    try:
        beside = find_partner(folder, "sound")
    except EncoderError:
        raise ValueError(
            f"the encoder of {folder} sees {modality}, and sounds are to be classified: name an encoder of sound, such "
            "as RUN/encoders/sound of VATT, or fine-tune this one with the objective supervised."
        ) from None
    raise ValueError(
        f"the encoder of {folder} sees {modality}, and sounds are to be classified: the one beside it that hears is "
        f"objective.init.run={beside}."
    )
