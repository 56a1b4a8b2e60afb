"""Processes that read videos: how they start and end, and how errors of a dead one are reported."""
