"""The golden files themselves, and how they are read: what each states, what counts as near enough, what a run owes."""

import fnmatch
import json
import sys
from pathlib import Path

import golden_plugin
import numpy as np
import pytest
from golden_files import WITHOUT_SETTINGS, GoldenError, all_files, read_file, root, silent_files
from golden_tolerance import Tolerance, ToleranceError, compare

pytestmark = pytest.mark.golden


# The files ------------------------------------------------------------------------------------------


def test_there_are_files_and_all_say_what_they_are():
    assert all_files(root()), f"no golden file below {root()}"
    assert silent_files(root()) == [], f"only {WITHOUT_SETTINGS} may be without settings"


def test_every_array_is_input_given_or_information_and_has_a_tolerance():
    ours = [f for f in all_files(root()) if golden_plugin.objective_exists(f.method)]
    for file in ours:
        for name in file.arrays:
            lists = [
                part
                for part in ("inputs", "given", "info")
                if any(fnmatch.fnmatchcase(name, p) for p in file.settings.get(part, ()))
            ]
            assert len(lists) == 1, f"{name} of {file.path} is in {lists}"
        for name in file.given:
            assert name in file, f"{file.path} gives {name}, which it does not hold"
            assert file.tolerance(name).words
        for role in file.settings.get("files", {}):
            if file.settings["files"][role].endswith(".npz"):
                assert file.companion(role).path.parent == file.path.parent


# Near enough ------------------------------------------------------------------------------------------


def share(found, expected, **words):
    return compare(np.asarray(found), np.asarray(expected), words).share


@pytest.mark.parametrize(
    ("found", "expected", "words", "used"),
    [
        ([1.0, 2.0], [1.0, 2.5], {"atol": 1.0}, 0.5),
        ([1.0, 2.0], [1.0, 4.0], {"rtol": 1.0}, 0.5),
        ([1.0, 2.0], [1.0, 4.0], {"atol": 4.0, "rtol": 1.0}, 0.25),
        ([0.0, 8.0], [1.0, 8.0], {"of_max": 0.5}, 0.25),
        ([0.0, 8.0], [1.0, 8.0], {"of_max": 0.5, "atol": 0.0, "rtol": 0}, 0.25),
        ([3, 4], [3, 4], {"exact": True}, 0),
        ([3, 5], [3, 4], {"exact": True}, np.inf),
        ([3, 5], [3, 4], {"exact": True, "allow_lsb": 1}, 1),
        ([3, 6], [3, 4], {"levels": 1}, 2),
        (np.uint8([0]), np.uint8([255]), {"levels": 1}, 255),
        ([[1.0, 1.0]], [[2.0, 2.0]], {"rtol": 0.1, "rtol_last_column": 0.5}, 5),
        ([[2.0, 1.0]], [[2.0, 2.0]], {"rtol": 0.1, "rtol_last_column": 0.5}, 1),
        ([1.0, np.nan], [1.0, np.nan], {"atol": 0}, 0),
        ([1.0, np.nan], [1.0, 2.0], {"atol": 1e9}, np.inf),
        ([1.0, 2.0], [1.0, np.nan], {"atol": 1e9}, np.inf),
        ([np.inf], [np.inf], {"atol": 0}, 0),
        ([-np.inf], [np.inf], {"rtol": 1.0}, np.inf),
        ([True], [False], {"exact": True}, np.inf),
        (["a", "b"], ["a", "b"], {"exact": True}, 0),
        (["a", "c"], ["a", "b"], {"exact": True}, np.inf),
        ([1.0], [[1.0]], {"atol": 1}, np.inf),
        (np.float32([1.0]), [2.0], {"float64_atol": 0.1, "float32_atol": 2.0}, 0.5),
        (np.float64([1.0]), [2.0], {"float64_atol": 0.1, "float32_atol": 2.0}, 10),
        (np.float32([1.0]), [2.0], {"float64_of_max": 0.1, "float32_of_max": 1.0}, 0.5),
    ],
)
def test_words_of_tolerances(found, expected, words, used):
    assert share(found, expected, **words) == pytest.approx(used)


