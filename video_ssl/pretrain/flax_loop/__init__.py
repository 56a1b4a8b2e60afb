"""The training loop of flax objectives and what belongs to it."""
