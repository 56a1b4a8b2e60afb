"""Which members of a tar make a sample: a video, and what lies beside it.

WebDataset's rule is that names which agree up to the first dot of their last part belong together: `a/1.mp4`, `a/1.cls`
and `a/1.left.txt`.  Names of people hold dots, too (`Mr. Bean 1.mp4`, `Mr. Bean 2.mp4`): by that rule they would be one
sample, and one of the two videos would be gone.  So the rule only says what a sample is called.  Every video is a
sample, and a file beside it belongs to it if its name without suffix is that of the video, or the beginning of it up to
a dot.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from video_ssl.datasets.archives.tars import Member
from video_ssl.datasets.left_out import DOUBLED, EMPTY, HIDDEN, NO_SAMPLE, PICTURES, LeftOut
from video_ssl.datasets.paths import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_hidden

SIDE_SUFFIXES = (".json", ".cls", ".txt", ".vtt", ".srt")


@dataclass(frozen=True)
class Sample:
    """A video of a tar, or a picture: its key, unique in the tar, and suffix -> member of what lies beside it."""

    key: str
    video: Member
    beside: Mapping[str, Member]


def members_taken(shard: str, members: Iterable[Member], left_out: LeftOut) -> list[Member]:
    """Returns the members but for hidden and empty ones, and those that a later one of their name replaces."""
    taken: dict[str, Member] = {}
    for member in members:
        name = f"{os.path.basename(shard)}!/{member.name}"
        parts = [part for part in member.name.split("/") if part != "."]
        if any(is_hidden(part) for part in parts):
            left_out.add(HIDDEN, name)
        elif member.size == 0 and _is_seen(member.name):
            left_out.add(EMPTY, name)
        else:
            if taken.pop(_plain(member.name), None) is not None:
                left_out.add(DOUBLED, name)
            taken[_plain(member.name)] = member
    return list(taken.values())


def divide_into_samples(
    shard: str, members: Sequence[Member], left_out: LeftOut
) -> Iterator[Sample]:
    """Yields a sample for every video, in the order of the tar, and for every picture that has no video beside it."""
    beside: dict[tuple[str, str], Member] = {}  # (name without suffix, suffix)
    groups: dict[str, list[Member]] = {}
    used: set[str] = set()
    for member in members:
        stem, suffix = os.path.splitext(_plain(member.name))
        if suffix.lower() in SIDE_SUFFIXES:
            beside[stem, suffix.lower()] = member
        elif _is_seen(member.name):
            groups.setdefault(_key(member.name), []).append(member)
        else:
            left_out.add(NO_SAMPLE, f"{os.path.basename(shard)}!/{member.name}")
    for key, group in groups.items():
        videos = [member for member in group if member.name.lower().endswith(VIDEO_SUFFIXES)]
        for member in group if videos else ():
            if member not in videos:  # a picture beside a video is its thumbnail
                left_out.add(PICTURES, f"{os.path.basename(shard)}!/{member.name}")
        seen = videos or group
        for member in seen:
            found = _beside(member, beside)
            used.update(side.name for side in found.values())
            yield Sample(
                key if len(seen) == 1 else _own_key(member, seen),
                member,
                {suffix[1:]: side for suffix, side in found.items()},
            )
    for side in beside.values():
        if side.name not in used:
            left_out.add(NO_SAMPLE, f"{os.path.basename(shard)}!/{side.name}")


def _beside(video: Member, beside: Mapping[tuple[str, str], Member]) -> dict[str, Member]:
    """Suffix -> the member of that suffix whose name is the longest beginning of the video's."""
    folder, slash, last = os.path.splitext(_plain(video.name))[0].rpartition("/")
    parts = last.split(".")
    stems = [folder + slash + ".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return {
        suffix: beside[next(stem for stem in stems if (stem, suffix) in beside), suffix]
        for suffix in SIDE_SUFFIXES
        if any((stem, suffix) in beside for stem in stems)
    }


def _own_key(member: Member, group: Sequence[Member]) -> str:
    """The name without suffix, or with it where others of the group have the same without."""
    name = _plain(member.name)
    stem = os.path.splitext(name)[0]
    same = sum(os.path.splitext(_plain(other.name))[0] == stem for other in group)
    return stem if same == 1 else name


def _key(name: str) -> str:
    """The name up to the first dot of its last part: `a/b` of `a/b.c.mp4`."""
    folder, slash, last = _plain(name).rpartition("/")
    return folder + slash + last.partition(".")[0]


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _is_seen(name: str) -> bool:
    return name.lower().endswith((*VIDEO_SUFFIXES, *PICTURE_SUFFIXES))
