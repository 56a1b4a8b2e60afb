"""Settings of VATT, free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattHeadsConfig,
    VattSharedConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.preprocess_config import SoundPreprocess, VideoPreprocess
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.shared.wiring import fit_encoder
from video_ssl.objectives.vatt.loss_config import LossConfig
from video_ssl.objectives.vatt.sample_config import SampleConfig


@dataclass(frozen=True, kw_only=True)
class Config(SampleConfig):
    """Settings of VATT.

    A batch holds `video` uint8 (B, T, S, S, 3) with T = num_frames, S = crop.size; where `color` is set `color` float32
    (B, NUM_PARAMETERS); `sound` float32 (B, N) in -1..1 with N = num_samples, and `has_sound` bool (B,); `words` int32
    (B, L, W), places in the vocabulary, 0 = padding, with L = num_captions, W = num_words, and `has_words` bool (B,).
    Sound and words that are not there are zeros, and False.

    Attributes:
        video, audio, text: the encoders, the medium, the base and the small one where they are left out; sizes of clips
            and of the vocabulary follow from the sample.
        shared: in place of them, which are null then, one transformer for all three (modality-agnostic).
        word_vectors: file of the vectors that words begin with, and keep where they are frozen: `.npy`, a row for every
            place of the vocabulary, or the published word2vec.pkl.  Null = drawn.
        heads: from the encoders into the common spaces.
        loss: see `LossConfig`.
        drop_token: share of the tokens of video and of sound that are left out of a step, drawn once for all samples of
            a replica (`loss.replicas`); words are never left out.  0 = none.
        zero_nan_gradients: entries of gradients that are NaN become 0, as in the code.  Here a run stops at a gradient
            that is not finite, and says where; that is the default.

    Source: papers/vatt.md (arXiv:2104.11178).
    """

    video: VattVideoConfig | None = None
    audio: VattAudioConfig | None = None
    text: VattTextConfig | None = None
    shared: VattSharedConfig | None = None
    word_vectors: str | None = None
    heads: VattHeadsConfig = field(default_factory=VattHeadsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    drop_token: float = 0.5
    zero_nan_gradients: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_token < 1:
            raise ValueError(
                f"drop_token={self.drop_token} must lie in [0, 1): at 1 no token would be left."
            )
        self._fill_encoders()
        for name, count in self.num_kept().items():
            if count < 1:
                raise ValueError(
                    f"drop_token={self.drop_token} leaves none of the tokens of {name}: use less, or longer clips."
                )

    def _fill_encoders(self) -> None:
        own = [name for name in _DEFAULTS if getattr(self, name) is not None]
        if self.shared is not None and own:
            raise ValueError(
                f"shared stands in place of video, audio and text, but {', '.join(own)} is set too: leave out shared, "
                "or set the others to null."
            )
        for name in own:
            if getattr(self, name).heads is not None:
                raise ValueError(f"{name}.heads is set by heads, for all encoders: use that.")
        if self.shared is None:
            for name, cls in _DEFAULTS.items():
                object.__setattr__(self, name, getattr(self, name) or cls())

    @property
    def video_encoder(self) -> VattVideoConfig:
        """The encoder of video, for clips of this sample."""
        given = self.shared.encoders()[0] if self.shared else self.video
        assert given is not None
        fitted = fit_encoder(given, size=self.crop.size, num_frames=self.num_frames)
        return replace(
            fitted,
            heads=self.heads,
            table_frames=fitted.table_frames or fitted.num_frames,
            table_size=fitted.table_size or fitted.image_size,
        )

    @property
    def audio_encoder(self) -> VattAudioConfig:
        """The encoder of sound, for sounds of this sample."""
        given = self.shared.encoders()[1] if self.shared else self.audio
        assert given is not None
        if given.num_samples not in (None, self.num_samples):
            raise ValueError(
                f"audio.num_samples={given.num_samples}, but num_samples={self.num_samples}: leave audio.num_samples "
                "empty, or make them equal."
            )
        table = given.table_samples or self.num_samples
        return replace(given, heads=self.heads, num_samples=self.num_samples, table_samples=table)

    @property
    def text_encoder(self) -> VattTextConfig | VattWordsConfig:
        """The encoder of words, for the vocabulary of the run.

        Raises:
            ValueError: there is no vocabulary yet, or it has another size than `text.vocab_size`.
        """
        places = len(self.text_preprocess.vocabulary)
        if self.shared is not None:
            words = self.shared.encoders()[2]
            return replace(words, heads=self.heads, vocab_size=places, num_words=self.num_words)
        assert self.text is not None
        if self.text.vocab_size not in (None, places):
            raise ValueError(
                f"text.vocab_size={self.text.vocab_size}, but the vocabulary has {places} places: leave "
                "text.vocab_size empty."
            )
        return replace(self.text, heads=self.heads, vocab_size=places)

    @property
    def encoder(self) -> VattVideoConfig:
        """That of video, which leaves the training first."""
        return self.video_encoder

    @property
    def clips_per_record(self) -> int:
        return 1

    def num_tokens(self) -> dict[str, int]:
        """Returns the tokens of a clip and of a sound, by the name of their encoder."""
        t, h, w = self.video_encoder.grid(self.num_frames, self.crop.size, self.crop.size)
        return {"video": t * h * w, "sound": self.audio_encoder.grid(self.num_samples)[0]}

    def num_kept(self) -> dict[str, int]:
        """Returns how many of these a step of training sees."""
        return {name: int((1 - self.drop_token) * n) for name, n in self.num_tokens().items()}

    @property
    def video_preprocess(self) -> VideoPreprocess:
        """What the encoder of video expects of a clip."""
        return VideoPreprocess(
            num_frames=self.num_frames,
            frame_stride=self.frame_stride,
            fps=self.fps,
            size=self.crop.size,
            sampling="dmvr",
            mean=self.normalization.mean,
            std=self.normalization.std,
        )

    @property
    def sound_preprocess(self) -> SoundPreprocess:
        """What the encoder of sound expects of a clip."""
        return SoundPreprocess(rate=self.rate, num_samples=self.num_samples)

    def stages(self) -> dict[str, EncoderSource]:
        return {}


_DEFAULTS: dict[str, Any] = {
    "video": VattVideoConfig,
    "audio": VattAudioConfig,
    "text": VattTextConfig,
}
