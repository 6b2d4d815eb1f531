"""`enclave bench`: how fast sealed jobs go through a coordinator, yours or one started for it.

It measures one pipeline and compares it with nothing: `make bench` in the repository does that.
"""

import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from attestation import limits
from attestation.cli.arguments import gathered
from attestation.cli.audit_files import POLICY_OPTIONS
from attestation.cli.connecting import KEY_OPTIONS, URL_OPTION, Target
from attestation.cli.output import emit_json, emit_table, json_option, note, warn_insecure
from attestation.client.client import Client
from attestation.client.numpy_tensors import Array, allocate
from attestation.errors import EnclaveError
from attestation.sealing.recycled import RecycledBuffers
from attestation.sealing.tensor_spec import TensorSpec

KERNEL: Final = "nn.affine"
PARAMETERS: Final = {"scale": 2.0, "shift": 1.0}
SMALL: Final = limits.KIB
"""Bytes of each of many jobs."""

_UNITS: Final = {"": 1, "B": 1, "KIB": limits.KIB, "MIB": limits.MIB, "GIB": 1 << 30}
_EPILOG: Final = """\b
Examples:
  enclave bench
  enclave bench --size 64MiB --size 512MiB --rounds 5 --json
  enclave bench --coordinator tcp://127.0.0.1:5700 --policy policy.toml --durable

\b
The work is y = 2x + 1 on float32. A result counts when its receipt is verified and it is compared.
Without --policy a coordinator and a worker with insecure evidence are started here and ended after.
"""


class BenchDisagreesError(EnclaveError):
    """A worker computed something else than 2x + 1. Please report it."""

    code = "bench-disagrees"


