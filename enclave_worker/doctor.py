"""`enclave worker doctor`: what this machine has, what it lacks, and what to do.

Every check is a line: `ok`, `warning` (works, and could be better or safer) or `missing`. Nothing
is changed, no key is drawn and no evidence collected. A machine without a GPU or a TEE is no
failure: the exit status says whether a worker would run, and whether what `--need` names is there.
"""

import importlib.util
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import click
from attrs import asdict, frozen

from attestation.cli.output import ExitCode, emit_json, emit_table, json_option
from attestation.errors import EnclaveError, UnavailableError
from enclave_worker.device.confidential import Mode, read_mode
from enclave_worker.device.driver import Gpu, driver_version, list_gpus, load_driver

_GIB: Final = 1 << 30
_LOCKED_AT_LEAST: Final = 1 << 30
_CUPY: Final = {"12": "cupy-cuda12x", "13": "cupy-cuda13x"}
_OLDEST_CAPABILITY: Final = 8.0

_MODES: Final[dict[Mode, str]] = {
    Mode.OFF: "the GPU's host reads its memory; its owner turns the mode on (gpu-admin-tools)",
    Mode.DEVELOPER_TOOLS: "debuggers read the GPU's memory; its owner turns developer tools off",
    Mode.SIMULATED: "the environment is not for production; ask whoever set the host up",
    Mode.NOT_READY: "the worker declares them ready as root, or: nvidia-smi conf-compute -srs 1",
    Mode.UNKNOWN: "pip install 'enclave-worker[nvidia]', and see the driver above",
}


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


class Need(StrEnum):
    """What a machine may be asked for."""

    WORKER = "worker"
    """A worker that runs at all: always needed."""
    GPU = "gpu"
    CONFIDENTIAL_GPU = "confidential-gpu"
    TEE = "tee"


@frozen(kw_only=True)
class Finding:
    """One line."""

    check: str
    state: State
    found: str
    fix: str = ""
    needs: tuple[Need, ...] = ()
    """Which needs it stands in the way of, unless it is ok."""


@frozen(kw_only=True)
class Machine:
    """Where to look."""

    root: Path = Path("/")
    load_driver: Callable[[], Any] = load_driver
    read_mode: Callable[[], Mode] = read_mode
    installed: Callable[[str], str] = version
    """Version of an installed distribution, or `PackageNotFoundError`."""
    try_gpu: Callable[[], str] | None = None
    """Computes something on the first GPU and returns its description, or raises."""


@click.command()
@click.option(
    "--need",
    "needs",
    type=click.Choice([each.value for each in Need if each is not Need.WORKER]),
    multiple=True,
    help="Exit with 3 unless the machine has this too; may be given several times.",
)
@json_option
def doctor(needs: tuple[str, ...], *, as_json: bool) -> None:
    r"""Check this machine for what a worker uses, and say how to get what is missing.

    \b
    enclave worker doctor
    enclave worker doctor --need gpu --json

    Exit status: 0 when a worker runs here and has what is needed, 3 otherwise.
    """
    findings = examine(Machine(try_gpu=_try_gpu))
    if as_json:
        emit_json({"findings": [asdict(each) for each in findings]})
    else:
        emit_table(
            "This machine, for a worker",
            ("check", "state", "found", "what to do"),
            [(each.check, each.state.value, each.found, each.fix) for each in findings],
        )
    lacking = unmet(findings, {Need.WORKER, *(Need(each) for each in needs)})
    if lacking:
        names = ", ".join(sorted(lacking))
        click.echo(f"error[not-fit]: this machine lacks what is needed: {names}", err=True)
        raise SystemExit(ExitCode.ENVIRONMENT)


def examine(machine: Machine) -> tuple[Finding, ...]:
    """Return every finding, in the order of a set-up. Never raises."""
    return (
        *_extras(),
        _locked_memory(),
        *_gpus(machine),
        *_tee(machine),
    )


def unmet(findings: Sequence[Finding], needs: set[Need]) -> set[Need]:
    """Return which of `needs` some finding stands in the way of."""
    return {need for each in findings if each.state is not State.OK for need in each.needs} & needs


