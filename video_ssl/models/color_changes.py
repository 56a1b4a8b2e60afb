"""Color changes on the device: the parameters of `video_ssl.clips.color_changes`, applied in torch.

All frames of a view change alike.  Everything is float32, whatever autocast says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from video_ssl.clips.color_changes import (
    BLUR,
    BLUR_EACH,
    BRIGHTNESS,
    CONTRAST,
    GREY,
    GREY_FIRST,
    HUE,
    LAWS,
    NUM_PARAMETERS,
    OFFSET,
    ORDER,
    SATURATION,
    SOLARIZE,
    ColorLaw,
    changes_of,
)
from video_ssl.clips.config import ColorConfig
from video_ssl.models.config import Normalization
from video_ssl.models.preprocess import normalize, to_pixels


def augmented_input(
    video: Tensor,
    parameters: Tensor | None,
    normalization: Normalization,
    color: ColorConfig | None,
) -> Tensor:
    """Returns float32 (B*V, C, T, H, W), normalised, with the colors changed where `color` is set.

    Args:
        video: uint8 (B, V, T, H, W, 3).
        parameters: (B, V, NUM_PARAMETERS), from `color_fields` in the plan; not looked at where `color` is None.
        normalization: mean and standard deviation of the channels.
        color: whose law the parameters are of.

    Raises:
        ValueError: `color` is set and there are no parameters.
    """
    pixels = to_pixels(video)
    if color is not None:
        rows = changes_of(parameters).flatten(0, -2)
        pixels = apply_color(pixels, rows, color.law)
    return normalize(pixels, normalization)


def apply_color(pixels: Tensor, parameters: Tensor, law: str | ColorLaw) -> Tensor:
    """Returns pixels with their colors changed, float32 (N, 3, T, H, W) in [0, 1].

    Args:
        pixels: (N, 3, T, H, W) in [0, 1].
        parameters: float (N, NUM_PARAMETERS), a row per view.
        law: a key of `LAWS`, or a law.

    On a CPU each view goes through its own operations.  Elsewhere (and under torch.compile) all views go through all of
    them, so that the host never waits for the device; results agree up to rounding.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if parameters.shape != (pixels.shape[0], NUM_PARAMETERS) or pixels.shape[1] != 3:
        raise ValueError(
            f"pixels {tuple(pixels.shape)} and parameters {tuple(parameters.shape)} do not belong together: give "
            f"(N, 3, T, H, W) and (N, {NUM_PARAMETERS})."
        )
    rules = LAWS[law] if isinstance(law, str) else law
    with torch.autocast(pixels.device.type, enabled=False):
        pixels, parameters = pixels.float(), parameters.float()
        if pixels.device.type == "cpu" and not torch.compiler.is_compiling():
            rows = zip(pixels, parameters.tolist(), strict=True)
            return torch.stack([_one_view(view, row, rules) for view, row in rows])
        return _all_views(pixels, parameters, rules)


def _one_view(x: Tensor, row: list[float], law: ColorLaw) -> Tensor:
    """(3, T, H, W) through the operations that its parameters ask for, and no others."""
    if row[GREY_FIRST]:
        x = grey(x, law).expand_as(x)
    for op in row[ORDER]:
        if op == 0 and (row[BRIGHTNESS] != 1 or row[OFFSET]):
            x = _cut(x * row[BRIGHTNESS] + row[OFFSET], law)
        elif op == 1 and row[CONTRAST] != 1:
            x = adjust_contrast(x, row[CONTRAST], law)
        elif op == 2 and row[SATURATION] != 1:
            x = adjust_saturation(x, row[SATURATION], law)
        elif op == 3 and row[HUE]:
            x = shift_hue(x, row[HUE])
        if row[BLUR_EACH]:
            x = blur(x[None], torch.tensor([row[BLUR_EACH]]), law)[0]
    if row[GREY]:
        x = grey(x, law).expand_as(x)
    if row[BLUR]:
        x = blur(x[None], torch.tensor([row[BLUR]]), law)[0]
    if row[SOLARIZE]:
        x = torch.where(x >= 0.5, 1 - x, x)
    return x.clamp(0, 1)