def test_units_and_places():
    wide = compare(
        np.array([0.5]), np.array([0.0]), {"atol_per_element": 0.1}, units={"per_element": 10}
    )
    assert wide.share == pytest.approx(0.5)
    frames = compare(
        np.array([0.9, 0.5]), np.array([1.0, 0.5]), {"frames": 2}, units={"frames": [20, 100]}
    )
    assert frames.share == pytest.approx(1)
    masked = compare(
        np.array([1.0, 9.0]),
        np.array([1.0, 2.0]),
        {"atol": 1, "only_where": "first"},
        where=np.array([True, False]),
    )
    assert masked.share == 0


@pytest.mark.parametrize(
    ("words", "options", "text"),
    [
        ({"wtol": 1}, {}, "the word 'wtol' of a tolerance is not known"),
        ({"frames": 1}, {}, "in units of 'frames'"),
        ({"atol": 1, "only_where": "mask"}, {}, "where is missing"),
        ({"atol": 1}, {"where": np.array([True])}, "where is given"),
    ],
)
def test_tolerances_that_are_not_understood_are_errors(words, options, text):
    with pytest.raises(ToleranceError, match=text):
        compare(np.array([1.0]), np.array([1.0]), words, **options)


def test_the_first_pattern_counts_and_some_do_not_apply():
    words = {"grad*": {"atol": 1}, "*": {"atol": 2}}
    assert Tolerance.of(words, "grad/x").words == {"atol": 1}
    assert Tolerance.of(words, "loss").words == {"atol": 2}
    with pytest.raises(ToleranceError, match="no pattern"):
        Tolerance.of({"a": {}}, "b")
    only = Tolerance({"float64_of_max": 1e-8, "float32": "not to be checked"})
    assert only.applies_in("float64")
    assert not only.applies_in("float32")
    assert not Tolerance({"float64_atol": 1}).applies_in("float32")


# A run ------------------------------------------------------------------------------------------------

TEST = """
import pytest

@pytest.mark.golden("mvd/one", unsupported=[("wide", True, "left out by decision")])
def test_one(golden):
    golden.check("out", golden["x"] * 2)
    assert not golden.settings.get("wide")

@pytest.mark.golden("mvd/many", cases=lambda settings: settings["sort"] == "a")
def test_many(golden_case):
    golden_case.check("out", golden_case["x"] + golden_case.settings["add"])
"""


