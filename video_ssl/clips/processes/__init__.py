"""Processes that read videos: how they start and end, and what is said when one dies."""
