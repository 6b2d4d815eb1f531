"""A program is canonical, and is checked as a whole before anything is sent or allocated."""

from typing import Any

import attrs
import pytest

from attestation import limits
from attestation.encoding import cbor
from attestation.errors import DecodeError, ProgramError
from attestation.programs.catalogue import Catalogue
from attestation.programs.parameters import Scalar
from attestation.programs.plan import make_plan
from attestation.programs.program import Program, Step, decode_parameters, encode_parameters
from tests.programs import kernels
from tests.programs.kernels import CATALOGUE, spec

X = {"x": spec("float64", 100, 10)}
CLEAN = Step(id="clean", kernel="stats.standardize", inputs={"x": "x"})
REDUCE = Step(id="reduce", kernel="linalg.pca", inputs={"x": "clean.z"})
PIPELINE = Program.of(
    inputs=["x"],
    steps=[REDUCE, CLEAN],
    outputs={"scores": "reduce.scores", "centre": "clean.mean"},
)
TWO = {"reduce": {"k": 2}}


def refused(
    program: Program, inputs: Any = X, parameters: Any = TWO, catalogue: Catalogue = CATALOGUE
) -> ProgramError:
    with pytest.raises(ProgramError) as error:
        make_plan(program, catalogue, inputs, parameters)
    return error.value


def test_a_pipeline_is_planned_in_the_order_it_can_run() -> None:
    plan = make_plan(PIPELINE, CATALOGUE, X, TWO)
    assert [step.id for step in plan.steps] == ["clean", "reduce"]
    assert plan.steps[1].parameters == {"k": 2}
    assert plan.tensors["clean.z"] == spec("float64", 100, 10)
    assert plan.outputs == {"centre": spec("float64", 10), "scores": spec("float64", 100, 2)}
    assert list(plan.outputs) == ["centre", "scores"]
    assert plan.output_references == {"centre": "clean.mean", "scores": "reduce.scores"}


def test_the_plan_knows_what_memory_it_takes() -> None:
    plan = make_plan(PIPELINE, CATALOGUE, X, TWO)
    x = z = 8000
    clean = z + 80 + 80
    reduce = 8 * (2 * 10 + 2 + 100 * 2 + 10)
    assert plan.input_bytes == x
    assert plan.output_bytes == 80 + 1600
    assert plan.total_bytes == x + clean + reduce
    assert plan.steps[0].releases == ("clean.scale", "x")
    assert plan.steps[1].releases == (
        "clean.z",
        "reduce.components",
        "reduce.explained",
        "reduce.mean",
    )
    assert plan.peak_bytes == x + clean
    live = plan.total_bytes - sum(
        plan.tensors[reference].nbytes for step in plan.steps for reference in step.releases
    )
    assert live == plan.output_bytes


def test_the_single_program_of_a_kernel_has_its_ports() -> None:
    program = Program.single(kernels.MATMUL)
    plan = make_plan(program, CATALOGUE, {"a": spec("float32", 2, 3), "b": spec("float32", 3, 4)})
    assert plan.outputs == {"c": spec("float32", 2, 4)}
    assert [step.id for step in plan.steps] == ["run"]


def test_one_tensor_may_be_read_by_several_ports_and_is_released_once() -> None:
    square = Program.of(
        inputs=["x"],
        steps=[Step(id="a", kernel="linalg.matmul", inputs={"a": "x", "b": "x"})],
        outputs={"y": "a.c"},
    )
    plan = make_plan(square, CATALOGUE, {"x": spec("float32", 3, 3)})
    assert plan.steps[0].releases == ("x",)


# -- canonical ------------------------------------------------------------------------------------


def test_the_order_of_construction_does_not_change_the_digest() -> None:
    other = Program.of(
        inputs=("x",),
        steps=[CLEAN, REDUCE],
        outputs={"centre": "clean.mean", "scores": "reduce.scores"},
    )
    assert other.digest() == PIPELINE.digest()
    assert Program.from_bytes(PIPELINE.to_bytes()) == PIPELINE


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": ["y"]},
        {"steps": [CLEAN, attrs.evolve(REDUCE, kernel="linalg.svd")]},
        {"steps": [CLEAN, attrs.evolve(REDUCE, inputs={"x": "x"})]},
        {"outputs": {"scores": "reduce.scores"}},
        {"outputs": {"scores": "clean.mean", "centre": "reduce.scores"}},
    ],
)
def test_another_program_has_another_digest(change: dict[str, Any]) -> None:
    parts = {"inputs": PIPELINE.inputs, "steps": PIPELINE.steps, "outputs": PIPELINE.outputs}
    assert Program.of(**(parts | change)).digest() != PIPELINE.digest()


