"""Encoders that exist elsewhere: towers of models of Hugging Face's `transformers`, from a folder or by a name."""
