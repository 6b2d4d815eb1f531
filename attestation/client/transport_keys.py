"""Make a CURVE key pair on disk, in ZeroMQ's own certificate format."""

from pathlib import Path

import zmq

from attestation.client.keys import write_new

_PRIVATE_FILE = """\
#   CURVE secret key of an enclave client or worker. Keep it to yourself.

metadata
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""

_PUBLIC_FILE = """\
#   CURVE public key of an enclave client or worker. Give it to the coordinator's operator.

metadata
curve
    public-key = "{public}"
"""


def create_curve_keys(directory: Path) -> tuple[Path, Path, str]:
    """Write `client.curve` (0600) and `client.curve.pub`; return both and the public key in Z85.

    Raises `KeyFileError` if one exists. `zmq.auth.create_certificates` is not used because it
    writes the secret key first and restricts the file's mode afterwards.
    """
    public, secret = (key.decode() for key in zmq.curve_keypair())
    directory.mkdir(parents=True, exist_ok=True)
    private_path, public_path = directory / "client.curve", directory / "client.curve.pub"
    write_new(private_path, _PRIVATE_FILE.format(public=public, secret=secret).encode(), mode=0o600)
    write_new(public_path, _PUBLIC_FILE.format(public=public).encode(), mode=0o644)
    return private_path, public_path, public
