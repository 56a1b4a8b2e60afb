"""Frozen features and what they are worth."""
