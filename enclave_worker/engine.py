"""Runs a plan on one device, with every tensor that a step makes in memory that we wipe.

On a processor the kernels write into secret buffers; on a GPU into device memory that is zeroed
before it is dropped. Kernels get their output buffers from here and their results are copied there
if they made others, so no output is ever a view on an input that somebody else wipes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from attrs import frozen

from attestation.errors import LimitError
from attestation.programs.plan import Plan, PlannedStep
from attestation.receipts.receipt import DeviceClaims
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.buffers import BufferPool
from enclave_worker.device.budget import device_need, too_large
from enclave_worker.device.device import Device
from enclave_worker.device.sealed_tensors import DeviceTensor, SealingDevice
from enclave_worker.errors import DeviceMemoryError
from enclave_worker.kernels.registry import Registry
from enclave_worker.prepared import PreparedRun
from enclave_worker.refusals import WorkerLimitError
from enclave_worker.tensors import HeldTensor

DeviceArray: TypeAlias = Any
"""A NumPy or CuPy array; CuPy has no types."""


class Inputs(Protocol):
    """The inputs of one program: arrays of host or device, which end when they are released."""

    def array(self, name: str) -> DeviceArray:
        """Return the input `name`."""
        ...

    def release(self, name: str) -> None:
        """Say that nobody reads `name` any more."""
        ...


Held: TypeAlias = HeldTensor | DeviceTensor
"""An output that nobody has sealed yet."""


@frozen(kw_only=True)
class Outcome:
    """The outputs of a program, in the order of their names, and what they cost."""

    outputs: Mapping[str, Held]
    device_ns: int
    peak_device_bytes: int


class ProgramEngine:
    """One device and the kernels it runs. Safe to use from several threads."""

    def __init__(self, device: Device, registry: Registry, *, pool: BufferPool) -> None:
        """Run kernels of `registry` on `device`, with host memory from `pool`."""
        self._device = device
        self._registry = registry
        self._pool = pool
        self.on_host = device.backend == "numpy"
        """Whether kernels run in the memory of the host."""

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
            confidential_mode=device.confidential_mode,
        )

    @property
    def sealing(self) -> SealingDevice | None:
        """What opens inputs and seals outputs on the device; none where the processor does."""
        return self._device.sealing

    def synchronize(self) -> None:
        """Wait until what the calling thread started on the device has ended."""
        self._device.synchronize()

    def allocate(self, spec: TensorSpec) -> Held:
        """Return zeroed memory for an output, where outputs are sealed."""
        sealing = self._device.sealing
        if sealing is None:
            return HeldTensor.allocate(spec, self._pool)
        data = sealing.empty(spec)
        data.fill(0)
        return DeviceTensor(spec=spec, data=data)

    def give_back(self, held: Held) -> None:
        """Wipe an output that is not sealed."""
        if isinstance(held, DeviceTensor):
            held.data.fill(0)
        else:
            self._pool.give_back(held.buffer)

    @property
    def broken(self) -> bool:
        """Whether the device is of no use until the process has ended."""
        return self._device.broken

    def turn(
        self, plan: Plan, *, require_wanted: Callable[[], None]
    ) -> AbstractContextManager[None]:
        """Give the calling thread what `plan` needs of the device, for a `with` statement.

        Raises `WorkerLimitError` with the figure when no device of this size could run it, and what
        `require_wanted` raises while other jobs hold what it needs.
        """
        return self._device.turn(self._need(plan), require_wanted=require_wanted)

    def _need(self, plan: Plan) -> int:
        # Where the device opens and seals, some ciphertext and what is derived from keys is there.
        sealing, ends = self._device.sealing, (plan.inputs, plan.outputs)
        sizes = [[spec.nbytes for spec in end.values()] for end in ends]
        return device_need(plan) + (sealing.need(*sizes) if sealing else 0)

    def refusal_of(self, plan: Plan, error: Exception) -> WorkerLimitError | None:
        """Return the refusal of a job whose run ended for want of device memory; else none."""
        budget = self._device.budget
        if budget is None or not isinstance(error, DeviceMemoryError | LimitError):
            return None
        # Its tensors fit, as the plan says; the scratch memory of a kernel did not.
        return too_large(max(self._need(plan), self._device.peak_bytes) + 1, budget.total)

    def prepare(self, plan: Plan) -> PreparedRun:
        """Return `plan` with memory of its own, on the host; raises `LimitError` without any."""
        self._device.use()
        return PreparedRun(plan, self._registry, self._device.xp, pool=self._pool)

    def run(
        self, plan: Plan, inputs: Inputs, *, require_wanted: Callable[[], None] = lambda: None
    ) -> Outcome:
        """Return the outputs in buffers of the pool; raises `KernelError` and `LimitError`.

        Each input is released when no step reads it any more. Whatever was made on the way is
        wiped, also when a step fails. `require_wanted` is called before each step and after the
        last, and what it raises ends the run.
        """
        memory: _HostMemory | _DeviceMemory
        if self.on_host:
            memory = _HostMemory(inputs, self._pool)
        else:
            memory = _DeviceMemory(inputs, self._device)
        self._device.use()
        try:
            with self._device.meter() as meter:
                for name in plan.inputs:
                    memory.add_input(name)
                for step in plan.steps:
                    require_wanted()
                    self._run_step(step, memory)
                require_wanted()
                outputs = self._take_outputs(plan, memory)
        finally:
            memory.close()
        # The processor's own figure is that of the whole process; the plan's is the job's.
        peak = plan.peak_bytes if self.on_host else meter.peak_bytes
        return Outcome(outputs=outputs, device_ns=meter.device_ns, peak_device_bytes=peak)

    def _run_step(self, step: PlannedStep, memory: "_HostMemory | _DeviceMemory") -> None:
        kernel = self._registry[step.signature.name]
        inputs = {port: memory.arrays[reference] for port, reference in step.inputs.items()}
        out = {
            port: memory.allocate(f"{step.id}.{port}", spec) for port, spec in step.outputs.items()
        }
        # The plan was made of the same signatures; the memory is as it says.
        kernel.run_planned(self._device.xp, inputs, step.parameters, out, step.outputs)
        del inputs, out
        for reference in step.releases:
            memory.release(reference)

    def _take_outputs(self, plan: Plan, memory: "_HostMemory | _DeviceMemory") -> dict[str, Held]:
        outputs: dict[str, Held] = {}
        taken: set[str] = set()
        try:
            for name, reference in plan.output_references.items():
                outputs[name] = memory.take(
                    reference, plan.tensors[reference], self._pool, again=reference in taken
                )
                taken.add(reference)
        except BaseException:
            for held in outputs.values():
                self.give_back(held)
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
        self._borrowed: set[str] = set()
        self._given: set[str] = set()
        self.arrays: dict[str, DeviceArray] = {}

    def add_input(self, name: str) -> None:
        array = self._inputs.array(name)
        if self._device.sealing is not None:
            # It was opened on the device, and whoever opened it wipes it.
            self._borrowed.add(name)
            self.arrays[name] = array
            return
        self.arrays[name] = self._device.to_device(array)
        self._inputs.release(name)

    def allocate(self, reference: str, spec: TensorSpec) -> DeviceArray:
        sealing = self._device.sealing
        array = (
            self._device.xp.empty(spec.shape, dtype=spec.dtype)
            if sealing is None
            else sealing.empty(spec)
        )
        self.arrays[reference] = array
        return array

    def take(self, reference: str, spec: TensorSpec, pool: BufferPool, *, again: bool) -> Held:
        if self._device.sealing is not None:
            return self._take_on_device(reference, spec, again=again)
        # A copy to the host is a tensor of its own, however often it is made.
        held = HeldTensor.allocate(spec, pool)
        try:
            self._device.to_host(self.arrays[reference], held.array())
        except BaseException:
            pool.give_back(held.buffer)
            raise
        return held

    def _take_on_device(self, reference: str, spec: TensorSpec, *, again: bool) -> DeviceTensor:
        array = self.arrays[reference]
        if reference in self._borrowed or again:
            array = self._device.sealing.empty(spec)  # type: ignore[union-attr]
            array[...] = self.arrays[reference]
        else:
            self._given.add(reference)
        return DeviceTensor(spec=spec, data=array)

    def release(self, reference: str) -> None:
        array = self.arrays.pop(reference)
        if reference in self._borrowed:
            self._inputs.release(reference)
        else:
            array.fill(0)

    def close(self) -> None:
        for reference, array in self.arrays.items():
            if reference not in self._borrowed and reference not in self._given:
                array.fill(0)
        self._device.synchronize()
        self.arrays.clear()
