"""What the auditor's commands read: evidence, policies and collateral, each bounded and checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from attrs import frozen

from attestation.cli.arguments import gathered
from attestation.cli.signing_keys import pinned_option
from attestation.encoding.record import Record
from attestation.endorsements.bundle import CollateralBundle
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import DecodeError, UnavailableError
from attestation.evidence.bundle import EvidenceRecord
from attestation.policy.loading import load_policy
from attestation.policy.policy import Policy
from attestation.receipts.receipt import Receipt

R = TypeVar("R", bound=Record)

_WHAT: Final[dict[type[Record], str]] = {
    EvidenceRecord: "an evidence file",
    Receipt: "a receipt",
    CollateralBundle: "a collateral file",
}

_FILE: Final = click.Path(path_type=Path, dir_okay=False)

POLICY_OPTIONS: Final = (
    click.option(
        "--policy",
        "policy_file",
        type=_FILE,
        required=True,
        envvar="ENCLAVE_POLICY",
        metavar="FILE",
        help="Which evidence you accept; `enclave policy init` writes one.",
    ),
    click.option(
        "--policy-key",
        type=_FILE,
        envvar="ENCLAVE_POLICY_KEY",
        callback=pinned_option,
        metavar="FILE",
        help="Whose policies count (Ed25519, PEM): one without FILE.sig of this key is refused.",
    ),
    click.option(
        "--collateral",
        "collateral_files",
        type=_FILE,
        multiple=True,
        envvar="ENCLAVE_COLLATERAL",
        metavar="FILE",
        help="What vendors sign beside the evidence (enclave collateral); may be repeated.",
    ),
    click.option(
        "--collateral-key",
        type=_FILE,
        envvar="ENCLAVE_COLLATERAL_KEY",
        callback=pinned_option,
        metavar="FILE",
        help="Whose date on collateral counts (Ed25519, PEM); others' bundles are refused.",
    ),
)
"""By what evidence is judged; the fields of `Judging`."""


@frozen(kw_only=True)
class GivenCollateral:
    """The collateral of all files together, and what is known of its dates."""

    collateral: Collateral = NO_COLLATERAL
    notes: tuple[str, ...] = ()


@frozen(kw_only=True)
class Judging:
    """The files by which evidence is judged. Read only when asked for."""

    policy_file: Path
    policy_key: bytes | None
    collateral_files: tuple[Path, ...]
    collateral_key: bytes | None

    def policy(self) -> Policy:
        """Read the policy; raises `PolicyError`, also for one that the pinned key did not sign."""
        return load_policy(self.policy_file, signer=self.policy_key)

    def collateral(self) -> GivenCollateral:
        """Read the collateral; raises what `load_collateral` raises."""
        return load_collateral(self.collateral_files, self.collateral_key)


judging_options: Final = gathered("judging", Judging, POLICY_OPTIONS)


def load_collateral(paths: Sequence[Path], pinned: bytes | None) -> GivenCollateral:
    """Read and merge bundles; raises `UnavailableError`, `DecodeError`, `VerificationError`."""
    items: list[Any] = []
    notes = []
    for path in paths:
        bundle = read_record(path, CollateralBundle)
        items += bundle.open(pinned=pinned).items
        dated = f"{path}: gathered at {bundle.gathered_at.isoformat(timespec='seconds')}"
        notes.append(
            f"{dated}, says the pinned key"
            if pinned is not None
            else f"{dated}, says a key that is not pinned: do not rely on this date"
        )
    return GivenCollateral(collateral=Collateral.from_items(items), notes=tuple(notes))


def read_record(path: Path, kind: type[R]) -> R:
    """Read one file of our own format; raises `UnavailableError` and `DecodeError`."""
    data = read_bounded(path, kind.LIMIT)
    try:
        return kind.from_bytes(data)
    except DecodeError as error:
        # Somebody who mixed up two files is not helped by the byte at which they differ.
        raise DecodeError(f"{path} is not {_WHAT[kind]} of this version ({error})") from error


def read_bounded(path: Path, limit: int) -> bytes:
    """Read at most one byte more than `limit`, so that a longer file is refused by its parser."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror})") from error
