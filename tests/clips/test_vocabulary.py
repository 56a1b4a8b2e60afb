"""Vocabularies made of captions, and files that are none."""

import subprocess
import sys

import numpy as np
import pytest

from video_ssl.clips.vocabulary import (
    SPECIAL_WORDS,
    VocabularyError,
    read_vocabulary,
    vocabulary_of,
    write_vocabulary,
)
from video_ssl.objectives.vatt.sample_config import SampleConfig
from video_ssl.recipe_text import read_yaml, to_yaml
from video_ssl.recipes import build_config

SPECIAL = "<pad>\n<bos>\n<eos>\n<unk>\n"
TEXTS = ["The cat sits.", "the dog; the DOG!", "a cat-fish", "", "🎉", "zebra", "ape"]


def test_most_frequent_first_and_ties_by_the_alphabet():
    found = vocabulary_of(TEXTS, max_words=100)
    assert found.words[:4] == SPECIAL_WORDS
    assert found.words[4:] == ("the", "dog", "a", "ape", "cat", "catfish", "sits", "zebra", "🎉")
    assert (found.texts, found.empty, found.total, found.known, found.different) == (
        6,
        1,
        12,
        12,
        9,
    )


def test_the_order_of_captions_does_not_matter():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefghij"), 4)) for _ in range(60)]
    wanted = vocabulary_of(texts, max_words=9)
    for _ in range(3):
        assert vocabulary_of([texts[i] for i in rng.permutation(60)], max_words=9) == wanted


def test_size_and_least_count():
    found = vocabulary_of(TEXTS, max_words=6)
    assert found.words == (*SPECIAL_WORDS, "the", "dog")
    assert (found.known, found.total) == (5, 12)
    assert vocabulary_of(TEXTS, max_words=100, min_count=2).words == (*SPECIAL_WORDS, "the", "dog")
    for wrong in ({"max_words": 4}, {"max_words": 9, "min_count": 0}):
        with pytest.raises(ValueError, match="must be more than the 4 special words"):
            vocabulary_of(TEXTS, **wrong)


def test_a_special_word_in_a_caption_is_a_word_like_others():
    assert vocabulary_of(["<unk> <pad>"], max_words=9).words[4:] == ("pad", "unk")


def test_what_is_no_word_is_left_out():
    """Control characters and endless words, which a recipe, where a run keeps its vocabulary, has no room for; it takes
    words that YAML would read otherwise."""
    texts = [
        "y" * 65,
        "x" * 64,
        "bell\x07 \x1b[31mred del\x7f",
        "no yes null 1 1e5 0x1f ~ 010 座 👩‍👩‍👧 \u200b",
    ]
    words = vocabulary_of(texts, max_words=99).words
    assert words[4:] == (
        "010",
        "0x1f",
        "1",
        "1e5",
        "no",
        "null",
        "x" * 64,
        "yes",
        "\u200b",
        "座",
        "👩‍👩‍👧",
    )
    settings = read_yaml(to_yaml({"words": list(words)}))
    assert build_config(SampleConfig, settings).words == words


def test_a_file_comes_back(tmp_path):
    words = vocabulary_of([*TEXTS, "座 übt"], max_words=100).words
    write_vocabulary(tmp_path / "words.txt", words)
    assert read_vocabulary(tmp_path / "words.txt") == words


@pytest.mark.parametrize(
    "text",
    [
        SPECIAL + "a\nb\n",
        SPECIAL + "a\nb",
        "\ufeff" + SPECIAL + "a\nb\n",
        (SPECIAL + "a\nb\n").replace("\n", "\r\n"),
        "0 <pad>\n1 <bos>\n2 <eos>\n3 <unk>\n4 a\n5 b\n",
        "5 b\n1\t<bos>\n2 <eos>\n3 <unk>\n4 a\n0 <pad>\n",
    ],
)
def test_files_as_they_are_written(tmp_path, text):
    file = tmp_path / "words.txt"
    file.write_bytes(text.encode())
    assert read_vocabulary(file) == (*SPECIAL_WORDS, "a", "b")


def test_special_words_may_stand_elsewhere_but_for_the_padding(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("<pad>\na\n<unk>\n<bos>\n<eos>\n")
    assert read_vocabulary(file)[2] == "<unk>"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "lacks <pad>, <bos>, <eos>, <unk>"),
        (b"a\nb\n", "lacks <pad>, <bos>, <eos>, <unk>: a vocabulary holds"),
        (b"<pad>\n<unk>\na\n", "lacks <bos>, <eos>"),
        (b"a\n" + SPECIAL.encode(), "has <pad> at the place 1: it must be the first"),
        (SPECIAL.encode() + b"a\nb\na\n", "has 'a' twice, at the places 4 and 6"),
        (SPECIAL.encode() + b"a\n\nb\n", "line 6 holds '': a vocabulary has one word a line"),
        (SPECIAL.encode() + b"a b\n", "line 5 holds 'a b'"),
        (b"0 <pad>\n1 <bos>\n2 <eos>\n9 <unk>\n", "line 4 has the place '9': places of 4 words are 0"),
        (b"0 <pad>\n1 <bos>\n2 <eos>\n2 <unk>\n", "line 4 has the place 2 a second time"),
        (b"x <pad>\ny <bos>\n", "line 1 has the place 'x'"),
        (SPECIAL.encode() + b"\xff\xfe\n", "is no text in UTF-8"),
    ],
)  # fmt: skip
def test_files_that_are_no_vocabulary(tmp_path, content, told):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(VocabularyError, match=told):
        read_vocabulary(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(VocabularyError, match=r"no such file. `video-ssl data vocabulary TABLE"):
        read_vocabulary(tmp_path / "words.txt")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(VocabularyError, match="more than any vocabulary"):
        read_vocabulary(tmp_path / "large.txt")


def data_vocabulary(*arguments):
    command = [sys.executable, "-m", "video_ssl", "data", "vocabulary", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_the_command_line(tmp_path):
    """From a table with captions and subtitles to a file, which is not replaced.

    Was wrong: a folder that was not there yet was accepted before all captions were read, and ended in an error after.
    """
    (tmp_path / "a.srt").write_text("00:00:01,000 --> 00:00:02,000\nThe dog runs, the dog!\n")
    (tmp_path / "t.csv").write_text("path,caption,subtitles\na.mp4,A cat,a.srt\nb.mp4,?,\n")
    words = tmp_path / "new" / "deep" / "words.txt"
    done = data_vocabulary(tmp_path / "t.csv", words, "--max-words", 7)
    assert done.returncode == 0, done.stderr
    assert read_vocabulary(words) == (*SPECIAL_WORDS, "dog", "the", "a")
    told = "3 of 5 different words of 2 captions, which are 71.4 % of all, and 4 special ones"
    assert f"{told}; 1 captions have no word" in done.stdout
    again = data_vocabulary(tmp_path / "t.csv", words)
    assert (again.returncode, "words.txt is there already" in again.stderr) == (2, True)
    over = data_vocabulary(tmp_path / "t.csv", tmp_path / "t.csv")
    assert (over.returncode, "t.csv, which is read" in over.stderr) == (2, True)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "has no captions with words"),
        (("--max-words", 4), "max_words=4 must be at least 5"),
        (("--min-count", 0), "min_count=0 must be at least 1"),
    ],
)
def test_the_command_line_is_refused(tmp_path, flags, told):
    (tmp_path / "t.csv").write_text("path,caption\na.mp4,!\n")
    done = data_vocabulary(tmp_path / "t.csv", tmp_path / "w.txt", *flags)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "w.txt").exists()
