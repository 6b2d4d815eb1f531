"""Words that may not appear, and sizes that may not grow."""

import ast
import statistics
from pathlib import Path

import pytest

from tests.architecture.sources import calls, functions, imports, modules, tree, within

MODULE_LINES = 500
FUNCTION_LINES = 60
# A module that is a table may be longer; each is named here, with what it lists.
TABLES: dict[str, str] = {}

BANNED_IMPORTS = {
    "dill": "runs code that the data names",
    "marshal": "reads code",
    "pickle": "runs code that the data names",
    "shelve": "is pickle",
    "yaml": "is a second configuration language, with surprises",
}
BANNED_CALLS = {
    "__import__": "hides an import from the contracts",
    "compile": "makes code from text",
    "eval": "makes code from text",
    "exec": "makes code from text",
    "os.popen": "starts a shell",
    "os.system": "starts a shell",
}
READERS_OF_PICKLES = {"np.load", "numpy.load", "np.lib.format.read_array"}

# Where time, randomness and files come in as arguments, never from a call.
SANS_IO = (
    "attestation.appraisal",
    "attestation.encoding",
    "attestation.evidence",
    "attestation.programs",
    "attestation.receipts",
    "attestation.wire",
    "coordinator.core",
)
IMPURE = {"now", "today", "utcnow", "urandom", "token_bytes", "uuid4", "monotonic", "perf_counter"}

each_module = pytest.mark.parametrize(("name", "path"), modules().items(), ids=list(modules()))


@each_module
def test_no_module_can_run_what_data_says(name: str, path: Path) -> None:
    for line, imported in imports(path):
        reason = BANNED_IMPORTS.get(imported.split(".")[0])
        assert reason is None, f"{path}:{line}: {imported} {reason}"
    for line, function, call in calls(path):
        assert function not in BANNED_CALLS, f"{path}:{line}: {function} {BANNED_CALLS[function]}"
        if function in READERS_OF_PICKLES:
            named = {keyword.arg for keyword in call.keywords}
            assert "allow_pickle" in named, f"{path}:{line}: {function} without allow_pickle=False"
        for keyword in call.keywords:
            if keyword.arg == "shell":
                assert ast.unparse(keyword.value) == "False", f"{path}:{line}: starts a shell"
            if keyword.arg == "allow_pickle":
                assert ast.unparse(keyword.value) == "False", f"{path}:{line}: reads pickles"


@each_module
def test_no_package_runs_code_when_it_is_imported(name: str, path: Path) -> None:
    """A parent's `__init__` runs with every import below it and escapes the import contracts."""
    if path.name == "__init__.py":
        body = tree(path).body
        assert len(body) == 1, f"{path} holds more than a docstring"
        assert ast.get_docstring(tree(path)), f"{path} has no docstring"


@each_module
def test_no_module_outgrows_its_reader(name: str, path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MODULE_LINES or name in TABLES, f"{path} has {lines} lines"
    for function, length in functions(path):
        assert length <= FUNCTION_LINES, f"{path}: {function} has {length} lines"


@pytest.mark.parametrize(
    ("name", "path"), [pair for pair in modules().items() if within(pair[0], *SANS_IO)]
)
def test_what_decides_reads_no_clock_and_draws_no_randomness(name: str, path: Path) -> None:
    for line, function, _ in calls(path):
        assert function.split(".")[-1] not in IMPURE, f"{path}:{line}: calls {function}"
        assert function != "open", f"{path}:{line}: opens a file"


def test_modules_and_functions_stay_small_on_the_whole() -> None:
    sizes = [
        len(path.read_text().splitlines())
        for path in modules().values()
        if path.name != "__init__.py"
    ]
    assert statistics.median(sizes) <= 150
    lengths = sorted(length for path in modules().values() for _, length in functions(path))
    assert lengths[int(0.9 * len(lengths))] <= 35


def test_module_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    for name in modules():
        assert not vague & set(name.split(".")[-1].split("_")), f"{name} says nothing"
