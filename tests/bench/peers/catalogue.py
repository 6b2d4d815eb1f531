"""Which peers there are, what each needs and how it is started, as its documentation recommends."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

CACHE: Final = Path(__file__).resolve().parents[3] / ".bench"
"""An environment per peer lives here; `make clean` removes it."""
SCRIPTS: Final = Path(__file__).resolve().parent

Command: TypeAlias = list[str]

_RAY_MEMORY: Final = 2 << 30


@frozen(kw_only=True)
class Server:
    """One process that a peer needs, and the port that tells that it is ready."""

    role: str
    command: Command
    port: int


@frozen(kw_only=True)
class Plan:
    """How a peer is run: its servers in this order, then the client."""

    servers: tuple[Server, ...]
    client: Command
    environment: Mapping[str, str] = {}


@frozen(kw_only=True)
class Peer:
    """One system that a user could pick instead."""

    name: str
    title: str
    requirements: tuple[str, ...]
    ways: tuple[str, ...]
    ports: int
    widest: int = 4096
    """The largest window worth asking for."""
    plan: Callable[["Peer", tuple[int, ...], Path], Plan]
    """Of free ports and the folder with ca.pem, cert.pem and key.pem."""

    @property
    def folder(self) -> Path:
        """Its environment."""
        return CACHE / self.name

    @property
    def python(self) -> str:
        """Its interpreter."""
        return self.program("python")

    def program(self, name: str) -> str:
        """Return a program of its environment."""
        return str(self.folder / "bin" / name)

    def script(self, name: str, *arguments: object) -> Command:
        """Return a command that runs one of the scripts beside this file."""
        return [self.python, str(SCRIPTS / name), *map(str, arguments)]


def _grpc(peer: Peer, ports: tuple[int, ...], tls: Path) -> Plan:
    worker, forwarder = ports
    return Plan(
        servers=(
            Server(role="worker", command=peer.script("grpc_server.py", worker, tls), port=worker),
            Server(
                role="forwarder",
                command=peer.script("grpc_server.py", forwarder, tls, worker),
                port=forwarder,
            ),
        ),
        client=peer.script("grpc_client.py", worker, forwarder, tls),
    )


def _flight(peer: Peer, ports: tuple[int, ...], tls: Path) -> Plan:
    (port,) = ports
    server = Server(role="worker", command=peer.script("flight_server.py", port, tls), port=port)
    return Plan(servers=(server,), client=peer.script("flight_client.py", port, tls))


def _dask(peer: Peer, ports: tuple[int, ...], tls: Path) -> Plan:
    scheduler, worker = ports
    url = f"tls://127.0.0.1:{scheduler}"
    files = ["--tls-ca-file", f"{tls}/ca.pem", "--tls-cert", f"{tls}/cert.pem"]
    files += ["--tls-key", f"{tls}/key.pem", "--no-dashboard"]
    return Plan(
        servers=(
            Server(
                role="scheduler",
                command=[peer.program("dask"), "scheduler", "--host", url, *files],
                port=scheduler,
            ),
            Server(
                role="worker",
                command=[
                    *(peer.program("dask"), "worker", url, "--nworkers", "1"),
                    *("--worker-port", str(worker), *files),
                ],
                port=worker,
            ),
        ),
        client=peer.script("dask_client.py", url, tls),
    )


def _ray(peer: Peer, ports: tuple[int, ...], tls: Path) -> Plan:
    (port,) = ports
    command = [
        *(peer.program("ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(port)),
        *("--num-cpus", str(len(os.sched_getaffinity(0)))),
        *("--object-store-memory", str(_RAY_MEMORY), "--include-dashboard", "false"),
        *("--temp-dir", str(tls.parent / "ray")),
    ]
    return Plan(
        servers=(Server(role="head", command=command, port=port),),
        client=peer.script("ray_client.py", f"127.0.0.1:{port}"),
        environment={
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": f"{tls}/cert.pem",
            "RAY_TLS_SERVER_KEY": f"{tls}/key.pem",
            "RAY_TLS_CA_CERT": f"{tls}/ca.pem",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        },
    )


PEERS: Final = (
    Peer(
        name="grpc",
        title="gRPC, TLS",
        requirements=("grpcio", "numpy"),
        ways=("direct", "forwarded"),
        ports=2,
        plan=_grpc,
    ),
    Peer(
        name="flight",
        title="Arrow Flight, TLS",
        requirements=("pyarrow", "numpy"),
        ways=("exchange",),
        ports=1,
        plan=_flight,
    ),
    Peer(
        name="dask",
        title="Dask, TLS",
        requirements=("distributed", "numpy"),
        ways=("submit",),
        ports=2,
        # Its rate does not grow any more, and 4096 tasks take a quarter of a minute.
        widest=512,
        plan=_dask,
    ),
    Peer(
        name="ray",
        title="Ray, TLS",
        requirements=("ray", "numpy"),
        ways=("actor",),
        ports=1,
        plan=_ray,
    ),
)
"""In the order in which they are measured."""
