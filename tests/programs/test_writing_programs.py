"""Programs written in Python and in TOML are the same programs, and slips are refused."""

import pytest

from attestation import limits
from attestation.errors import ProgramError
from attestation.programs import builder, loading
from attestation.programs.builder import ProgramBuilder
from attestation.programs.loading import load_program_toml
from attestation.programs.plan import make_plan
from tests.programs.kernels import CATALOGUE, spec

TOML = """
version = 1
inputs = ["x"]

[steps.clean]
kernel = "stats.standardize"
inputs = { x = "x" }

[steps.reduce]
kernel = "linalg.pca"
inputs = { x = "clean.z" }
parameters = { k = 2 }

[outputs]
scores = "reduce.scores"
"""


def built() -> ProgramBuilder:
    p = ProgramBuilder()
    x = p.input("x")
    clean = p.step("stats.standardize", id="clean", x=x)
    reduced = p.step("linalg.pca", id="reduce", x=clean["z"], parameters={"k": 2})
    p.output("scores", reduced["scores"])
    return p


def test_python_and_toml_write_the_same_program() -> None:
    program, parameters = load_program_toml(TOML)
    assert program.digest() == built().build().digest()
    assert parameters == built().parameters == {"reduce": {"k": 2}}
    make_plan(program, CATALOGUE, {"x": spec("float32", 10, 4)}, parameters)


def indented(text: str) -> str:
    """The examples of a docstring."""
    lines = [line for line in text.splitlines() if line.startswith("    ") or not line]
    return "\n".join(line.removeprefix("    ") for line in lines)


def test_the_examples_in_the_modules_are_right() -> None:
    assert load_program_toml(indented(loading.__doc__ or ""))[0] == built().build()
    example = indented(builder.__doc__ or "")
    assert all(part in example for part in ("ProgramBuilder()", 'clean["z"]', "p.build()"))


def test_steps_without_an_id_are_named_after_their_kernel() -> None:
    p = ProgramBuilder()
    x = p.input("x")
    y = p.step("nn.affine", x=x)
    z = p.step("nn.affine", x=y["y"])
    p.output("z", z["y"])
    assert [step.id for step in p.build().steps] == ["affine", "affine_2"]


def test_a_name_given_twice_is_refused_by_the_builder() -> None:
    p = built()
    for again in (
        lambda: p.input("x"),
        lambda: p.step("nn.affine", id="clean"),
        lambda: p.output("scores", p.step("nn.affine")["y"]),
    ):
        with pytest.raises(ProgramError) as error:
            again()
        assert error.value.code == "step-invalid"


def test_what_was_built_does_not_change_with_its_builder() -> None:
    p = built()
    program, parameters = p.build(), p.parameters
    p.input("late")
    p.step("nn.affine", parameters={"scale": 2.0})
    assert program == built().build()
    assert parameters == {"reduce": {"k": 2}}


def with_line(old: str, new: str) -> str:
    assert old in TOML
    return TOML.replace(old, new)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "'version' is missing"),
        ("version = ", "not TOML"),
        ("x = " + "[" * 5000, "not TOML"),
        ("x = " + "9" * 5000, "not TOML"),
        (with_line("version = 1", "version = 2"), "version must be 1"),
        (with_line("version = 1", "version = true"), "version must be 1"),
        (with_line("version = 1", "version = 1.0"), "version must be 1"),
        (with_line("version = 1", ""), "'version' is missing"),
        (with_line('inputs = ["x"]', ""), "'inputs' is missing"),
        (with_line('inputs = ["x"]', 'inputs = "x"'), "inputs must be a list"),
        (with_line('inputs = ["x"]', "inputs = [1]"), "inputs must be a list"),
        (with_line("parameters = { k", "paramters = { k"), "unknown key 'paramters'"),
        (with_line('kernel = "linalg.pca"', ""), "steps.reduce: key 'kernel' is missing"),
        (with_line('kernel = "linalg.pca"', "kernel = 1"), "steps.reduce.kernel"),
        (with_line('{ x = "clean.z" }', '"clean.z"'), "steps.reduce.inputs must be a table"),
        (with_line('"clean.z"', "3"), "steps.reduce.inputs.x"),
        (with_line("{ k = 2 }", "{ k = [2] }"), "steps.reduce.parameters.k"),
        (with_line("{ k = 2 }", "{ k = 2026-01-01 }"), "steps.reduce.parameters.k"),
        (with_line("{ k = 2 }", "2"), "steps.reduce.parameters must be a table"),
        (with_line("[outputs]", "[output]"), "unknown key 'output'"),
        (with_line('"reduce.scores"', "true"), "outputs.scores"),
        (TOML + "[steps.clean]\n", "not TOML"),
        ("#" * (limits.PROGRAM_BYTES + 1), "more than"),
    ],
)
def test_a_slip_in_a_file_is_refused_and_located(text: str, hint: str) -> None:
    with pytest.raises(ProgramError) as error:
        load_program_toml(text)
    assert error.value.code == "program-text-invalid"
    assert hint in str(error.value)


def test_a_file_gets_the_checks_of_every_program() -> None:
    for text, code in (
        (with_line("linalg.pca", "pca"), "step-invalid"),
        (with_line('["x"]', '["x", "x"]'), "step-invalid"),
        (with_line("clean.z", "clean.z.z"), "reference-unknown"),
    ):
        with pytest.raises(ProgramError) as error:
            load_program_toml(text)
        assert error.value.code == code
