"""The model card: what stands in the README.md of an encoder folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TOLD = ("objective", "data", "steps", "recipe")


def model_card(content: Mapping[str, Any]) -> str:
    """Returns the text of the card for the content of an encoder's `config.json`.

    What the source does not tell is written as "not recorded", never left out: a reader must see
    the gap.
    """
    source = content["source"]
    objective = source.get("objective", "not recorded")
    pre = content["preprocess"]
    lines = [
        "---",
        "library_name: video_ssl",
        "license: other",
        "tags: [video, self-supervised-learning]",
        "---",
        "",
        f"# Video encoder `{content['architecture']}`, objective: {objective}",
        "",
        f"{content['num_parameters']:,} parameters; features of {content['embed_dim']} numbers, "
        f"one for a clip and one for"
        " every few frames of it.",
        "",
        "## How it was trained",
        "",
        *(f"- {name}: {_short(source.get(name, 'not recorded'))}" for name in _TOLD),
        *(f"- {name}: {_short(value)}" for name, value in source.items() if name not in _TOLD),
        f"- written by: {', '.join(f'{k} {v}' for k, v in content['versions'].items())}",
        "",
        "## What it expects",
        "",
        f"{_frames(pre)}, "
        f"{pre['size']} x {pre['size']} pixels, RGB in 0..1"
        f" minus {list(pre['mean'])}, divided by {list(pre['std'])}.",
        "",
        "```json",
        json.dumps(content["config"], indent=2),
        "```",
        "",
        "## How to load it",
        "",
        "```python",
        "import video_ssl",
        "",
        'encoder = video_ssl.load_encoder("path/to/this/folder")',
        "clip = encoder.clip_features(video)    # video: normalised float32 (B, 3, T, H, W) -> "
        "(B, D)",
        "frames = encoder.frame_features(video)  # (B, T', D)",
        "```",
        "",
        "`video-ssl embed` does the sampling, resizing and normalising for whole tables of videos.",
        "",
        "## Licence",
        "",
        "The code is Apache-2.0. The licence of these weights depends on the videos and on the "
        "teachers they were trained"
        " with; whoever publishes them must settle it and replace this paragraph.",
        "",
    ]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _frames(pre: dict[str, Any]) -> str:
    """Which frames make a clip, in words."""
    sampling = pre.get("sampling", "constant")
    if sampling.startswith("segments"):
        return f"{pre['num_frames']} frames, one from each of as many parts of the video"
    rate = f" at {pre['fps']:g} frames a second" if pre.get("fps") else ""
    if sampling == "seconds":
        rate = f" at {pre.get('fps') or 30:g} frames a second, whatever the rate of the file"
    return f"{pre['num_frames']} frames, every {_ordinal(pre['frame_stride'])} frame of the video{rate}"


def _ordinal(number: int) -> str:
    if number == 1:
        return "single"
    suffix = (
        "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f"{number}{suffix}"
