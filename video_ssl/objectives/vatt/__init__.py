"""VATT: one objective over video, sound and words (flax)."""