def test_a_second_encoding_of_one_program_is_refused() -> None:
    """Steps or inputs out of order would be the same program under another digest."""
    value = PIPELINE.to_map()
    assert isinstance(value["steps"], list)
    with pytest.raises(DecodeError):
        Program.from_bytes(cbor.encode(value | {"steps": value["steps"][::-1]}))
    with pytest.raises(DecodeError):
        Program.from_bytes(cbor.encode(value | {"inputs": ["x", "x"]}))


# -- refused when it is made ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"inputs": ["x", "x"]}, "step-invalid"),
        ({"inputs": ["1x"]}, "step-invalid"),
        ({"inputs": ["x.y"]}, "step-invalid"),
        ({"inputs": ["x" * 65]}, "step-invalid"),
        ({"steps": []}, "step-invalid"),
        ({"steps": [CLEAN, CLEAN]}, "step-invalid"),
        ({"steps": [attrs.evolve(CLEAN, id="")]}, "step-invalid"),
        ({"steps": [attrs.evolve(CLEAN, id="a.b")]}, "step-invalid"),
        ({"steps": [attrs.evolve(CLEAN, kernel="os")]}, "step-invalid"),
        ({"steps": [attrs.evolve(CLEAN, kernel="os; rm")]}, "step-invalid"),
        ({"steps": [attrs.evolve(CLEAN, inputs={"": "x"})]}, "step-invalid"),
        ({"steps": [attrs.evolve(CLEAN, inputs={"x": ""})]}, "reference-unknown"),
        ({"steps": [attrs.evolve(CLEAN, inputs={"x": "a.b.c"})]}, "reference-unknown"),
        ({"outputs": {}}, "step-invalid"),
        ({"outputs": {"a b": "clean.z"}}, "step-invalid"),
        ({"outputs": {"y": "clean."}}, "reference-unknown"),
        ({"inputs": [f"x{i}" for i in range(limits.TENSORS_PER_JOB + 1)]}, "program-too-large"),
        (
            {"steps": [attrs.evolve(CLEAN, id=f"s{i}") for i in range(limits.PROGRAM_STEPS + 1)]},
            "program-too-large",
        ),
    ],
)
def test_a_malformed_program_cannot_be_made(change: dict[str, Any], code: str) -> None:
    parts = {"inputs": PIPELINE.inputs, "steps": PIPELINE.steps, "outputs": PIPELINE.outputs}
    with pytest.raises(ProgramError) as error:
        Program.of(**(parts | change))
    assert error.value.code == code


# -- refused when it is planned -------------------------------------------------------------------


def evolve(*steps: Step, inputs: tuple[str, ...] = ("x",), **outputs: str) -> Program:
    return Program.of(inputs=inputs, steps=steps, outputs=outputs or {"scores": "reduce.scores"})


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "clena.z"})), "reference-unknown"),
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "clean.w"})), "reference-unknown"),
        (evolve(attrs.evolve(CLEAN, inputs={"x": "y"}), REDUCE), "reference-unknown"),
        (evolve(CLEAN, REDUCE, y="reduce.nothing"), "reference-unknown"),
        (evolve(CLEAN, REDUCE, y="nobody.scores", z="reduce.scores"), "reference-unknown"),
        (evolve(CLEAN, REDUCE, y="x", z="reduce.scores"), "reference-unknown"),
        (evolve(CLEAN, REDUCE, y="clean.z"), "step-unused"),
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "x"})), "step-unused"),
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={})), "step-unused"),
        (evolve(CLEAN, attrs.evolve(REDUCE, kernel="linalg.pac")), "unknown-kernel"),
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={"y": "clean.z"})), "input-missing"),
        (
            evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "clean.z", "y": "x"})),
            "input-unknown",
        ),
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "clean.mean"})), "shape-mismatch"),
        (evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "reduce.scores"})), "program-cycle"),
    ],
)
def test_a_program_that_does_not_hold_together_is_refused(program: Program, code: str) -> None:
    assert refused(program).code == code


def test_an_input_that_no_step_reads_is_refused() -> None:
    """It would be sealed, sent and paid for, and the receipt would say it took part."""
    program = evolve(CLEAN, REDUCE, inputs=("x", "y"))
    assert refused(program, inputs=X | {"y": X["x"]}).code == "input-unused"


def test_a_cycle_is_refused_and_named() -> None:
    one = Step(id="one", kernel="linalg.matmul", inputs={"a": "x", "b": "two.c"})
    two = Step(id="two", kernel="linalg.matmul", inputs={"a": "x", "b": "one.c"})
    error = refused(evolve(one, two, y="one.c"), parameters={})
    assert error.code == "program-cycle"
    assert "one" in str(error)
    assert "two" in str(error)
    alone = Step(id="one", kernel="linalg.matmul", inputs={"a": "x", "b": "one.c"})
    assert refused(evolve(alone, y="one.c"), parameters={}).code == "program-cycle"