def write(folder, name, *, kind="mvd/one", given=("out",), settings=None, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "kind": kind,
        "method": kind.split("/")[0],
        "inputs": [n for n in arrays if n not in given],
        "given": list(given),
        "info": [],
        "tolerance": {"*": {"atol": 1e-6}},
        **(settings or {}),
    }
    if settings != "none":
        arrays["settings_json"] = np.array(json.dumps(told))
    np.savez(folder / name, **arrays)


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs the tests above against a root, in a process of its own; returns its result."""
    monkeypatch.setenv("PYTHONPATH", str(Path(golden_plugin.__file__).parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def start(folder, *arguments):
        monkeypatch.setenv("VIDEO_SSL_GOLDEN", str(folder))
        pytester.makepyfile(test_it=TEST)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "golden_plugin", *arguments]
        return pytester.run(*command)

    return start


def good_root(folder):
    write(folder / "a", "f.npz", x=np.ones(2), out=np.full(2, 2.0))
    cases = {"u": {"sort": "a", "add": 1}, "v": {"sort": "a", "add": 2}}
    arrays = {"u/x": np.zeros(1), "u/out": np.ones(1), "v/x": np.zeros(1), "v/out": np.full(1, 2.0)}
    write(
        folder / "b" / "deep",
        "g.npz",
        kind="mvd/many",
        given=("u/out", "v/out"),
        settings={"cases": cases},
        **arrays,
    )


@pytest.mark.slow
def test_a_whole_run_and_its_report(run, tmp_path):
    good_root(tmp_path / "root")
    page = tmp_path / "page.md"
    page.write_text(f"head\n{golden_plugin.BEGIN}\nold\n{golden_plugin.END}\ntail\n")
    result = run(tmp_path / "root", "--golden-report", str(page))
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("head", "tail")
    assert "| mvd/many | b/deep/g | 2 of 2 | 0 |" in lines
    assert "| mvd/one | a/f | 1 of 1 | 0 |" in lines
    assert "old" not in lines


@pytest.mark.slow
def test_what_nobody_claims_or_compares_fails_where_the_objective_exists(run, tmp_path):
    good_root(tmp_path)
    extra = {"x": np.ones(2), "out": np.full(2, 2.0), "more": np.ones(1)}
    write(tmp_path / "a", "f.npz", given=("out", "more"), **extra)
    write(tmp_path / "c", "h.npz", kind="mvd/new", out=np.ones(1))
    write(tmp_path / "c", "i.npz", kind="elsewhere/new", out=np.ones(1))
    write(tmp_path / "c", "weights.npz", kind="mvd/params", given=(), w=np.ones(1))
    result = run(tmp_path)
    result.assert_outcomes(passed=3)
    assert result.ret == 1
    bad, fine = result.stdout.str().split("golden files: failures")[1].split("without a test")
    assert "not compared in a/f (mvd/one): more" in bad
    assert "no test claims mvd/new (c/h)" in bad
    assert "no test claims elsewhere/new (c/i)" in fine
    assert "weights" not in bad + fine
    # A part of the tests cannot tell.
    assert run(tmp_path, "-k", "many").ret == 0


@pytest.mark.slow
def test_files_without_settings_fail_the_run(run, tmp_path):
    good_root(tmp_path)
    np.savez(tmp_path / "a" / "mute.npz", x=np.ones(1))
    (tmp_path / "frozen_protocols").mkdir()
    np.savez(tmp_path / "frozen_protocols" / "mute.npz", x=np.ones(1))
    result = run(tmp_path)
    assert result.ret == 1
    text = result.stdout.str()
    assert "a/mute.npz does not say what it is" in text
    assert "frozen_protocols/mute.npz" not in text


@pytest.mark.slow
def test_a_claimed_kind_without_a_file_is_an_error_unless_its_prefix_is_absent(run, tmp_path):
    write(tmp_path / "some", "f.npz", x=np.ones(2), out=np.full(2, 2.0))
    result = run(tmp_path / "some")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*claims golden files of the kind 'mvd/many'*"])
    write(tmp_path / "other", "f.npz", kind="elsewhere/one", given=(), x=np.ones(2))
    result = run(tmp_path / "other")
    result.stdout.fnmatch_lines(["2 tests left out: no file of any kind mvd/..."])
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*is VIDEO_SSL_GOLDEN right?*"])


@pytest.mark.slow
def test_deviations_and_expected_failures(run, tmp_path):
    good_root(tmp_path)
    write(tmp_path / "a", "wide.npz", x=np.ones(1), out=np.zeros(1), settings={"wide": True})
    result = run(tmp_path)
    assert result.ret == 0
    result.assert_outcomes(passed=3, xfailed=1)
    write(tmp_path / "a", "off.npz", x=np.ones(1), out=np.full(1, 2.001))
    result = run(tmp_path)
    result.assert_outcomes(passed=3, xfailed=1, failed=1)
    assert "not compared" not in run(tmp_path, "-x").stdout.str()
    result.stdout.fnmatch_lines(["*out of a/off.npz (float64): *0* is *2.0*, expected *2.001*"])


def test_reading_says_what_is_wrong(tmp_path):
    write(tmp_path, "f.npz", x=np.ones(1), out=np.ones(1))
    file = read_file(tmp_path / "f.npz")
    with pytest.raises(GoldenError, match="names no file for 'weights'"):
        file.companion("weights")
    with pytest.raises(KeyError, match="has no array 'y'"):
        file["y"]
    np.savez(tmp_path / "mute.npz", x=np.ones(1))
    with pytest.raises(GoldenError, match="does not say what it is"):
        read_file(tmp_path / "mute.npz")
