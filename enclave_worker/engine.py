"""Runs a plan on one device, with every tensor that a step makes in memory that we wipe.

On a processor the kernels write into secret buffers; on a GPU into device memory that is zeroed
before it is dropped. Kernels get their output buffers from here and their results are copied there
if they made others, so no output is ever a view on an input that somebody else wipes.
"""

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

from attrs import frozen

from attestation.programs.plan import Plan, PlannedStep
from attestation.receipts.receipt import DeviceClaims
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.buffers import BufferPool
from enclave_worker.device.device import Device
from enclave_worker.kernels.registry import Registry
from enclave_worker.tensors import Array, HeldTensor

DeviceArray: TypeAlias = Any
"""A NumPy or CuPy array; CuPy has no types."""


class Inputs(Protocol):
    """The inputs of one program: arrays of the host, which end when they are released."""

    def array(self, name: str) -> Array:
        """Return the input `name`."""
        ...

    def release(self, name: str) -> None:
        """Say that nobody reads `name` any more."""
        ...


@frozen(kw_only=True)
class Outcome:
    """The outputs of a program, in the order of their names, and what they cost."""

    outputs: Mapping[str, HeldTensor]
    device_ns: int
    peak_device_bytes: int


class ProgramEngine:
    """One device and the kernels it runs. Safe to use from several threads."""

    def __init__(self, device: Device, registry: Registry, *, pool: BufferPool) -> None:
        """Run kernels of `registry` on `device`, with host memory from `pool`."""
        self._device = device
        self._registry = registry
        self._pool = pool
        self._on_host = device.backend == "numpy"
        # One program at a time has a GPU: its time and memory are what the client pays for.
        self._turn: AbstractContextManager[Any] = (
            nullcontext() if self._on_host else threading.Lock()
        )

    @property
    def device(self) -> DeviceClaims:
        """What receipts say of the device."""
        device = self._device
        return DeviceClaims(
            backend=device.backend,
            name=device.name,
            sm_count=device.sm_count,
            cuda=device.cuda,
            libraries=dict(device.libraries),
        )

    def run(self, plan: Plan, inputs: Inputs) -> Outcome:
        """Return the outputs in buffers of the pool; raises `KernelError` and `LimitError`.

        Each input is released when no step reads it any more. Whatever was made on the way is
        wiped, also when a step fails.
        """
        memory: _HostMemory | _DeviceMemory
        if self._on_host:
            memory = _HostMemory(inputs, self._pool)
        else:
            memory = _DeviceMemory(inputs, self._device)
        with self._turn:
            self._device.use()
            try:
                with self._device.meter() as meter:
                    for name in plan.inputs:
                        memory.add_input(name)
                    for step in plan.steps:
                        self._run_step(step, memory)
                    outputs = self._take_outputs(plan, memory)
            finally:
                memory.close()
                self._device.release()
        # The processor's own figure is that of the whole process; the plan's is the job's.
        peak = plan.peak_bytes if self._on_host else meter.peak_bytes
        return Outcome(outputs=outputs, device_ns=meter.device_ns, peak_device_bytes=peak)

    def _run_step(self, step: PlannedStep, memory: "_HostMemory | _DeviceMemory") -> None:
        kernel = self._registry[step.signature.name]
        inputs = {port: memory.arrays[reference] for port, reference in step.inputs.items()}
        out = {
            port: memory.allocate(f"{step.id}.{port}", spec) for port, spec in step.outputs.items()
        }
        kernel.run(self._device.xp, inputs, step.parameters, out)
        del inputs, out
        for reference in step.releases:
            memory.release(reference)

    def _take_outputs(
        self, plan: Plan, memory: "_HostMemory | _DeviceMemory"
    ) -> dict[str, HeldTensor]:
        outputs: dict[str, HeldTensor] = {}
        taken: set[str] = set()
        try:
            for name, reference in plan.output_references.items():
                outputs[name] = memory.take(
                    reference, plan.tensors[reference], self._pool, again=reference in taken
                )
                taken.add(reference)
        except BaseException:
            for held in outputs.values():
                self._pool.give_back(held.buffer)
            raise
        return outputs


class _HostMemory:
    """The tensors of one run, in secret buffers."""

    def __init__(self, inputs: Inputs, pool: BufferPool) -> None:
        self._inputs = inputs
        self._pool = pool
        self._held: dict[str, HeldTensor] = {}
        self.arrays: dict[str, DeviceArray] = {}

    def add_input(self, name: str) -> None:
        self.arrays[name] = self._inputs.array(name)

    def allocate(self, reference: str, spec: TensorSpec) -> DeviceArray:
        held = self._held[reference] = HeldTensor.allocate(spec, self._pool)
        array = self.arrays[reference] = held.array()
        return array

    def take(
        self, reference: str, spec: TensorSpec, pool: BufferPool, *, again: bool
    ) -> HeldTensor:
        if not again:
            return self._held.pop(reference)
        copy = HeldTensor.allocate(spec, pool)
        copy.array()[...] = self.arrays[reference]
        return copy

    def release(self, reference: str) -> None:
        del self.arrays[reference]
        held = self._held.pop(reference, None)
        if held is None:
            self._inputs.release(reference)
        else:
            self._pool.give_back(held.buffer)

    def close(self) -> None:
        self.arrays.clear()
        for held in self._held.values():
            self._pool.give_back(held.buffer)
        self._held.clear()


class _DeviceMemory:
    """The tensors of one run, in the memory of a GPU, zeroed before they are dropped."""

    def __init__(self, inputs: Inputs, device: Device) -> None:
        self._inputs = inputs
        self._device = device
        self.arrays: dict[str, DeviceArray] = {}

    def add_input(self, name: str) -> None:
        self.arrays[name] = self._device.to_device(self._inputs.array(name))
        self._inputs.release(name)

    def allocate(self, reference: str, spec: TensorSpec) -> DeviceArray:
        array = self._device.xp.empty(spec.shape, dtype=spec.dtype)
        self.arrays[reference] = array
        return array

    def take(
        self, reference: str, spec: TensorSpec, pool: BufferPool, *, again: bool
    ) -> HeldTensor:
        del again  # A copy to the host is a tensor of its own, however often it is made.
        held = HeldTensor.allocate(spec, pool)
        try:
            self._device.to_host(self.arrays[reference], held.array())
        except BaseException:
            pool.give_back(held.buffer)
            raise
        return held

    def release(self, reference: str) -> None:
        self.arrays.pop(reference).fill(0)

    def close(self) -> None:
        for array in self.arrays.values():
            array.fill(0)
        self._device.synchronize()
        self.arrays.clear()
