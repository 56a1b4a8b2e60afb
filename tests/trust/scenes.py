"""What is done and killed: commands, what must be there before, and what is compared afterwards."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from world import plain, recipe, write_recipe, write_videos

from video_ssl.datasets.arrow.checks import DIGEST_KEY


@dataclass(frozen=True)
class Scene:
    """Commands of `video-ssl`, each disturbed; `prepare` fills their folder.

    `complete`: what a command may say that has been killed after its last change of a file.
    """

    name: str
    prepare: Callable[[Path], None]
    commands: list[list[str]]
    complete: str = ""


def _videos(folder: Path) -> None:
    write_videos(folder / "videos")


def _to_train(framework: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        _videos(folder)
        write_recipe(folder / "r.yaml", recipe(folder / "videos", folder / "run", framework))

    return prepare


def _with_encoder(folder: Path) -> None:
    """The videos, and two encoders of one size."""
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.start import run_recipe

    _videos(folder)
    for name, seed in (("a", 3), ("b", 4)):
        content = {**recipe(folder / "videos", folder / "run", "torch", steps=2), "seed": seed}
        run_recipe(load_pretrain_recipe(write_recipe(folder / "r.yaml", content)))
        shutil.move(folder / "run/encoder", folder / name)
        shutil.rmtree(folder / "run")
    (folder / "r.yaml").unlink()


_EMBED = [
    "videos",
    "f.arrow",
    "--num-clips",
    "2",
    "--num-workers",
    "0",
    "--batch-size",
    "2",
    "--device",
    "cpu",
]


def _embedded(folder: Path) -> None:
    _with_encoder(folder)
    _do(folder, ["embed", "a", *_EMBED])


def _shards(folder: Path) -> None:
    _with_encoder(folder)
    for shard in ("0/2", "1/2"):
        _do(folder, ["embed", "a", *_EMBED, "--shard", shard])


def _to_evaluate(folder: Path) -> None:
    _with_encoder(folder)
    write_videos(folder / "others", seed=100)
    content = {
        "base": str(Path(__file__).parents[2] / "evaluate/probe.yaml"),
        "name": "tiny",
        "encoder": "a",
        "train": "videos",
        "test": "others",
        "out": "out",
        "embed": {"num_clips": 2, "batch_size": 2, "num_workers": 0},
        "evaluators": {"probe": {"epochs": 2}},
    }
    write_recipe(folder / "e.yaml", content)


def _do(folder: Path, words: list[str]) -> None:
    import os
    import sys

    from video_ssl import cli

    os.chdir(folder)
    sys.argv = ["video-ssl", *words]
    try:
        cli.main()
    except SystemExit as err:
        if err.code:
            raise RuntimeError(f"{words} ended with {err.code}") from err


SCENES: tuple[Scene, ...] = (
    Scene("pretrain torch", _to_train("torch"), [["pretrain", "r.yaml"]]),
    Scene("embed", _with_encoder, [["embed", "a", *_EMBED]]),
    Scene("scan", _videos, [["scan", "videos", "s.arrow", "--num-workers", "1"]]),
    Scene("embed --restart", _embedded, [["embed", "b", *_EMBED, "--restart"]]),
    Scene("transcode", _videos, [["transcode", "videos", "out", "--num-workers", "1", "--short-side", "16"]]),
    Scene("merge", _shards, [["merge", "f.arrow"]]),
    Scene("data build", _videos, [["data", "build", "videos", "out", "--num-workers", "1", "--shards", "2"]]),
    Scene("evaluate", _to_evaluate, [["evaluate", "e.yaml"]]),
    Scene("convert original", _with_encoder, [["convert", "a", "o.pth", "--to", "original"]], "o.pth exists"),
    Scene("pretrain flax", _to_train("flax"), [["pretrain", "r.yaml"]]),
    Scene(
        "embed shards, merge",
        _with_encoder,
        [
            ["embed", "a", *_EMBED, "--shard", "0/2"],
            ["embed", "a", *_EMBED, "--shard", "1/2"],
            ["merge", "f.arrow"],
        ],
    ),
    Scene("convert ours", _with_encoder, [["convert", "a", "o", "--to", "ours"]], "o exists and is not"),
)  # fmt: skip


# What is compared

# Words about when, where, how fast and in which attempt: they tell of the kills, as they should.
_ABOUT_TIME = {
    *(
        "time",
        "date",
        "seconds",
        "wall_sec",
        "file_mtime",
        "starts",
        "clips_per_sec",
        "videos_per_sec",
    ),
    *("data_wait_share", "host_memory_gib", "peak_memory_gib"),
    *("bytes", "sha256", "checksum", "crc32"),  # of pickled tensors, which are compared themselves
}
_NOT_COMPARED = re.compile(r"(^|/)(logs/.*|environment\.json|attempts\.jsonl|\.lock|\.held|lock)$")
# One file for every start, named after its time; files of orbax, named by chance, whose content is compared.
_NOT_COUNTED = re.compile(r"(^|/)tensorboard/|/step_\d+/state/")


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder by its name, with what is compared of it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (path / "_METADATA").is_file():
            found[name] = _orbax(path)
        if _NOT_COUNTED.search(name):
            continue
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = "" if _NOT_COMPARED.search(name) else _content(path)
        elif not any(path.iterdir()):
            found[name] = "an empty folder"
    return found


def _content(path: Path) -> Any:
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda p: _timeless(json.loads(p.read_text())),
        ".jsonl": _json_lines,
        ".yaml": lambda p: _timeless(yaml.safe_load(p.read_text())),
        ".arrow": _arrow,
        ".pt": _torch,
        ".pth": _torch,
    }
    read = readers.get(path.suffix)
    return hashlib.sha256(path.read_bytes()).hexdigest() if read is None else read(path)


def _json_lines(path: Path) -> Any:
    """Rows in order; of a journal of ours (a hidden file) what has come of each video: it also tells of every start."""
    rows = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name[0] != ".":
        return rows
    return sorted({json.dumps(row, sort_keys=True) for row in rows if "begun" not in row})


def _orbax(folder: Path) -> str:
    import jax
    import orbax.checkpoint

    with orbax.checkpoint.PyTreeCheckpointer() as reader:
        leaves = jax.tree_util.tree_leaves_with_path(reader.restore(folder))
    told = [(str(key), plain(np.asarray(value))) for key, value in leaves]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _ABOUT_TIME}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _arrow(path: Path) -> Any:
    """Columns and what the schema says."""
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    said = {
        key.decode(): _timeless(_json_or_text(value))
        for key, value in (table.schema.metadata or {}).items()
        if key != DIGEST_KEY  # of the bytes, times of files among them
    }
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "file_mtime"}
    return hashlib.sha256(repr([said, columns]).encode()).hexdigest()


def _json_or_text(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _torch(path: Path) -> Any:
    import torch

    with zipfile.ZipFile(path) as archive:
        comment = archive.comment
    return hashlib.sha256(
        repr([plain(torch.load(path, weights_only=True)), comment]).encode()
    ).hexdigest()
