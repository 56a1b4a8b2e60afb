"""What is damaged, how it is opened, and how damage that was let through is told from another file.

Files that carry a checksum (ours, and npz): whatever is read must be what was written, or nothing is.  Files without
one (lists, CSV, JSON lines, YAML, Parquet, tars): another number in them is another file; so what is read must be what
an independent reader finds in the changed file, or nothing is: no line left out, no field taken for another.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mutations
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from mutations import Mutation
from world import plain, read_json, recipe, write_recipe, write_videos

from video_ssl.datasets.arrow.checks import DIGEST_KEY

Read = Callable[[Path], Any]
Judge = Callable[[Path, Any, Any], str | None]


def same(folder: Path, original: Any, value: Any) -> str | None:
    """For files with a checksum."""
    return None if value == original else "what was read is not what was written"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kind of file.

    Attributes:
        make: fills a folder, once.
        targets: glob of the files that are changed, below it.
        read: opens it as a user's command does, and returns what is compared.
        judge: (folder, what was read before the change, what is read now) -> what is wrong, or None.
        structural: mutations that know its form; half of all.
        weight: how often it has a turn.
        memory_gib, limit_sec: bounds of a reading.
    """

    name: str
    make: Callable[[Path], None]
    targets: str
    read: Read
    judge: Judge = same
    structural: Sequence[Mutation] = ()
    weight: float = 1.0
    memory_gib: float = 2.0
    limit_sec: float = 60.0
    leave_out: tuple[str, ...] = field(default=())

    def files(self, folder: Path) -> list[Path]:
        found = sorted(p for p in folder.glob(self.targets) if p.is_file())
        return [p for p in found if p.name not in self.leave_out and p.stat().st_size]


# Tables

COLUMNS = ("path", "label", "start", "end")
# Numbers that are easily told from one another.
ROWS = [("ab"[i % 2] + f"/{i}.mp4", i % 2, 0.125 * i, 0.5 + 0.25 * i) for i in range(6)]


def _with_videos(folder: Path) -> None:
    write_videos(folder)


def _arrow_table(folder: Path) -> None:
    from video_ssl.datasets.table import Table

    _with_videos(folder)
    columns = {
        "source": [str(folder / row[0]) for row in ROWS],
        "label": [row[1] for row in ROWS],
        "start_sec": [row[2] for row in ROWS],
        "end_sec": [row[3] for row in ROWS],
    }
    Table.from_columns(columns, root=folder).save(folder / "t.arrow")


def _without_digest(make: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    """The file as a program of somebody else writes it: nothing but Arrow's own checks stands between it and us."""

    def made(folder: Path) -> None:
        make(folder)
        with pa.OSFile(str(folder / name)) as file:
            table = pa.ipc.open_file(file).read_all()
        metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != DIGEST_KEY}
        with pa.OSFile(str(folder / name), "wb") as sink:
            table = table.replace_schema_metadata(metadata)
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

    return made


def _arrow_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for row in _sound(path).to_pylist():
        names = ("source", "label", "start_sec", "end_sec")
        rows.append(dict(zip(COLUMNS, map(row.get, names), strict=True)))
    return rows


def _sound(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)
        return table


def _as_arrow_holds(folder: Path, original: Any, value: Any) -> str | None:
    if value == original:
        return None
    try:
        table = _sound(folder / "f.arrow")
    except Exception as err:
        return f"read, although Arrow's own checks refuse it ({type(err).__name__}: {err})"
    features = np.array(table["feature"].to_pylist(), np.float32)
    if plain(features)[2] != value[2][2]:
        return "other features than in the file"
    return None if table["id"].to_pylist() == value[0] else "other ids than in the file"


