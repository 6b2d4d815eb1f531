"""A plan with the memory it needs, for running it many times on other contents of the same shape.

What a single run does anew each time (looking kernels up, inferring shapes, taking and wiping
buffers) costs as much as an elementwise kernel takes for a segment. Here it is done once; between
two runs the buffers keep what the run before left, which is the same job's, and `close` wipes them.
"""

import time
from collections.abc import Callable, Mapping

from attrs import frozen

from attestation.programs.plan import Plan
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.buffers import BufferPool
from enclave_worker.kernels.registry import Registry
from enclave_worker.kernels.spec import Arrays, Kernel, Namespace, Values
from enclave_worker.tensors import HeldTensor


@frozen(kw_only=True)
class _Step:
    kernel: Kernel
    inputs: Arrays
    values: Values
    buffers: Arrays
    expected: Mapping[str, TensorSpec]


class PreparedRun:
    """One plan on the host, whose inputs are written into `memory` before each run."""

    def __init__(self, plan: Plan, registry: Registry, xp: Namespace, *, pool: BufferPool) -> None:
        """Take memory for every tensor of `plan`; raises `LimitError` when there is none."""
        self._plan = plan
        self._xp = xp
        self._pool = pool
        self._held: dict[str, HeldTensor] = {}
        self._steps: list[_Step] = []
        try:
            for reference, spec in plan.tensors.items():
                self._held[reference] = HeldTensor.allocate(spec, pool)
            self._prepare(registry)
        except BaseException:
            self.close()
            raise

    def _prepare(self, registry: Registry) -> None:
        for step in self._plan.steps:
            kernel = registry[step.signature.name]
            outputs = {port: self._held[f"{step.id}.{port}"] for port in step.outputs}
            self._steps.append(
                _Step(
                    kernel=kernel,
                    # Read-only: a kernel that wrote there would change what a later step reads.
                    inputs={
                        port: self._held[reference].array(writable=False)
                        for port, reference in step.inputs.items()
                    },
                    values=step.parameters,
                    buffers={port: held.array() for port, held in outputs.items()},
                    expected=step.outputs,
                )
            )

    @property
    def peak_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(held.spec.nbytes for held in self._held.values())

    def input(self, name: str) -> memoryview:
        """Return where the contents of an input go."""
        return self._held[name].buffer.view()

    def output(self, name: str) -> memoryview:
        """Return where an output is after a run."""
        return self._held[self._plan.output_references[name]].buffer.view()

    def run(self, *, require_wanted: Callable[[], None]) -> int:
        """Run every step; return the nanoseconds that took.

        Raises `KernelError`, and what `require_wanted` raises before a step.
        """
        started = time.perf_counter_ns()
        for step in self._steps:
            require_wanted()
            step.kernel.run_planned(self._xp, step.inputs, step.values, step.buffers, step.expected)
        return time.perf_counter_ns() - started

    def close(self) -> None:
        """Wipe every tensor. Safe to call twice."""
        self._steps.clear()
        for held in self._held.values():
            self._pool.give_back(held.buffer)
        self._held.clear()
