"""The toys: a network and two objectives that are put into the tables from outside."""

from __future__ import annotations

from typing import Any

import toy_network

from video_ssl.models import NETWORKS
from video_ssl.objectives import OBJECTIVES, Entry

OWN = {
    "toy_sound": Entry("toy_sound", several_streams=True),
    "toy_sound_flax": Entry("toy_sound_flax", "flax", several_streams=True),
}


def register(put: Any = dict.__setitem__) -> None:
    """Puts a line into each table; `put` is monkeypatch.setitem where they are to go again."""
    put(NETWORKS, "toy", toy_network.NETWORK)
    for name, entry in OWN.items():
        put(OBJECTIVES, name, entry)
