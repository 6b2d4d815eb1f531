"""`python -m tests.bench.peers install [NAME ...]`: make the peers' environments."""

import argparse
import sys

from tests.bench.peers.catalogue import PEERS
from tests.bench.peers.install import NotInstalledError, install, version


def main() -> None:
    """Install; exits with 1 when one could not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["install"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    failed = False
    for peer in PEERS:
        if arguments.names and peer.name not in arguments.names:
            continue
        try:
            install(peer)
            sys.stdout.write(f"{peer.name}: {peer.requirements[0]} {version(peer)}\n")
        except NotInstalledError as error:
            failed = True
            sys.stdout.write(f"{peer.name}: not installed ({error})\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
