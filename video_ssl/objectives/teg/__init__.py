"""TeG: a short clip inside a long one, matched moment by moment and as a whole (flax)."""
