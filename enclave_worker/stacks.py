"""Runs a program over a stack of items: all at once where that means the same, else one by one.

An item that fails is a result of that item; the others are not lost with it.
"""

from collections.abc import Callable
from typing import Final

from attrs import frozen

from attestation.errors import LimitError, ProgramError
from attestation.logging import get_logger
from attestation.programs.plan import Plan
from attestation.wire.control import RefusalCode
from enclave_worker.engine import DeviceArray, Held, Inputs, Outcome, ProgramEngine
from enclave_worker.errors import EnclaveWorkerError, KernelError, TimeLimitError
from enclave_worker.refusals import JobRefusedError

log: Final = get_logger(__name__)

Failures = tuple[tuple[int, str], ...]
"""Number and code of each item that failed."""


@frozen
class _Kept:
    """The stacks, for a run that may have to be repeated item by item."""

    inputs: Inputs

    def array(self, name: str) -> DeviceArray:
        return self.inputs.array(name)

    def release(self, name: str) -> None:
        """Keep it: whoever owns the inputs wipes them when all items are done."""


@frozen
class _Item(_Kept):
    """One item of each stack."""

    number: int

    def array(self, name: str) -> DeviceArray:
        # With the ellipsis an item of no dimensions is an array still, not a bare number.
        return self.inputs.array(name)[self.number, ...]


def run_stack(
    engine: ProgramEngine,
    plan: Plan,
    inputs: Inputs,
    *,
    require_wanted: Callable[[], None],
) -> tuple[Outcome, Failures]:
    """Return the stacked outputs in the engine's memory, and which items failed.

    Raises `LimitError` when memory is short, and what `require_wanted` raises between steps and
    between items: a refusal or `TimeLimitError`, which are the whole job's.
    """
    if plan.steps:
        try:
            return engine.run(plan, _Kept(inputs), require_wanted=require_wanted), ()
        except (LimitError, JobRefusedError, TimeLimitError):
            raise
        except Exception as error:  # noqa: BLE001 - as for a single job: kernels raise anything
            log.debug("stack.taken_apart", error=type(error).__name__)
    return _one_by_one(engine, plan, inputs, require_wanted=require_wanted)


def failure_code(error: Exception) -> str:
    """Return the code that a client is told, and say in the log what is not told."""
    if isinstance(error, KernelError):
        return error.code
    if isinstance(error, LimitError):
        return RefusalCode.WORKER_LIMIT.value
    if not isinstance(error, EnclaveWorkerError | ProgramError):
        # The type and not the message, which may hold anything.
        log.warning("kernel.crashed", error=type(error).__name__)
    return RefusalCode.KERNEL_FAILED.value


def _one_by_one(
    engine: ProgramEngine,
    plan: Plan,
    inputs: Inputs,
    *,
    require_wanted: Callable[[], None],
) -> tuple[Outcome, Failures]:
    assert plan.each is not None  # noqa: S101 - a stack's plan has one (programs.stacking)
    failures: list[tuple[int, str]] = []
    stacks: dict[str, Held] = {}
    device_ns = peak = 0
    try:
        for name, spec in plan.outputs.items():
            stacks[name] = engine.allocate(spec)
        for number in range(plan.items):
            require_wanted()
            try:
                outcome = engine.run(
                    plan.each, _Item(inputs, number), require_wanted=require_wanted
                )
            except (LimitError, JobRefusedError, TimeLimitError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the item's
                failures.append((number, failure_code(error)))
                continue
            _put(engine, outcome, stacks, number)
            device_ns += outcome.device_ns
            peak = max(peak, outcome.peak_device_bytes)
    except BaseException:
        for held in stacks.values():
            engine.give_back(held)
        raise
    return Outcome(outputs=stacks, device_ns=device_ns, peak_device_bytes=peak), tuple(failures)


def _put(engine: ProgramEngine, outcome: Outcome, stacks: dict[str, Held], number: int) -> None:
    for name, held in outcome.outputs.items():
        stacks[name].array()[number, ...] = held.array()
        engine.give_back(held)
