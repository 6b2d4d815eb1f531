"""Counts the faults that were put in, prints the sum at the end of the run, and asks for enough.

A test says `tally(request, faults)`; the count travels in the test's report, so that it is also
summed up when the tests ran in several processes. tests/conftest.py brings the hooks along.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import pytest

ENOUGH: Final = 1_000
"""Faults in a run of the whole suite; a change that leaves most of them out is seen here."""

_PROPERTY: Final = "injected fault: "
_FAULTS: Counter[str] = Counter()


def tally(request: pytest.FixtureRequest, faults: Mapping[str, int]) -> None:
    """Note how many faults of each kind the running test put in."""
    for fault, count in faults.items():
        request.node.user_properties.append((_PROPERTY + fault, count))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what the tests noted, wherever they ran."""
    if report.when == "call":
        for name, value in report.user_properties:
            if name.startswith(_PROPERTY):
                _FAULTS[name.removeprefix(_PROPERTY)] += int(str(value))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of everything that put in too few."""
    if _is_everything(session.config) and _FAULTS.total() < ENOUGH and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the faults of this run by kind."""
    if _FAULTS or _is_everything(terminalreporter.config):
        terminalreporter.section(f"{_FAULTS.total()} faults injected")
    for fault, count in sorted(_FAULTS.items()):
        terminalreporter.write_line(f"{count:7}  {fault}")


def _is_everything(config: pytest.Config) -> bool:
    option = config.option
    chosen = option.keyword or option.markexpr or option.collectonly or option.maxfail
    worker = hasattr(config, "workerinput")
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not (chosen or worker)
