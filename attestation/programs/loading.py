"""Read a program from TOML.

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

Every key is checked: an unknown one is refused, with the place and the keys that exist, because a
misspelt `parameters` would otherwise run with defaults.
"""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attestation import limits
from attestation.errors import DecodeError
from attestation.programs.errors import ProgramTextError
from attestation.programs.parameters import Scalar, scalar
from attestation.programs.program import Program, Step

_VERSION: Final = 1


def load_program_toml(text: str) -> tuple[Program, dict[str, dict[str, Scalar]]]:
    """Return the program and its parameters; raises `ProgramError`s and nothing else."""
    if len(text) > limits.PROGRAM_BYTES:
        raise ProgramTextError(f"a program file of more than {limits.PROGRAM_BYTES} characters")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProgramTextError(f"not TOML: {error}") from error
    _check_keys(document, "the file", required=("version", "inputs", "steps", "outputs"))
    if document["version"] != _VERSION or isinstance(document["version"], bool | float):
        raise ProgramTextError(f"version must be {_VERSION}")
    steps, parameters = [], {}
    for step_id, entry in _table(document["steps"], "steps").items():
        step, values = _read_step(step_id, entry)
        steps.append(step)
        if values:
            parameters[step_id] = values
    program = Program.of(
        inputs=_names(document["inputs"], "inputs"),
        steps=steps,
        outputs=_references(document["outputs"], "outputs"),
    )
    return program, parameters


def _read_step(step_id: str, entry: Any) -> tuple[Step, dict[str, Scalar]]:
    place = f"steps.{step_id}"
    fields = _table(entry, place)
    _check_keys(fields, place, required=("kernel", "inputs"), optional=("parameters",))
    kernel = fields["kernel"]
    if not isinstance(kernel, str):
        raise ProgramTextError(f"{place}.kernel must be a text such as 'linalg.matmul'")
    inputs = _references(fields["inputs"], f"{place}.inputs")
    values = {}
    for name, value in _table(fields.get("parameters", {}), f"{place}.parameters").items():
        try:
            values[name] = scalar().decode(value)
        except DecodeError as error:
            raise ProgramTextError(f"{place}.parameters.{name}: {error}") from error
    return Step(id=step_id, kernel=kernel, inputs=inputs), values


def _check_keys(
    fields: Mapping[str, Any], place: str, *, required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    for name in fields:
        if name not in required and name not in optional:
            allowed = ", ".join((*required, *optional))
            raise ProgramTextError(f"{place}: unknown key {name!r}; there are {allowed}")
    for name in required:
        if name not in fields:
            raise ProgramTextError(f"{place}: key {name!r} is missing")


def _table(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProgramTextError(f"{place} must be a table")
    return value


def _references(value: Any, place: str) -> dict[str, str]:
    fields = _table(value, place)
    for name, reference in fields.items():
        if not isinstance(reference, str):
            raise ProgramTextError(f"{place}.{name} must be a text: an input, or 'step.port'")
    return fields


def _names(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ProgramTextError(f"{place} must be a list of names")
    return value
