"""Plan what a user asks for, once for all jobs that ask for the same.

Jobs of one program over tensors of one shape come by the thousand, and a plan depends on nothing
else. Plans are remembered in the client only: parameters are confidential, and this is their owner.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

from attrs import field, frozen

from attestation.encoding import cbor
from attestation.errors import LocalProtocolError
from attestation.identifiers import Digest
from attestation.programs.catalogue import Catalogue
from attestation.programs.errors import ParameterUnknownError
from attestation.programs.parameters import Scalar
from attestation.programs.plan import Plan
from attestation.programs.program import Parameters, Program, encode_parameters
from attestation.programs.stacking import plan_job
from attestation.sealing.tensor_spec import TensorSpec

GivenParameters: TypeAlias = Mapping[str, Scalar] | Mapping[str, Mapping[str, Scalar]]
"""Per step, or flat where the program has one step."""


@frozen(kw_only=True)
class Planned:
    """A program with its parameters by step, planned and encoded."""

    program: Program
    encoded_parameters: bytes = field(repr=False)
    plan: Plan


@frozen(kw_only=True)
class _Question:
    """What is asked, in a form that can be compared, and what to answer it from."""

    catalogue_digest: Digest
    program: str | Digest
    parameters: bytes = field(repr=False)
    specs: tuple[tuple[str, TensorSpec], ...]
    items: int
    deterministic: bool
    asked: tuple[Catalogue, Program | str, GivenParameters] = field(eq=False, repr=False)

    def answer(self) -> Planned:
        catalogue, named, given = self.asked
        program = named
        if isinstance(program, str):
            program = Program.single(catalogue.signature(program), dict(self.specs))
        parameters = _by_step(program, given)
        made = plan_job(
            program,
            catalogue,
            dict(self.specs),
            parameters,
            items=self.items,
            deterministic=self.deterministic,
        )
        return Planned(program=program, encoded_parameters=encode_parameters(parameters), plan=made)


def plan(
    catalogue: Catalogue,
    catalogue_digest: Digest,
    program: Program | str,
    parameters: GivenParameters,
    specs: Mapping[str, TensorSpec],
    *,
    items: int,
    deterministic: bool = False,
) -> Planned:
    """Plan `program`, a kernel's name or a `Program`; raises the first `ProgramError`."""
    try:
        encoded = cbor.encode(dict(parameters))
    except LocalProtocolError:
        encoded = None  # not of the types that parameters have: planning says which
    question = _Question(
        catalogue_digest=catalogue_digest,
        program=program if isinstance(program, str) else program.digest(),
        parameters=encoded or b"",
        specs=tuple(specs.items()),
        items=items,
        deterministic=deterministic,
        # A copy: the answer shall not change when the caller's mapping does.
        asked=(catalogue, program, _copy(parameters)),
    )
    return question.answer() if encoded is None else _remembered(question)


@lru_cache(maxsize=256)
def _remembered(question: _Question) -> Planned:
    return question.answer()


def _copy(given: GivenParameters) -> GivenParameters:
    return {  # type: ignore[return-value]  # as mixed as it was; `_by_step` tells
        name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()
    }


def _by_step(program: Program, given: GivenParameters) -> Parameters:
    nested = {step: values for step, values in given.items() if isinstance(values, Mapping)}
    flat = {name: value for name, value in given.items() if not isinstance(value, Mapping)}
    if not flat:
        return nested
    if nested or len(program.steps) != 1:
        raise ParameterUnknownError(
            "parameters of several steps are given as {step: {name: value}}"
        )
    return {program.steps[0].id: flat}
