"""`enclave coordinator`: run the dispatcher, or make its CURVE key."""

import os
import re
import resource
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click
import structlog

from attestation import limits
from attestation.heap import keep_freed_memory
from attestation.observability.scraping import MetricsAddressError, ScrapeServer, metrics_address
from attestation.observability.tracing import from_environment
from coordinator import keys
from coordinator.broker import Broker
from coordinator.core.rules import Rules
from coordinator.errors import CoordinatorError
from coordinator.settings import Settings

EXIT_ENVIRONMENT = 3
DESCRIPTORS = 65_536
"""More than all connections we keep; the usual soft limit is a thousand idle ones away."""

_UNITS = {"": 1, "B": 1, "KIB": limits.KIB, "MIB": limits.MIB, "GIB": 1 << 30, "TIB": 1 << 40}

log = structlog.get_logger("coordinator")


class Size(click.ParamType[int]):
    """A number of bytes: `256MiB`, `64GiB`, `1048576`."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse, or fail as usage."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15})\s*([A-Za-z]*)", str(value).strip())
        if match is None or match[2].upper() not in _UNITS:
            self.fail(f"{value!r} is not a size such as 256MiB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


@click.group(invoke_without_command=True)
@click.option("--listen", default="tcp://127.0.0.1:5700", show_default=True, help="Address.")
@click.option("--state", type=click.Path(path_type=Path), help="Directory of jobs and ciphertext.")
@click.option("--curve-key", type=click.Path(path_type=Path), help="Our CURVE secret key file.")
@click.option("--allow", type=click.Path(path_type=Path), help="Peers' public keys, one per line.")
@click.option("--memory-limit", type=Size(), default="256MiB", show_default=True)
@click.option("--spool-limit", type=Size(), default="64GiB", show_default=True)
@click.option("--max-job-bytes", type=Size(), default="1TiB", show_default=True)
@click.option(
    "--lease-seconds", "--lease", type=click.FloatRange(0.5, 3600), default=10, show_default=True
)
@click.option("--drain-seconds", type=click.FloatRange(0, 86400), default=30, show_default=True)
@click.option("--ready-file", type=click.Path(path_type=Path), help="Write the address here.")
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics, such as at 127.0.0.1:9464.")
@click.option("--metrics-anywhere", is_flag=True, help="That address may be one outside loopback.")
@click.pass_context
def coordinator(  # noqa: PLR0913 - one per option
    ctx: click.Context,
    *,
    listen: str,
    state: Path | None,
    curve_key: Path | None,
    allow: Path | None,
    memory_limit: int,
    spool_limit: int,
    max_job_bytes: int,
    lease_seconds: float,
    drain_seconds: float,
    ready_file: Path | None,
    metrics: str | None,
    metrics_anywhere: bool,
) -> None:
    r"""Run the untrusted dispatcher between clients and workers.

    \b
    enclave coordinator --state /var/lib/enclave
    enclave coordinator keygen keys/
    enclave coordinator --listen tcp://0.0.0.0:5700 --state DIR \
        --curve-key keys/coordinator.curve --allow keys/allowed

    The first SIGTERM or SIGINT drains: no new jobs, running ones may finish. The second one stops
    at once; durable jobs are in the state directory either way.
    """
    if ctx.invoked_subcommand is not None:
        return
    if state is None:
        raise click.UsageError("Missing option '--state'.")
    try:
        rules = Rules(
            memory_limit=memory_limit,
            spool_limit=spool_limit,
            max_job_bytes=max_job_bytes,
            lease_ms=int(lease_seconds * 1000),
            heartbeat_ms=max(100, int(lease_seconds * 1000) // 5),
        )
        settings = Settings(
            listen=listen,
            state=state,
            curve_key=curve_key,
            allow=allow,
            rules=rules,
            drain_seconds=drain_seconds,
            ready_file=ready_file,
            metrics=metrics_address(metrics, anywhere=metrics_anywhere),
        )
        serve(settings)
    except (CoordinatorError, MetricsAddressError, OSError) as error:
        click.echo(f"enclave coordinator: {error}", err=True)
        sys.exit(EXIT_ENVIRONMENT)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@coordinator.command()
@click.argument("directory", type=click.Path(path_type=Path))
def keygen(directory: Path) -> None:
    """Make DIRECTORY/coordinator.curve (secret) and .curve.pub (give it to clients and workers)."""
    try:
        secret, public = keys.generate(directory)
    except (CoordinatorError, OSError) as error:
        click.echo(f"enclave coordinator keygen: {error}", err=True)
        sys.exit(EXIT_ENVIRONMENT)
    click.echo(f"secret key  {secret}")
    click.echo(f"public key  {public}")


def serve(settings: Settings) -> None:
    """Run one coordinator until a signal ends it."""
    _raise_descriptor_limit()
    keep_freed_memory()
    broker = Broker(settings, tracer=from_environment("enclave-coordinator"))
    if settings.metrics is not None:
        ScrapeServer(settings.metrics, broker.metrics)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        broker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if settings.ready_file is not None:
        _write_ready(settings.ready_file, broker.address)
    log.info(
        "coordinator.ready",
        address=broker.address,
        curve=settings.curve_key is not None,
        memory_limit=settings.rules.memory_limit,
    )
    broker.run()


def _raise_descriptor_limit() -> None:
    """Take as many file descriptors as the operator's hard limit gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _write_ready(path: Path, address: str) -> None:
    """Write atomically: whoever sees the file sees the whole address."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
        temporary.write(f"{address}\n")
    os.replace(temporary.name, path)
