"""The examples in docstrings say what the functions really return."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from example_folder import make_example_folder

import video_ssl

ROOT = Path(video_ssl.__file__).parent
MODULES = [
    ".".join(("video_ssl", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where examples find runs/mine, videos/, features.arrow, ..."""
    found = tmp_path_factory.mktemp("examples")
    make_example_folder(found)
    here = os.getcwd()
    try:
        os.chdir(found)
        video_ssl.embed_table(
            "runs/mine", "videos", "features.arrow", per_frame=True, num_workers=0
        )
    finally:
        os.chdir(here)
    return found


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as err:
        pytest.skip(f"{name} needs a package that is not installed: {err}")
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


PUBLIC = [name for name in video_ssl.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    """`test_examples` runs it, as the module that defines the name is among MODULES."""
    found = getattr(video_ssl, name)
    if name in video_ssl._ROOMS:  # what is called is the room
        assert callable(found)
        found = getattr(importlib.import_module("video_ssl.verbs"), name)
    else:
        assert not (ROOT / name).exists()  # a folder of that name would take its place
    assert found.__name__ == name
    assert ">>> " in inspect.getdoc(found)
    assert found.__module__ in MODULES
    assert name in dir(video_ssl)


def test_type_checkers_know_the_same_names():
    tree = ast.parse(Path(video_ssl.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {line.names[0].asname: line.module for line in block.body}
    assert told == video_ssl._MODULES
    assert (ROOT / "py.typed").is_file()


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_encodr'"):
        _ = video_ssl.load_encodr


def test_importing_the_package_imports_no_framework():
    code = "import sys, video_ssl; dir(video_ssl); sys.exit(3 * bool({'torch', 'jax', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
