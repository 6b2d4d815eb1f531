"""The `enclave worker` command."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from attestation import logging
from attestation.cli.output import ExitCode, warn_insecure
from attestation.identifiers import WorkerId
from enclave_worker.attester.selection import GPU_NAMES, NAMES, AttesterName
from enclave_worker.hardening import harden_process, start_again_with_plain_heap
from enclave_worker.pcrs import pcrs_option
from enclave_worker.settings import (
    SettingsError,
    WorkerSettings,
    default_capacity,
    limit_numeric_threads,
)

if TYPE_CHECKING:
    from enclave_worker.runtime import Runtime

_EPILOG = """\b
Examples:
  enclave worker --coordinator tcp://127.0.0.1:5700
  enclave worker --coordinator tcp://127.0.0.1:5700 --attester insecure --device cpu
  enclave worker --coordinator tcp://gpu.example.org:5700 --device cuda:0 --capacity 4 \\
      --curve-key worker.curve --coordinator-key coordinator.curve.pub
  enclave worker --coordinator tcp://127.0.0.1:5700 --attester tpm \\
      --tpm-tcti swtpm:host=127.0.0.1,port=2321

\b
SIGTERM or Ctrl-C drains: running jobs finish, no new ones are taken. A second one stops at once.

\b
Exit status:
  0    drained and stopped
  2    the command line is not usable
  3    something is missing: a device, a TEE or TPM, a key file
  130  stopped at once, by a second signal
"""


@click.command(epilog=_EPILOG)
@click.option("--coordinator", metavar="URL", required=True, help="Where to look for work.")
@click.option(
    "--attester",
    type=click.Choice(NAMES),
    default="auto",
    show_default=True,
    help="What vouches for this machine. `insecure` proves nothing and is never chosen by itself.",
)
@click.option(
    "--gpu-attester",
    type=click.Choice(GPU_NAMES),
    default="auto",
    show_default=True,
    help="What vouches for its GPUs: `auto` takes those in confidential mode, if they are.",
)
@click.option(
    "--tpm-tcti", metavar="TCTI", help="How to reach the TPM, such as device:/dev/tpmrm0."
)
@pcrs_option
@click.option(
    "--ak-certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM: the attestation key's certificate, then its chain.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--capacity",
    type=click.IntRange(1, 4096),
    default=default_capacity,
    show_default="processors, at least 2",
    help="Jobs that run at once.",
)
@click.option(
    "--max-job-bytes",
    type=click.IntRange(0),
    default=0,
    show_default="a share of the memory",
    help="Tensor bytes that one job may hold.",
)
@click.option(
    "--price",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Micro-units per second of device time.",
)
@click.option("--region", default="", help="Where the machine stands, for people and constraints.")
@click.option(
    "--curve-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Our CURVE key file; needed for any address outside this machine.",
)
@click.option(
    "--coordinator-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The coordinator's public CURVE key file.",
)
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the worker id here once the coordinator has welcomed us.",
)
@click.option("--log-format", type=click.Choice(logging.FORMATS), help="Overrides `enclave`'s own.")
def worker(ready_file: Path | None, log_format: logging.Format | None, **options: Any) -> None:
    """Run other people's computations on this machine, and prove it.

    The machine joins the coordinator at URL, shows evidence of itself to every client that asks,
    and runs the jobs of those who accept it.
    """
    start_again_with_plain_heap()
    if log_format is not None:
        logging.configure(log_format)
    harden_process()
    attester: AttesterName = options.pop("attester")
    try:
        settings = WorkerSettings(attester=attester, **options)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error

    def ready(worker_id: WorkerId) -> None:
        if ready_file is not None:
            _write_whole(ready_file, worker_id.hex() + "\n")

    if attester == "insecure":
        warn_insecure()
    limit_numeric_threads(settings.capacity)
    # Not before: NumPy reads the number of its threads when it is loaded.
    from enclave_worker.assembly import build  # noqa: PLC0415
    from enclave_worker.scrubbing import set_aside_what_stays  # noqa: PLC0415

    runtime = build(settings, ready=ready)
    _stop_on_signals(runtime)
    set_aside_what_stays()
    if not runtime.run():
        # Kernels cannot be interrupted and Python waits for their threads; the operator said now.
        # What they hold is in memory that the system clears before anybody else gets it.
        os._exit(ExitCode.INTERRUPTED)


def _stop_on_signals(runtime: "Runtime") -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        runtime.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _write_whole(path: Path, text: str) -> None:
    # Whoever waits for the file must never read half of it.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="ascii")
    unfinished.replace(path)