# -- checks ----------------------------------------------------------------------------------------


def _extras() -> Iterator[Finding]:
    lacking = [name for name in ("numpy", "zmq") if not _importable(name)]
    yield Finding(
        check="extra worker",
        state=State.MISSING if lacking else State.OK,
        found=f"no {' and no '.join(lacking)}" if lacking else "installed",
        fix="pip install 'enclave-worker[worker]'" if lacking else "",
        needs=(Need.WORKER,),
    )
    for extra, module, use in (
        ("tpm", "tpm2_pytss", "evidence of a TPM"),
        ("nvidia", "pynvml", "evidence of GPUs in confidential mode"),
    ):
        there = _importable(module)
        yield Finding(
            check=f"extra {extra}",
            state=State.OK if there else State.WARNING,
            found="installed" if there else f"not installed: no {use}",
            fix="" if there else f"pip install 'enclave-worker[{extra}]', for {use}",
        )


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _locked_memory() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = soft == resource.RLIM_INFINITY
    enough = unlimited or soft >= _LOCKED_AT_LEAST
    return Finding(
        check="locked memory",
        state=State.OK if enough else State.WARNING,
        found="unlimited" if unlimited else f"{soft >> 10} KiB",
        fix="" if enough else "LimitMEMLOCK=infinity (systemd) or ulimit -l unlimited, or no swap",
    )


def _gpus(machine: Machine) -> Iterator[Finding]:
    gpu = (Need.GPU, Need.CONFIDENTIAL_GPU)
    try:
        library = machine.load_driver()
        cuda = driver_version(library)
    except EnclaveError as error:
        fix = "for a GPU: install NVIDIA's driver; without one jobs run on the processor"
        yield Finding(check="GPU driver", state=State.MISSING, found=str(error), fix=fix, needs=gpu)
        yield _cupy(machine, None)
        return
    yield Finding(check="GPU driver", state=State.OK, found=f"for CUDA up to {cuda}", needs=gpu)
    yield _cupy(machine, cuda)
    yield _confidential(machine)
    try:
        gpus = list_gpus(library)
    except UnavailableError as error:
        yield Finding(check="GPUs", state=State.MISSING, found=str(error), fix="", needs=gpu)
        return
    if not gpus:
        fix = "see nvidia-smi, and CUDA_VISIBLE_DEVICES"
        yield Finding(check="GPUs", state=State.MISSING, found="none", fix=fix, needs=gpu)
    for each in gpus:
        yield _describe(each)
    if gpus and machine.try_gpu is not None:
        yield _compute(machine.try_gpu)


def _cupy(machine: Machine, cuda: str | None) -> Finding:
    found = {}
    for major, name in _CUPY.items():
        try:
            found[major] = machine.installed(name)
        except PackageNotFoundError:
            continue
    says = ", ".join(f"{_CUPY[major]} {number}" for major, number in found.items())
    needs = (Need.GPU, Need.CONFIDENTIAL_GPU)
    wanted = "13" if cuda is None or int(cuda.split(".")[0]) >= 13 else "12"
    install = f"pip install 'enclave-worker[cuda{wanted}]'"
    if not found:
        state = State.MISSING
        return Finding(check="CuPy", state=state, found="not installed", fix=install, needs=needs)
    if len(found) > 1:
        fix = "pip uninstall both, then " + install
        return Finding(check="CuPy", state=State.MISSING, found=says, fix=fix, needs=needs)
    (major,) = found
    if cuda is not None and int(cuda.split(".")[0]) < int(major):
        fix = f"a driver for CUDA {major}, or {install}"
        says = f"{says}, where the driver ends at CUDA {cuda}"
        return Finding(check="CuPy", state=State.MISSING, found=says, fix=fix, needs=needs)
    return Finding(check="CuPy", state=State.OK, found=says, needs=needs)


def _confidential(machine: Machine) -> Finding:
    mode = machine.read_mode()
    on = mode is Mode.ON
    return Finding(
        check="confidential mode",
        state=State.OK if on else State.WARNING,
        found=mode.value,
        fix="" if on else _MODES[mode],
        needs=(Need.CONFIDENTIAL_GPU,),
    )


