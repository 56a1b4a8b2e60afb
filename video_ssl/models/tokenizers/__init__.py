"""Tokenizers: frozen networks that give every cell of a picture a word of a visual vocabulary."""
