"""A paravisor in a confidential VM: a vTPM whose key a simulated processor vouches for.

The report is marshalled here from Microsoft's description and OpenHCL's `igvm_attest`, and not with
the code under test.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs

from attestation.evidence.azure_vtpm import AzureSnpVtpmEvidence
from tests.simulators.amd import SimulatedChip
from tests.simulators.tpm import RsaTpm

NV_BYTES = 2600
SNP, TDX = 2, 4
SHA256, SHA384 = 1, 2


@attrs.frozen(kw_only=True)
class SimulatedParavisor:
    """A vTPM and the report about it; `text` replaces the true runtime data."""

    chip: SimulatedChip
    tpm: RsaTpm = attrs.field(factory=RsaTpm)
    text: bytes | None = None
    bound_text: bytes | None = None
    """What the processor signs the hash of, where that is not what is shown."""
    report_type: int = SNP
    hash_type: int = SHA256
    version: int = 1
    ak_certificates: Sequence[bytes] = ()

    def collect(self, report_data: bytes) -> bytes:
        """Return an evidence body over `report_data`."""
        return self.evidence(report_data).to_bytes()

    def evidence(self, report_data: bytes) -> AzureSnpVtpmEvidence:
        quote = self.tpm.evidence(report_data)
        return AzureSnpVtpmEvidence(
            attest=quote.attest,
            signature=self.tpm.bare_signature(quote.attest),
            pcrs=quote.pcrs,
            event_log=quote.event_log,
            hcl_report=self.hcl_report(),
            snp_certificates=(self.chip.vendor.certify(self.chip),),
            ak_certificates=tuple(self.ak_certificates),
        )

    def runtime_text(self) -> bytes:
        return runtime_text(self.tpm) if self.text is None else self.text

    def hcl_report(self) -> bytes:
        text = self.runtime_text()
        bound = text if self.bound_text is None else self.bound_text
        hashed = (hashlib.sha256 if self.hash_type == SHA256 else hashlib.sha384)(bound).digest()
        report = self.chip.report(hashed.ljust(64, b"\0"))
        data = self.request_data(text)
        size = 32 + len(report) + len(data)
        header = b"HCLA" + struct.pack("<7I", 2, size, 2, 0, 0, 0, 0)
        return (header + report + data).ljust(NV_BYTES, b"\0")

    def request_data(self, text: bytes) -> bytes:
        head = (20 + len(text), self.version, self.report_type, self.hash_type, len(text))
        return struct.pack("<5I", *head) + text

    def but(self, **changes: Any) -> "SimulatedParavisor":
        """Return the same paravisor with something changed."""
        return attrs.evolve(self, **changes)


def runtime_text(tpm: RsaTpm, **changes: Any) -> bytes:
    """Return runtime data that name the key of `tpm`, with members of that key changed."""
    encrypting = jwk(_endorsement_key(), kid="HCLEkPub", key_ops=["encrypt"])
    document = {
        "keys": [jwk(tpm, **changes), encrypting],
        "vm-configuration": {"console-enabled": True, "secure-boot": True},
        "user-data": "00" * 64,
    }
    return json.dumps(document, separators=(",", ":")).encode()


@cache
def _endorsement_key() -> RsaTpm:
    return RsaTpm()


def jwk(tpm: RsaTpm, **changes: Any) -> dict[str, Any]:
    numbers = tpm.rsa_key.public_key().public_numbers()
    key = {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": _base64url(numbers.e),
        "n": _base64url(numbers.n),
    }
    return key | changes


def _base64url(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
