"""The networks themselves, each with its settings; flax twins end in `_flax`."""
