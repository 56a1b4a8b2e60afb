"""pytest's side of the golden files: tests claim kinds, get every file of theirs, and account for all of them.

    @pytest.mark.golden("mvd/student")
    def test_student(golden): ...           # once for every file of the kind

    @pytest.mark.golden("tcc/loss", unsupported=[("similarity", "euclid", "no published run uses it")])
    def test_loss(golden_case): ...         # once for every case of every file of the kind

`cases` takes only the cases whose settings it accepts, where a kind has several sorts of them.  `unsupported` names
settings that the product leaves out by decision, by value or by a function of it: such a file or case is an expected
failure with that reason, and a pass of it is a failure.  `pytest -m golden` selects all of these tests;
`--golden-report FILE` writes how near they came.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from golden_files import (
    LEDGER,
    GoldenCase,
    GoldenError,
    GoldenFile,
    all_files,
    files_of,
    has_relatives,
    label,
    root,
    silent_files,
    uncompared,
    worst,
)

OBJECTIVES = Path(__file__).parents[2] / "video_ssl" / "objectives"
BEGIN, END = "<!-- golden numbers: begin -->", "<!-- golden numbers: end -->"


@dataclass
class Audit:
    """What of the root was claimed, and whether every test that claims was part of the run."""

    claimed: set[str] = field(default_factory=set)
    collected: set[Path] = field(default_factory=set)
    #: (test, why) of those that this root has nothing for.
    left_out: list[tuple[str, str]] = field(default_factory=list)
    partial: str = ""


AUDIT = pytest.StashKey[Audit]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-report",
        metavar="FILE",
        nargs="?",
        const="-",
        help="print kinds and golden files with the largest deviation of each; with FILE, also write it there "
        f"between {BEGIN!r} and {END!r}",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[AUDIT] = Audit()
    config.addinivalue_line(
        "markers",
        "golden(*kinds, unsupported=(), cases=None): compares with golden files of these kinds",
    )


# Claims -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoFile:
    """Stands for a claimed kind that has no file although it should; the test fails."""

    kind: str


@dataclass(frozen=True)
class Nothing:
    """Stands for a test that this root has nothing for; it is left out, and told so."""

    why: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = [m for m in metafunc.definition.iter_markers("golden") if m.args]
    names = [n for n in ("golden", "golden_case") if n in metafunc.fixturenames]
    if not marks and not names:
        return
    if not marks or len(names) != 1:
        raise GoldenError(
            f"{metafunc.definition.nodeid} must name kinds, @pytest.mark.golden(KIND, ...), and take one of golden "
            f"and golden_case; it names {[m.args for m in marks]} and takes {names}."
        )
    folder, parameters = root(), []
    for mark in marks:
        for kind in mark.args:
            metafunc.config.stash[AUDIT].claimed.add(kind)
            parameters += _parameters(kind, folder, names[0], **mark.kwargs)
    metafunc.parametrize(names[0], parameters, indirect=True)


def _parameters(
    kind: str, folder: Path, fixture: str, *, unsupported: Any = (), cases: Any = None
) -> list[Any]:
    files = files_of(kind, folder)
    if not files and all_files(folder) and not has_relatives(kind, folder):
        return [pytest.param(Nothing(f"no file of any kind {kind.split('/')[0]}/..."), id=kind)]
    if not files:
        return [pytest.param(NoFile(kind), id=kind)]
    if fixture == "golden":
        return [
            pytest.param(f, id=label(f, folder), marks=_expected_failure(f, f.setting, unsupported))
            for f in files
        ]
    found = [
        pytest.param(
            GoldenCase(f, case),
            id=f"{label(f, folder)}-{case}",
            marks=_expected_failure(f, _of_case(f, case), unsupported),
        )
        for f in files
        for case, settings in f.cases.items()
        if cases is None or cases(settings)
    ]
    return found or [pytest.param(Nothing(f"no such case in files of the kind {kind}"), id=kind)]


def _of_case(file: GoldenFile, case: str) -> Any:
    own = GoldenFile(file.path, file.cases[case])
    return lambda key: own.setting(key, file.setting(key))


def _expected_failure(file: GoldenFile, setting: Any, unsupported: Any) -> list[Any]:
    reasons = [
        f"{key}={setting(key)!r}: {why}"
        for key, value, why in unsupported
        if (value(setting(key)) if callable(value) else setting(key) == value)
    ]
    return [pytest.mark.xfail(strict=True, reason="; ".join(reasons))] if reasons else []


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> GoldenFile:
    """A golden file of a kind that the test claims."""
    return _there(request.param)


@pytest.fixture
def golden_case(request: pytest.FixtureRequest) -> GoldenCase:
    """A case of a golden file of a kind that the test claims."""
    return _there(request.param)


def _there(parameter: Any) -> Any:
    if not isinstance(parameter, NoFile):
        return parameter
    folder = root()
    if not folder.is_dir() or not all_files(folder):
        pytest.fail(f"there is no golden file below {folder}: is VIDEO_SSL_GOLDEN right?")
    pytest.fail(
        f"this test claims golden files of the kind {parameter.kind!r}; {folder} has some of "
        f"{parameter.kind.split('/')[0]}/... but none of that kind."
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if call.when == "call" and hasattr(report, "wasxfail") and report.skipped:
        _waive(getattr(item, "callspec", None), str(report.wasxfail))


def _waive(callspec: Any, reason: str) -> None:
    """What an expected failure leaves uncompared is accounted for by its reason."""
    for value in callspec.params.values() if callspec else ():
        if isinstance(value, GoldenFile):
            LEDGER.waived.update({(value.path, name): reason for name in value.given})
        if isinstance(value, GoldenCase):
            ours = [n for n in value.file.given if _belongs(n, value)]
            LEDGER.waived.update({(value.file.path, name): reason for name in ours})


def _belongs(name: str, case: GoldenCase) -> bool:
    """Arrays of a case are CASE, CASE/..., CASE_..., or these below a prefix such as f64/."""
    _, _, behind = f"/{name}".partition(f"/{case.name}")
    return f"/{name}".count(f"/{case.name}") > 0 and (not behind or behind[0] in "/_")


# Accounting ---------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    audit = config.stash[AUDIT]
    audit.collected |= {item.path for item in items}
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        audit.left_out += [(item.nodeid, v.why) for v in values if isinstance(v, Nothing)]
    names = {nodeid for nodeid, _ in audit.left_out}
    items[:] = [item for item in items if item.nodeid not in names]
    if any("::" in argument for argument in config.args):
        audit.partial = "single tests were asked for"


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        audit = item.config.stash[AUDIT]
        audit.collected.add(item.path)
        if any(mark.args for mark in item.iter_markers("golden")):
            audit.partial = "some golden tests were deselected"


def _claiming_files(config: pytest.Config) -> set[Path]:
    """Every test file that claims golden files."""
    folders = [config.rootpath / name for name in config.getini("testpaths")] or [config.rootpath]
    return {
        path
        for folder in folders
        for path in folder.rglob("test_*.py")
        if "mark.golden(" in path.read_text(encoding="utf-8")
    }


def _gap(config: pytest.Config) -> str:
    """Why this run cannot tell what is claimed and compared; empty if it can."""
    audit = config.stash[AUDIT]
    if audit.partial:
        return audit.partial
    if _claiming_files(config) - audit.collected:
        return "not all tests of golden files were collected"
    return ""


def objective_exists(method: str) -> bool:
    """Whether a golden file of that method is ours to meet."""
    return (OBJECTIVES / method).is_dir() or (OBJECTIVES / f"{method}.py").is_file()


def _open_items(audit: Audit) -> tuple[list[str], list[str]]:
    """Lines about what nobody claimed or compared: those that fail the run, and those that do not."""
    folder, bad, fine = root(), [], []
    for file in all_files(folder):
        target = bad if objective_exists(file.method) else fine
        if file.given and file.kind not in audit.claimed:
            target.append(f"no test claims {file.kind} ({label(file, folder)})")
        elif names := uncompared(file, LEDGER):
            target.append(
                f"not compared in {label(file, folder)} ({file.kind}): {', '.join(names)}"
            )
    bad += [f"{path} does not say what it is (settings_json)" for path in silent_files(folder)]
    return bad, fine


def pytest_sessionfinish(session: pytest.Session) -> None:
    audit = session.config.stash[AUDIT]
    if session.shouldstop or session.shouldfail:
        audit.partial = "the run was stopped early"
    if session.config.option.collectonly or not audit.claimed or _gap(session.config):
        return
    if _open_items(audit)[0] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    audit = config.stash[AUDIT]
    if config.option.collectonly or not audit.claimed:
        return
    why_not = _gap(config)
    if not why_not:
        bad, fine = _open_items(audit)
        _print(terminalreporter, "golden files: failures", bad)
        _print(terminalreporter, "golden files without a test: their objective is not here", fine)
    reasons = Counter(why for _, why in audit.left_out)
    left_out = [f"{n} tests left out: {why}" for why, n in sorted(reasons.items())]
    _print(terminalreporter, f"golden tests that {root()} has nothing for", left_out)
    report = config.getoption("--golden-report")
    if report:
        if why_not:
            terminalreporter.write_line(f"golden files: {why_not}, so the report has gaps.")
        lines = report_lines()
        _print(terminalreporter, "golden files: largest deviations", lines)
        if report != "-":
            write_between_marks(Path(report), lines)


def _print(terminalreporter: Any, title: str, lines: list[str]) -> None:
    if lines:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


# Report -------------------------------------------------------------------------------------------


def report_lines() -> list[str]:
    """A table in Markdown: every file that was compared, by kind."""
    folder = root()
    files = [f for f in all_files(folder) if any((f.path, n) in LEDGER.seen for n in f.given)]
    count = sum((f.path, n) in LEDGER.seen for f in files for n in f.given)
    lines = [
        f"{count} arrays in {len(files)} files of {len({f.kind for f in files})} kinds, of "
        + ("another folder." if os.environ.get("VIDEO_SSL_GOLDEN") else "the project's copy."),
        "",
        "| kind | file | arrays compared | largest deviation, as a share of the tolerance |",
        "|---|---|---|---|",
    ]
    for file in sorted(files, key=lambda f: (f.kind, f.path)):
        compared = [n for n in file.given if (file.path, n) in LEDGER.seen]
        waived = Counter(
            LEDGER.waived[file.path, n] for n in file.given if (file.path, n) in LEDGER.waived
        )
        counts = f"{len(compared)} of {len(file.given)}"
        counts += "".join(f" ({n} expected to fail: {why})" for why, n in waived.items())
        lines.append(f"| {file.kind} | {label(file, folder)} | {counts} | {_worst_text(file)} |")
    return lines


def _worst_text(file: GoldenFile) -> str:
    name, deviation = worst(file, LEDGER)
    if deviation.share == 0:
        return "0 (exact)" if deviation.exact else "0"
    return f"{deviation.share:.2g} (`{name}`)"


def write_between_marks(path: Path, lines: list[str]) -> None:
    """Replaces what stands between the marks of a file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise GoldenError(f"{path} must hold {BEGIN!r} and {END!r} once each.")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{tail}", encoding="utf-8")
