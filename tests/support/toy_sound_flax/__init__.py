"""The same toy as a flax objective."""