def _separated(separator: str, name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _with_videos(folder)
        lines = [separator.join(map(str, row)) for row in (COLUMNS, *ROWS)]
        (folder / name).write_text("\n".join([*lines, ""]))

    return make


def _list(folder: Path) -> None:
    _with_videos(folder)
    (folder / "t.txt").write_text("".join(f"{row[0]} {row[1]}\n" for row in ROWS))


def _json_lines(folder: Path) -> None:
    _with_videos(folder)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(folder: Path) -> None:
    _with_videos(folder)
    columns = dict(zip(COLUMNS, map(list, zip(*ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "t.parquet", write_page_checksum=True)


def _tar(folder: Path) -> None:
    videos = write_videos(folder / "videos")
    with tarfile.open(folder / "t.tar", "w") as tar:
        for i, path in enumerate(sorted(videos.rglob("*.mp4"))):
            tar.add(path, f"{i:03}.mp4", filter=_no_owner)
            told = tarfile.TarInfo(f"{i:03}.cls")
            told.size = 1
            tar.addfile(told, io.BytesIO(str(i % 2).encode()))
    shutil.rmtree(videos)


def _no_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime, info.uname, info.gname = 0, "", ""
    return info


def read_table(name: str) -> Read:
    def read(folder: Path) -> Any:
        from video_ssl.datasets import open_table

        table = open_table(str(folder / name))
        return [_row(table.record(i), folder, table.class_names) for i in range(len(table))]

    return read


def _row(record: Any, folder: Path, classes: Sequence[str]) -> tuple[Any, ...]:
    label = record.label if not classes or record.label is None else classes[record.label]
    place = (record.byte_offset, record.byte_size)
    return (record.source, label, record.start_sec, record.end_sec, *place)


def as_an_independent_reader(rows_of: Callable[[Path], list[dict[str, Any]]], name: str) -> Judge:
    """Every row of the file, as read by somebody else, is a record with its values."""

    def judge(folder: Path, original: Any, value: Any) -> str | None:
        if value == original:
            return None
        try:
            rows = rows_of(folder / name)
        except Exception as err:
            return f"read, although an independent reader refuses it ({type(err).__name__}: {err})"
        if len(rows) != len(value):
            return f"{len(value)} records, but {len(rows)} rows"
        for number, (row, record) in enumerate(zip(rows, value, strict=True), 1):
            for key, found in zip(COLUMNS, record, strict=False):
                if not _agree(key, row.get(key), found, folder):
                    return f"row {number}: {key} is {row.get(key)!r} in the file and {found!r} in the record"
        return None

    return judge


def _agree(key: str, given: Any, found: Any, folder: Path) -> bool:
    if key == "path":
        path = unquote(found, errors="surrogateescape") if found.startswith("file://") else found
        return os.path.abspath(folder / os.path.expanduser(str(given).strip())) == os.path.abspath(
            path.removeprefix("file://")
        )
    if given in (None, ""):
        return found is None or found == ""
    if found is None:
        return str(given).strip().lower() in ("", "null", "none", "nan", "na", "-1", "-1.0")
    if isinstance(found, str):
        return str(given).strip() == found
    try:
        return float(given) == float(found)
    except (TypeError, ValueError):
        return False


def _csv_rows(separator: str) -> Callable[[Path], list[dict[str, Any]]]:
    def rows(path: Path) -> list[dict[str, Any]]:
        text = path.read_bytes().decode("utf-8-sig")
        found = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row
        ]
        head = [name.strip().lower() for name in found[0]]
        if any(len(row) != len(head) for row in found):
            raise ValueError("rows of unequal length")
        return [dict(zip(head, row, strict=True)) for row in found[1:]]

    return rows


def _list_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in (
        path.read_bytes().decode("utf-8-sig", "surrogateescape").replace("\r", "\n").split("\n")
    ):
        if line.strip() and not line.startswith("#"):
            name, *fields = line.rsplit(None, 1)
            rows.append({"path": name, "label": fields[0] if fields else None})
    return rows


def _json_rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().decode("utf-8-sig").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path, page_checksum_verification=True).to_pylist()


def _as_tar_lists(folder: Path, original: Any, value: Any) -> str | None:
    """A tar that ends too early, or in something else, is refused; otherwise it holds what `tarfile` finds."""
    if value == original:
        return None
    with tarfile.open(folder / "t.tar") as tar:
        members = {m.name: (m.offset_data, m.size) for m in tar if m.isfile()}
        ends = tar.offset
    size = (folder / "t.tar").stat().st_size
    if ends > size:
        return "read, although it ends within a member"
    for source, _, _, _, *place in value:
        name = source.partition("!/")[2]
        if members.get(name) != tuple(place):
            return f"{name} is at {place}, but `tarfile` finds it at {members.get(name)}"
    videos = sum(name.endswith(".mp4") for name in members)
    return None if videos == len(value) else f"{len(value)} records of {videos} videos"


# Features


def _feature_rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(6, 8)).astype(np.float32),
        "labels": np.array([0, 1, 0, 1, 2, 2]),
        "ids": np.array([f"v{i}" for i in range(6)]),
    }