def _all_views(x: Tensor, parameters: Tensor, law: ColorLaw) -> Tensor:
    """(N, 3, T, H, W) through all operations, each kept where the parameters ask for it."""
    value = [column[:, None, None, None, None] for column in parameters.unbind(1)]
    x = torch.where(value[GREY_FIRST] > 0, grey(x, law), x)
    for op in value[ORDER]:
        changes = (
            (op == 0, _cut(x * value[BRIGHTNESS] + value[OFFSET], law)),
            ((op == 1) & (value[CONTRAST] != 1), adjust_contrast(x, value[CONTRAST], law)),
            ((op == 2) & (value[SATURATION] != 1), adjust_saturation(x, value[SATURATION], law)),
            ((op == 3) & (value[HUE] != 0), shift_hue(x, value[HUE])),
        )
        for asked, changed in changes:
            x = torch.where(asked, changed, x)
        x = torch.where(value[BLUR_EACH] > 0, blur(x, parameters[:, BLUR_EACH], law), x)
    x = torch.where(value[GREY] > 0, grey(x, law), x)
    x = torch.where(value[BLUR] > 0, blur(x, parameters[:, BLUR], law), x)
    x = torch.where((value[SOLARIZE] > 0) & (x >= 0.5), 1 - x, x)
    return x.clamp(0, 1)


# Operations: x is (..., 3, T, H, W), factors are numbers or broadcast against x ------------------


def grey(x: Tensor, law: ColorLaw) -> Tensor:
    """Returns (..., 1, T, H, W), the weighted sum of the colors."""
    red, green, blue = x.split(1, dim=-4)
    return red * law.grey[0] + green * law.grey[1] + blue * law.grey[2]


def adjust_contrast(x: Tensor, factor: float | Tensor, law: ColorLaw) -> Tensor:
    """Returns mean + factor * (x - mean); the law says of what the mean is."""
    if law.contrast == "grey":
        mean = grey(x, law).mean((-2, -1), keepdim=True)
    else:
        mean = x.mean((-2, -1) if law.contrast == "frame" else (-3, -2, -1), keepdim=True)
    return _cut(x * factor + (1 - factor) * mean, law)


def adjust_saturation(x: Tensor, factor: float | Tensor, law: ColorLaw) -> Tensor:
    """Returns x moved away from its grey by `factor`, or with its saturation (HSV) times `factor`, cut to [0, 1]."""
    if law.saturation == "blend":
        return _cut(x * factor + (1 - factor) * grey(x, law), law)
    top = x.amax(-4, keepdim=True)
    span = top - x.amin(-4, keepdim=True)
    saturation = span / top.clamp_min(1e-12)
    # In HSV all colors lie at top - span * something, so a new saturation scales their distances to the top.
    wanted = (
        (saturation * factor).clamp(0, 1) if law.cut_each else (saturation * factor).clamp(max=1)
    )
    return top - (top - x) * torch.where(saturation > 0, wanted / saturation.clamp_min(1e-12), 1.0)


def shift_hue(x: Tensor, turns: float | Tensor) -> Tensor:
    """Returns x with its hue (HSV) shifted by `turns`; value and saturation stay."""
    red, green, blue = x.split(1, dim=-4)
    top, low = x.amax(-4, keepdim=True), x.amin(-4, keepdim=True)
    span = top - low
    safe = torch.where(span > 0, span, 1.0)
    sector = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    place = sector + 6 * turns
    # The color with offset n at hue h is top - span * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6.
    channels = []
    for n in (5, 3, 1):
        k = torch.remainder(place + n, 6)
        channels.append(top - span * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.cat(channels, dim=-4)


def blur(x: Tensor, sigma: Tensor, law: ColorLaw, radius: int | None = None) -> Tensor:
    """Returns x (N, 3, T, H, W) after a Gaussian blur of each view's own sigma (N,) in pixels; 0 changes nothing.

    The filter has 2 * radius + 1 taps, by default with radius = H // 20, as CVRL's.
    """
    radius = max(1, x.shape[-2] // 10 // 2) if radius is None else radius
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    spread = sigma.to(x)[:, None]
    weights = torch.exp(-(taps**2) / (2 * spread.clamp_min(1e-3) ** 2))
    weights = weights / weights.sum(1, keepdim=True)
    for _ in range(2):  # along the rows, then along the columns
        bands = _bands(weights, x.shape[-1], edge=law.border == "edge")
        x = torch.bmm(x.flatten(1, -2), bands).view(x.shape).transpose(-1, -2)
    return x.contiguous()


def _bands(weights: Tensor, size: int, *, edge: bool) -> Tensor:
    """Returns (N, size, size): rows times it are filtered by weights (N, 2 * radius + 1) that differ from view to view.

    On a CPU it takes an eighth of the time of a convolution with as many groups as views (16 frames of 224 px).
    """
    radius = weights.shape[1] // 2
    cells = torch.arange(size, device=weights.device)
    taken = cells[:, None] + torch.arange(-radius, radius + 1, device=weights.device)
    taken = taken.clamp(0, size - 1) if edge else taken
    return torch.einsum("nk,ikj->nji", weights, (taken[..., None] == cells).to(weights))


def _cut(x: Tensor, law: ColorLaw) -> Tensor:
    return x.clamp(0, 1) if law.cut_each else x
