"""`enclave collateral`: what vendors sign beside the evidence, gathered before it is needed.

The only command of the audit side that opens a connection. Verifiers never do: they take the file
that this makes, so that a verdict can be repeated years later and on a machine without a network.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import limits
from attestation.cli.arguments import gathered, parse_time
from attestation.cli.audit_files import read_bounded, read_record
from attestation.cli.collateral_cache import Cache, Gatherer, cache_directory
from attestation.cli.collateral_evidence import wishes_of
from attestation.cli.collateral_http import Http, VendorUnavailableError
from attestation.cli.collateral_vendors import Item, Services
from attestation.cli.collateral_windows import describe, pem_certificates
from attestation.cli.collateral_wishes import SERVICE_OPTIONS, WISH_OPTIONS, Wishes, gather
from attestation.cli.output import emit_json, emit_table, json_option, note, printable
from attestation.cli.signing_keys import load_ed25519, pinned_option
from attestation.endorsements.bundle import CollateralBundle
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.errors import DecodeError
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_DER_KINDS: Final = frozenset({CollateralKind.AMD_CERTIFICATE, CollateralKind.TPM_CERTIFICATE})


@click.group(epilog="See docs/auditors.md for what each vendor gives out, and for how long.")
def collateral() -> None:
    """Gather what vendors sign beside the evidence into one dated, signed file."""


@frozen(kw_only=True)
class Output:
    """Where a bundle goes, and who answers for its date."""

    output: Path
    key: Path | None

    def write(self, items: Iterable[Item], now: datetime) -> CollateralBundle:
        """Sign and write; says what was done."""
        signer = Ed25519PrivateKey.generate() if self.key is None else load_ed25519(self.key)
        bundle = CollateralBundle.sign(
            Collateral.from_items(list(items)),
            gathered_at=now,
            signer=signer.public_key().public_bytes_raw(),
            sign=signer.sign,
        )
        self.output.write_bytes(bundle.to_bytes())
        if self.key is None:
            note("signed with a key of this run only, so its date is nobody's word: give --key")
        note(f"wrote {self.output}")
        return bundle


_output_options: Final = gathered(
    "output",
    Output,
    (
        click.option(
            "-o", "--output", type=_FILE, required=True, metavar="FILE", help="Bundle to write."
        ),
        click.option(
            "--key",
            type=_FILE,
            envvar="ENCLAVE_COLLATERAL_SIGNER",
            metavar="FILE",
            help="Your Ed25519 key (enclave keygen): others pin it to rely on the date.",
        ),
    ),
)


@collateral.command(
    epilog="""\b
Examples:
  enclave collateral fetch --evidence out/job.evidence -o job.collateral
  enclave collateral fetch --amd Genoa --intel tdx:90c06f000000 -o today.collateral
  enclave collateral fetch --amd-vcek Genoa:CHIP_ID:TCB --key gatherer.key -o host.collateral
  enclave collateral fetch --nvidia-rim NV_GPU_DRIVER_GH100_550.90.07 \\
      --nvidia-ocsp device-chain.pem -o gpu.collateral

\b
Exit status: 0 everything was gathered, 3 something was not (named; nothing is written then, unless
--partial says so).
"""
)
@click.option(
    "--evidence",
    "evidence_files",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="Whatever the evidence in this file will need; may be repeated.",
)
@gathered("wishes", Wishes, WISH_OPTIONS)
@_output_options
@click.option(
    "--cache",
    "cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=cache_directory,
    show_default="~/.cache/enclave-worker/collateral",
    help="Where answers are kept.",
)
@click.option("--refresh", is_flag=True, help="Ask for everything, however young the cache is.")
@click.option("--partial", is_flag=True, help="Write what could be gathered.")
@gathered("services", Services, SERVICE_OPTIONS)
def fetch(
    *,
    evidence_files: Sequence[Path],
    wishes: Wishes,
    output: Output,
    cache: Path,
    refresh: bool,
    partial: bool,
    services: Services,
) -> None:
    """Ask the vendors. What is cached serves through their outages, inside its window."""
    for path in evidence_files:
        record = read_record(path, EvidenceRecord)
        wishes = wishes.and_those_of(wishes_of(EvidenceBundle.from_bytes(record.bundle)))
    if wishes == Wishes():
        raise click.UsageError("nothing to ask for: --evidence, --amd, --intel, --nvidia-rim ...")
    now = datetime.now(UTC)
    gatherer = Gatherer(
        http=Http(), cache=Cache(directory=cache), now=now, notes=note, refresh=refresh
    )
    items: list[Item] = []
    missing = 0
    for source in gather(wishes, gatherer, services):
        try:
            items += source
        except VendorUnavailableError as error:
            missing += 1
            note(f"missing: {error}")
    if missing and not (partial and items):
        raise VendorUnavailableError(f"{missing} of what was asked for is missing")
    output.write(items, now)
    if missing:
        raise VendorUnavailableError(f"{missing} of what was asked for is missing in the file")


@collateral.command(
    epilog="""\b
