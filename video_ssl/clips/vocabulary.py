"""Vocabularies: which words a text model knows, in which order; made of captions, read from a file and written to one.

A file has one word a line, whose number is its place, from 0; or its place before the word ("0 <pad>").

Source: papers/vatt.md section 2 (the file `howto100m_en.txt` of VATT); how one is made of captions is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from video_ssl.clips.captions import caption_texts
from video_ssl.clips.text import split_words
from video_ssl.datasets.table import Table, TableError
from video_ssl.files import claim_file, write_atomically
from video_ssl.recipe_text import unprintable

PAD, BEGIN, END, UNKNOWN = SPECIAL_WORDS = ("<pad>", "<bos>", "<eos>", "<unk>")
_MAX_BYTES = 2**26
#: Letters of the longest word that a vocabulary of captions takes up.
LONGEST_WORD = 64
#: So many words fit into the recipe of a run.
MOST_IN_A_RECIPE = 12_000


class VocabularyError(ValueError):
    """A file that is no vocabulary; the text says where and what would be right."""


@dataclass(frozen=True)
class Vocabulary:
    """Words by their places, and what they were made of.

    Attributes:
        words: the special words first, then the most frequent; equally frequent ones by the alphabet.
        texts: captions that have words.
        empty: captions that have none.
        total: words of all captions together, repeated ones too.
        known: how many of these are in the vocabulary.
        different: different words of the captions.
    """

    words: tuple[str, ...]
    texts: int
    empty: int
    total: int
    known: int
    different: int


def vocabulary_of(texts: Iterable[str], *, max_words: int, min_count: int = 1) -> Vocabulary:
    """Returns the vocabulary of captions.  What is longer than `LONGEST_WORD`, or holds control characters, is no word.

    Args:
        texts: captions, in any order: the result does not depend on it.
        max_words: at most so many words, the special ones among them.
        min_count: words that stand in them less often are left out.

    >>> vocabulary_of(["A cat!", "a dog", "a cat, a bird"], max_words=7).words
    ('<pad>', '<bos>', '<eos>', '<unk>', 'a', 'cat', 'bird')

    Raises:
        ValueError: no room beside the special words, or a count below 1.
    """
    if max_words <= len(SPECIAL_WORDS) or min_count < 1:
        raise ValueError(
            f"max_words={max_words} must be more than the {len(SPECIAL_WORDS)} special words, and min_count="
            f"{min_count} at least 1."
        )
    counts: Counter[str] = Counter()
    filled = empty = 0
    for text in texts:
        words = split_words(text)
        counts.update(words)
        filled, empty = filled + bool(words), empty + (not words)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [(word, count) for word, count in ordered if count >= min_count and _is_word(word)]
    kept = kept[: max_words - len(SPECIAL_WORDS)]
    return Vocabulary(
        words=(*SPECIAL_WORDS, *(word for word, _ in kept)),
        texts=filled,
        empty=empty,
        total=sum(counts.values()),
        known=sum(count for _, count in kept),
        different=len(counts),
    )


def _is_word(word: str) -> bool:
    return len(word) <= LONGEST_WORD and not unprintable(word)


def save_vocabulary(
    table: Table, out: str | Path, *, max_words: int, min_count: int, sources: Iterable[str] = ()
) -> str:
    """Makes a vocabulary of the captions of a table, writes it, and returns what to say of it.  Files are not replaced:
    what was trained with one reads it by its places.

    Args:
        table: with captions.
        out: the file.
        max_words, min_count: as of `vocabulary_of`.
        sources: files that are read and must not be written over.

    Raises:
        OutputError: the file is there already or cannot be written.
        TableError: no caption has a word.
    """
    target = claim_file(out, "data vocabulary", sources=sources, is_ours=lambda file: False)
    found = vocabulary_of(caption_texts([table]), max_words=max_words, min_count=min_count)
    if not found.texts:
        raise TableError(
            f"{table.name or 'the table'} has no captions with words: they come from a column `captions`, or from "
            "subtitles beside the videos or in a column `subtitles`."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_vocabulary(target, found.words)
    words = len(found.words) - len(SPECIAL_WORDS)
    empty = f"; {found.empty} captions have no word" if found.empty else ""
    share = f"{100 * found.known / found.total:.1f} %"
    return (
        f"{out}: {words} of {found.different} different words of {found.texts} captions, which are {share} of all, and "
        f"{len(SPECIAL_WORDS)} special ones{empty}"
    )


def write_vocabulary(path: Path, words: Iterable[str]) -> None:
    """Writes the words, one a line."""
    write_atomically(path, "".join(f"{word}\n" for word in words))


def read_vocabulary(path: str | Path) -> tuple[str, ...]:
    """Returns the words of a file by their places.

    Raises:
        VocabularyError: no such file, no text, a line that is no word, a word twice, special words that are missing,
            or <pad> not the first.
    """
    file = Path(path)
    lines = _lines(file)
    fields = [line.split() for line in lines]
    if lines and all(len(found) == 2 for found in fields):
        words = _numbered(file, fields)
    else:
        wrong = next((i for i, found in enumerate(fields) if len(found) != 1), None)
        if wrong is not None:
            raise VocabularyError(
                f"{file} line {wrong + 1} holds {lines[wrong][:60]!r}: a vocabulary has one word a line, or its place "
                "and the word in every line."
            )
        words = [found[0] for found in fields]
    check_vocabulary(words, str(file))
    return tuple(words)


def check_vocabulary(words: list[str] | tuple[str, ...], where: str) -> None:
    """Raises VocabularyError for a word that is there twice, special words that are not there, or a first that is not
    <pad>."""
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        first = places.setdefault(word, place)
        if first != place:
            raise VocabularyError(
                f"{where} has {word[:60]!r} twice, at the places {first} and {place}: every word has one place."
            )
    lacking = [word for word in SPECIAL_WORDS if word not in places]
    if lacking:
        raise VocabularyError(
            f"{where} lacks {', '.join(lacking)}: a vocabulary holds {', '.join(SPECIAL_WORDS)}. Make one of captions "
            "with `video-ssl data vocabulary`."
        )
    if places[PAD] != 0:
        raise VocabularyError(
            f"{where} has {PAD} at the place {places[PAD]}: it must be the first word, whose place fills up texts."
        )


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise VocabularyError(
            f"no vocabulary {file}: there is no such file. "
            f"`video-ssl data vocabulary TABLE {file}` makes one of captions."
        )
    size = file.stat().st_size
    if size > _MAX_BYTES:
        raise VocabularyError(f"{file} has {size:,} bytes: more than any vocabulary.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise VocabularyError(f"{file} is no text in UTF-8: {err}.") from err
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _numbered(file: Path, fields: list[list[str]]) -> list[str]:
    """The words of lines with places before them, in the order of these."""
    words = [""] * len(fields)
    for number, (place, word) in enumerate(fields, 1):
        if not (place.isascii() and place.isdigit() and int(place) < len(words)):
            raise VocabularyError(
                f"{file} line {number} has the place {place[:20]!r}: places of {len(words)} words are 0 to "
                f"{len(words) - 1}."
            )
        if words[int(place)]:
            raise VocabularyError(
                f"{file} line {number} has the place {place} a second time: every word has its own."
            )
        words[int(place)] = word
    return words
