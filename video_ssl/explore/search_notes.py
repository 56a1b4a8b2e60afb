"""What a search has to say beside its hits: whether its features serve for it, and why there are not more hits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from video_ssl.explore.config import SearchConfig
from video_ssl.explore.hits import Moment
from video_ssl.models import NETWORKS
from video_ssl.recipes import ConfigError, build_config

__all__ = ["dependence_note", "few_moments_note"]


def dependence_note(about: Mapping[str, Any], num_frames: int) -> str | None:
    """Returns a warning where a clip that was cut out of an archive cannot be counted on to find its place.

    That is so where a frame's feature says where in its video the frame lies, or what else the video shows, and the
    videos were given to the encoder whole.  The settings of the encoder tell it, which the feature file keeps.

    Args:
        about: metadata of the archive.
        num_frames: frame features of the clip.
    """
    config = _encoder_config(about)
    depends = getattr(config, "depends_on_video", ())
    if not depends or not about.get("windows", {}).get("whole"):
        return None
    name = about["encoder"].get("name", "RUN")
    what = {
        "position": "where in its video the frame lies",
        "other frames": "all other frames of its video",
    }
    ways = [
        f"in windows as long as the clip (embed {name} ... --per-frame --num-frames {num_frames})"
    ]
    # Without positions at all it was never trained, unless views were seen without them.
    if "position" in depends and getattr(config, "position_dropout", 0) > 0:
        ways.append(f"without positions (embed no_positions:{name} ... --per-frame)")
    return (
        f"the archive was embedded by {name}, whose feature of a frame depends on "
        f"{' and on '.join(what[d] for d in depends)}: a clip that was cut out of a longer video may miss its own "
        f"place. Embed the archive {', or '.join(ways)}, or take an encoder of clips such as videomae or mae"
    )


def _encoder_config(about: Mapping[str, Any]) -> Any:
    """The settings of the encoder that made a feature file; None where the file does not say them, or not ours."""
    encoder = about.get("encoder", {})
    network = NETWORKS.get(encoder.get("architecture", ""))
    if network is None:
        return None
    try:
        return build_config(network.config_class(), dict(encoder.get("config", {})), "config")
    except ConfigError:
        return None


def few_moments_note(
    moments: Sequence[Moment], config: SearchConfig, *, num_videos: int, left_out: bool
) -> str | None:
    """Returns why there are fewer moments than were asked for; None where there are not.

    Args:
        num_videos: of the archive.
        left_out: the video of the clip is not searched.
    """
    if len(moments) >= config.k:
        return None
    free = num_videos - left_out
    searched = min(free, config.candidates * config.k)
    each = Counter(moment.id for moment in moments)
    reasons = [
        f"of each video at most {config.moments_per_video} that do not overlap are looked for (--moments-per-video)"
    ]
    if left_out:
        reasons.append("the clip's own video is left out (--own-video)")
    if searched < free:
        reasons.append(f"only the {searched} most similar videos are looked into (--candidates)")
    fewer = sum(1 for count in each.values() if count < config.moments_per_video)
    if fewer:
        reasons.append(f"{fewer} have no room for so many")
    if searched > len(each):
        reasons.append(f"{searched - len(each)} are too short to hold the clip at double speed")
    return (
        f"{len(moments)} moments instead of {config.k}: {_count(searched, 'video is', 'videos are')} searched; "
        + "; ".join(reasons)
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
