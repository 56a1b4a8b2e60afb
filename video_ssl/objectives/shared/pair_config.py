"""Settings that objectives of two clips of a video share (CVRL, TeG).  Free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from video_ssl.clips.config import ColorConfig, CropConfig
from video_ssl.models.config import Normalization
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.sources import EncoderSource

#: The references' pixels: in [0, 1], not centred.
UNIT = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def cvrl_crop() -> CropConfig:
    """Returns the crop of CVRL and TeG.  Source: papers/cvrl.md section 2.2."""
    return CropConfig(
        kind="height_first",
        area=(0.3, 1.0),
        aspect=(0.5, 2.0),
        flip_probability=0.5,
        resize="tensorflow",
    )


def cvrl_second_color() -> ColorConfig:
    """Returns how CVRL and TeG change the second clip."""
    return ColorConfig(law="cvrl_second")


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What objectives share that compare two clips of a video, changed in different ways (CVRL, TeG, ConST-CL).

    Attributes:
        crop: of each clip on its own.
        color: of the first clip (of TeG's short one); null = none, of both clips.
        second_color: of the second one (TeG's long one); null = as `color`.  Its law must work as that of `color`.
        encoder: the network, `architecture: r3d`.
        normalization: of pixels; the references have none.
        penalty: factor of 0.5 * ||w||² of the kernels of convolutions and dense layers, within the loss.  For SGD; with
            Adam, which scales every gradient to one size, it drives weights that nothing else moves to zero: set 0.
    """

    crop: CropConfig = field(default_factory=cvrl_crop)
    color: ColorConfig | None = field(default_factory=lambda: ColorConfig(law="cvrl"))
    second_color: ColorConfig | None = field(default_factory=cvrl_second_color)
    encoder: R3DConfig = field(default_factory=R3DConfig)
    normalization: Normalization = UNIT
    penalty: float = 1e-6

    def __post_init__(self) -> None:
        if self.penalty < 0:
            raise ValueError(f"penalty={self.penalty} must not be negative; 0 = none.")
        if self.color is None and self.second_color not in (None, cvrl_second_color()):
            raise ValueError(
                "color=null leaves the colors of both clips as they are, but second_color is set: set "
                "second_color=null too, or give color settings of the same law."
            )
        laws = {c.law.removesuffix("_second") for c in (self.color, self.second_color) if c}
        if len(laws) > 1:
            raise ValueError(
                f"color.law={self.color and self.color.law!r} and second_color.law="
                f"{self.second_color and self.second_color.law!r} work differently: use the same law for both views "
                "('cvrl' goes with 'cvrl_second') and set what differs in their settings."
            )

    @property
    def colors(self) -> tuple[ColorConfig | None, ColorConfig | None]:
        """The settings of the two views."""
        if self.color is None:
            return None, None
        return self.color, self.second_color or self.color

    @property
    def applied_color(self) -> ColorConfig | None:
        """Whose operations the device applies to both views, from the parameters of each."""
        given = [color for color in self.colors if color is not None]
        return max(given, key=lambda c: c.setting("blur_each_probability"), default=None)

    @property
    def clips_per_record(self) -> int:
        return 2

    def preprocess(self, num_frames: int, frame_stride: int) -> VideoPreprocess:
        """Returns what an encoder expects that learned from such clips."""
        return VideoPreprocess(
            num_frames=num_frames,
            frame_stride=frame_stride,
            size=self.crop.size,
            mean=self.normalization.mean,
            std=self.normalization.std,
        )

    def stages(self) -> dict[str, EncoderSource]:
        return {}
