"""`enclave submit`: run one program over files, keep the outputs and the proof."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from attestation import limits
from attestation.cli.connecting import Target, target_options
from attestation.cli.output import (
    INSECURE,
    emit_json,
    emit_table,
    json_option,
    json_text,
    note,
    printable,
    short,
    warn_insecure,
)
from attestation.client.files import TensorFileError, load_tensor, save_tensor
from attestation.client.jobs import Job
from attestation.client.planning import GivenParameters
from attestation.errors import ProgramError
from attestation.programs.errors import ParameterTypeError
from attestation.programs.loading import load_program_toml
from attestation.programs.parameters import Scalar
from attestation.programs.program import Program

POLL_SECONDS: Final = 0.1

_EPILOG: Final = """\b
Examples:
  enclave submit linalg.matmul -i a=a.npy -i b=b.npy -o out --policy policy.toml
  enclave submit linalg.pca -i x=data.npz:x -p k=2 -o out --policy policy.toml --json
  enclave submit pipeline.toml -i x=x.safetensors:x -p reduce.k=2 -o out --policy policy.toml
  python make.py | enclave submit stats.describe -i x=- -o out --stream --policy policy.toml

\b
Files written to DIR: OUTPUT.npy for every output, JOB_ID.receipt, JOB_ID.evidence, summary.json.
Outputs are written only after the receipt was verified.
"""


@click.command(epilog=_EPILOG)
@click.argument("program")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=FILE",
    help="A tensor: .npy, .npz or .safetensors (FILE:KEY picks one of several), - for standard "
    "input.",
)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="[STEP.]NAME=VALUE",
    help="A parameter; STEP is needed in programs of several steps.",
)
@click.option(
    "-o",
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where outputs and proof go.",
)
@click.option(
    "--stream", is_flag=True, help="Relay at once instead of storing durably at the coordinator."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after this long.",
)
@click.option(
    "--price-limit",
    type=click.IntRange(min=0),
    default=0,
    help="Dearest price to accept, in micro-units per second of device time; 0 for any.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Refuse kernels that cannot promise the same bits again on the same class of device.",
)
@click.option(
    "--commitment",
    type=click.Choice(["tags", "sha256"]),
    default="tags",
    show_default=True,
    help="How the receipt commits to the ciphertext; sha256 binds key holders too, and is slower.",
)
@target_options
@json_option
def submit(
    *,
    target: Target,
    program: str,
    inputs: tuple[str, ...],
    parameters: tuple[str, ...],
    directory: Path,
    stream: bool,
    timeout: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Run PROGRAM (a kernel's name or a program .toml) on an appraised worker.

    Tensors are sealed here to every worker whose evidence your policy accepts. The result is shown
    only with a receipt from one of them that verifies.
    """
    what, defaults = _program(program)
    given = _parameters(parameters, defaults)
    tensors = _tensors(inputs)
    with target.connect(worker_timeout=min(timeout, 30.0)) as client:
        job = client.submit(
            what, tensors, parameters=given, durable=not stream, timeout=timeout, **options
        )
        try:
            with _progress_bar(job) as wait:
                wait(timeout)
            outputs = job.result(timeout)
        except KeyboardInterrupt:
            job.cancel()
            raise
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in outputs.items():
        save_tensor(directory / f"{name}.npy", array)
    job.save_proof(directory)
    summary = _summary(job, directory, list(outputs))
    (directory / "summary.json").write_text(json_text(summary) + "\n")
    if job.attestation.insecure:
        warn_insecure()
    if as_json:
        emit_json(summary)
    else:
        _show(job, summary)


def _program(text: str) -> tuple[Program | str, dict[str, dict[str, Scalar]]]:
    if not text.endswith(".toml"):
        return text, {}
    path = Path(text)
    if path.stat().st_size > limits.PROGRAM_BYTES:
        raise ProgramError(f"{path} is larger than {limits.PROGRAM_BYTES} bytes")
    return load_program_toml(path.read_text(encoding="utf-8"))


