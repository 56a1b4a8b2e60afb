"""The error of everything that cannot be used as a set of records, and how values appear in its texts."""

from __future__ import annotations

from typing import Any

_LONGEST_SHOWN = 80


class TableError(ValueError):
    """A table, list or folder that cannot be used as a set of records; the text says what to do."""


def shown(value: Any) -> str:
    """Returns the value as errors show it: its repr, cut where it is long; bytes are only counted.

    >>> shown("a" * 100)[-20:], shown({"bytes": b"12345", "path": "a.mp4"})
    ('... (100 characters)', "{'bytes': <5 bytes>, 'path': 'a.mp4'}")
    """
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return f"{value[:_LONGEST_SHOWN]!r}... ({len(value)} characters)"
    if isinstance(value, dict) and len(value) <= 8:
        return "{" + ", ".join(f"{key!r}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"a list of {len(value)} values that begins with {shown(value[0])}"
    text = repr(value)
    return text if len(text) <= 2 * _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
