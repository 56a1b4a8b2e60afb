"""The list of mutations: small errors put into the code, one at a time, each with the tests that must turn red.

An error is an exact piece of text and what stands there instead.  The text must occur exactly once, so that the list
says so when the code has moved on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

LIST = Path(__file__).with_name("mutations.yaml")


class MutationError(ValueError):
    """A mutation that cannot be made; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One error.

    Attributes:
        name: of the error, in a few words.
        file: where it is made, from the root of the project.
        old, new: the text, which occurs once in the file, and what it becomes.
        tests: files or node ids of pytest, of which one test at least must turn red.
        why: what a user would get.
        equivalent: why no test can see it; empty = one must.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str
    equivalent: str = ""


def read_mutations(path: Path = LIST) -> list[Mutation]:
    """Returns the mutations of a YAML file, in its order.

    Raises:
        MutationError: an entry without what it needs, or two of one name.
    """
    known = {field.name for field in fields(Mutation)}
    needed = known - {"equivalent"}
    found: list[Mutation] = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), 1):
        if not needed <= set(entry) <= known:
            raise MutationError(
                f"{path.name}, entry {number} ({entry.get('name')}) has {sorted(entry)}, but needs {sorted(needed)} "
                "and may have `equivalent`."
            )
        found.append(Mutation(**{**entry, "tests": tuple(entry["tests"])}))
    names = [mutation.name for mutation in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise MutationError(f"{path.name}: several mutations are called {doubled}.")
    return found


def mutated(mutation: Mutation, root: Path) -> str:
    """Returns the text of the file with the error in it.

    Raises:
        MutationError: the old text does not occur exactly once, or the error is none, or the file is no Python then.
    """
    path = root / mutation.file
    if not path.is_file():
        raise MutationError(f"{mutation.name!r}: there is no file {mutation.file}.")
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1 or mutation.old == mutation.new:
        raise MutationError(
            f"{mutation.name!r}: the old text occurs {count} times in {mutation.file}, but must occur once and differ "
            f"from the new one: {mutation.old!r}. Write down what stands there now."
        )
    changed = text.replace(mutation.old, mutation.new)
    try:
        compile(changed, mutation.file, "exec")
    except SyntaxError as err:
        raise MutationError(
            f"{mutation.name!r} leaves no Python in {mutation.file}: {err}."
        ) from err
    return changed
