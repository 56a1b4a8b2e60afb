"""Nearest vectors by cosine, in blocks: memory does not grow with the product of the two numbers of vectors."""

from __future__ import annotations

import numpy as np

from video_ssl.evaluate import metrics


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
        best = np.full((len(queries[q : q + chunk]), 0), -np.inf, np.float32)
        where = np.zeros(best.shape, np.int64)
        for b in range(0, len(bank), chunk):
            block = queries[q : q + chunk] @ bank[b : b + chunk].T
            block[own[q : q + chunk, None] == others[None, b : b + chunk]] = -np.inf
            top = metrics.top_k_similar(block, k)
            # Earlier rows stand left, so equal similarities stay in the order of the bank.
            best = np.concatenate([best, np.take_along_axis(block, top, axis=1)], axis=1)
            where = np.concatenate([where, top + b], axis=1)
            keep = metrics.top_k_similar(best, k)
            best = np.take_along_axis(best, keep, axis=1)
            where = np.take_along_axis(where, keep, axis=1)
        similar.append(best)
        rows.append(where)
    return np.concatenate(similar), np.concatenate(rows)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Returns float32 rows of length 1; a row of zeros stays zero."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.maximum(length, 1e-12), np.float32)