def _features_arrow(folder: Path) -> None:
    """By the command's own way: raw pixels of the tiny videos."""
    from video_ssl.embed.embed_videos import embed_table

    write_videos(folder / "videos")
    settings: dict[str, Any] = {"num_frames": 4, "num_workers": 0, "num_clips": 2}
    embed_table("pixels:4", str(folder / "videos"), folder / "f.arrow", device="cpu", **settings)


def _features_npz(folder: Path) -> None:
    np.savez(folder / "f.npz", **_feature_rows())  # type: ignore[arg-type]


def _features_parquet(folder: Path) -> None:
    rows = {k: v.tolist() for k, v in _feature_rows().items()}
    pq.write_table(pa.table(rows), folder / "f.parquet", write_page_checksum=True)


def read_features(name: str) -> Read:
    def read(folder: Path) -> Any:
        from video_ssl.embed.features import open_features

        found = open_features(folder / name)
        frames = [found.frames(i) for i in range(len(found))] if found.has_frames else []
        return plain([found.ids, found.labels, found.features, found.groups, frames])

    return read


def _as_parquet_holds(folder: Path, original: Any, value: Any) -> str | None:
    if value == original:
        return None
    table = pq.read_table(folder / "f.parquet", page_checksum_verification=True)
    try:
        features = np.array(table["features"].to_pylist(), np.float32)
        labels = table["labels"].to_pylist()
    except KeyError as err:
        return f"read, although there is no column {err}"
    if plain(features)[2] != value[2][2]:
        return "other features than in the file"
    return None if len(labels) == len(features) else "labels of another length"


# Runs and encoders


def _run(framework: str) -> Callable[[Path], None]:
    """A run that was stopped after 4 of 6 steps, with two checkpoints."""

    def make(folder: Path) -> None:
        videos = write_videos(folder / "videos")
        content = recipe(videos, folder / "run", framework)
        write_recipe(folder / "recipe.yaml", content)
        _train(folder)
        for place in ("encoder", "finished.json"):
            path = folder / "run" / place
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(folder / "run/checkpoints/step_6")
        _forget_after(folder / "run/metrics.jsonl", 4)

    return make


def _forget_after(path: Path, step: int) -> None:
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
    path.write_text("\n".join([*lines, ""]))


def _train(folder: Path) -> None:
    import torch

    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.start import run_recipe

    torch.set_num_threads(1)
    content = read_recipe_text(folder / "recipe.yaml")
    content["run"], content["data"]["table"] = str(folder / "run"), str(folder / "videos")
    write_recipe(folder / "recipe.yaml", content)
    run_recipe(load_pretrain_recipe(folder / "recipe.yaml"))


