"""The examples in docstrings say what the functions really return."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import video_ssl

ROOT = Path(video_ssl.__file__).parent
MODULES = [
    ".".join(("video_ssl", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as err:
        pytest.skip(f"{name} needs a package that is not installed: {err}")
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
