"""The model card: what stands in the README.md of an encoder folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from video_ssl.models import NETWORKS
from video_ssl.models.preprocess_config import PADDING, UNKNOWN

_TOLD = ("objective", "data", "steps", "recipe")

#: By modality, what a moment of a clip is.
_MOMENTS = {"video": "every few frames of it", "sound": "every moment of it", "text": "every word"}

#: A path in, features with times out.
_ONE_VIDEO = (
    "one = encoder(\"some.mp4\")  # one.clip (D,), one.frames (T', D), one.times_sec (T',)",
    "# or a whole video in memory, uint8 (T, H, W, 3): encoder(array)",
)

#: Of encoders that flax knows too: its layout is not torch's.
_FLAX = (
    "```python",
    "encoder = video_ssl.load_flax_encoder(\"path/to/this/folder\")  # pip install 'video_ssl[jax]'",
    "# channels last: video is normalised float32 (B, T, H, W, 3); torch's takes (B, 3, T, H, W)",
    "found = encoder.outputs(video, encoder.output_names)  # numpy arrays of the same shapes",
    "```",
)

_INPUTS = {
    "video": "video: normalised float32 (B, 3, T, H, W)",
    "sound": "sound: float32 (B, N), mono in -1..1",
    "text": "text: int64 (B, L), encoder.preprocess.ids([...])",
}


def model_card(content: Mapping[str, Any]) -> str:
    """Returns the text of the card for the content of an encoder's `config.json`.

    What the source does not have is written as "not recorded", never left out: a reader must see
    the gap.
    """
    source, modality = content["source"], content["modality"]
    objective = source.get("objective", "not recorded")
    expects = {"video": _video, "sound": _sound, "text": _text}[modality]
    lines = [
        "---",
        "library_name: video_ssl",
        f"license: {_licence(source)}",
        f"tags: [{modality}, self-supervised-learning]",
        "---",
        "",
        f"# {modality.capitalize()} encoder `{content['architecture']}`, objective: {objective}",
        "",
        f"{content['num_parameters']:,} parameters; features of {content['embed_dim']} numbers, "
        f"{_features(content['outputs'], modality)}.",
        "",
        "## How it was trained",
        "",
        *(f"- {name}: {_short(source.get(name, 'not recorded'))}" for name in _TOLD),
        *(f"- {name}: {_short(value)}" for name, value in source.items() if name not in _TOLD),
        f"- written by: {', '.join(f'{k} {v}' for k, v in content['versions'].items())}",
        "",
        "## What it expects",
        "",
        expects(content["preprocess"]),
        "",
        *_dependence(content.get("depends_on_video", ())),
        "```json",
        json.dumps(content["config"], indent=2),
        "```",
        "",
        "## How to load it",
        "",
        *_loading(content["outputs"], modality, content["architecture"]),
        "",
        "## Licence",
        "",
        *_about_licence(source),
        "",
    ]
    return "\n".join(lines)


def _licence(source: Mapping[str, Any]) -> str:
    """The licence that the model says it has, where it was converted, else what is to be settled."""
    said = source.get("license")
    return json.dumps(said) if isinstance(said, str) and said else "other"


def _about_licence(source: Mapping[str, Any]) -> list[str]:
    if source.get("license") == "unknown":
        return [
            f"The code is Apache-2.0. The weights are those of {source.get('hub', 'another model')}, which does not "
            "say its licence: settle it before you pass them on."
        ]
    if source.get("license"):
        return [
            f"The code is Apache-2.0. The weights are those of {source.get('hub', 'another model')}, which says of its "
            f"licence: {source['license']}. It holds here too."
        ]
    return [
        "The code is Apache-2.0. The licence of these weights depends on the videos and on the teachers they were "
        "trained with; whoever publishes them must settle it and replace this paragraph."
    ]


def _dependence(names: Sequence[str]) -> list[str]:
    """A warning where the feature of a frame says where in its video the frame lies, or what else is in it."""
    if not names:
        return []
    what = {
        "position": "on where in its video the frame lies",
        "other frames": "on all other frames of its video",
    }
    return [
        f"The feature of a frame depends {' and '.join(what[name] for name in names)}: it serves to bring whole videos "
        "into step and to tell their phases, less so to find a clip that was cut out of a longer video.",
        "",
    ]


def _features(outputs: Sequence[str], modality: str) -> str:
    """What there is a feature of, in words."""
    named = {
        "clip": f"one for a {'text' if modality == 'text' else 'clip'}",
        "moments": f"one for {_MOMENTS[modality]}",
        "tokens": "one for every cell of a grid over it",
        "common_sound": "one in the space that sounds of the same training share",
        "common_text": "one in the space that texts of the same training share",
    }
    *most, last = [named.get(name, f"{name!r}") for name in outputs]
    return f"{', '.join(most)} and {last}" if most else last


def _loading(outputs: Sequence[str], modality: str, architecture: str) -> list[str]:
    shapes = {"clip": "(B, D)", "moments": "(B, T', D)", "tokens": "(B, L, D)"}
    shapes |= dict.fromkeys(("common_sound", "common_text"), "(B, D')")
    listed = ", ".join(f"{name} {shapes.get(name, '')}".rstrip() for name in outputs)
    lines = [
        "```python",
        "import video_ssl",
        "",
        'encoder = video_ssl.load_encoder("path/to/this/folder")',
        *(_ONE_VIDEO if modality == "video" else ()),
        f"# {_INPUTS[modality]}",
        f"found = encoder.outputs({modality}, encoder.output_names)  # {listed}",
        f'clip = found["{outputs[0]}"]',
        "```",
    ]
    if modality == "video" and NETWORKS[architecture].flax is not None:
        lines += ["", *_FLAX]
    if modality == "video":
        lines += [
            "",
            "`video-ssl embed` does the sampling, resizing and normalising for whole tables of videos.",
        ]
    return lines


def _video(pre: Mapping[str, Any]) -> str:
    how = ""
    if pre.get("stretch"):
        how = " (the whole frame, whatever its aspect)"
    elif pre.get("resize_to"):
        how = f" (cut out of the middle of frames whose short side is {pre['resize_to']})"
    if pre.get("kernel", "bilinear") != "bilinear":
        how += f", scaled by a {pre['kernel']} filter"
    return (
        f"{_frames(pre)}, {pre['size']} x {pre['size']} pixels{how}, RGB in 0..1 minus {list(pre['mean'])}, "
        f"divided by {list(pre['std'])}."
    )


def _sound(pre: Mapping[str, Any]) -> str:
    seconds, hop = pre["num_samples"] / pre["rate"], pre["hop"] or pre["num_samples"]
    return (
        f"{seconds:g} s of sound: {pre['num_samples']} samples of one channel, {pre['rate']} a second, in -1..1. Clips "
        f"of a longer recording begin every {hop / pre['rate']:g} s."
    )


def _text(pre: Mapping[str, Any]) -> str:
    case = "in lower case" if pre["lower_case"] else "as they are written"
    unknown = pre.get("unknown", UNKNOWN)
    return (
        f"{pre['length']} words, {case} and without punctuation, as their places in `{pre['vocabulary']}` "
        f"({pre['num_words']} words; {PADDING} fills up a short text, {unknown} stands for unknown words)."
    )


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _frames(pre: Mapping[str, Any]) -> str:
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
