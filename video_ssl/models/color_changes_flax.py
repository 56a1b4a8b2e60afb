"""Color changes on the device: the parameters of `video_ssl.clips.color_changes`, applied in jax; torch's beside it.

All frames of a view change alike.  Everything is float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

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

Change = Callable[[Array], Array]


def augmented_input(
    video: Array, parameters: Array | None, normalization: Normalization, color: ColorConfig | None
) -> Array:
    """Returns float32 (B, V, T, H, W, 3), normalised, with the colors changed where `color` is set.

    Whether views are blurred at all is read off `color`, so that no blur is computed that nobody sees.

    Args:
        video: uint8 (B, V, T, H, W, 3).
        parameters: (B, V, NUM_PARAMETERS), from `color_fields` in the plan; not looked at where `color` is None.
        normalization: mean and standard deviation of the channels.
        color: whose law the parameters are of.

    Raises:
        ValueError: `color` is set and there are no parameters.
    """
    pixels = video.astype(jnp.float32) / 255
    if color is not None:
        flat = pixels.reshape(-1, *pixels.shape[2:])
        rows = changes_of(parameters).reshape(-1, NUM_PARAMETERS)
        changed = apply_color(
            flat,
            rows,
            color.law,
            blur_each=color.setting("blur_each_probability") > 0,
            blur_last=color.setting("blur_probability") > 0,
        )
        pixels = changed.reshape(pixels.shape)
    return (pixels - jnp.asarray(normalization.mean)) / jnp.asarray(normalization.std)


def apply_color(
    pixels: Array,
    parameters: Array,
    law: str | ColorLaw,
    *,
    blur_each: bool = True,
    blur_last: bool = True,
    one_by_one: bool | None = None,
) -> Array:
    """Returns pixels with their colors changed, float32 (N, T, H, W, 3) in [0, 1].

    Args:
        pixels: (N, T, H, W, 3) in [0, 1].
        parameters: float (N, NUM_PARAMETERS), a row per view.
        law: a key of `LAWS`, or a law.
        blur_each: False promises that no view has a blur after each jitter, which spares four blurs.
        blur_last: False promises that no view has a blur at the end.
        one_by_one: views go one after the other, each through its own operations; by default where jax has a CPU as
            its only device.  Elsewhere all views go through all operations, each kept where the parameters ask for
            it, so that every device has only its own views and none waits for a choice.  Results agree up to rounding.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if parameters.shape != (pixels.shape[0], NUM_PARAMETERS) or pixels.shape[-1] != 3:
        raise ValueError(
            f"pixels {tuple(pixels.shape)} and parameters {tuple(parameters.shape)} do not belong together: give "
            f"(N, T, H, W, 3) and (N, {NUM_PARAMETERS})."
        )
    rules = LAWS[law] if isinstance(law, str) else law
    x, parameters = pixels.astype(jnp.float32), parameters.astype(jnp.float32)
    if one_by_one is None:
        one_by_one = jax.default_backend() == "cpu" and jax.device_count() == 1
    blurs = {"blur_each": blur_each, "blur_last": blur_last}
    if one_by_one:
        return jax.lax.map(
            lambda view: _one_view(view[0], view[1], rules, **blurs), (x, parameters)
        )
    return _all_views(x, parameters, rules, **blurs)


def _one_view(x: Array, row: Array, law: ColorLaw, *, blur_each: bool, blur_last: bool) -> Array:
    """(T, H, W, 3) through the operations that its parameters ask for, and no others."""

    def asked(condition: Array, change: Change, x: Array) -> Array:
        return jax.lax.cond(condition, change, lambda x: x, x)

    def blurred(x: Array, place: int) -> Array:
        sigma = row[place]
        return asked(sigma > 0, lambda x: blur(x[None], sigma[None], law)[0], x)

    def greyed(x: Array) -> Array:
        return jnp.broadcast_to(grey(x, law), x.shape)

    jitters = [functools.partial(asked, *jitter) for jitter in _jitters(row, law)]
    x = asked(row[GREY_FIRST] > 0, greyed, x)
    for op in row[ORDER]:
        x = jax.lax.switch(op.astype(jnp.int32), jitters, x)
        if blur_each:
            x = blurred(x, BLUR_EACH)
    x = asked(row[GREY] > 0, greyed, x)
    if blur_last:
        x = blurred(x, BLUR)
    x = asked(row[SOLARIZE] > 0, lambda x: jnp.where(x >= 0.5, 1 - x, x), x)
    return x.clip(0, 1)


def _all_views(
    x: Array, parameters: Array, law: ColorLaw, *, blur_each: bool, blur_last: bool
) -> Array:
    """(N, T, H, W, 3) through all operations, each kept where the parameters ask for it."""
    value = [column[:, None, None, None, None] for column in parameters.T]
    x = jnp.where(value[GREY_FIRST] > 0, grey(x, law), x)
    for op in value[ORDER]:
        before = x
        for number, (asked, change) in enumerate(_jitters(value, law)):
            x = jnp.where((op == number) & asked, change(before), x)
        if blur_each:
            x = jnp.where(value[BLUR_EACH] > 0, blur(x, parameters[:, BLUR_EACH], law), x)
    x = jnp.where(value[GREY] > 0, grey(x, law), x)
    if blur_last:
        x = jnp.where(value[BLUR] > 0, blur(x, parameters[:, BLUR], law), x)
    x = jnp.where((value[SOLARIZE] > 0) & (x >= 0.5), 1 - x, x)
    return x.clip(0, 1)


