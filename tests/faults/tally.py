"""Counts the faults that were put in, and prints the sum at the end of the run.

A test says `tally(request, faults)`; the count travels in the test's report, so that it is also
summed up when the tests ran in several processes.
"""

from collections import Counter
from collections.abc import Mapping

import pytest

_PROPERTY = "injected fault: "
_PRINTED = pytest.StashKey[bool]()


def tally(request: pytest.FixtureRequest, faults: Mapping[str, int]) -> None:
    """Note how many faults of each kind the running test put in."""
    for fault, count in faults.items():
        request.node.user_properties.append((_PROPERTY + fault, count))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the faults of this run by kind."""
    faults: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name.startswith(_PROPERTY):
                    faults[name.removeprefix(_PROPERTY)] += value
    # More than one conftest.py may bring this hook along.
    if not faults or terminalreporter.config.stash.get(_PRINTED, False):
        return
    terminalreporter.config.stash[_PRINTED] = True
    terminalreporter.section(f"{faults.total()} faults injected")
    for fault, count in sorted(faults.items()):
        terminalreporter.write_line(f"{count:7}  {fault}")
