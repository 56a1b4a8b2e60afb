"""The list of mutations fits the code of today, and the runner tells apart what became of one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mutation_list
import pytest
from mutation_list import Mutation, MutationError, mutated, read_mutations
from run import BEGIN, END, ERROR, SEEN, SURVIVED, Verdict, chosen_of, judge, table_of, write_report

ROOT = Path(__file__).parents[2]
MUTATIONS = read_mutations()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_every_error_can_still_be_made(mutation: Mutation) -> None:
    mutated(mutation, ROOT)
    for test in mutation.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0] or 'test_'}" in text, test


def test_the_list_is_long_and_goes_everywhere() -> None:
    assert len(MUTATIONS) >= 60
    assert not Counter(m.file for m in MUTATIONS).keys() & {m for x in MUTATIONS for m in x.tests}


def error(**changes) -> Mutation:
    settings = {
        "name": "sum",
        "file": "thing.py",
        "old": "a + b",
        "new": "a - b",
        "tests": ("test_thing.py",),
        "why": "wrong sums",
        **changes,
    }
    return Mutation(**settings)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "thing.py").write_text("def add(a, b):\n    return a + b\n\n\nWIDTH = 3\n")
    (tmp_path / "test_thing.py").write_text(
        "from thing import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "state", "told"),
    [
        ({}, SEEN, "test_thing.py::test_add"),
        ({"old": "WIDTH = 3", "new": "WIDTH = 4"}, SURVIVED, ""),
        ({"tests": ("test_none.py",)}, ERROR, "file or directory not found: test_none.py"),
        ({"old": "def add(", "new": "def plus("}, ERROR, "error"),
        ({"old": "a * b"}, ERROR, "occurs 0 times in thing.py"),
    ],
)
def test_what_became_of_an_error(project: Path, changes, state: str, told: str) -> None:
    before = (project / "thing.py").read_text()
    verdict = judge(error(**changes), project, seconds=600)
    assert verdict.state == state
    assert told in verdict.told
    assert (project / "thing.py").read_text() == before


def test_tests_that_hang_are_stopped(project: Path) -> None:
    hang = error(new="[0 for _ in iter(int, 1)]")
    assert judge(hang, project, seconds=2).told == "out of time"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"old": "a"}, "occurs 3 times"),
        ({"new": "a + b"}, "must occur once and differ"),
        ({"new": "a +"}, "leaves no Python in thing.py"),
        ({"file": "other.py"}, "there is no file other.py"),
    ],
)
def test_errors_that_cannot_be_made_are_refused(project: Path, changes, text: str) -> None:
    with pytest.raises(MutationError, match=text):
        mutated(error(**changes), project)


def test_entries_without_what_they_need_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- {name: a, file: b}\n")
    with pytest.raises(MutationError, match=r"entry 1 \(a\) has \['file', 'name'\], but needs"):
        read_mutations(path)
    whole = "- {name: a, file: b, old: c, new: d, tests: [e], why: f}\n"
    path.write_text(2 * whole)
    with pytest.raises(MutationError, match=r"several mutations are called \['a'\]"):
        read_mutations(path)
    assert mutation_list.LIST.is_file()


def test_a_sample_is_drawn_from_those_that_are_named() -> None:
    chosen = chosen_of(MUTATIONS, only=["SCL", "masks.py"], sample=None, seed=0)
    assert {m.file for m in chosen} == {
        "video_ssl/objectives/carl/scl.py",
        "video_ssl/clips/masks.py",
    }
    few = chosen_of(MUTATIONS, only=[], sample=5, seed=1)
    assert len(few) == 5
    assert few == chosen_of(MUTATIONS, only=[], sample=5, seed=1)
    assert few != chosen_of(MUTATIONS, only=[], sample=5, seed=2)


def test_the_table_stands_between_its_marks(tmp_path: Path) -> None:
    same = error(name="same", equivalent="a constant that nothing reads")
    verdicts = [
        Verdict(mutation=error(), state=SEEN, told="test_thing.py::test_add", seconds=1.0),
        Verdict(mutation=same, state=SURVIVED, told="", seconds=1.0),
    ]
    table = table_of(verdicts)
    assert table.startswith("1 of 2 errors seen (50.0 %), 1 survived, 0 could not be made.")
    assert "- SURVIVED: same (thing.py): a constant that nothing reads" in table
    assert "| sum | thing.py | test_thing.py::test_add |" in table
    assert all(v.good for v in verdicts)
    path = tmp_path / "a.md"
    path.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\nrest\n")
    write_report(path, table)
    assert path.read_text() == f"# Title\n\n{BEGIN}\n\n{table}\n\n{END}\nrest\n"
    path.write_text("# Title\n")
    with pytest.raises(MutationError, match="has no place for the table"):
        write_report(path, table)
