"""What an operator sets, checked before anything listens."""

import ipaddress
from pathlib import Path

from attrs import field, frozen, validators

from attestation.observability.scraping import MetricsAddress
from coordinator.core.rules import Rules
from coordinator.errors import SettingsError


@frozen(kw_only=True)
class Settings:
    """One coordinator. Raises `SettingsError` when made unsafe."""

    listen: str
    state: Path
    curve_key: Path | None = None
    """Our CURVE secret key file; without it only loopback addresses are allowed."""
    allow: Path | None = None
    """The allow-list of peers' CURVE public keys."""
    rules: Rules = field(factory=Rules)
    drain_seconds: float = field(default=30.0, validator=validators.ge(0))
    """How long running jobs may take after SIGTERM."""
    ready_file: Path | None = None
    """Where to write the address once it accepts connections."""
    metrics: MetricsAddress | None = None
    """Where scrapes are answered; nowhere unless it is said."""

    def __attrs_post_init__(self) -> None:
        if not self.listen.startswith(("tcp://", "ipc://")):
            raise SettingsError(f"{self.listen}: listen on tcp://HOST:PORT or ipc://PATH")
        if (self.curve_key is None) != (self.allow is None):
            raise SettingsError("a CURVE key needs an allow-list of peers, and the other way round")
        if self.curve_key is None and not is_local(self.listen):
            raise SettingsError(
                f"{self.listen} can be reached from other machines. Make a key with "
                "`enclave coordinator keygen DIR` and start with --curve-key and --allow, "
                "or listen on tcp://127.0.0.1:PORT."
            )


def is_local(address: str) -> bool:
    """Return whether only this machine can reach `address`. What is unclear is not local."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return True
    if scheme != "tcp":
        return False
    # libzmq allows `source;destination`; nothing here needs it, so it counts as unclear.
    host, separator, _ = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
