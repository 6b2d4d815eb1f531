"""What a user asks `enclave collateral fetch` for, and from which services."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click
from attrs import fields, frozen
from cryptography import x509

from attestation import limits
from attestation.cli.audit_files import read_bounded
from attestation.cli.collateral_cache import Gatherer
from attestation.cli.collateral_vendors import (
    Item,
    Services,
    gather_amd,
    gather_intel,
    gather_ocsp,
    gather_rim,
    gather_vcek,
)
from attestation.cli.collateral_windows import pem_certificates
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.intel_pck import FMSPC_BYTES, PckCa
from attestation.endorsements.nvidia_device import device_root
from attestation.evidence.intel_quote import Tee
from attestation.evidence.sev_snp import CHIP_ID_BYTES
from attestation.evidence.sev_snp_tcb import TCB_BYTES, Product

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_CHAIN_BYTES: Final = limits.CERTIFICATES * limits.CERTIFICATE_BYTES


@frozen(kw_only=True)
class Chip:
    """An AMD processor at one TCB, as a report names it."""

    product: Product
    chip_id: bytes
    tcb: bytes


@frozen(kw_only=True)
class Platform:
    """Intel platforms that share their TCB info."""

    tee: Tee
    fmspc: bytes
    ca: PckCa


@frozen(kw_only=True)
class Wishes:
    """Everything that one call asks for."""

    amd: tuple[Product, ...] = ()
    amd_vcek: tuple[Chip, ...] = ()
    intel: tuple[Platform, ...] = ()
    nvidia_rim: tuple[str, ...] = ()
    nvidia_ocsp: tuple[tuple[x509.Certificate, ...], ...] = ()

    def and_those_of(self, other: "Wishes") -> "Wishes":
        """Return both, each wish once."""
        names = [entry.name for entry in fields(Wishes)]
        return Wishes(
            **{
                name: tuple(dict.fromkeys(getattr(self, name) + getattr(other, name)))
                for name in names
            }
        )


def gather(wishes: Wishes, gatherer: Gatherer, services: Services) -> Iterator[Iterable[Item]]:
    """Yield one source of items per wish; asking happens when a source is read."""
    yield from (gather_amd(gatherer, services, product) for product in wishes.amd)
    yield from (
        gather_vcek(gatherer, services, chip.product, chip.chip_id, chip.tcb)
        for chip in wishes.amd_vcek
    )
    yield from (
        gather_intel(gatherer, services, entry.tee.lower(), entry.fmspc.hex(), entry.ca)
        for entry in wishes.intel
    )
    yield from (gather_rim(gatherer, services, rim_id) for rim_id in wishes.nvidia_rim)
    # The leaf is the device's own: made at each start, and known to no service.
    yield from (
        gather_ocsp(gatherer, services, chain[1:], root=device_root())
        for chain in wishes.nvidia_ocsp
    )


class _Parsed(click.ParamType[Any]):
    """Text that `parse` turns into a wish, or refuses with `ValueError`."""

    def __init__(self, name: str, parse: Any) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, or fail as usage."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{value!r} is not {self.name}: {error}", param, ctx)


def _product(text: str) -> Product:
    return Product(text.lower())


def _chip(text: str) -> Chip:
    product, chip_id, tcb = text.split(":")
    return Chip(
        product=_product(product), chip_id=_hex(chip_id, CHIP_ID_BYTES), tcb=_hex(tcb, TCB_BYTES)
    )


def _platform(text: str) -> Platform:
    tee, fmspc, ca = (text if text.count(":") > 1 else f"{text}:{PckCa.PLATFORM}").split(":")
    return Platform(tee=Tee(tee.upper()), fmspc=_hex(fmspc, FMSPC_BYTES), ca=PckCa(ca.lower()))


def _rim_id(text: str) -> str:
    if not text or len(text) > limits.NAME_CHARACTERS * 2 or not text.isascii():
        raise ValueError("an id is a short ASCII text")
    return text


def _hex(text: str, size: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes where {size} are needed")
    return data


def _chains(
    _context: click.Context, _parameter: click.Parameter, paths: tuple[Path, ...]
) -> tuple[tuple[x509.Certificate, ...], ...]:
    texts = (read_bounded(path, _CHAIN_BYTES).decode("ascii", "replace") for path in paths)
    return tuple(tuple(map(parse_certificate, pem_certificates(text))) for text in texts)


WISH_OPTIONS: Final = (
    click.option(
        "--amd",
        multiple=True,
        type=_Parsed("a product", _product),
        metavar="PRODUCT",
        help="AMD's intermediates and revocation list: Milan, Genoa (also Siena, Bergamo), Turin.",
    ),
    click.option(
        "--amd-vcek",
        multiple=True,
        type=_Parsed("PRODUCT:CHIP_ID:TCB", _chip),
        metavar="PRODUCT:CHIP_ID:TCB",
        help="One chip's certificate; CHIP_ID and REPORTED_TCB in hexadecimal, as in its report.",
    ),
    click.option(
        "--intel",
        multiple=True,
        type=_Parsed("TEE:FMSPC[:CA]", _platform),
        metavar="TEE:FMSPC[:CA]",
        help="What quotes of tdx or sgx need; CA is platform (the default) or processor.",
    ),
    click.option(
        "--nvidia-rim",
        multiple=True,
        type=_Parsed("the id of a RIM", _rim_id),
        metavar="ID",
        help="A manifest, such as NV_GPU_DRIVER_GH100_550.90.07, and the status of its signer.",
    ),
    click.option(
        "--nvidia-ocsp",
        multiple=True,
        type=_FILE,
        callback=_chains,
        metavar="CHAIN.PEM",
        help="OCSP answers about a device's certificate chain, as NVML gives it: leaf first.",
    ),
)

SERVICE_OPTIONS: Final = tuple(
    click.option(
        f"--{entry.name.replace('_', '-')}",
        default=entry.default,
        envvar=f"ENCLAVE_{entry.name.upper()}",
        show_default=True,
        metavar="URL",
        help="Another address: a mirror, or a cache of your own.",
    )
    for entry in fields(Services)
)
