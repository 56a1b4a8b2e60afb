"""Videos that are whole but too short for a clip: how their reason begins, and what helps against bad videos."""

from __future__ import annotations

from collections.abc import Collection

from video_ssl.clips.decoders.reader import BadVideo

# The reason is all of a bad video that a data worker hands on, so it says itself of which kind it is.
_BEGINNING = "too short"
LONGER = "take longer videos, or shorter clips (lower objective.clip.num_frames or objective.clip.frame_stride)"


def too_short(source: str, reason: str) -> BadVideo:
    """Returns what a plan raises for a video that is too short.

    Args:
        source: of the record.
        reason: what goes on after the words "too short".
    """
    return BadVideo(source, f"{_BEGINNING}{reason}")


def what_helps(reasons: Collection[str]) -> str:
    """Returns what can be done about videos that could not be used for these reasons, a sentence without its stop.

    >>> what_helps(["cannot be opened"])
    'Remove or repair these files'
    >>> what_helps(["too short: it lasts 1 s"]).partition(" (")[0]
    'Take longer videos, or shorter clips'
    """
    short = [reason for reason in reasons if reason.startswith(_BEGINNING)]
    if not short:
        return "Remove or repair these files"
    if len(short) == len(reasons):
        return f"{LONGER[0].upper()}{LONGER[1:]}"
    return f"Remove or repair these files; for those that are too short, {LONGER}"
