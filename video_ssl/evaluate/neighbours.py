"""Nearest vectors by cosine, in blocks: memory does not grow with the product of the two numbers of vectors."""

from __future__ import annotations

import numpy as np

from video_ssl.evaluate import metrics

#: Rows that are scaled at a time, so that no more copies of all are held.
_ROWS = 4096


class Nearest:
    """The most similar of vectors that come block by block.

    Attributes:
        similar: float32 (Q, at most k), highest first.
        rows: int64 (Q, at most k), which vectors these are; equally similar ones stand in the order they came in.
    """

    def __init__(self, num_queries: int, k: int) -> None:
        self.k = k
        self.similar = np.full((num_queries, 0), -np.inf, np.float32)
        self.rows = np.zeros((num_queries, 0), np.int64)

    def add(self, similar: np.ndarray, first: int) -> None:
        """Takes the similarities (Q, n) of the vectors `first`, `first` + 1, ..., which come after all before."""
        top = metrics.top_k_similar(similar, self.k)
        best = np.concatenate([self.similar, np.take_along_axis(similar, top, axis=1)], axis=1)
        rows = np.concatenate([self.rows, top + first], axis=1)
        keep = metrics.top_k_similar(
            best, self.k
        )  # earlier ones stand left, so equals stay in order
        self.similar = np.take_along_axis(best, keep, axis=1)
        self.rows = np.take_along_axis(rows, keep, axis=1)


def nearest_neighbours(
    queries: np.ndarray,
    bank: np.ndarray,
    *,
    query_keys: np.ndarray,
    bank_keys: np.ndarray,
    k: int,
    chunk: int = 2048,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns similarities and rows, both (Q, min(k, M)), of the nearest of the bank, nearest first.

    Vectors of the bank with the key of the query are left out.  Where fewer than k are left, the
    similarity is -inf and the row means nothing.  Equally near ones stand in the order of the bank.
    At most chunk x chunk similarities exist at a time.

    Args:
        queries, bank: vectors of length 1, (Q, D) and (M, D).
        query_keys, bank_keys: (Q,) and (M,), strings or numbers.
        k: how many.
        chunk: rows and columns of a block.
    """
    _, codes = np.unique(np.concatenate([query_keys, bank_keys]), return_inverse=True)
    own, others = codes[: len(queries)], codes[len(queries) :]
    k = min(k, len(bank))
    similar, rows = [], []
    for q in range(0, len(queries), chunk):
        nearest = Nearest(len(queries[q : q + chunk]), k)
        for b in range(0, len(bank), chunk):
            block = queries[q : q + chunk] @ bank[b : b + chunk].T
            block[own[q : q + chunk, None] == others[None, b : b + chunk]] = -np.inf
            nearest.add(block, b)
        similar.append(nearest.similar)
        rows.append(nearest.rows)
    return np.concatenate(similar), np.concatenate(rows)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Returns float32 (n, D): rows of length 1; rows of zeros, and those that are not finite, become zeros."""
    found = np.empty(x.shape, np.float32)
    for begin in range(0, len(x), _ROWS):
        part = x[begin : begin + _ROWS]
        length = np.linalg.norm(part, axis=1, keepdims=True)
        good = np.isfinite(length) & (length > 0)
        if not good.all():  # otherwise no copy is made
            part, length = np.where(good, part, 0), np.where(good, length, 1)
        np.divide(part, length, out=found[begin : begin + _ROWS], casting="same_kind")
    return found
