"""Ways to do the same in alternating turns, so that what else a machine does meets all of them alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def cpu_medians(
    ways: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Returns the median milliseconds of processor time that each of some ways takes.

    Args:
        ways: name -> what is to be done; one after the other in every turn.
        repeats: turns that count; one before them warms up.
        clock: in seconds; that of this process alone, unless another is given.
    """
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, act in ways.items():
            before = clock()
            act()
            if turn:
                turns[name].append(1e3 * (clock() - before))
    return {name: float(np.median(took)) for name, took in turns.items()}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch and the libraries of linear algebra to one thread each; those that wait would count as work.

    `threadpoolctl` comes with scikit-learn.
    """
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
