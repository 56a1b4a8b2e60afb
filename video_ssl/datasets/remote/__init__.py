"""Files that lie elsewhere, and what can go wrong with them."""