def _describe(gpu: Gpu) -> Finding:
    old = float(gpu.capability) < _OLDEST_CAPABILITY
    return Finding(
        check=f"cuda:{gpu.index}",
        state=State.WARNING if old else State.OK,
        found=f"{gpu.name}, {gpu.memory_bytes / _GIB:.1f} GiB, compute capability {gpu.capability}",
        fix="kernels are built for 8.0 and newer" if old else "",
    )


def _compute(try_gpu: Callable[[], str]) -> Finding:
    needs = (Need.GPU, Need.CONFIDENTIAL_GPU)
    try:
        found = try_gpu()
    except Exception as error:  # noqa: BLE001 - loaders and drivers raise anything
        says = f"{type(error).__name__}: {error}"[:200]
        fix = "CUDA's libraries: its toolkit, or pip install 'cupy-cuda13x[ctk]' (12x); see dmesg"
        return Finding(check="GPU computes", state=State.MISSING, found=says, fix=fix, needs=needs)
    return Finding(check="GPU computes", state=State.OK, found=found, needs=needs)


def _try_gpu() -> str:
    # Not before it is asked for: CuPy takes 0.3 s and a context on the GPU.
    from enclave_worker.device.gpu import open_gpu  # noqa: PLC0415

    device = open_gpu(0, reason="the doctor asks")
    four = device.xp.full((2, 2), 2.0, dtype="float32") @ device.xp.ones((2, 2), dtype="float32")
    if float(four.sum()) != 16.0:
        raise UnavailableError("the GPU computes wrong results")
    return f"{device.name}, CUDA {device.cuda}"


@frozen(kw_only=True)
class _Tee:
    name: str
    path: str
    fix: str


_TEES: Final = (
    _Tee(
        name="configfs-tsm",
        path="sys/kernel/config/tsm/report",
        fix="in a SEV-SNP or TDX machine: Linux 6.7, "
        "mount -t configfs none /sys/kernel/config, modprobe sev-guest or tdx_guest",
    ),
    _Tee(
        name="SEV-SNP guest", path="dev/sev-guest", fix="in a SEV-SNP machine: modprobe sev-guest"
    ),
    _Tee(name="TDX guest", path="dev/tdx_guest", fix="in such a machine: modprobe tdx_guest"),
    _Tee(name="Nitro enclave", path="dev/nsm", fix="inside an AWS Nitro enclave only"),
    _Tee(name="TPM", path="dev/tpmrm0", fix="turn the (virtual) TPM on; see --attester tpm"),
)


def _tee(machine: Machine) -> Iterator[Finding]:
    """Say which of them is there and may be used; one is enough, and it need not be a TPM."""
    found = [_one_tee(machine, tee) for tee in _TEES]
    real = [each.state is State.OK and each.check != "TPM" for each in found]
    yield from found
    usable = any(each.state is State.OK for each in found)
    if any(real):
        state, says = State.OK, "its hardware keeps the operator out of memory"
    elif usable:
        state, says = State.WARNING, "a TPM: says what booted, and its operator reads memory"
    else:
        state, says = State.WARNING, "nothing: only --attester insecure runs here"
    fix = "" if any(real) else "a confidential machine (SEV-SNP, TDX or Nitro)"
    yield Finding(check="evidence", state=state, found=says, fix=fix, needs=(Need.TEE,))


def _one_tee(machine: Machine, tee: _Tee) -> Finding:
    path = machine.root / tee.path
    if not path.exists():
        return Finding(check=tee.name, state=State.MISSING, found=f"no /{tee.path}", fix=tee.fix)
    wanted = os.W_OK | os.X_OK if path.is_dir() else os.R_OK | os.W_OK
    if not os.access(path, wanted):
        fix = f"run as a user who may use /{tee.path}: root, or CAP_DAC_OVERRIDE"
        if tee.name == "TPM":
            fix = "add the user to the group tss"
        return Finding(
            check=tee.name, state=State.WARNING, found=f"/{tee.path} is not permitted", fix=fix
        )
    return Finding(check=tee.name, state=State.OK, found=f"/{tee.path}")
