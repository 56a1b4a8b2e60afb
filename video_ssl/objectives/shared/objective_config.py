"""What the rest of the library reads from the `Config` of every objective.  Free of torch and jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from video_ssl.clips.config import ClipConfig, ClipLength
from video_ssl.objectives.shared.sources import Source


class ObjectiveConfig(Protocol):
    """Settings of an objective: a frozen keyword-only dataclass `Config` in its module `config`.

    Settings that follow from the data or from an encoder that is given come from a method `settled(tables)`, which most
    have no need of: it returns the settings with all of them, and the same again for what it has given.  `is_settled`
    then says whether any is open (`objectives/supervised/config.py`).

    An objective that compares records has a method `check_records(count)`: it raises a ValueError if there is nothing
    to compare in a micro-batch of a process, of so many records, or in data that hold no more different ones
    (`refuse_few`).  One that can make nothing of short videos has `least_sec`, seconds: shorter ones are left out
    before the training where their table knows how long they are, and skipped when they are read otherwise.  The same
    is done with videos without sound for one with `needs_sound = True`.
    """

    @property
    def encoder(self) -> object | None:
        """Settings of the encoder that leaves the training first, of a network in `NETWORKS`; None = it comes with
        another setting, as `init`."""

    @property
    def clips_per_record(self) -> int:
        """Clips that the encoder sees of one record of the main stream in one visit, all views together."""

    def stages(self) -> Mapping[str, Source]:
        """Returns by name what must exist before this objective can be built, for `stages` of its constructor."""


class FewRecords(ValueError):
    """A micro-batch, or the data, of fewer records than an objective has to compare.

    Attributes:
        count, least: records that there are, and that are needed.
        why: a sentence for the user, what they are needed for.
    """

    def __init__(self, count: int, least: int, why: str) -> None:
        super().__init__(
            f"every process gets {count} record of a step (of a micro-batch, with training.accumulation), and at least "
            f"{least} are needed: {why} Raise training.global_batch_size, or use fewer processes or micro-batches."
        )
        self.count, self.least, self.why = count, least, why


def refuse_few(count: int, least: int, why: str) -> None:
    """Raises FewRecords if a micro-batch has fewer than `least` records; the data are asked about in the same way.

    Args:
        count: of its records.
        why: a sentence for the user, what they are needed for.
    """
    if count < least:
        raise FewRecords(count, least, why)


def clip_length_of(config: Any) -> ClipLength | None:
    """Returns how much of a video the longest clip of an objective spans: its `clip` says so, or its `clip_length`.

    None where it takes videos of any length: single frames, sets of frames of a whole video.
    """
    clip = getattr(config, "clip", None)
    if isinstance(clip, ClipConfig):
        return clip.length
    length: ClipLength | None = getattr(config, "clip_length", None)
    return length
