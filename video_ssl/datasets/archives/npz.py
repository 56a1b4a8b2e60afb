"""Archives of arrays (.npz) of strangers: how large they become is looked at before anything is read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from video_ssl.limits import npz_problem


class BrokenArchive(ValueError):
    """An archive that is damaged, or not what it says; the text goes on behind its name."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns name -> array of a .npz file.

    Arrays of objects are refused, because reading them runs code of the file; so are archives that expand beyond the
    memory, and arrays that announce more than the archive holds of them (`limits.npz_problem`).

    Raises:
        BrokenArchive: see above, or no such archive.
    """
    problem = npz_problem(path)
    if problem:
        raise BrokenArchive(f"is not readable: {problem}. Write it again, or give fewer rows.")
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (
        ValueError, OSError, zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError, SyntaxError,
        KeyError, TypeError, MemoryError, OverflowError, zlib.error,
    ) as err:  # fmt: skip
        reason = str(err).strip().rstrip(".").partition("\n")[0][:200] or type(err).__name__
        raise BrokenArchive(
            f"is not readable: {reason}. Arrays of objects are refused, because reading them runs code of the file; "
            "store numbers and strings."
        ) from err
    other = next((key for key, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if other is not None:
        raise BrokenArchive(f"is not readable: {other!r} in it is no array.")
    return arrays
