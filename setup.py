"""Puts the recipes into the wheel: they live beside the package and ship inside it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOMS = ("pretrain", "evaluate", "datasets", "launch")


class BuildWithRecipes(build_py):
    """Copies ROOM/**/*.yaml to video_ssl/_recipes/ROOM; an editable install reads them in place."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for file in self._recipes():
            target = Path(self.build_lib) / "video_ssl" / "_recipes" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(file), str(target))

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, self._recipes())]

    def _recipes(self) -> list[Path]:
        return [file for room in ROOMS for file in sorted(Path(room).rglob("*.yaml"))]


setup(cmdclass={"build_py": BuildWithRecipes})
