"""Which code runs: the commit of the checkout, and what differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from video_ssl.limits import parse_json

#: What a copy of the code says about the checkout that it was made of (`launch/snapshot.py`).
NOTE = "snapshot.json"
_MOST_FILES = 100


def code_folder() -> Path:
    """Returns the folder that holds the package."""
    return Path(__file__).resolve().parents[1]


def git_state(root: Path) -> dict[str, Any] | None:
    """Returns commit, changed and untracked files (100 at most) of a checkout; None outside of one.

    For the copy that a launch has made, what was noted then.
    """
    if (root / NOTE).is_file():
        noted: dict[str, Any] | None = parse_json((root / NOTE).read_text(encoding="utf-8"))["git"]
        return noted
    answers = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    if answers[0] is None or answers[1] is None:
        return None
    lines = answers[1].splitlines()
    return {
        "commit": answers[0].strip(),
        "changed_files": [line for line in lines if not line.startswith("??")][:_MOST_FILES],
        "untracked_files": [line[3:] for line in lines if line.startswith("??")][:_MOST_FILES],
    }


def git_diff(root: Path) -> str:
    """Returns how a checkout differs from its commit; empty outside of one."""
    return _git(root, "diff", "HEAD") or ""


def _git(root: Path, *words: str) -> str | None:
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
