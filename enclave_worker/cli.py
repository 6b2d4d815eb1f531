"""The `enclave worker` command."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs
import click

from attestation import logging
from attestation.cli.output import ExitCode, warn_insecure
from attestation.heap import keep_freed_memory
from attestation.identifiers import WorkerId
from attestation.observability.scraping import ScrapeServer, metrics_address
from enclave_worker.attester.selection import GPU_NAMES, NAMES, AttesterName, select_gpu_attester
from enclave_worker.doctor import doctor
from enclave_worker.hardening import harden_process, start_again_with_plain_heap
from enclave_worker.pcrs import pcrs_option
from enclave_worker.settings import (
    SettingsError,
    WorkerSettings,
    default_capacity,
    default_max_job_bytes,
    limit_numeric_threads,
)
from enclave_worker.supervisor import (
    RESTART,
    Supervisor,
    join_supervisor,
    member_command,
    slots_of,
)

if TYPE_CHECKING:
    from enclave_worker.runtime import Runtime

_SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps the interpreter from the loop: a tenth of Python's own."""

_EPILOG = """\b
Examples:
  enclave worker --coordinator tcp://127.0.0.1:5700
  enclave worker --coordinator tcp://127.0.0.1:5700 --attester insecure --device cpu
  enclave worker --coordinator tcp://gpu.example.org:5700 --device cuda:0 --capacity 4 \\
      --curve-key worker.curve --coordinator-key coordinator.curve.pub
  enclave worker --coordinator tcp://127.0.0.1:5700 --attester tpm \\
      --tpm-tcti swtpm:host=127.0.0.1,port=2321
  enclave worker --coordinator tcp://127.0.0.1:5700 --device cuda:all --job-seconds 600
  enclave worker doctor

\b
SIGTERM or Ctrl-C drains: running jobs finish, no new ones are taken. A second one stops at once.

\b
With --device cuda:all or --job-seconds the workers run as processes of their own, one for each
GPU, and are started again when they end; the ready file then has a line for each. Metrics of the
second are served one port above those of the first, and so on.

\b
Exit status:
  0    drained and stopped
  2    the command line is not usable
  3    something is missing: a device, a TEE or TPM, a key file
  75   start it again: a kernel hung, or a GPU failed or left its confidential mode
  130  stopped at once, by a second signal
"""


@click.group(epilog=_EPILOG, invoke_without_command=True)
@click.option("--coordinator", metavar="URL", help="Where to look for work. Required.")
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
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda:N, or cuda:all for a worker on each GPU (cpu:N: so many, to try it out).",
)
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
    "--device-bytes",
    type=click.IntRange(0),
    default=0,
    show_default="what is free, less a tenth",
    help="Device memory that all jobs together may hold.",
)
@click.option(
    "--job-seconds",
    type=click.FloatRange(0),
    default=0,
    show_default="no limit",
    help="How long the kernels of one job may run.",
)
@click.option("--grace-seconds", type=click.FloatRange(0), default=10, hidden=True)
@click.option("--supervised", hidden=True)
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
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics, such as at 127.0.0.1:9464.")
@click.option("--metrics-anywhere", is_flag=True, help="That address may be one outside loopback.")
@click.option("--log-format", type=click.Choice(logging.FORMATS), help="Overrides `enclave`'s own.")
@click.pass_context
def worker(
    ctx: click.Context,
    /,
    *,
    ready_file: Path | None,
    log_format: logging.Format | None,
    supervised: str | None,
    **options: Any,
) -> None:
    """Run other people's computations on this machine, and prove it.

    The machine joins the coordinator at URL, shows evidence of itself to every client that asks,
    and runs the jobs of those who accept it.
    """
    if ctx.invoked_subcommand is not None:
        return
    if options["coordinator"] is None:
        raise click.UsageError("Missing option '--coordinator'.")
    if log_format is not None:
        logging.configure(log_format)
    settings = _settings(options)
    if supervised is None:
        status = _supervise(settings, ready_file)
        if status is not None:
            ctx.exit(status)
    start_again_with_plain_heap()
    if supervised is not None:
        logging.name_process(join_supervisor(supervised))
    elif settings.attester == "insecure":
        warn_insecure()
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_SECONDS)
    harden_process()
    _work(settings, ready_file)


def _settings(options: dict[str, Any]) -> WorkerSettings:
    attester: AttesterName = options.pop("attester")
    anywhere = options.pop("metrics_anywhere")
    metrics = metrics_address(options.pop("metrics"), anywhere=anywhere)
    try:
        return WorkerSettings(attester=attester, metrics=metrics, **options)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


def _supervise(settings: WorkerSettings, ready_file: Path | None) -> int | None:
    """Return the exit status of several workers; none when this process is to be the only one."""
    if settings.device == "cuda:all":
        # Before CUDA: in confidential mode it shows no GPU that was not made ready.
        select_gpu_attester(settings.gpu_attester)
    slots = slots_of(settings.device, alone=settings.job_seconds > 0)
    if not slots:
        return None
    if settings.attester == "insecure":
        warn_insecure()
    share = settings.max_job_bytes or default_max_job_bytes(settings.capacity * len(slots))

    def options(number: int) -> list[str]:
        mine = ["--max-job-bytes", str(share)]
        if settings.metrics is not None:
            address = attrs.evolve(settings.metrics, port=settings.metrics.port + number)
            mine += ["--metrics", str(address)]
        return mine

    def ready(ids: list[str]) -> None:
        if ready_file is not None:
            _write_whole(ready_file, "".join(f"{each}\n" for each in ids))

    return Supervisor(slots=slots, command=member_command(options), ready=ready).run()


def _work(settings: WorkerSettings, ready_file: Path | None) -> None:
    def ready(worker_id: WorkerId) -> None:
        if ready_file is not None:
            _write_whole(ready_file, worker_id.hex() + "\n")

    limit_numeric_threads(settings.capacity)
    # Not before: NumPy reads the number of its threads when it is loaded.
    from enclave_worker.assembly import build  # noqa: PLC0415
    from enclave_worker.scrubbing import set_aside_what_stays  # noqa: PLC0415

    runtime = build(settings, ready=ready)
    _stop_on_signals(runtime)
    if settings.metrics is not None:
        ScrapeServer(settings.metrics, runtime.metrics)
    set_aside_what_stays()
    ended = runtime.run()
    status = RESTART if runtime.must_restart else ExitCode.INTERRUPTED
    if not ended:
        # Kernels cannot be interrupted and Python waits for their threads; the operator said now.
        # What they hold is in memory that the system clears before anybody else gets it.
        os._exit(status)
    if runtime.must_restart:
        sys.exit(status)


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


worker.add_command(doctor)
