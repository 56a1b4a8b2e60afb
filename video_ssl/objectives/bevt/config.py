"""Settings of BEVT (arXiv:2112.01529).  Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from video_ssl.clips.config import ClipConfig, ColorConfig, CropConfig
from video_ssl.models.config import Normalization
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.objectives.shared.sources import EncoderSource

#: Side of a cell of the masks in pixels, and of one of the tokenizer in pixels of its picture, which is half as large.
CELL_PX, TOKEN_PX = 16, 8


@dataclass(frozen=True, kw_only=True)
class BlockMaskConfig:
    """Rectangles of cells that the encoder does not see; of clips the same over some moments in a row.

    Attributes:
        count: cells that are hidden of a picture or moment, at most: 98 of 14 x 14 as published.
        least: cells of a rectangle, 16 as published.
        moments: bounds of the share of the moments of a clip that have hidden cells; after the end it goes on at the
            beginning.
    """

    count: int = 98
    least: int = 16
    moments: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.count:
            raise ValueError(f"least={self.least} must lie in 1..count={self.count}.")
        low, high = self.moments
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"moments={self.moments} must be (low, high) with 0 < low <= high <= 1."
            )

    def check(self, grid: tuple[int, int, int]) -> None:
        """Raises ValueError for a grid (t, h, w) of which nothing or all could be hidden."""
        t, h, w = grid
        if self.count >= h * w:
            raise ValueError(
                f"mask.count={self.count} of {h} x {w} cells leaves nothing to see: use at most {h * w - 1}, half of "
                f"them as published ({h * w // 2})."
            )
        if int(t * self.moments[0]) < 1:
            raise ValueError(
                f"mask.moments={self.moments} of {t} moments may hide none: use at least {1 / t:g}."
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of BEVT.

    A batch of the stream `video` holds `video` uint8 (B, T, S, S, 3) with T = clip.num_frames, S = crop.size; `words`
    uint8 (B, T, S/2, S/2, 3), the same frames as the tokenizer sees them; `mask` bool (B, T/2, S/16, S/16), True =
    hidden.  The stream `images` has `picture` (B', S, S, 3), `words` (B', S/2, S/2, 3), `mask` (B', S/16, S/16), and
    where `color` is set `color` float32 (B', NUM_PARAMETERS).

    Attributes:
        streams: "both" (stage 2), "images" (stage 1), or "video".  Of both, `video` is the main one.
        tokenizer: where the frozen tokenizer comes from.
        init: the encoder to begin with: of stage 1, or of another Swin; null = random weights.
        mask: what is hidden.
        color: changes of color of the pictures; the tokenizer sees them changed too.
        video_weight, image_weight: of the two terms.

    Source: papers/bevt.md sections 2 to 4.
    """

    tokenizer: EncoderSource
    streams: Literal["both", "images", "video"] = "both"
    init: EncoderSource | None = None
    clip: ClipConfig = field(
        default_factory=lambda: ClipConfig(num_frames=16, frame_stride=8, sampling="looped")
    )
    crop: CropConfig = field(
        default_factory=lambda: CropConfig(
            kind="short_side", scales=(0.7, 0.875), flip_probability=0.5
        )
    )
    mask: BlockMaskConfig = field(default_factory=BlockMaskConfig)
    color: ColorConfig | None = field(default_factory=lambda: ColorConfig(law="bevt"))
    encoder: SwinConfig = field(default_factory=lambda: SwinConfig(drop_path=0.3))
    normalization: Normalization = field(default_factory=Normalization)
    video_weight: float = 1.0
    image_weight: float = 1.0

    def __post_init__(self) -> None:
        if min(self.video_weight, self.image_weight) <= 0:
            raise ValueError(
                f"video_weight={self.video_weight} and image_weight={self.image_weight} must be positive; `streams` "
                "leaves one out."
            )
        if self.clip.num_clips != 1 or self.clip.views_per_clip != 1:
            raise ValueError(
                f"clip.num_clips={self.clip.num_clips} and clip.views_per_clip={self.clip.views_per_clip} must be 1."
            )
        if self.encoder.patch[1:] != (4, 4):
            raise ValueError(
                f"encoder.patch={self.encoder.patch}: a cell of the masks is {CELL_PX} pixels, 4 x 4 patches of 4; use "
                "(frames, 4, 4)."
            )
        if self.clip.num_frames % self.encoder.patch[0]:
            raise ValueError(
                f"clip.num_frames={self.clip.num_frames} must be a multiple of encoder.patch[0]="
                f"{self.encoder.patch[0]}: every frame of a token has words of its own."
            )
        self._check_size()
        self.mask.check(self.grid)
        frames = {"num_frames": self.clip.num_frames, "images": True}
        object.__setattr__(self, "encoder", _replaced(self.encoder, frames))

    def _check_size(self) -> None:
        size, (_, wh, ww) = self.crop.size, self.encoder.window
        step = 32 if self.streams == "video" else 32 * max(wh, ww)
        if wh != ww or size % step:
            why = "the last stage has cells of 32 pixels"
            if self.streams != "video":
                why = f"windows of {wh} x {ww} tokens must divide pictures at every stage"
            raise ValueError(
                f"crop.size={size} must be a multiple of {step}: {why}. Use {step * max(1, round(size / step))}, or "
                "another encoder.window."
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Moments, rows and columns of the cells of a clip."""
        side = self.crop.size // CELL_PX
        return self.clip.num_frames // self.encoder.patch[0], side, side

    @property
    def clips_per_record(self) -> int:
        return 1

    def stages(self) -> dict[str, EncoderSource]:
        found = {"tokenizer": self.tokenizer}
        return found if self.init is None else {**found, "init": self.init}


def _replaced(encoder: SwinConfig, filled: dict[str, int | bool]) -> SwinConfig:
    given = encoder.num_frames
    if given is not None and given != filled["num_frames"]:
        raise ValueError(
            f"encoder.num_frames={given}, but clip.num_frames={filled['num_frames']}: leave encoder.num_frames empty, "
            "or make them equal."
        )
    return replace(encoder, **filled)  # type: ignore[arg-type]