def read_recipe_text(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def finish_run(folder: Path) -> Any:
    """Goes on with the run; returns the encoder that comes out."""
    _train(folder)
    return encoder_weights(folder / "run/encoder")


def encoder_weights(folder: Path) -> Any:
    from safetensors.numpy import load_file

    return plain(load_file(folder / "model.safetensors"))


def _encoder(framework: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        videos = write_videos(folder / "videos")
        write_recipe(folder / "recipe.yaml", recipe(videos, folder / "run", framework, steps=2))
        _train(folder)
        shutil.copytree(folder / "run/encoder", folder / "encoder")
        shutil.rmtree(folder / "run")
        shutil.rmtree(videos)

    return make


def read_torch_encoder(folder: Path) -> Any:
    import torch

    from video_ssl.models.encoders import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder(folder / "encoder")
    clip = torch.linspace(-1, 1, 3 * 4 * 32 * 32).reshape(1, 3, 4, 32, 32)
    with torch.no_grad():
        features = encoder.clip_features(clip)
    return plain([encoder.state_dict(), features])


def read_flax_encoder(folder: Path) -> Any:
    from video_ssl.models.encoders_flax import load_flax_encoder

    return plain(load_flax_encoder(folder / "encoder").state_dict())


def _as_config_says(folder: Path, original: Any, value: Any) -> str | None:
    """Weights have a checksum; another number in config.json is another encoder, if it fits the weights."""
    if value == original:
        return None
    if value[0] == original[0] and _config(folder) != _config(folder, "original.json"):
        return None
    return "other weights than were written"


def _config(folder: Path, name: str = "config.json") -> Any:
    return read_json(folder / "encoder" / name)


# Recipes


def _recipe_file(folder: Path) -> None:
    write_recipe(folder / "r.yaml", recipe(Path("videos"), Path("run"), "torch"))


def read_recipe_file(folder: Path) -> Any:
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.recipes import to_plain

    return to_plain(load_pretrain_recipe(folder / "r.yaml"))


def _evaluate_file(folder: Path) -> None:
    content = {
        "name": "tiny",
        "encoder": "run",
        "train": "a.arrow",
        "test": "b.arrow",
        "out": "out",
        "embed": {"num_clips": 2, "batch_size": 4, "num_workers": 0},
        "evaluators": {
            "probe": {"epochs": 10, "learning_rates": [0.1, 0.01]},
            "knn": {"ks": [1, 5]},
        },
    }
    write_recipe(folder / "r.yaml", content)


def read_evaluate_file(folder: Path) -> Any:
    from video_ssl.evaluate.recipe import load_evaluate_recipe
    from video_ssl.recipes import to_plain

    return to_plain(load_evaluate_recipe(folder / "r.yaml"))


def _profile_file(folder: Path) -> None:
    content = {
        "executor": "slurm",
        "nodes": 2,
        "tasks_per_node": 4,
        "time_min": 60,
        "memory_gib": 4,
        "partition": "main",
        "setup": ["module load cuda"],
        "environment": {"A": "b"},
        "sbatch": {"mail-type": "END"},
    }
    write_recipe(folder / "r.yaml", content)


def read_profile_file(folder: Path) -> Any:
    from video_ssl.launch.profile import load_profile
    from video_ssl.recipes import to_plain

    return to_plain(load_profile(str(folder / "r.yaml")))


def nothing_ignored(folder: Path, original: Any, value: Any) -> str | None:
    """Every value of the file is in what was made of it, at its place; shorthands aside, which are read otherwise."""
    content = yaml.safe_load((folder / "r.yaml").read_text(encoding="utf-8"))
    if "objective_name" in value:
        value["objective"]["name"] = value["objective_name"]
    for path, given in _leaves(content, ()):
        found = value
        for key in path:
            found = found.get(key, KeyError) if isinstance(found, dict) else KeyError
        if found is KeyError:
            return f"{'.'.join(map(str, path))} has no effect"
        if not _alike(given, found):
            return f"{'.'.join(map(str, path))} is {given!r} in the file and {found!r} in what was made of it"
    return None


def _leaves(tree: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, str(key)))]
    return [(path, tree)]


def _alike(given: Any, found: Any) -> bool:
    if given == found or str(given) == str(found):
        return True
    if given is None or isinstance(
        found, dict
    ):  # takes the default; a shorthand (a duration) has become its parts
        return True
    if isinstance(given, (list, tuple)) and isinstance(found, (list, tuple)):
        return len(given) == len(found) and all(map(_alike, given, found))
    try:
        return float(given) == float(found) or (given != given and found != found)
    except (TypeError, ValueError):
        return False


