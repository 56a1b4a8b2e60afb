"""Vectors of words from a file: numpy's, or the published `word2vec.pkl`, which is read without running it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.datasets.public.item_pickles import array_of, read_items
from video_ssl.datasets.table import TableError

#: Under which the published file keeps them.
KEY = "word_embeddings"


def read_word_vectors(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Returns float32 (places, D), a row for every place of the vocabulary.

    Args:
        path: a `.npy` file, or a `.pkl` with the key "word_embeddings".
        shape: (places of the vocabulary, width of the vectors of the encoder).

    Raises:
        ValueError: not there, damaged, of another shape, not finite, or a pickle that would have to run code.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"word_vectors={str(path)!r}: there is no such file.")
    try:
        found = _content(file)
    except (TableError, OSError, ValueError, TypeError) as err:
        raise ValueError(f"word_vectors: {file} is not read: {err}") from err
    if found.shape != shape or found.dtype.kind != "f":
        raise ValueError(
            f"word_vectors: {file} holds {found.dtype} {found.shape}, but a vocabulary of {shape[0]} places and "
            f"text.word_dim={shape[1]} need float {shape}: give the vectors of this vocabulary."
        )
    if not np.isfinite(found).all():
        raise ValueError(f"word_vectors: {file} holds numbers that are not finite.")
    return found.astype(np.float32)


def _content(file: Path) -> np.ndarray:
    if file.suffix == ".npy":
        return np.asarray(np.load(file, allow_pickle=False))
    content: Any = read_items(file)
    if isinstance(content, Mapping):
        if KEY not in content:
            raise ValueError(f"it has no key {KEY!r}, only {sorted(map(str, content))[:5]}.")
        content = content[KEY]
    return array_of(content)
