"""Damage and hostility, reproducible from a generator: of bytes, of lines and fields, of JSON and YAML."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

HOSTILE_NUMBERS = (
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    -(2**63),
    2**64,
    10**30,
    0.5,
    -0.0,
    1e308,
    1e-320,
)
HOSTILE_WORDS = (
    "", " ", "nan", "inf", "-inf", "null", "true", "1/2", "1_000", "0x10", "1e400", "..", "../../etc/passwd", "/",
    "~", "a\x00b", "a\nb", "\ufeff", "\u202e", "x" * 5000, "$(touch PWNED)", "${oc.env:HOME}", "${a}", "%s", "'", '"',
    "!!python/object/apply:os.system [touch PWNED]", "&a [*a]", "ö", "\ud800", "-",
)  # fmt: skip
_BYTES = (
    b"\0",
    b"\xff",
    b"\n",
    b",",
    b"\t",
    b'"',
    b"{",
    b"[",
    b"\xef\xbb\xbf",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
)

Mutation = Callable[[bytes, random.Random], tuple[bytes, str]]


# Of bytes


def flip_bits(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    changed = bytearray(content)
    places = sorted({rng.randrange(len(changed)) for _ in range(rng.choice((1, 1, 1, 2, 8)))})
    for place in places:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed), f"flipped a bit of the bytes {places} of {len(content)}"


def truncate(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    kept = rng.choice(
        (0, len(content) - 1, rng.randrange(len(content)), rng.randrange(len(content)))
    )
    return content[:kept], f"cut off after {kept} of {len(content)} bytes"


def extend(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    more = rng.randbytes(rng.choice((1, 8, 512)))
    return content + more, f"{len(more)} bytes behind the end"


def delete(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    begin, size = rng.randrange(len(content)), rng.choice((1, 2, 8, 100, 512))
    return content[:begin] + content[begin + size :], f"{size} bytes at {begin} deleted"


def insert(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    place, what = rng.randrange(len(content) + 1), rng.choice((*_BYTES, rng.randbytes(64)))
    return content[:place] + what + content[place:], f"{what[:8]!r} put in at {place}"


def splice(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    begin, to, size = (rng.randrange(len(content)) for _ in range(3))
    piece = content[begin : begin + size]
    changed = content[:to] + piece + content[to + len(piece) :]
    return changed, f"{len(piece)} bytes of {begin} over those at {to}"


def zero(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A lost block of a disk."""
    begin, size = rng.randrange(len(content)), rng.choice((16, 512, 4096))
    gone = min(size, len(content) - begin)
    return content[:begin] + bytes(gone) + content[begin + gone :], f"{gone} zeros at {begin}"