class _Size(click.ParamType[int]):
    """A number of bytes: `64MiB`, `1048576`; whole float32 values."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,15})\s*([A-Za-z]*)", str(value).strip())
        if match is None or match[2].upper() not in _UNITS:
            self.fail(f"{value!r} is not a size such as 64MiB", param, ctx)
        size = int(match[1]) * _UNITS[match[2].upper()]
        if size < 4 or size % 4:
            self.fail(f"{value!r} holds no whole number of float32 values", param, ctx)
        return size


@frozen(kw_only=True)
class _Timing:
    """Round trips of one size, in seconds."""

    size: int
    seconds: tuple[float, ...]

    def to_map(self) -> dict[str, Any]:
        low, median, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return {
            "bytes": self.size,
            "rounds": len(self.seconds),
            "seconds": {"first_quartile": low, "median": median, "third_quartile": high},
            "gb_per_second": self.size / median / 1e9,
        }


@click.command(epilog=_EPILOG)
@click.option(
    "--size",
    "sizes",
    type=_Size(),
    multiple=True,
    default=("1KiB", "1MiB", "64MiB"),
    show_default=True,
    help="Bytes of one tensor; may be repeated.",
)
@click.option(
    "--rounds", type=click.IntRange(2, 10_000), default=20, show_default=True, help="Per size."
)
@click.option(
    "--jobs",
    "count",
    type=click.IntRange(0, 10_000_000),
    default=20_000,
    show_default=True,
    help="Small jobs (1 KiB) that are mapped; 0 for none.",
)
@click.option(
    "--window",
    type=click.IntRange(1, 65_536),
    default=1024,
    show_default=True,
    help="How many of them are in flight.",
)
@click.option("--durable", is_flag=True, help="Store every job before it is acknowledged.")
@gathered(
    "target",
    Target,
    (
        URL_OPTION,
        click.option(
            "--policy",
            "policy_file",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="ENCLAVE_POLICY",
            metavar="FILE",
            help="Which evidence you accept. Without it, everything is started here.",
        ),
        *POLICY_OPTIONS[1:],
        *KEY_OPTIONS,
    ),
)
@json_option
def bench(
    *,
    target: Target,
    sizes: Sequence[int],
    rounds: int,
    count: int,
    window: int,
    durable: bool,
    as_json: bool,
) -> None:
    """Measure sealed round trips and small jobs per second, receipts verified."""
    with _connected(target) as client:
        timings = [_round_trips(client, size, rounds, durable=durable) for size in sizes]
        rate = _mapped(client, count, window, durable=durable) if count else None
        if any(worker.insecure for worker in client.workers()):
            warn_insecure()
    found = [timing.to_map() for timing in timings]
    if as_json:
        small = {"bytes": SMALL, "in_flight": window, "jobs": count, "per_second": rate}
        emit_json({"durable": durable, "round_trips": found, "small_jobs": small})
        return
    _show(found, durable=durable)
    if rate is not None:
        note(f"{rate:,.0f} jobs of 1 KiB per second, {window} in flight, receipts verified")


@contextmanager
def _connected(target: Target) -> Iterator[Client]:
    if target.policy_file is not None:
        with target.connect() as client:
            yield client
        return
    source = click.get_current_context().get_parameter_source("url")
    if source is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--coordinator needs --policy: which of its workers do you accept?")
    with _own_pipeline() as client:
        yield client


@contextmanager
def _own_pipeline() -> Iterator[Client]:
    """Start a coordinator and a worker for as long as it takes."""
    # Loaded here: whoever measures a pipeline that runs needs nothing to start one with.
    from attestation.cli.demo import catalogue_digest  # noqa: PLC0415
    from attestation.cli.demo_cluster import Cluster  # noqa: PLC0415
    from attestation.cli.demo_processes import DemoProcesses, ended_like_ctrl_c  # noqa: PLC0415
    from attestation.policy.loading import load_policy  # noqa: PLC0415

    with (
        ended_like_ctrl_c(),
        tempfile.TemporaryDirectory(prefix="enclave-bench-") as name,
        DemoProcesses(Path(name) / "logs") as processes,
    ):
        cluster = Cluster.start(
            processes,
            kind="insecure",  # how a key set is attested costs nothing per job
            workers=1,
            output=Path(name),
            catalogue=catalogue_digest(),
        )
        with Client(cluster.url, policy=load_policy(cluster.policy)) as client:
            yield client


def _round_trips(client: Client, size: int, rounds: int, *, durable: bool) -> _Timing:
    x = _tensor(size)

    def once() -> Array:
        job = client.submit(KERNEL, {"x": x}, parameters=PARAMETERS, durable=durable)
        return job.result()["y"]

    _compare(once(), x)  # the first one finds nothing warm
    return _Timing(size=size, seconds=tuple(_timed(once, x) for _ in range(rounds)))


def _timed(once: Callable[[], Array], x: Array) -> float:
    begun = time.perf_counter()
    y = once()
    taken = time.perf_counter() - begun
    _compare(y, x)
    return taken


def _mapped(client: Client, count: int, window: int, *, durable: bool) -> float:
    """Return small jobs per second."""
    x = _tensor(SMALL)
    inputs = ({"x": x} for _ in range(count))
    begun = time.perf_counter()
    items = client.map(KERNEL, inputs, parameters=PARAMETERS, window=window, durable=durable)
    for item in items:
        last = item.result()["y"]
    taken = time.perf_counter() - begun
    _compare(last, x)
    return count / taken


def _tensor(size: int) -> Array:
    """Return float32 values that are exact when doubled, plus one."""
    x = allocate(TensorSpec(dtype="float32", shape=(size // 4,)), RecycledBuffers())
    x[:] = memoryview(os.urandom(size // 4))
    return x


def _compare(y: Array, x: Array) -> None:
    if not bool((y == 2 * x + 1).all()):
        raise BenchDisagreesError("a result is not 2x + 1")


def _show(found: Sequence[dict[str, Any]], *, durable: bool) -> None:
    emit_table(
        f"sealed{', durable' if durable else ''}, receipts verified",
        ("bytes", "rounds", "median, ms", "quartiles, ms", "GB/s each way"),
        [
            (
                f"{entry['bytes']:,}",
                entry["rounds"],
                f"{entry['seconds']['median'] * 1e3:.3f}",
                f"{entry['seconds']['first_quartile'] * 1e3:.3f} to "
                f"{entry['seconds']['third_quartile'] * 1e3:.3f}",
                f"{entry['gb_per_second']:.4f}",
            )
            for entry in found
        ],
    )
