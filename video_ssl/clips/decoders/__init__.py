"""Decoders: one file each, what they share, and on which files each of them is exact."""