def test_the_refusal_names_step_and_port() -> None:
    program = evolve(CLEAN, attrs.evolve(REDUCE, inputs={"x": "clean.mean"}))
    assert str(refused(program)).startswith("step reduce: x: ")


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "input-missing"),
        (X | {"y": X["x"]}, "input-unknown"),
        ({"x": spec("float64", 0, 10)}, "tensor-empty"),
        ({"x": spec("bool", 100, 10)}, "dtype-mismatch"),
        ({"x": spec("float64", 1, 10)}, "rule-broken"),
    ],
)
def test_inputs_that_the_program_does_not_take_are_refused(inputs: Any, code: str) -> None:
    assert refused(PIPELINE, inputs=inputs).code == code


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, "parameter-missing"),
        ({"reduce": {"k": 0}}, "parameter-out-of-range"),
        ({"reduce": {"k": 2, "q": 1}}, "parameter-unknown"),
        ({"clean": {"k": 2}, "reduce": {"k": 2}}, "parameter-unknown"),
        ({"nobody": {"k": 2}, "reduce": {"k": 2}}, "parameter-unknown"),
    ],
)
def test_parameters_that_the_program_does_not_take_are_refused(
    parameters: dict[str, dict[str, Scalar]], code: str
) -> None:
    assert refused(PIPELINE, parameters=parameters).code == code


def test_a_plan_of_the_longest_chain_is_made() -> None:
    """No recursion: the limit on steps is ours, not Python's."""
    steps = [
        Step(
            id=f"s{i:03}",
            kernel="nn.affine",
            inputs={"x": f"s{i - 1:03}.y" if i else "x"},
        )
        for i in range(limits.PROGRAM_STEPS)
    ]
    program = evolve(*steps, y=f"{steps[-1].id}.y")
    plan = make_plan(program, CATALOGUE, X)
    assert plan.peak_bytes == 2 * plan.input_bytes


# -- parameters -----------------------------------------------------------------------------------


def test_parameters_survive_their_encoding_and_order_does_not_matter() -> None:
    one = {"b": {"x": 1, "y": 2.5}, "a": {"z": True}, "c": {}}
    other = {"a": {"z": True}, "b": {"y": 2.5, "x": 1}}
    assert encode_parameters(one) == encode_parameters(other)
    assert decode_parameters(encode_parameters(one)) == other


@pytest.mark.parametrize("value", [None, b"x", [1], {"a": 1}, 1 << 63, "x" * 2049, "é" * 1025])
def test_a_value_that_is_no_parameter_is_not_encoded(value: Any) -> None:
    with pytest.raises(ProgramError) as error:
        encode_parameters({"run": {"k": value}})
    assert error.value.code == "parameter-type"


def test_parameters_beyond_the_limit_are_not_encoded() -> None:
    many: Any = {f"s{i}": {f"p{j:02}": "x" * 60 for j in range(60)} for i in range(80)}
    with pytest.raises(ProgramError) as error:
        encode_parameters(many)
    assert error.value.code == "program-too-large"


@pytest.mark.parametrize(
    "value",
    [None, [], {"run": {}}, {"run": 1}, {"a.b": {"k": 1}}, {"run": {"": 1}}, {"run": {"k": None}}],
)
def test_parameters_from_outside_in_another_form_are_refused(value: Any) -> None:
    with pytest.raises(DecodeError):
        decode_parameters(cbor.encode(value))


# -- catalogue ------------------------------------------------------------------------------------


def test_a_catalogue_survives_its_encoding_and_finds_its_kernels() -> None:
    assert Catalogue.from_bytes(CATALOGUE.to_bytes()) == CATALOGUE
    for kernel in kernels.ALL:
        assert CATALOGUE.signature(kernel.name) is kernel


@pytest.mark.parametrize("name", ["", "a", "linalg.matmu", "linalg.matmull", "zz.zz"])
def test_a_kernel_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ProgramError) as error:
        CATALOGUE.signature(name)
    assert error.value.code == "unknown-kernel"


def test_a_catalogue_has_one_order_and_each_kernel_once() -> None:
    reordered = Catalogue.of(reversed(CATALOGUE.entries))
    assert reordered.digest() == CATALOGUE.digest()
    with pytest.raises(DecodeError):
        Catalogue(entries=tuple(reversed(CATALOGUE.entries)))
    with pytest.raises(DecodeError):
        Catalogue.of([CATALOGUE.entries[0], CATALOGUE.entries[0]])


def test_other_source_is_another_catalogue() -> None:
    """A worker that changes one kernel's code cannot keep the digest that a client accepted."""
    first = attrs.evolve(CATALOGUE.entries[0], source_digest=b"!" * 32)
    assert Catalogue.of([first, *CATALOGUE.entries[1:]]).digest() != CATALOGUE.digest()
