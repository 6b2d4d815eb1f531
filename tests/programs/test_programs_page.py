"""docs/programs.md says what the code does; its examples run."""

import doctest
import inspect
import re
from pathlib import Path

from attestation.errors import ProgramError
from attestation.programs import errors, expressions, shapes
from attestation.programs.loading import load_program_toml
from attestation.programs.program import encode_parameters
from tests.programs.kernels import CATALOGUE


def page(repository: Path) -> str:
    return (repository / "docs" / "programs.md").read_text()


def test_the_python_examples_run(repository: Path) -> None:
    failed, attempted = doctest.testfile(
        str(repository / "docs" / "programs.md"),
        module_relative=False,
        globs={"catalogue": CATALOGUE},
    )
    assert attempted > 10
    assert not failed


def test_the_toml_example_is_the_program_of_the_python_example(repository: Path) -> None:
    block = re.search(r"```toml\n(.*?)```", page(repository), re.DOTALL)
    assert block is not None
    program, parameters = load_program_toml(block.group(1))
    assert program.digest().hex() in page(repository)
    assert encode_parameters(parameters).hex() in page(repository)


def test_every_refusal_is_listed(repository: Path) -> None:
    section = page(repository).partition("## Refusals")[2]
    listed = set(re.findall(r"^\| `([a-z-]+)`", section, re.MULTILINE))
    made = {
        kind.code
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ProgramError) and kind is not ProgramError
    }
    assert listed == made


def test_the_grammar_is_the_one_in_the_code(repository: Path) -> None:
    grammar = [line.strip() for line in (shapes.__doc__ or "").splitlines() if " = " in line]
    assert len(grammar) == 8
    grammar += [line.strip() for line in (expressions.__doc__ or "").splitlines() if " = " in line]
    assert len(grammar) == 13
    for line in grammar:
        assert line in page(repository)


def test_every_pattern_in_the_table_parses(repository: Path) -> None:
    patterns = re.findall(r"`([\w()]+\[[^`]*\])`", page(repository))
    assert len(patterns) > 8
    for pattern in patterns:
        shapes.parse(pattern)
