"""What the rest of the library reads from the `Config` of every objective.  Free of torch and jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from video_ssl.objectives.shared.sources import Source


class ObjectiveConfig(Protocol):
    """Settings of an objective: a frozen keyword-only dataclass `Config` in its module `config`.

    Settings that follow from the data or from an encoder that is given come from a method `settled(tables)`, which most
    have no need of: it returns the settings with all of them, and the same again for what it has given.  `is_settled`
    then says whether any is open (`objectives/supervised/config.py`).
    """

    @property
    def clips_per_record(self) -> int:
        """Clips that the encoder sees of one record of the main stream in one visit, all views together."""

    def stages(self) -> Mapping[str, Source]:
        """Returns by name what must exist before this objective can be built, for `stages` of its constructor."""
