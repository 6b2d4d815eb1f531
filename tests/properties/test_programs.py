"""Catalogues, programs and parameters from outside parse or are refused, whatever they hold."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.record import Record
from attestation.errors import DecodeError, ProgramError
from attestation.programs import shapes
from attestation.programs.catalogue import Catalogue, CatalogueEntry
from attestation.programs.loading import load_program_toml
from attestation.programs.parameters import Parameter, ParameterKind
from attestation.programs.plan import make_plan
from attestation.programs.program import Program, Step, decode_parameters, encode_parameters
from attestation.programs.signature import KernelSignature, Port
from attestation.sealing.tensor_spec import DTYPES, TensorSpec
from tests.programs import kernels

ALPHABET = "TUnmk012min()[],.+-<= complexreal"
PATTERNS = (
    st.text(ALPHABET, max_size=40)
    | st.text(max_size=300)
    | st.lists(
        st.sampled_from(
            ["T", "[", "]", "n", "m", ",", "...", "min(", ")", "+", "-", "1", "<=", "=="]
        ),
        max_size=30,
    ).map("".join)
)


@given(PATTERNS)
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    for parse in (shapes.parse, shapes.parse_rule):
        try:
            parse(text)
        except DecodeError:
            continue


DIMS = st.sampled_from(
    ["n", "m", "k", "2", "n+1", "m-1", "min(n, m)", "min(n-1, k)+2", "n-3", "1+1"]
)
SHAPES = st.tuples(st.booleans(), st.lists(DIMS, max_size=3)).map(
    lambda parts: f"[{', '.join(['...'] * parts[0] + parts[1])}]"
)
TYPES = st.sampled_from(["T", "U", "complex(T)", "real(T)", "float32", "int64"])
GENERATED = st.tuples(TYPES, SHAPES).map("".join)


@given(
    inputs=st.lists(GENERATED, min_size=1, max_size=3),
    outputs=st.lists(GENERATED, min_size=1, max_size=3),
    rules=st.lists(st.tuples(DIMS, st.sampled_from(["<=", "=="]), DIMS).map(" ".join), max_size=2),
    data=st.data(),
)
def test_inference_on_an_accepted_signature_answers_or_says_why_not(
    inputs: list[str], outputs: list[str], rules: list[str], data: st.DataObject
) -> None:
    """A signature that parsed has no inputs on which a worker could make a client stumble."""
    try:
        kernel = KernelSignature(
            name="t.t",
            version=1,
            summary="",
            types={"T": ("float32", "float64"), "U": ("int64", "bool")},
            inputs=tuple(Port(name=f"i{n}", pattern=text) for n, text in enumerate(inputs)),
            outputs=tuple(Port(name=f"o{n}", pattern=text) for n, text in enumerate(outputs)),
            parameters=(Parameter(name="k", kind=ParameterKind.INT),),
            rules=tuple(rules),
        )
    except DecodeError:
        return
    assert KernelSignature.from_bytes(kernel.to_bytes()) == kernel
    sizes = st.integers(0, 4) | st.just(1 << 20)
    specs = {
        port.name: TensorSpec(
            dtype=data.draw(st.sampled_from(["float32", "float64", "int64", "complex64"])),
            shape=tuple(data.draw(st.lists(st.integers(0, 4), max_size=5))),
        )
        for port in kernel.inputs
    }
    try:
        made = kernel.infer(specs, {"k": data.draw(sizes | st.integers(-3, 1 << 62))})
    except ProgramError:
        return
    assert list(made) == [port.name for port in kernel.outputs]
    assert all(0 not in spec.shape for spec in made.values())


@pytest.mark.parametrize(
    "kind", [Parameter, Port, KernelSignature, CatalogueEntry, Catalogue, Step, Program]
)
@given(data=st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(kind: type[Record], data: bytes) -> None:
    try:
        parsed = kind.from_bytes(data)
    except DecodeError:
        return
    assert parsed.to_bytes() == data


VALID = [
    (Catalogue, kernels.CATALOGUE.to_bytes()),
    (KernelSignature, kernels.PCA.to_bytes()),
    (Program, Program.single(kernels.ATTENTION).to_bytes()),
]


@given(case=st.sampled_from(VALID), place=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_any_changed_byte_parses_or_is_refused(
    case: tuple[type[Record], bytes], place: int, value: int
) -> None:
    kind, data = case
    changed = bytearray(data)
    changed[place % len(changed)] = value
    try:
        parsed = kind.from_bytes(changed)
    except DecodeError:
        return
    assert parsed.to_bytes() == changed


SCALARS: st.SearchStrategy[Any] = (
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False)
) | st.text(max_size=20)
NAMES = st.text(string.ascii_letters, min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, SCALARS, min_size=1, max_size=4), max_size=4))
def test_parameters_survive_their_encoding(parameters: dict[str, dict[str, Any]]) -> None:
    assert decode_parameters(encode_parameters(parameters)) == parameters


@given(st.binary(max_size=200))
def test_any_bytes_are_parameters_or_refused(data: bytes) -> None:
    try:
        parameters = decode_parameters(data)
    except DecodeError:
        return
    assert encode_parameters(parameters) == data


@given(
    parameter=st.sampled_from([*kernels.PCA.parameters, kernels.number("x", 1.0)]), value=SCALARS
)
def test_any_value_is_a_parameter_or_refused(parameter: Parameter, value: Any) -> None:
    try:
        checked = parameter.check(value)
    except ProgramError:
        return
    assert checked == value or isinstance(checked, float)


TOML = """version = 1
inputs = ['x']
[steps.s]
kernel = 'a.b'
inputs = {x = 'x'}
[outputs]
y = 's.y'
"""


@given(
    st.text(max_size=200)
    | st.tuples(st.integers(0, len(TOML)), st.text("[]{}='.\"\n ax1", max_size=6)).map(
        lambda cut: TOML[: cut[0]] + cut[1] + TOML[cut[0] :]
    )
)
def test_any_text_is_a_program_file_or_refused(text: str) -> None:
    try:
        program, _ = load_program_toml(text)
    except ProgramError:
        return
    assert Program.from_bytes(program.to_bytes()) == program


STEPS = st.builds(
    Step,
    id=st.sampled_from("abc"),
    kernel=st.sampled_from(["linalg.matmul", "nn.affine", "no.such"]),
    inputs=st.dictionaries(
        st.sampled_from(["a", "b", "x"]),
        st.sampled_from(["x", "y", "a.c", "b.y", "c.c", "a.y", "c.y"]),
        max_size=2,
    ),
)


@given(
    steps=st.lists(STEPS, min_size=1, max_size=3, unique_by=lambda step: step.id),
    output=st.sampled_from(["a.c", "b.y", "c.c", "c.y", "x"]),
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 3), max_size=3),
)
def test_any_program_is_planned_or_refused(
    steps: list[Step], output: str, dtype: str, shape: list[int]
) -> None:
    """Cycles, self-references, wrong ports: a plan, or a `ProgramError`, and nothing else."""
    program = Program.of(inputs=["x"], steps=steps, outputs={"out": output})
    try:
        plan = make_plan(
            program, kernels.CATALOGUE, {"x": TensorSpec(dtype=dtype, shape=tuple(shape))}
        )
    except ProgramError:
        return
    ready = {"x"}
    for step in plan.steps:
        assert set(step.inputs.values()) <= ready
        ready |= {f"{step.id}.{port}" for port in step.outputs}
    assert plan.peak_bytes <= plan.total_bytes
