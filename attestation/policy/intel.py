"""What a policy says of any Intel platform, for SGX and TDX alike: its TCB, and which one it is."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, boolean, item, octets, row, text, uint, word
from attestation.endorsements.intel_pck import PPID_BYTES
from attestation.endorsements.intel_tcb import EVALUATION_NUMBER_MAX, TcbStatus
from attestation.identifiers import DIGEST_BYTES
from attestation.policy.revocation import Revocation
from attestation.policy.section import Section
from attestation.policy.values import read_digest, read_hex

T = TypeVar("T")

ANY: Final = "any"

UNACCEPTABLE: Final = frozenset({TcbStatus.REVOKED, TcbStatus.NOT_SUPPORTED})
"""No policy can name these: the first is Intel's no, the second nobody's yes."""


@frozen(kw_only=True)
class IntelPolicy(Record):
    """Which platforms count, by patch level and by identity.

    `advisories` are accepted with a status other than UpToDate. `platforms` are PPIDs, each with
    the digest of a proof of who holds the machine, or nothing.
    """

    tcb_statuses: tuple[TcbStatus, ...] = item(array(word(TcbStatus), limit=len(TcbStatus)))
    accept_any_advisory: bool = item(boolean(), default=False)
    advisories: tuple[str, ...] = item(array(text(), limit=limits.POLICY_ENTRIES), default=())
    minimum_evaluation_number: int = item(uint(EVALUATION_NUMBER_MAX))
    revocation: Revocation = item(word(Revocation))
    accept_any_platform: bool = item(boolean())
    platforms: tuple[tuple[bytes, bytes], ...] = item(
        array(
            row(octets(exactly=PPID_BYTES), octets(limit=DIGEST_BYTES)),
            limit=limits.POLICY_ENTRIES,
        )
    )


def read_intel(section: Section) -> IntelPolicy:
    """Take the keys that `[tdx]` and `[sgx]` share, or raise `PolicyError`."""
    statuses = section.take_list("tcb_statuses", _status)
    accept_any_advisory, advisories = False, ()  # type: tuple[bool, Sequence[str]]
    if set(statuses) != {TcbStatus.UP_TO_DATE}:
        # The same status comes back for the next weakness, unless the known ones are named.
        accept_any_advisory, advisories = take_any_or(section, "advisories", _advisory)
    minimum = section.take_uint(
        "minimum_tcb_evaluation_data_number", minimum=0, maximum=EVALUATION_NUMBER_MAX
    )
    revocation = section.take("revocation")
    if revocation not in list(Revocation):
        raise section.error("revocation", 'is neither "required" nor "optional"')
    accept_any_platform, platforms = take_any_or(section, "platforms", _ppid)
    return IntelPolicy(
        tcb_statuses=tuple(sorted(statuses)),
        accept_any_advisory=accept_any_advisory,
        advisories=tuple(sorted(advisories)),
        minimum_evaluation_number=minimum,
        revocation=Revocation(revocation),
        accept_any_platform=accept_any_platform,
        platforms=_with_custody(section, platforms),
    )


def take_any_or(section: Section, key: str, convert: Callable[[str], T]) -> tuple[bool, list[T]]:
    """Take a list, or the word that says that anything will do."""
    if section.values.get(key) == ANY:
        section.take(key)
        return True, []
    return False, section.take_list(key, convert)


def _status(value: str) -> TcbStatus:
    accepted = [status for status in TcbStatus if status not in UNACCEPTABLE]
    if value not in accepted:
        raise ValueError(f"{value!r} is not one of {', '.join(accepted)}")
    return TcbStatus(value)


def _advisory(value: str) -> str:
    if not value.startswith("INTEL-SA-") or len(value) > limits.NAME_CHARACTERS:
        raise ValueError(f"{value!r} does not name an advisory such as INTEL-SA-00615")
    return value


def _ppid(value: str) -> bytes:
    return read_hex(value, PPID_BYTES)


def _with_custody(section: Section, platforms: Sequence[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Put beside each platform the digest of the proof of who holds it, where one is named."""
    proofs: dict[bytes, bytes] = {}
    if "custody" in section.values:
        custody = section.take_section("custody")
        for key in list(custody.values):
            try:
                platform, proof = _ppid(key), read_digest(str(custody.take(key)))
            except ValueError as error:
                raise custody.error(key, str(error)) from error
            if platform not in platforms:
                raise custody.error(key, "is not one of the platforms")
            proofs[platform] = proof
    return tuple((platform, proofs.get(platform, b"")) for platform in sorted(platforms))
