"""The SGX extension of PCK certificates: read whole, or refused."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.endorsements.intel_pck import Pck, SgxType, read_pck
from attestation.errors import DecodeError
from tests.simulators.intel import Platform, der, intel, member

PLATFORM = Platform()
EXTENSION = PLATFORM.extension()


def read(extension: bytes) -> Pck:
    return read_pck(intel().pck_ca.issue("PCK", extension=extension).certificate)


def test_every_member_is_found() -> None:
    pck = read(EXTENSION)
    assert pck == Pck(
        ppid=PLATFORM.ppid,
        components=PLATFORM.components,
        pce_svn=13,
        cpu_svn=PLATFORM.components,
        pce_id=b"\0\0",
        fmspc=PLATFORM.fmspc,
        sgx_type=SgxType.SCALABLE,
        platform_instance=PLATFORM.instance,
        flags={"dynamic platform": True, "cached keys": True, "SMT enabled": True},
    )


def test_a_certificate_of_the_processor_ca_has_no_platform_members() -> None:
    pck = read(Platform(instance=None).extension())
    assert (pck.platform_instance, pck.flags) == (None, {})


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: EXTENSION + b"\0",
        lambda: EXTENSION[:-1],
        lambda: der(0x30),
        lambda: der(0x31, EXTENSION[4:]),
        lambda: PLATFORM.extension(extra=member(der(0x04, bytes(16)), 1)),
        lambda: PLATFORM.extension(extra=member(der(0x04, b""), 1, 2)),
        lambda: PLATFORM.extension(extra=der(0x30, der(0x06, b"\x55\x04"), der(0x04, b""))),
        lambda: PLATFORM.extension(extra=der(0x30, der(0x06, b"\x55"))),
        lambda: PLATFORM.extension(extra=der(0x04, b"")),
        lambda: Platform(ppid=bytes(15)).extension(),
        lambda: Platform(fmspc=bytes(7)).extension(),
        lambda: Platform(pce_id=bytes(1)).extension(),
        lambda: Platform(components=bytes(15)).extension(),
        lambda: Platform(pce_svn=0x10000).extension(),
        lambda: Platform(instance=b"short").extension(),
        lambda: EXTENSION.replace(b"\x0a\x01\x01", b"\x0a\x01\x07"),
        lambda: EXTENSION.replace(b"\x0a\x01\x01", b"\x02\x01\x01"),
    ],
)
def test_an_extension_of_another_form_is_refused(make: Callable[[], bytes]) -> None:
    """A member that is there twice, missing or of another size may be read two ways."""
    with pytest.raises(DecodeError):
        read(make())


def test_an_svn_above_a_byte_is_refused() -> None:
    """Cut to its low byte, 256 would be 0."""
    wide = EXTENSION.replace(member(b"\x02\x01\x05", 2, 8), member(b"\x02\x02\x01\x05", 2, 8))
    assert wide != EXTENSION
    with pytest.raises(DecodeError):
        read(wide)


@given(st.integers(0, len(EXTENSION) - 1), st.binary(min_size=1, max_size=4))
def test_any_extension_is_read_or_refused(offset: int, value: bytes) -> None:
    with suppress(DecodeError):
        read(EXTENSION[:offset] + value + EXTENSION[offset + len(value) :])
