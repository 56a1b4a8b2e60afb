"""Batches on their way from the pipeline to the device, transferred while the device computes."""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_ssl.models.preprocess import tensor_of

Batch = dict[str, Tensor]


class DeviceFeed:
    """Iterates over batches of tensors on `device`, made from an iterator over dictionaries of numpy arrays.

    On the CPU integers are wrapped, not copied.  On CUDA a thread takes batches from the pipeline, pins them and
    copies them on a stream of its own, `depth` batches ahead; the consumer's stream waits for the copy, the host never.
    Arrays that are not numbers (texts, objects) stay behind.
    """

    def __init__(
        self, batches: Iterator[Mapping[str, np.ndarray]], device: torch.device, *, depth: int = 2
    ) -> None:
        self._batches = batches
        self._device = device
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._thread = threading.Thread(target=self._pump, name="device-feed", daemon=True)
            self._thread.start()

    def __enter__(self) -> DeviceFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> DeviceFeed:
        return self

    def __next__(self) -> Batch:
        if self._thread is None:
            return to_tensors(next(self._batches))
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._queue.put(item)  # asked again, it answers the same
            raise item
        batch, copied = item
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        for value in batch.values():
            value.record_stream(current)
        return batch

    def close(self) -> None:
        """Ends the thread; batches in flight are dropped."""
        self._closed.set()
        if self._thread is not None:
            while self._thread.is_alive():
                while not self._queue.empty():
                    self._queue.get_nowait()
                self._thread.join(timeout=0.05)

    def _pump(self) -> None:
        try:
            torch.cuda.set_device(self._device)
            for arrays in self._batches:
                if self._closed.is_set():
                    return
                self._put(self._send(arrays))
            raise StopIteration
        except BaseException as err:  # handed to the consumer, who raises it
            self._put(err)

    def _send(self, arrays: Mapping[str, np.ndarray]) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(self._stream):
            batch = {
                name: value.pin_memory().to(self._device, non_blocking=True)
                for name, value in to_tensors(arrays).items()
            }
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return batch, copied

    def _put(self, item: Any) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return


def to_tensors(arrays: Mapping[str, np.ndarray]) -> Batch:
    """Returns the numeric arrays of a batch as CPU tensors; see `tensor_of` for which of them share their memory."""
    with warnings.catch_warnings():
        # Shared memory of workers is read-only; nobody writes into a batch.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {
            name: tensor_of(value) for name, value in arrays.items() if value.dtype.kind in "biuf"
        }


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Returns `parts` micro-batches of equal size, views of the batch.

    Raises:
        ValueError: the rows cannot be divided.
    """
    if parts == 1:
        return [batch]
    sizes = {name: len(value) for name, value in batch.items()}
    if any(size % parts for size in sizes.values()):
        raise ValueError(
            f"a batch of {sizes} rows cannot be divided into training.accumulation={parts} equal micro-batches."
        )
    chunks = {name: value.chunk(parts) for name, value in batch.items()}
    return [{name: chunks[name][i] for name in batch} for i in range(parts)]
