"""What an evaluation leaves in folders, how it is called, and that what an earlier one left about single videos goes.

000012_NAME.mp4, .txt     of row 12
000012_NAME/00000.png     of each of its frames
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from video_ssl.datasets.table import Record

_FILE = re.compile(r"\d{6}_.*\.(txt|mp4)", re.DOTALL)
_FOLDER = re.compile(r"\d{6}_.*", re.DOTALL)
_FRAME = re.compile(r"\d{5,}\.png")
#: Letters of a name at most: file systems take 255 bytes, and there are endings.
_LONGEST = 60


def safe_name(text: str) -> str:
    """Returns a text as the name of a file or folder; different texts have different names.

    >>> safe_name("mine-probe"), safe_name("my run/probe"), safe_name("my_run_probe")
    ('mine-probe', 'my_run_probe-54d9556a', 'my_run_probe')
    """
    plain = re.sub(r"[^\w.-]+", "_", text)[:_LONGEST]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def name_of_row(record: Record, text: str) -> str:
    """Returns what files about a row of a table are called, without their endings; sorted, they are in its order."""
    return f"{record.index:06d}_{safe_name(text)}"


def forget_others(folder: Path, written: Collection[Path]) -> None:
    """Removes files and numbered pictures of single videos that were not written now; anything else stays.

    Args:
        folder: may not be there.
        written: files in it, or in its folders.
    """
    kept = set(written)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink():
            continue
        if path.is_file() and _FILE.fullmatch(path.name) and path not in kept:
            path.unlink()
        elif path.is_dir() and _FOLDER.fullmatch(path.name):
            _forget_frames(path, kept)


def _forget_frames(folder: Path, kept: Collection[Path]) -> None:
    for path in list(folder.iterdir()):
        if path.is_file() and _FRAME.fullmatch(path.name) and path not in kept:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
