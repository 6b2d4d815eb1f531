"""The Attester on a TPM 2.0: a restricted key that quotes PCRs over our report data.

The attestation key is a primary key of the endorsement hierarchy from a fixed template, so the TPM
makes the same key whenever it is asked: there is nothing to store, and an operator can enrol the
key before the worker ever runs. It is created once per connection; the connection is kept, guarded
by a lock, and dropped after any error.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import limits
from attestation.errors import UnavailableError
from attestation.evidence.binding import qualifying_data
from attestation.evidence.tpm import KIND, Attest, PcrBank, PcrName, Public, TpmEvidence

DEFAULT_DEVICE: Final = Path("/dev/tpmrm0")
TCTI_VARIABLE: Final = "TPM2TOOLS_TCTI"
"""The variable that TPM tools use for the connection, such as `swtpm:host=127.0.0.1,port=2321`."""

DEFAULT_PCRS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 11)
"""Firmware, boot loader, secure boot state, and the unified kernel image (PCR 11)."""

_TEMPLATE: Final = "ecc:ecdsa-sha256:null"
_ATTRIBUTES: Final = (
    "RESTRICTED",
    "SIGN_ENCRYPT",
    "FIXEDTPM",
    "FIXEDPARENT",
    "SENSITIVEDATAORIGIN",
    "USERWITHAUTH",
)
_ATTEMPTS: Final = 3
_PCRS: Final = 24


class TpmUnavailableError(UnavailableError):
    """The TPM did not answer. Check that it is there and that this user may open it (group tss)."""

    code = "tpm-unavailable"


@frozen(kw_only=True)
class TpmIdentity:
    """What a policy names of one TPM: its attestation key, and the values of its PCRs."""

    key_digest: bytes
    """SHA-256 of the key's SubjectPublicKeyInfo."""
    bank: PcrBank
    pcrs: Mapping[int, bytes]


class TpmAttester:
    """Quotes `pcrs` of `bank`. Safe to call from several threads; calls wait for one another."""

    kind: Final = KIND

    def __init__(
        self,
        *,
        tcti: str | None = None,
        pcrs: Sequence[int] = DEFAULT_PCRS,
        bank: PcrBank = PcrBank.SHA256,
        ak_certificates: Path | None = None,
    ) -> None:
        """Use the TPM behind `tcti`, by default that of the environment or of the kernel.

        `ak_certificates` is a PEM file with the attestation key's certificate first, then its
        issuers. Raises `TpmUnavailableError` when it cannot be read; the TPM is opened later.
        """
        self._tcti = tcti or default_tcti()
        self._selection = [(bank, index) for index in sorted(set(pcrs))]
        if not pcrs or not all(0 <= index < _PCRS for index in pcrs):
            raise TpmUnavailableError(f"name the PCRs to quote, from 0 to {_PCRS - 1}")
        self._certificates = () if ak_certificates is None else _read_chain(ak_certificates)
        self._lock = threading.Lock()
        self._open: tuple[Any, Any, bytes] | None = None

    def collect(self, report_data: bytes) -> bytes:
        """Return a quote over `report_data`, or raise `TpmUnavailableError`."""
        with self._lock, _tpm_errors(self._drop):
            esapi, ak, ak_public = self._connection()
            for _ in range(_ATTEMPTS):
                attest, signature = esapi.quote(
                    ak, _selection_text(self._selection), qualifying_data(report_data)
                )
                values = _read_pcrs(esapi, self._selection)
                if _is_quoted(bytes(attest), values):
                    return TpmEvidence(
                        attest=bytes(attest),
                        signature=signature.marshal(),
                        ak_public=ak_public,
                        pcrs=tuple(
                            (bank, index, value)
                            for (bank, index), value in zip(self._selection, values, strict=True)
                        ),
                        ak_certificates=self._certificates,
                    ).to_bytes()
        raise TpmUnavailableError("PCRs kept changing while they were quoted")

    def check(self) -> None:
        """Open the TPM and make the attestation key, or raise `TpmUnavailableError`."""
        with self._lock, _tpm_errors(self._drop):
            self._connection()

    def identity(self) -> TpmIdentity:
        """Return the attestation key's digest and today's PCRs, or raise `TpmUnavailableError`."""
        with self._lock, _tpm_errors(self._drop):
            esapi, _, ak_public = self._connection()
            values = _read_pcrs(esapi, self._selection)
        return TpmIdentity(
            key_digest=Public.from_bytes(ak_public).fingerprint(),
            bank=self._selection[0][0],
            pcrs={index: value for (_, index), value in zip(self._selection, values, strict=True)},
        )

    def close(self) -> None:
        """Let go of the TPM; the next call opens it again."""
        with self._lock:
            self._drop()

    def _connection(self) -> tuple[Any, Any, bytes]:
        if self._open is None:
            esapi = open_tpm(self._tcti)
            try:
                ak, ak_public = create_attestation_key(esapi)
            except BaseException:
                esapi.close()
                raise
            self._open = (esapi, ak, ak_public.publicArea.marshal())
        return self._open

    def _drop(self) -> None:
        if self._open is not None:
            esapi, ak, _ = self._open
            self._open = None
            with suppress(_library().TSS2_Exception):  # it may be gone, which is why we are here
                esapi.flush_context(ak)
            esapi.close()


