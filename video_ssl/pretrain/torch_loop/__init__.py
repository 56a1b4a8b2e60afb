"""The training loop of torch objectives and what belongs to it."""
