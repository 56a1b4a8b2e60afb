"""What an evaluation leaves in a folder about single videos, by their rows: what an earlier one left there goes.

000012_NAME.mp4, .txt     of row 12
000012_NAME/00000.png     of each of its frames
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

_FILE = re.compile(r"\d{6}_.*\.(txt|mp4)", re.DOTALL)
_FOLDER = re.compile(r"\d{6}_.*", re.DOTALL)
_FRAME = re.compile(r"\d{5,}\.png")


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
