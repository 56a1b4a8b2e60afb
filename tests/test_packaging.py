"""What is installed: package, recipes, data files and licence, by pyproject.toml alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from video_ssl.compare.recipe import ROOM
from video_ssl.recipes import ROOMS, list_recipes

ROOT = Path(__file__).parents[1]


def build(kind: str, folder: Path) -> zipfile.ZipFile:
    """Returns the wheel that the build back end makes of the checkout, as pip would ask for it."""
    pytest.importorskip("hatchling")
    code = f"import sys, hatchling.build as b; print(b.build_{kind}(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return zipfile.ZipFile(folder / made.stdout.split()[-1])


def test_the_wheel_holds_code_data_recipes_and_licence(tmp_path: Path) -> None:
    with build("wheel", tmp_path) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    package = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "video_ssl").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    recipes = {
        f"video_ssl/_recipes/{room}/{name}.yaml"
        for room in (*ROOMS, ROOM)
        for name in list_recipes(room)
    }
    meta = {name for name in names if ".dist-info/" in name}
    assert recipes
    assert names - meta == package | recipes
    assert any(name.endswith("licenses/LICENSE") for name in meta)
    notices = {name.rpartition("/")[2] for name in meta if "licenses/" in name}
    assert notices == {"LICENSE", "NOTICE.txt", "LICENSE.bullet.txt", "LICENSE.deepmimic.txt"}
    code = (
        "import json, video_ssl.recipes as r;"
        "print(json.dumps({room: [*map(str, r.list_recipes(room).values())] for room in r.ROOMS}))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    inside = tmp_path / "site" / "video_ssl" / "_recipes"
    assert json.loads(asked.stdout) == {
        room: [str(inside / room / f"{name}.yaml") for name in list_recipes(room)] for room in ROOMS
    }


def test_an_editable_install_copies_nothing(tmp_path: Path) -> None:
    with build("editable", tmp_path) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        assert [Path(name).suffix for name in names] == [".pth"]
        assert wheel.read(names[0]).decode().splitlines() == [str(ROOT)]