SUBJECTS: tuple[Subject, ...] = (
    Subject(name="table.arrow", make=_arrow_table, targets="t.arrow", read=read_table("t.arrow")),
    Subject(
        name="others.table.arrow",
        make=_without_digest(_arrow_table, "t.arrow"),
        targets="t.arrow",
        read=read_table("t.arrow"),
        judge=as_an_independent_reader(_arrow_rows, "t.arrow"),
    ),
    Subject(
        name="others.features.arrow",
        make=_without_digest(_features_arrow, "f.arrow"),
        targets="f.arrow",
        read=read_features("f.arrow"),
        judge=_as_arrow_holds,
    ),
    Subject(
        name="table.csv",
        make=_separated(",", "t.csv"),
        targets="t.csv",
        read=read_table("t.csv"),
        judge=as_an_independent_reader(_csv_rows(","), "t.csv"),
        structural=mutations.of_lines(","),
    ),
    Subject(
        name="table.tsv",
        make=_separated("\t", "t.tsv"),
        targets="t.tsv",
        read=read_table("t.tsv"),
        judge=as_an_independent_reader(_csv_rows("\t"), "t.tsv"),
        structural=mutations.of_lines("\t"),
        weight=0.5,
    ),
    Subject(
        name="list",
        make=_list,
        targets="t.txt",
        read=read_table("t.txt"),
        judge=as_an_independent_reader(_list_rows, "t.txt"),
        structural=mutations.of_lines(" "),
    ),
    Subject(
        name="table.jsonl",
        make=_json_lines,
        targets="t.jsonl",
        read=read_table("t.jsonl"),
        judge=as_an_independent_reader(_json_rows, "t.jsonl"),
        structural=(mutations.json_lines, mutations.deep_brackets),
    ),
    Subject(
        name="table.parquet",
        make=_parquet,
        targets="t.parquet",
        read=read_table("t.parquet"),
        judge=as_an_independent_reader(_parquet_rows, "t.parquet"),
    ),
    Subject(name="tar", make=_tar, targets="t.tar", read=read_table("t.tar"), judge=_as_tar_lists),
    Subject(
        name="features.arrow",
        make=_features_arrow,
        targets="f.arrow",
        read=read_features("f.arrow"),
    ),
    Subject(name="features.npz", make=_features_npz, targets="f.npz", read=read_features("f.npz")),
    Subject(
        name="features.parquet",
        make=_features_parquet,
        targets="f.parquet",
        read=read_features("f.parquet"),
        judge=_as_parquet_holds,
    ),
    Subject(
        name="run.torch",
        make=_run("torch"),
        targets="run/checkpoints/step_*/**/*",
        read=finish_run,
        weight=0.3,
        memory_gib=4.0,
        limit_sec=180.0,
    ),
    Subject(
        name="run.flax",
        make=_run("flax"),
        targets="run/checkpoints/step_*/**/*",
        read=finish_run,
        weight=0.04,
        memory_gib=16.0,
        limit_sec=300.0,
    ),
    Subject(
        name="run.words",
        make=_run("torch"),
        targets="run/*.*",
        read=finish_run,
        structural=(mutations.deep_brackets,),
        weight=0.1,
        memory_gib=4.0,
        limit_sec=180.0,
    ),
    Subject(
        name="encoder.torch",
        make=_encoder("torch"),
        targets="encoder/model.safetensors",
        read=read_torch_encoder,
        structural=(mutations.safetensors_header,),
        memory_gib=4.0,
    ),
    Subject(
        name="encoder.config",
        make=_encoder("torch"),
        targets="encoder/*.json",
        read=read_torch_encoder,
        judge=_as_config_says,
        leave_out=("original.json",),
        structural=(mutations.unsealed,) * 4 + (mutations.JSON, mutations.deep_brackets),
        memory_gib=4.0,
    ),
    Subject(
        name="encoder.flax",
        make=_encoder("flax"),
        targets="encoder/*.safetensors",
        read=read_flax_encoder,
        structural=(mutations.safetensors_header,),
        weight=0.3,
        memory_gib=16.0,
        limit_sec=120.0,
    ),
    *(
        Subject(
            name=name,
            make=make,
            targets="r.yaml",
            read=read,
            judge=nothing_ignored,
            structural=(mutations.YAML,) * 4 + (mutations.deep_brackets,),
        )
        for name, make, read in (
            ("recipe.pretrain", _recipe_file, read_recipe_file),
            ("recipe.evaluate", _evaluate_file, read_evaluate_file),
            ("profile", _profile_file, read_profile_file),
        )
    ),
)  # fmt: skip
logging.disable(logging.INFO)