def _jitters(value: Array | list[Array], law: ColorLaw) -> list[tuple[Array, Change]]:
    """Whether each jitter changes anything, and what it does, in the order of their numbers."""
    return [
        (
            (value[BRIGHTNESS] != 1) | (value[OFFSET] != 0),
            lambda x: _cut(x * value[BRIGHTNESS] + value[OFFSET], law),
        ),
        (value[CONTRAST] != 1, lambda x: adjust_contrast(x, value[CONTRAST], law)),
        (value[SATURATION] != 1, lambda x: adjust_saturation(x, value[SATURATION], law)),
        (value[HUE] != 0, lambda x: shift_hue(x, value[HUE])),
    ]


# Operations: x is (..., T, H, W, 3), factors are numbers or broadcast against x ------------------


def grey(x: Array, law: ColorLaw) -> Array:
    """Returns (..., T, H, W, 1), the weighted sum of the colors."""
    red, green, blue = jnp.split(x, 3, -1)
    return red * law.grey[0] + green * law.grey[1] + blue * law.grey[2]


def adjust_contrast(x: Array, factor: float | Array, law: ColorLaw) -> Array:
    """Returns mean + factor * (x - mean); the law says of what the mean is."""
    if law.contrast == "grey":
        mean = grey(x, law).mean((-3, -2), keepdims=True)
    else:
        mean = x.mean((-3, -2) if law.contrast == "frame" else (-4, -3, -2), keepdims=True)
    return _cut(x * factor + (1 - factor) * mean, law)


def adjust_saturation(x: Array, factor: float | Array, law: ColorLaw) -> Array:
    """Returns x moved away from its grey by `factor`, or with its saturation (HSV) times `factor`, cut to [0, 1]."""
    if law.saturation == "blend":
        return _cut(x * factor + (1 - factor) * grey(x, law), law)
    top = x.max(-1, keepdims=True)
    span = top - x.min(-1, keepdims=True)
    saturation = span / jnp.maximum(top, 1e-12)
    # In HSV all colors lie at top - span * something, so a new saturation scales their distances to the top.
    wanted = (saturation * factor).clip(0 if law.cut_each else None, 1)
    share = jnp.where(saturation > 0, wanted / jnp.maximum(saturation, 1e-12), 1.0)
    return top - (top - x) * share


def shift_hue(x: Array, turns: float | Array) -> Array:
    """Returns x with its hue (HSV) shifted by `turns`; value and saturation stay."""
    red, green, blue = jnp.split(x, 3, -1)
    top, low = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
    span = top - low
    safe = jnp.where(span > 0, span, 1.0)
    sector = jnp.where(
        top == red,
        (green - blue) / safe,
        jnp.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # The color with offset n at hue h is top - span * clip(min(k, 4 - k), 0, 1), k = (n + h) mod 6.  Colors go one by
    # one, and the remainder by `floor`: a CPU does neither three lanes at a time nor `remainder` at speed.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = sector + 6 * turns + offset
        k = k - 6 * jnp.floor(k / 6)
        channels.append(top - span * jnp.minimum(k, 4 - k).clip(0, 1))
    return jnp.concatenate(channels, -1)


def blur(x: Array, sigma: Array, law: ColorLaw, radius: int | None = None) -> Array:
    """Returns x (N, T, H, W, 3) after a Gaussian blur of each view's own sigma (N,) in pixels; 0 changes nothing.

    The filter has 2 * radius + 1 taps, by default with radius = H // 20, as CVRL's.
    """
    radius = max(1, x.shape[-3] // 10 // 2) if radius is None else radius
    taps = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    spread = jnp.maximum(sigma.astype(jnp.float32), 1e-3)[:, None]
    weights = jnp.exp(-(taps**2) / (2 * spread**2))
    weights = weights / weights.sum(1, keepdims=True)
    for axis in (3, 2):
        x = _filter(x, weights, axis, radius, "edge" if law.border == "edge" else "constant")
    return x


def _filter(x: Array, weights: Array, axis: int, radius: int, mode: str) -> Array:
    """A sum of shifted copies, each view with its own weights: no convolution has a kernel for each sample."""
    size = x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (radius, radius)
    wide = jnp.pad(x, pad, mode=mode)
    total = jnp.zeros_like(x)
    for i in range(2 * radius + 1):
        part = jax.lax.slice_in_dim(wide, i, i + size, axis=axis)
        total = total + part * weights[:, i, None, None, None, None]
    return total


def _cut(x: Array, law: ColorLaw) -> Array:
    return x.clip(0, 1) if law.cut_each else x
