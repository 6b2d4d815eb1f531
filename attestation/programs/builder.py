"""Write a program in Python.

    p = ProgramBuilder()
    x = p.input("x")
    clean = p.step("stats.standardize", x=x)
    reduced = p.step("linalg.pca", x=clean["z"], parameters={"k": 2})
    p.output("scores", reduced["scores"])
    program, parameters = p.build(), p.parameters

Nothing is checked against a catalogue here: `Program.plan` does that, for every way of writing one.
"""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from attestation.programs.errors import StepInvalidError
from attestation.programs.parameters import Scalar
from attestation.programs.program import Parameters, Program, Step

_NO_PARAMETERS: Final[Mapping[str, Scalar]] = {}


@frozen(kw_only=True)
class Reference:
    """A tensor inside a program that is being built."""

    text: str


@frozen(kw_only=True)
class StepHandle:
    """A step inside a program that is being built; `step["port"]` is one of its outputs."""

    id: str

    def __getitem__(self, port: str) -> Reference:
        return Reference(text=f"{self.id}.{port}")


class ProgramBuilder:
    """Collects inputs, steps and outputs; `build` makes the canonical program of them."""

    def __init__(self) -> None:
        """Start an empty program."""
        self._inputs: list[str] = []
        self._steps: dict[str, Step] = {}
        self._outputs: dict[str, str] = {}
        self._parameters: dict[str, dict[str, Scalar]] = {}

    def input(self, name: str) -> Reference:
        """Declare a program input."""
        if name in self._inputs:
            raise StepInvalidError(f"input {name!r} is declared twice")
        self._inputs.append(name)
        return Reference(text=name)

    def step(
        self,
        kernel: str,
        *,
        id: str | None = None,  # noqa: A002 - what the format calls it
        parameters: Mapping[str, Scalar] = _NO_PARAMETERS,
        **inputs: Reference,
    ) -> StepHandle:
        """Add a step that runs `kernel` on `inputs`, one per port.

        Without an `id` it is named after the kernel: `pca`, then `pca_2`. A port that is itself
        named `id` or `parameters` can be reached from TOML or `Program.of`.
        """
        step_id = self._free_id(kernel) if id is None else id
        if step_id in self._steps:
            raise StepInvalidError(f"step {step_id!r} is there already")
        references = {port: reference.text for port, reference in inputs.items()}
        self._steps[step_id] = Step(id=step_id, kernel=kernel, inputs=references)
        if parameters:
            self._parameters[step_id] = dict(parameters)
        return StepHandle(id=step_id)

    def output(self, name: str, source: Reference) -> None:
        """Declare a program output."""
        if name in self._outputs:
            raise StepInvalidError(f"output {name!r} is declared twice")
        self._outputs[name] = source.text

    @property
    def parameters(self) -> Parameters:
        """The parameters given so far, by step."""
        return {step: dict(values) for step, values in self._parameters.items()}

    def build(self) -> Program:
        """Return the canonical program; raises `ProgramError`s."""
        return Program.of(inputs=self._inputs, steps=self._steps.values(), outputs=self._outputs)

    def _free_id(self, kernel: str) -> str:
        stem = candidate = kernel.rpartition(".")[2]
        count = 1
        while candidate in self._steps:
            count += 1
            candidate = f"{stem}_{count}"
        return candidate
