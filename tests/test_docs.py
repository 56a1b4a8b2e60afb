"""What README and docs name is there: files, data sets, evaluators, overrides, trainings of comparisons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from video_ssl.evaluate.evaluators import EVALUATORS
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.recipe_text import load_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    """Was wrong: the page on trust named a test that had moved."""
    named = re.findall(r"`(tests/[\w/]+\.py)", page.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_data_sets_of_the_table_are_recipes() -> None:
    """Was wrong: `davis` stood there, which opens nothing; the recipe is davis2017."""
    text = (ROOT / "docs" / "data.md").read_text().partition("## Public data sets")[2]
    assert text
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text.partition("\n## ")[0], flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 10
    assert (
        sorted(name for name in named if not (ROOT / "datasets" / f"{name}.yaml").is_file()) == []
    )


def test_the_table_of_evaluators_has_all() -> None:
    """Was wrong: five of them stood on other pages only."""
    text = (ROOT / "docs" / "features.md").read_text().partition("## Evaluators")[2]
    named = set(re.findall(r"`(\w+)`", text.partition("\n## ")[0]))
    assert set(EVALUATORS) - named == set()


@pytest.mark.parametrize("name", ["mae", "videomae", "mvd"])
@pytest.mark.parametrize("word", ["objective.encoder.preset=B", "objective.crop.size=160"])
def test_what_is_said_for_large_gpus_loads(name: str, word: str) -> None:
    """Was wrong: it was said for every recipe, of which most refuse it."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert re.search(rf"`mae`, `videomae`, `mvd`:.*`{re.escape(word)}`", text)
    load_pretrain_recipe(f"{name}/small", [word])


def test_other_videos_of_a_comparison_are_told() -> None:
    """Was wrong: "the same videos" was said without a word of those of HiCo."""
    page = (ROOT / "docs" / "compare.md").read_text()
    for file in (ROOT / "launch" / "comparisons").glob("*.yaml"):
        for name, entry in load_yaml(file)["objectives"].items():
            if "table" in entry:
                assert name in page.lower(), (file.name, name)
                assert "another `table`" in page
