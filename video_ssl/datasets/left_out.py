"""What is found but not taken is counted by the rule that leaves it out, and named in the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

log = logging.getLogger(__name__)

_NAMED = 3

# What somebody probably wants to have: such lines are warnings.
BROKEN_LINKS = "links that lead nowhere"
AGAIN = "folders that are there under another name already (links)"
UNREADABLE = "folders or files that may not be read"
BESIDE_VIDEOS = (
    "folders of pictures, which are taken as videos only where there are no video files (name them by themselves, "
    "or write a list or table of all)"
)
RECORDINGS = (
    "recordings of sound alone, which are taken only where there are no videos, pictures or tars (name them by "
    "themselves, or write a list or table of all)"
)
TRANSCODED = "folders that transcode has made (name the table in them, or the folder by itself)"
TARS = "tars, which are read only where there are no videos and pictures (name them by themselves)"
DOUBLED = "members of a tar with the name of a later one, which is taken, as tar does"
EMPTY = "empty members"
BAD_SUBTITLES = "subtitles that cannot be read, so that their videos have none"
BAD_CUES = "passages of subtitles"
# What is seldom meant as a video.
HIDDEN = (
    "hidden files and folders and what systems leave behind (.*, @eaDir, __MACOSX, Thumbs.db, ...)"
)
PICTURES = "pictures beside videos"
SPECIAL = "pipes, sockets and devices"
OTHER = "files of other kinds"
NO_SAMPLE = "members that belong to no video"
LONE_SUBTITLES = "subtitles that belong to no video"
MORE_SUBTITLES = "further subtitles of a video, in other languages (a table may name others, in a column `subtitles`)"
_USUAL = (HIDDEN, PICTURES, SPECIAL, OTHER, LONE_SUBTITLES, MORE_SUBTITLES)


class LeftOut:
    """Counts by rule, with the first names; several threads may add."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}
        self._kinds: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def add(self, rule: str, name: str, *, kind: str | None = None, count: int = 1) -> None:
        """Notes one thing, or the first of several; `kind` divides a rule, for example by the suffix of files."""
        with self._lock:
            self._counts[rule] = self._counts.get(rule, 0) + count
            names = self._names.setdefault(rule, [])
            if len(names) < _NAMED:
                names.append(name)
            if kind is not None:
                kinds = self._kinds.setdefault(rule, {})
                kinds[kind] = kinds.get(kind, 0) + 1

    def __len__(self) -> int:
        return sum(self._counts.values())

    def counts(self) -> Mapping[str, int]:
        """Returns rule -> how many."""
        return dict(self._counts)

    def lines(self) -> list[str]:
        """Returns one line a rule: how many, of which kinds, and the first by name."""
        return [self._line(rule) for rule in self._counts]

    def log(self, where: str) -> None:
        """Writes the lines into the log."""
        for rule in self._counts:
            level = logging.INFO if rule in _USUAL else logging.WARNING
            log.log(level, "%s: left out %s", where, self._line(rule))

    def _line(self, rule: str) -> str:
        count, names = self._counts[rule], self._names[rule]
        kinds = sorted(self._kinds.get(rule, {}).items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{kind} {number}" for kind, number in kinds[: 2 * _NAMED])
        more = f" and {count - len(names)} more" if count > len(names) else ""
        return f"{count} × {rule}{f' ({listed})' if listed else ''}: {', '.join(names)}{more}"
