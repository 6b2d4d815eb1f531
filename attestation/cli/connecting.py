"""The options with which a command reaches a coordinator, and the client they make."""

from pathlib import Path
from typing import Any, Final

import click
from attrs import field, frozen

from attestation.cli.arguments import gathered
from attestation.cli.audit_files import POLICY_OPTIONS, Judging
from attestation.client.client import Client
from attestation.client.transport import CurveKeys

DEFAULT_URL: Final = "tcp://127.0.0.1:5700"

_FILE = click.Path(path_type=Path, dir_okay=False)

URL_OPTION: Final = click.option(
    "--coordinator",
    "url",
    default=DEFAULT_URL,
    envvar="ENCLAVE_COORDINATOR",
    show_default=True,
    metavar="URL",
    help="Where the coordinator listens.",
)

KEY_OPTIONS: Final = (
    click.option(
        "--key",
        type=_FILE,
        envvar="ENCLAVE_CLIENT_KEY",
        metavar="FILE",
        help="Your signing key (enclave keygen). Without it, a key that ends with the command.",
    ),
    click.option(
        "--curve-key",
        type=_FILE,
        envvar="ENCLAVE_CURVE_KEY",
        metavar="FILE",
        help="Your CURVE secret key (enclave keygen --curve); needed outside loopback.",
    ),
    click.option(
        "--coordinator-key",
        type=_FILE,
        envvar="ENCLAVE_COORDINATOR_KEY",
        metavar="FILE",
        help="The coordinator's CURVE public key; needed outside loopback.",
    ),
)


@frozen(kw_only=True)
class Target(Judging):
    """Where to connect, as whom, and what to accept there."""

    url: str
    key: Path | None
    curve_key: Path | None = field(repr=False)
    coordinator_key: Path | None

    def connect(self, **options: Any) -> Client:
        """Return a connected client; raises `PolicyError`, `UnavailableError`s."""
        if (self.curve_key is None) != (self.coordinator_key is None):
            raise click.UsageError("--curve-key and --coordinator-key belong together")
        curve = None
        if self.curve_key is not None and self.coordinator_key is not None:
            curve = CurveKeys.load(self.curve_key, self.coordinator_key)
        return Client(
            self.url,
            policy=self.policy(),
            key=self.key,
            curve=curve,
            collateral=self.collateral().collateral,
            **options,
        )


target_options: Final = gathered("target", Target, (URL_OPTION, *POLICY_OPTIONS, *KEY_OPTIONS))
"""Add the connection's options; they arrive as one `target` argument."""
