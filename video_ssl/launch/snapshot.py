"""A copy of the code that a job runs, so that edits after the launch do not reach it.

FOLDER/video_ssl/          the package with the recipes inside, as in a wheel
FOLDER/snapshot.json       commit, changed and untracked files, time
FOLDER/changes.patch       git diff against the commit, where there is one
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

import video_ssl
from video_ssl.code_state import NOTE, git_diff, git_state
from video_ssl.files import folder_aside, remove_leftovers, write_json
from video_ssl.launch.errors import LaunchError
from video_ssl.recipes import ROOMS, recipe_folder


def take_snapshot(folder: Path) -> Path:
    """Returns folder/code-KEY with a copy of the running code; KEY is of its content, so equal code is copied once.

    Raises:
        LaunchError: the folder cannot be written.
    """
    package = Path(video_ssl.__file__).resolve().parent
    files = {file.relative_to(package.parent): file for file in _files(package, "*")}
    for room in ROOMS:
        source = recipe_folder(room)
        if source.is_dir():
            inside = Path("video_ssl", "_recipes", room)
            files |= {inside / f.relative_to(source): f for f in _files(source, "*.yaml")}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0".encode() + files[name].read_bytes())
    target = folder.resolve() / f"code-{digest.hexdigest()[:12]}"
    if (target / NOTE).is_file():
        return target
    remove_leftovers(target.parent)
    content = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "source": str(package),
        "git": git_state(package.parent),
    }
    try:
        with folder_aside(target, sync=False) as temporary:
            for name, file in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, temporary / name)
            if patch := git_diff(package.parent):
                (temporary / "changes.patch").write_text(patch, encoding="utf-8")
            write_json(temporary / NOTE, content)
    except OSError as err:
        raise LaunchError(
            f"the code could not be copied to {folder}: {err}. The run folder must be writable."
        ) from err
    return target


def _files(folder: Path, pattern: str) -> list[Path]:
    skipped = ("__pycache__", "_recipes")
    return [
        f
        for f in sorted(folder.rglob(pattern))
        if f.is_file() and not any(part in skipped for part in f.relative_to(folder).parts)
    ]