def default_tcti() -> str:
    """Return the connection that TPM tools would use."""
    return os.environ.get(TCTI_VARIABLE) or f"device:{DEFAULT_DEVICE}"


def open_tpm(tcti: str) -> Any:
    """Open an ESAPI context; raises tpm2_pytss's own exceptions."""
    tpm2 = _library()
    name, _, configuration = tcti.partition(":")
    return tpm2.ESAPI(tpm2.TCTILdr(name, configuration or None))


def create_attestation_key(esapi: Any) -> tuple[Any, Any]:
    """Make the attestation key of this TPM; returns its handle and its public part.

    The same key each time, so enrolment (credential activation) and quotes speak of one key.
    """
    tpm2 = _library()
    attributes = tpm2.TPMA_OBJECT(0)
    for name in _ATTRIBUTES:
        attributes |= getattr(tpm2.TPMA_OBJECT, name)
    template = tpm2.TPM2B_PUBLIC.parse(_TEMPLATE, objectAttributes=attributes)
    handle, public, *_ = esapi.create_primary(
        tpm2.TPM2B_SENSITIVE_CREATE(), template, tpm2.ESYS_TR.ENDORSEMENT
    )
    return handle, public


def _library() -> Any:
    # The C library writes its own lines to standard error, beside our exceptions and into our logs.
    os.environ.setdefault("TSS2_LOG", "all+none")
    try:
        import tpm2_pytss  # noqa: PLC0415 - an optional library, and 0.2 s to import
    except (ImportError, OSError) as error:
        raise TpmUnavailableError(
            "tpm2-pytss is not installed: pip install 'enclave-worker[tpm]' (needs libtss2-dev)"
        ) from error
    return tpm2_pytss


@contextmanager
def _tpm_errors(drop: Callable[[], None]) -> Iterator[None]:
    tpm2 = _library()
    try:
        yield
    except (tpm2.TSS2_Exception, OSError, RuntimeError) as error:
        drop()
        raise TpmUnavailableError(
            f"the TPM failed ({error}); check the device, or set {TCTI_VARIABLE}"
        ) from error


def _selection_text(selection: Sequence[PcrName]) -> str:
    return f"{selection[0][0].value}:{','.join(str(index) for _, index in selection)}"


def _read_pcrs(esapi: Any, selection: Sequence[PcrName]) -> list[bytes]:
    # TPM2_PCR_Read answers with at most eight values.
    values: list[bytes] = []
    for start in range(0, len(selection), 8):
        _, _, digests = esapi.pcr_read(_selection_text(selection[start : start + 8]))
        values += [bytes(value) for value in digests]
    return values


def _is_quoted(attest: bytes, values: Sequence[bytes]) -> bool:
    # PCRs may be extended between quote and read; the key signs over SHA-256, so does the digest.
    quote = Attest.from_bytes(attest).quote
    return quote is not None and quote.pcr_digest == hashlib.sha256(b"".join(values)).digest()


def _read_chain(path: Path) -> tuple[bytes, ...]:
    try:
        data = path.read_bytes()
        certificates = x509.load_pem_x509_certificates(data)
    except (OSError, ValueError, x509.InvalidVersion) as error:
        raise TpmUnavailableError(f"{path} holds no readable PEM certificates") from error
    if len(certificates) > limits.CERTIFICATES:
        raise TpmUnavailableError(f"{path} holds more than {limits.CERTIFICATES} certificates")
    return tuple(entry.public_bytes(serialization.Encoding.DER) for entry in certificates)
