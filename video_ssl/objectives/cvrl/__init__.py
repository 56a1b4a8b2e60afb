"""CVRL: two clips of one video attract, clips of other videos repel (flax)."""
