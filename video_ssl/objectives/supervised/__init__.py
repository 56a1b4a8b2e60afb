"""Supervised classification with the same encoder: the upper bound of a comparison."""