def _parameters(given: tuple[str, ...], defaults: dict[str, dict[str, Scalar]]) -> GivenParameters:
    """Lay `-p` over the values in the program file; without STEP they are for the only step."""
    flat: dict[str, Scalar] = {}
    nested = {step: dict(values) for step, values in defaults.items()}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise click.UsageError(f"-p {entry}: write NAME=VALUE")
        step, dot, parameter = name.partition(".")
        if dot:
            nested.setdefault(step, {})[parameter] = _scalar(value)
        else:
            flat[name] = _scalar(value)
    if flat and nested:
        if len(nested) > 1:
            raise ParameterTypeError("name the step of each parameter: -p STEP.NAME=VALUE")
        next(iter(nested.values())).update(flat)
        return nested
    return flat or nested


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _tensors(inputs: tuple[str, ...]) -> dict[str, object]:
    tensors: dict[str, object] = {}
    for entry in inputs:
        name, equals, source = entry.partition("=")
        if not equals or not name or not source:
            raise click.UsageError(f"-i {entry}: write NAME=FILE")
        if name in tensors:
            raise click.UsageError(f"-i {entry}: {name} is given twice")
        if source == "-" and sum(e.endswith("=-") for e in inputs) > 1:
            raise TensorFileError("standard input holds one tensor")
        tensors[name] = load_tensor(source, stdin=sys.stdin.buffer)
    return tensors


@contextlib.contextmanager
def _progress_bar(job: Job) -> Iterator[Any]:
    """Yield a function that waits for the job, with a bar by bytes on a terminal."""
    if not sys.stderr.isatty():
        yield job.exception
        return
    from rich.console import Console  # noqa: PLC0415 - 60 ms that a script need not pay
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        sending = bar.add_task("sealing", total=job.progress.bytes_to_send)
        receiving = bar.add_task("receiving", total=job.progress.bytes_to_receive)

        def wait(timeout: float) -> None:
            waited = 0.0
            while not job.done() and waited < timeout:
                with contextlib.suppress(TimeoutError):
                    job.exception(POLL_SECONDS)
                waited += POLL_SECONDS
                bar.update(sending, completed=job.progress.bytes_sent)
                bar.update(receiving, completed=job.progress.bytes_received)

        yield wait


def _summary(job: Job, directory: Path, outputs: list[str]) -> dict[str, Any]:
    claims, attestation = job.claims, job.attestation
    name = job.job_id.hex()
    summary: dict[str, Any] = {
        "job_id": job.job_id,
        "insecure": attestation.insecure,
        "confidential": claims.confidential,
        "outputs": {output: str(directory / f"{output}.npy") for output in outputs},
        "receipt": str(directory / f"{name}.receipt"),
        "evidence": str(directory / f"{name}.evidence"),
        "proven": {
            "evidence_kind": attestation.kind,
            "tier": attestation.tier.value,
            "evidence_digest": claims.evidence_digest,
            "nonce": attestation.nonce,
            "policy_digest": attestation.policy_digest,
            "keyset_id": claims.keyset_id,
            "program_digest": claims.program_digest,
            "catalogue_digest": claims.catalogue_digest,
            "commitment_kind": claims.commitment_kind.value,
            "attempt": claims.attempt,
            "device": claims.device.name,
            "backend": claims.device.backend,
            "started_ms": claims.started_ms,
            "ended_ms": claims.ended_ms,
            "device_ns": claims.metering.device_ns,
            "bytes_in": claims.metering.bytes_in,
            "bytes_out": claims.metering.bytes_out,
        },
    }
    if attestation.insecure:
        summary["warning"] = INSECURE
    return summary


def _show(job: Job, summary: dict[str, Any]) -> None:
    proven = summary["proven"]
    label = "INSECURE evidence" if summary["insecure"] else f"{proven['evidence_kind']} evidence"
    emit_table(
        f"job {short(job.job_id)}: done, receipt verified",
        ("what", "value"),
        [
            ("evidence", f"{label}, {proven['tier']}, {short(proven['evidence_digest'])}"),
            ("confidential", "yes" if summary["confidential"] else "NO"),
            ("program", short(proven["program_digest"])),
            ("kernels", short(proven["catalogue_digest"])),
            ("device", printable(f"{proven['device']} ({proven['backend']})")),
            ("device time", f"{proven['device_ns'] / 1e6:.3f} ms"),
            *((f"output {name}", path) for name, path in summary["outputs"].items()),
            ("receipt", summary["receipt"]),
            ("evidence file", summary["evidence"]),
        ],
    )
    note(
        f"verify again: enclave receipt verify {summary['receipt']} "
        f"--evidence {summary['evidence']} --policy POLICY"
    )
