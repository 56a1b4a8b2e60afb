"""Batches as tensors."""

from __future__ import annotations

import numpy as np
import torch

from video_ssl.pretrain.torch_loop.device_feed import to_tensors


def placed(array: np.ndarray, offset: int) -> np.ndarray:
    """The array in memory that begins so many of its numbers behind a multiple of 64 bytes."""
    room = np.empty(array.size + 64, array.dtype)
    start = (-room.ctypes.data // array.itemsize) % (64 // array.itemsize) + offset
    copy = room[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def test_products_of_a_batch_do_not_depend_on_where_it_lies_in_memory() -> None:
    """Was wrong: sound went into a product as numpy had placed it, and a resumed run ended in other bits."""
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(4, 400)).astype(np.float32)
    weight = torch.from_numpy(rng.normal(size=(6, 400)).astype(np.float32))
    found = {
        (to_tensors({"sound": placed(sound, i)})["sound"] @ weight.T).numpy().tobytes()
        for i in range(16)
    }
    assert len(found) == 1


def test_frames_are_not_copied_and_texts_stay_behind() -> None:
    video = np.zeros((2, 3), np.uint8)
    batch = to_tensors({"video": video, "caption": np.array(["a", "b"])})
    assert list(batch) == ["video"]
    assert batch["video"].data_ptr() == video.ctypes.data
