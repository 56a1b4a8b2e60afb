"""What stands before the colon where a model of the hub is named.  Free of torch and jax."""

from __future__ import annotations

#: Its tower of images or clips, and its tower of texts.
HUB, HUB_TEXT = "hub", "hub_text"
HUB_KINDS = (HUB, HUB_TEXT)