Examples:
  enclave collateral bundle amd-crl=genoa.crl nvidia-rim=driver.xml -o gpu.collateral
  enclave collateral bundle amd.collateral intel.collateral --key gatherer.key -o all.collateral

\b
Kinds: """
    + ", ".join(kind.value for kind in CollateralKind)
)
@click.argument("sources", metavar="KIND=FILE|BUNDLE...", nargs=-1, required=True)
@_output_options
@click.option(
    "--gathered-at",
    metavar="TIME",
    callback=parse_time,
    help="When these files were gathered (ISO 8601 with time zone). Default: now.",
)
def bundle(*, sources: Sequence[str], output: Output, gathered_at: datetime | None) -> None:
    """Make one bundle of files that you have, and of other bundles."""
    items = [item for source in sources for item in _local(source)]
    output.write(items, gathered_at or datetime.now(UTC))


@collateral.command(
    epilog="""\b
Example:
  enclave collateral show today.collateral --collateral-key gatherer.pub
"""
)
@click.argument("file", type=_FILE)
@click.option(
    "--collateral-key",
    type=_FILE,
    envvar="ENCLAVE_COLLATERAL_KEY",
    callback=pinned_option,
    help="Whose date counts (Ed25519, PEM).",
)
@click.option("--at", metavar="TIME", callback=parse_time, help="Default: now.")
@json_option
def show(*, file: Path, collateral_key: bytes | None, at: datetime | None, as_json: bool) -> None:
    """Say what a bundle holds, and for which time. The vendors' signatures are not checked here."""
    held = read_record(file, CollateralBundle)
    rows = [_row(item, at or datetime.now(UTC)) for item in held.open(pinned=collateral_key).items]
    if as_json:
        emit_json(
            {
                "gathered_at": held.gathered_at.isoformat(),
                "signer": held.signer,
                "signer_pinned": collateral_key is not None,
                "items": rows,
            }
        )
        return
    columns = ("kind", "what", "begins", "ends", "current", "bytes")
    emit_table(str(file), columns, [[row[column] for column in columns] for row in rows])
    whose = "the pinned key" if collateral_key is not None else "a key that is not pinned"
    click.echo(f"gathered at {held.gathered_at.isoformat()}, says {whose} {held.signer.hex()}")


def _row(item: Item, at: datetime) -> dict[str, Any]:
    kind, data = item
    try:
        found = describe(kind, data)
    except DecodeError as error:
        what = {"what": f"cannot be read: {error}", "begins": "", "ends": "", "current": "no"}
    else:
        what = {
            "what": printable(found.title),
            "begins": found.begins.isoformat(),
            "ends": found.ends.isoformat(),
            "current": "yes" if found.current(at) else "no",
        }
    return {"kind": kind.value, "bytes": len(data), **what}


def _local(source: str) -> Iterator[Item]:
    word, equals, name = source.partition("=")
    if not equals:
        yield from read_record(Path(source), CollateralBundle).open(pinned=None).items
        return
    try:
        kind = CollateralKind(word)
    except ValueError as error:
        raise click.UsageError(f"{word} is not a kind of collateral") from error
    data = read_bounded(Path(name), limits.COLLATERAL_ITEM_BYTES)
    if len(data) > limits.COLLATERAL_ITEM_BYTES:
        raise DecodeError(f"{name} is larger than {limits.COLLATERAL_ITEM_BYTES} bytes")
    parts = [data]
    if kind in _DER_KINDS and data.lstrip().startswith(b"-----BEGIN"):
        parts = pem_certificates(data.decode("ascii", "replace"))
    for part in parts:
        # Now, and not in somebody's appraisal next year.
        describe(kind, part)
        yield kind, part
