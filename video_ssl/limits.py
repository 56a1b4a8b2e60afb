"""The largest that settings and files from strangers may claim, so that a claim is refused before memory or time goes.

Far above what anybody trains, far below what takes a machine down.  Sizes go by the name of the setting, which means
the same everywhere: whatever configuration has an `embed_dim`, it is bounded.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST: dict[str, float] = {
    **dict.fromkeys(("embed_dim", "ffn_dim", "hidden_dim", "conv_dim", "out_dim"), 2**16),
    **dict.fromkeys(
        ("fc_dims", "hidden_dims", "widths", "filters", "stem_width", "small_width"), 2**16
    ),
    **dict.fromkeys(("depth", "num_layers", "num_heads", "blocks", "num_workers"), 2**10),
    **dict.fromkeys(("image_size", "table_size", "size", "patch_size", "tubelet_size"), 2**14),
    **dict.fromkeys(("num_frames", "table_frames", "num_clips", "views_per_clip"), 2**16),
    **dict.fromkeys(("time_kernels", "time_strides", "num_contexts", "prefetch_batches"), 2**10),
    **dict.fromkeys(("num_captions", "num_words"), 2**14),
    "num_samples": 2**26,
    "frame_stride": 2**20,
    "mlp_ratio": 2**8,
}
#: Of a position table, which is computed as float64.
MAX_TOKENS, MAX_TABLE = 2**18, 2**28


def check_sizes(config: Any, where: str = "") -> None:
    """Raises ValueError for a size of a configuration, or of one inside it, that no network and no clip has.

    Args:
        config: a dataclass; anything else is passed over.
        where: its place, for the error.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            check_sizes(value, f"{where}.{key}" if where else str(key))
        return
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return
    for name in (field.name for field in dataclasses.fields(config)):
        value = getattr(config, name)
        place = f"{where}.{name}" if where else name
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(number, (int, float)) and name in LARGEST:
                _check(place, number, LARGEST[name])
            else:
                check_sizes(number, place)


def _check(place: str, number: float, largest: float) -> None:
    if not abs(number) <= largest:
        raise ValueError(f"{place}={number} is more than any network has: at most {largest:,}.")


def check_table(grid: tuple[int, ...], width: int) -> None:
    """Raises ValueError for a grid of tokens whose position table would be too large to compute."""
    tokens = math.prod(grid)
    if tokens > MAX_TOKENS or tokens * width > MAX_TABLE:
        shape = " x ".join(map(str, grid))
        raise ValueError(
            f"a grid of {shape} tokens of width {width} is more than any network has: at most {MAX_TOKENS:,} tokens "
            f"and {MAX_TABLE:,} numbers. Use smaller clips or larger patches."
        )


def parse_json(text: str | bytes) -> Any:
    """Returns what JSON says.

    Raises:
        ValueError: it is none, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as err:
        raise ValueError("it is nested too deep to be read") from err


def read_json(path: Path, *, max_bytes: int) -> Any:
    """Returns the content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: as `parse_json`, or it is longer than `max_bytes`.
    """
    with open(path, "rb") as file:
        text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return parse_json(text)


def npz_problem(path: Path) -> str:
    """Returns why an archive of numpy arrays is not read into memory; "" if it may be.

    Looks at the list of contents and at the headers of the arrays, which numpy believes before it reads any number.
    """
    import numpy as np
    import psutil

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                if not entry.filename.endswith(".npy"):
                    continue
                with archive.open(entry) as file:
                    version = np.lib.format.read_magic(file)
                    header = np.lib.format.read_array_header_1_0
                    header = header if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = header(file)
                claimed = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and claimed > entry.file_size:
                    return f"{entry.filename} claims {claimed:,} bytes and has {entry.file_size:,}"
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as err:
        return f"it is no archive of arrays, or a damaged one ({err})"
    wanted, there = sum(entry.file_size for entry in entries), psutil.virtual_memory().available
    return (
        f"its arrays take {wanted:,} bytes, this machine has {there:,} left"
        if wanted > there
        else ""
    )


def archive_problem(path: Path) -> str:
    """Returns why a zip archive cannot be one of PyTorch, whose entries are stored as they are; "" if it can.

    Looks at the list of contents alone.  What claims to be more than the file has, packed or by naming the same bytes
    again and again, would only be found out when memory is full.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as err:
        return f"its list of contents cannot be read ({err})"
    packed = next((e for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        return f"its entry {packed.filename} is compressed ({packed.file_size:,} bytes from {packed.compress_size:,})"
    claimed, there = sum(e.file_size for e in entries), path.stat().st_size
    return f"its entries claim {claimed:,} bytes, it has {there:,}" if claimed > there else ""
