"""What can go wrong between a command and a running job."""

from __future__ import annotations


class LaunchError(ValueError):
    """A launch, or a question about one, that cannot be carried out; the text says what to do."""