def hostile_number(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A length or an offset that cannot be."""
    size = rng.choice((4, 8))
    place = rng.randrange(max(1, len(content) - size)) & ~3
    value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)) % 2 ** (
        8 * size
    )
    number = value.to_bytes(size, "little")
    return content[:place] + number + content[place + size :], f"the number {value} at {place}"


BYTES: tuple[Mutation, ...] = (
    flip_bits, flip_bits, truncate, extend, delete, insert, splice, zero, hostile_number, hostile_number,
)  # fmt: skip


# Of lines and fields


def of_lines(separator: str) -> tuple[Mutation, ...]:
    """Mutations of a text whose lines have fields with this between them."""

    def with_lines(change: Callable[[list[str], random.Random], str]) -> Mutation:
        def mutate(content: bytes, rng: random.Random) -> tuple[bytes, str]:
            lines = content.decode("utf-8").splitlines()
            told = change(lines, rng)
            return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass"), told

        return mutate

    def change_field(lines: list[str], rng: random.Random) -> str:
        at = rng.randrange(len(lines))
        fields = lines[at].split(separator)
        place = rng.randrange(len(fields))
        fields[place] = str(rng.choice((*HOSTILE_NUMBERS, *HOSTILE_WORDS)))
        lines[at] = separator.join(fields)
        return f"line {at + 1}: field {place + 1} is now {fields[place][:40]!r}"

    def other_number_of_fields(lines: list[str], rng: random.Random) -> str:
        at = rng.randrange(len(lines))
        fields = lines[at].split(separator)
        if rng.random() < 0.5 and len(fields) > 1:
            del fields[rng.randrange(len(fields))]
        else:
            fields.insert(rng.randrange(len(fields) + 1), str(rng.choice(HOSTILE_NUMBERS)))
        lines[at] = separator.join(fields)
        return f"line {at + 1} has {len(fields)} fields"

    def move_lines(lines: list[str], rng: random.Random) -> str:
        at = rng.randrange(len(lines))
        what = rng.choice(("deleted", "doubled", "empty", "moved"))
        if what == "deleted":
            del lines[at]
        elif what == "doubled":
            lines.insert(at, lines[at])
        elif what == "empty":
            lines.insert(at, rng.choice(("", " ", separator, "#", "\ufeff")))
        else:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
        return f"line {at + 1} {what}"

    def other_separator(lines: list[str], rng: random.Random) -> str:
        other = rng.choice((";", "\t", "  ", "|"))
        chosen = range(len(lines)) if rng.random() < 0.5 else [rng.randrange(len(lines))]
        for at in chosen:
            lines[at] = lines[at].replace(separator, other)
        return f"{other!r} between the fields of {len(chosen)} lines"

    def line_ends(content: bytes, rng: random.Random) -> tuple[bytes, str]:
        end = rng.choice((b"\r\n", b"\r", b"\n\n", b"\0\n"))
        return content.replace(b"\n", end), f"lines end with {end!r}"

    structural = [
        with_lines(change)
        for change in (
            change_field,
            change_field,
            change_field,
            other_number_of_fields,
            move_lines,
            other_separator,
        )
    ]
    return (*structural, line_ends)


# Of JSON and YAML


def of_tree(load: Callable[[str], Any], dump: Callable[[Any], str]) -> Mutation:
    """A mutation of one place of a tree of mappings and lists."""

    def mutate(content: bytes, rng: random.Random) -> tuple[bytes, str]:
        tree = copy.deepcopy(load(content.decode("utf-8")))
        places = list(_places(tree, ()))
        parent, key, path = places[rng.randrange(len(places))]
        told = rng.choice((_replace, _replace, _replace, _drop, _rename, _double, _deepen))(
            parent, key, rng
        )
        text = dump(tree)
        return text.encode("utf-8", "surrogatepass"), f"{'.'.join(map(str, path))}: {told}"

    return mutate


def _places(tree: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, Any, tuple[Any, ...]]]:
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield tree, key, (*path, key)
        yield from _places(value, (*path, key))


def _replace(parent: Any, key: Any, rng: random.Random) -> str:
    values = (
        *HOSTILE_NUMBERS,
        *HOSTILE_WORDS,
        None,
        True,
        [],
        {},
        [[]],
        {"a": 1},
        float("nan"),
        float("inf"),
    )
    old, new = parent[key], rng.choice(values)
    if isinstance(old, (int, float)) and rng.random() < 0.3:
        new = old * rng.choice((2, 1000, -1, 10**7))
    parent[key] = new
    return f"{str(old)[:40]!r} -> {str(new)[:40]!r}"


def _drop(parent: Any, key: Any, rng: random.Random) -> str:
    del parent[key]
    return "left out"


def _rename(parent: Any, key: Any, rng: random.Random) -> str:
    if isinstance(parent, list):
        parent.append(parent[key])
        return "doubled at the end"
    new = rng.choice((f"{key}x", str(key)[:-1], str(key).upper(), "", 1, " "))
    parent[new] = parent.pop(key)
    return f"named {new!r}"


def _double(parent: Any, key: Any, rng: random.Random) -> str:
    others = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    other = rng.choice(others)
    parent[key] = parent[other]
    return f"the value of {other!r}"


def _deepen(parent: Any, key: Any, rng: random.Random) -> str:
    depth = rng.choice((1, 3, 200))
    for _ in range(depth):
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    return f"{depth} levels deeper"


def deep_brackets(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    depth = rng.choice((1_000, 100_000))
    return b"[" * depth, f"{depth} brackets"


JSON = of_tree(json.loads, json.dumps)
YAML = of_tree(yaml.safe_load, lambda tree: yaml.safe_dump(tree, allow_unicode=True))


def unsealed(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A change by somebody who takes the checksum of a JSON object out, as one may."""
    tree = json.loads(content)
    tree.pop("checksum", None)
    return JSON(json.dumps(tree).encode(), rng)


def json_lines(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at], told = JSON(lines[at], rng)
    return b"\n".join([*lines, b""]), f"line {at + 1}: {told}"


def safetensors_header(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A change of what the header says about the tensors."""
    size = int.from_bytes(content[:8], "little")
    header, told = JSON(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :], told
