"""torch and jax never meet in one file, and nobody meets TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import video_ssl

ROOT = Path(video_ssl.__file__).parent
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def name_of(file):
    return ".".join(("video_ssl", *file.relative_to(ROOT).with_suffix("").parts))


def is_flax(name):
    """Flax stands in files named *_flax.py, and in the room of its loop."""
    return name.endswith("_flax") or name.startswith("video_ssl.pretrain.flax_loop.")


FLAX_FILES = sorted(
    name
    for name in map(name_of, ROOT.rglob("*.py"))
    if is_flax(name) and not name.endswith("__init__")
)


@pytest.fixture(scope="module")
def graph():
    """What is loaded: what only a type checker reads is left out."""
    return grimp.build_graph(
        "video_ssl",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


def test_there_are_flax_files():
    assert len(FLAX_FILES) >= 6


@pytest.mark.parametrize("name", FLAX_FILES)
def test_a_flax_file_never_leads_to_torch(graph, name):
    chain = graph.find_shortest_chain(name, "torch") if "torch" in graph.modules else None
    assert chain is None, " -> ".join(chain)


def test_only_flax_files_import_jax(graph):
    there = JAX & graph.modules
    assert "jax" in there
    guilty = {
        importer
        for package in there
        for importer in graph.find_modules_that_directly_import(package)
        if not is_flax(importer)
    }
    assert not guilty


def test_importing_the_jax_side_imports_neither_tensorflow_nor_torch():
    code = (
        "import importlib, sys\n"
        f"for name in {FLAX_FILES!r} + ['tensorflow_datasets', 'video_ssl.models.exchange.tf_checkpoint']:\n"
        "    importlib.import_module(name)\n"
        "print(sorted({'tensorflow', 'torch', 'keras'} & set(sys.modules)))"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_without_jax_one_line_says_what_to_install():
    code = "import sys\nsys.modules['jax'] = None\nimport video_ssl\nvideo_ssl.load_flax_encoder"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: load_flax_encoder needs jax: pip install 'video_ssl[jax]'"
    )


def test_a_pipeline_brings_neither_jax_nor_orbax_and_leaves_them_to_those_who_want_them():
    """grain imports both where they are installed: half a second and 150 MiB of every training with torch."""
    code = (
        "import sys\n"
        "from video_ssl.clips.streams import grain_module\n"
        "grain = grain_module()\n"
        "print(list(grain.MapDataset.range(5).seed(1).shuffle()))\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'jax', 'jaxlib', 'orbax'}))\n"
        "import jax, orbax.checkpoint\n"
        "print(jax.numpy.arange(3).tolist())"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    order, brought, counted = done.stdout.strip().splitlines()
    assert sorted(json.loads(order)) == [0, 1, 2, 3, 4]
    assert (brought, counted) == ("[]", "[0, 1, 2]")


def test_a_torch_training_that_divides_nothing_does_not_import_what_divides():
    code = (
        "import sys, video_ssl.pretrain.run, video_ssl.pretrain.torch_loop.run\n"
        "print([name for name in ('jax', 'sympy', 'torch.distributed.tensor') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
