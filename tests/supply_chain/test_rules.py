"""The security rules stay on: in the configuration, in what they find, and in the tests too."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import calls, modules

RELAXED_IN_TESTS = {
    "S101": "tests assert",
    "S105": "keys of tests are constants",
    "S106": "keys of tests are constants",
    "S108": "paths that are never opened",
    "S603": "our own command lines, without a shell",
    "S607": "programs found on the PATH",
}

CODE_OF_DATA = {
    "eval": "makes code from text",
    "exec": "makes code from text",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "pickle.load": "runs code that the data names",
    "pickle.loads": "runs code that the data names",
    "marshal.loads": "reads code",
    "yaml.load": "runs code that the data names",
    "yaml.unsafe_load": "runs code that the data names",
    "shelve.open": "is pickle",
}

DANGEROUS = {
    "S102": "exec(text)",
    "S301": "pickle.loads(data)",
    "S307": "eval(text)",
    "S324": "hashlib.md5(data)",
    "S501": "requests.get(url, verify=False, timeout=1)",
    "S506": "yaml.load(text)",
    "S602": "subprocess.run(text, shell=True)",
    "S608": "cursor.execute(\"SELECT * FROM jobs WHERE id = '%s'\" % name)",
}


def lint(repository: Path) -> dict[str, Any]:
    document = tomllib.loads((repository / "pyproject.toml").read_text())
    return document["tool"]["ruff"]["lint"]


def test_the_security_rules_are_selected_and_none_is_ignored(repository: Path) -> None:
    settings = lint(repository)
    assert "S" in settings["select"]
    assert [rule for rule in settings.get("ignore", []) if re.fullmatch(r"S\d*", rule)] == []
    assert "extend-ignore" not in settings


def test_tests_are_spared_only_what_tests_need(repository: Path) -> None:
    for pattern, rules in lint(repository).get("per-file-ignores", {}).items():
        security = {rule for rule in rules if re.fullmatch(r"S\d*", rule)}
        assert security <= RELAXED_IN_TESTS.keys(), f"{pattern} ignores {security}"
        assert not security or pattern.startswith("tests/"), f"{pattern} is not a test"


@pytest.mark.parametrize("place", ["coordinator/x.py", "enclave_worker/x.py", "tests/x.py"])
def test_dangerous_lines_are_reported_wherever_they_are_written(
    repository: Path, place: str
) -> None:
    """The rule in the configuration is one thing; that it still finds something is another."""
    imports = "import hashlib, pickle, subprocess\n\nimport requests\nimport yaml\n\n"
    ruff = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "--no-cache"]
    found = subprocess.run(
        [*ruff, "--stdin-filename", str(repository / place), "-"],
        cwd=repository,
        input=imports + "\n".join(DANGEROUS.values()) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stderr
    reported = {rule for rule in DANGEROUS if f" {rule} " in found.stdout}
    assert reported == DANGEROUS.keys()


def test_every_exception_from_a_security_rule_says_why() -> None:
    for path in modules().values():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            said = re.search(r"#\s*noqa:\s*(?:[A-Z]+\d+,\s*)*S\d+[^-]*(-.*)?$", line)
            if said is not None and number and said[1] is None:
                above = path.read_text().splitlines()[number - 2].strip()
                assert above.startswith("#"), f"{path}:{number}: an exception without a reason"


def sources_of_tests(repository: Path) -> list[Path]:
    return sorted((repository / "tests").rglob("*.py"))


def test_tests_run_no_code_that_data_names_either(repository: Path) -> None:
    """A test runs with the rights of whoever tries our repository."""
    for path in sources_of_tests(repository):
        name = str(path.relative_to(repository))
        for line, function, call in calls(path):
            reason = CODE_OF_DATA.get(function)
            assert reason is None, f"{name}:{line}: {function} {reason}"
            writes = function.endswith(".save")
            for keyword in call.keywords:
                if keyword.arg == "shell" or (keyword.arg == "allow_pickle" and not writes):
                    said = ast.unparse(keyword.value)
                    assert said == "False", f"{name}:{line}: {keyword.arg}={said}"


@pytest.mark.parametrize(
    "text", ["import os\nos.system('ls')\n", "subprocess.run(x, shell=True)\n"]
)
def test_a_dangerous_test_would_be_noticed(tmp_path: Path, text: str) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(text)
    with pytest.raises(AssertionError):
        test_tests_run_no_code_that_data_names_either(tmp_path)
