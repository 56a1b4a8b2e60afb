"""Color changes of a view: drawn here in numpy as one small array, applied on the device to all its frames alike.

The array is float32 (NUM_PARAMETERS,) per view; a batch carries `color` float32 (B, V, NUM_PARAMETERS).  Whoever
applies it (`models/color_changes.py` in torch, a flax twin from the same numbers) goes through it in this order:

| place | what | does nothing at |
|---|---|---|
| GREY_FIRST | 1: all three colors become the grey before anything else | 0 |
| ORDER (4 places) | which jitter comes first, second, ...: 0 brightness, 1 contrast, 2 saturation, 3 hue | |
| BRIGHTNESS, OFFSET | x -> x * BRIGHTNESS + OFFSET | 1, 0 |
| CONTRAST | x -> mean + CONTRAST * (x - mean) | 1 |
| SATURATION | x -> grey + SATURATION * (x - grey), or a factor of S in HSV | 1 |
| HUE | shift of H in HSV, in turns | 0 |
| BLUR_EACH | after each of the four: Gaussian blur of this sigma in pixels | 0 |
| GREY | 1: grey | 0 |
| BLUR | Gaussian blur of this sigma in pixels | 0 |
| SOLARIZE | 1: x -> 1 - x where x >= 0.5 | 0 |

Values are pixels in [0, 1].  What "mean" and "grey" are, whether values are cut to [0, 1] after each jitter, and how a
blur treats the border differs from project to project: that is the law, `LAWS`.  Strengths and chances are settings of
`ColorConfig`, filled from the law where a recipe leaves them empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.config import ColorConfig

P = TypeVar("P")

ORDER = slice(0, 4)
BRIGHTNESS, CONTRAST, SATURATION, HUE, OFFSET = 4, 5, 6, 7, 8
GREY_FIRST, GREY, BLUR_EACH, BLUR, SOLARIZE = 9, 10, 11, 12, 13
NUM_PARAMETERS = 14

Colors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ColorLaw:
    """How the operations are defined.

    Attributes:
        contrast: what contrast is about: the mean "grey" of each frame, the mean of each color of each "frame", or of
            each color over the whole "clip".
        saturation: "blend" with the grey, or a factor in "hsv".
        grey: weights of red, green and blue.
        cut_each: cut to [0, 1] after each jitter, not only at the end.
        border: what a blur sees beyond the border: the "edge" pixel or "zero" (borders darken).
    """

    contrast: Literal["grey", "frame", "clip"] = "grey"
    saturation: Literal["blend", "hsv"] = "blend"
    grey: tuple[float, float, float] = (0.299, 0.587, 0.114)
    cut_each: bool = True
    border: Literal["edge", "zero"] = "edge"


_CVRL = ColorLaw(contrast="clip", saturation="hsv", grey=(0.2989, 0.5870, 0.1140), border="zero")

#: law of `ColorConfig` -> operations.  Sources: papers/hico.md 2.5, 2.6, carl.md 2.3, cvrl.md 2.2, vatt.md 2,
#: bevt.md 2 (its order of operations is drawn once for a data set there, for each picture here).
#: CARL's reference goes through 8-bit pictures and Pillow's approximate blur; neither is imitated.
LAWS: dict[str, ColorLaw] = {
    "hico": ColorLaw(),
    "hico_finetune": ColorLaw(),
    "simclr": ColorLaw(),
    "carl": ColorLaw(),
    "tcc": ColorLaw(),
    "cvrl": _CVRL,
    "cvrl_second": _CVRL,
    "bevt": ColorLaw(grey=(0.2989, 0.5870, 0.1140), cut_each=False),
    "vatt": ColorLaw(contrast="frame", saturation="hsv", cut_each=False),
}


def unchanged() -> Colors:
    """Returns the parameters that change nothing: float32 (NUM_PARAMETERS,)."""
    parameters = np.zeros(NUM_PARAMETERS, np.float32)
    parameters[ORDER] = np.arange(4)
    parameters[[BRIGHTNESS, CONTRAST, SATURATION]] = 1.0
    return parameters


def sample_color(config: ColorConfig, rng: np.random.Generator) -> Colors:
    """Returns the parameters of one view: float32 (NUM_PARAMETERS,).

    As many numbers are drawn whatever comes out, so one setting never shifts what is drawn after it.
    """
    happens = rng.random(6)
    amount = rng.uniform(-1.0, 1.0, 5)
    sigma = rng.uniform(*config.blur_sigma)
    order = rng.permutation(4)
    parameters = unchanged()
    parameters[ORDER] = order if config.order is None else config.order
    if happens[0] < config.setting("probability"):
        for place, strength, draw in (
            (BRIGHTNESS, config.setting("brightness"), amount[0]),
            (CONTRAST, config.setting("contrast"), amount[1]),
            (SATURATION, config.setting("saturation"), amount[2]),
        ):
            low, high = max(0.0, 1.0 - strength), 1.0 + strength
            parameters[place] = low + (high - low) * (draw + 1) / 2
        parameters[HUE] = config.setting("hue") * amount[3]
        parameters[OFFSET] = config.setting("offset") * amount[4]
        if happens[1] < config.setting("blur_each_probability"):
            parameters[BLUR_EACH] = sigma
    parameters[GREY_FIRST] = happens[2] < config.setting("grey_first_probability")
    parameters[GREY] = happens[3] < config.setting("grey_probability")
    if happens[4] < config.setting("blur_probability"):
        parameters[BLUR] = sigma
    parameters[SOLARIZE] = happens[5] < config.setting("solarize_probability")
    return parameters


def color_fields(
    config: ColorConfig | None, num_views: int, rng: np.random.Generator
) -> dict[str, Colors]:
    """Returns what a plan adds to its sample: {} without color, else `color` float32 (num_views, NUM_PARAMETERS)."""
    if config is None:
        return {}
    return {"color": np.stack([sample_color(config, rng) for _ in range(num_views)])}


def changes_of(parameters: P | None) -> P:
    """Returns the parameters of a batch whose objective changes colors.

    Raises:
        ValueError: there are none.
    """
    if parameters is None:
        raise ValueError(
            "the objective changes colors, and the batch has no parameters for it: its plan adds `color_fields`."
        )
    return parameters
