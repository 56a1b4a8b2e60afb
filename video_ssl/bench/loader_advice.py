"""What to do about a slow loader: what would help and has not been done."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from video_ssl.clips.upkeep.config import VideoFormat
from video_ssl.datasets.table import Table
from video_ssl.pretrain.recipe import PretrainRecipe

_LONGEST = {
    "open": "Opening takes longest",
    "decode": "Decoding takes longest",
    "resize": "Cropping, scaling and conversion take longest",
    "plan": "The plan takes longest (masks, draws)",
    "transport": "Moving batches between processes takes longest",
    "device": "Copying to the device takes longest",
}
_NOTHING = {
    "open": "faster local storage is what is left",
    "decode": "smaller clips or more cores are what is left",
    "resize": "smaller clips or more cores are what is left",
    "plan": "look there, the videos are not the limit",
    "transport": "take fewer, larger batches, or smaller views",
    "device": "take smaller views, or a wider link; decoding is not the limit",
}


def advice(bottleneck: str, recipe: PretrainRecipe, table: Table) -> str:
    """Returns a sentence on the slowest stage of a loader; what the recipe or its videos have already is not advised.

    Args:
        bottleneck: a stage of `bench loader`.
        recipe: its loader and clips.
        table: its videos; only a scanned or transcoded one says how they are written.
    """
    several = _several_clips(recipe)
    ways = {
        "open": [
            (several, "take several clips per visit (clip.num_clips)"),
            (False, "use local storage, fewer and longer files"),
        ],
        "decode": [
            (_is_fast(table), _transcode()),
            (several, "take several clips per visit (clip.num_clips)"),
            (_all_cores(recipe), "add workers while cores are free (loader.num_workers)"),
        ],
        "resize": [
            (_is_fast(table), _transcode()),
            (_resizes_in_decoder(recipe), "set crop.resize=decoder"),
        ],
    }
    left = [text for done, text in ways.get(bottleneck, []) if not done]
    return f"{_LONGEST[bottleneck]}: {', or '.join(left) or _NOTHING[bottleneck]}."


def _transcode() -> str:
    form = VideoFormat()
    return f"`video-ssl transcode` to a short side of {form.short_side} and a key frame every {form.gop} frames"


def _is_fast(table: Table) -> bool:
    """Whether nearly all videos are as `video-ssl transcode` writes them."""
    needed = ("codec", "max_gop", "width", "height")
    if any(name not in table.column_names for name in needed):
        return False
    short = np.minimum(table.column("width"), table.column("height"))
    gop = np.asarray(table.column("max_gop"))
    small = (short > 0) & (short <= VideoFormat.short_side) & (gop > 0) & (gop <= VideoFormat.gop)
    return bool((small & (table.column("codec") == "h264")).mean() > 0.9)


def _several_clips(recipe: PretrainRecipe) -> bool:
    """Whether a visit of a video gives several clips, or the recipe has no such setting."""
    clip: Any = getattr(recipe.objective, "clip", None)
    return getattr(clip, "num_clips", 2) > 1


def _all_cores(recipe: PretrainRecipe) -> bool:
    return recipe.loader.workers >= len(os.sched_getaffinity(0))


def _resizes_in_decoder(recipe: PretrainRecipe) -> bool:
    crop: Any = getattr(recipe.objective, "crop", None)
    return getattr(crop, "resize", "decoder") == "decoder"
