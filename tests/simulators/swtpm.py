"""A real TPM 2.0 as a process (swtpm), enrolled as an operator would enrol a chip.

Enrolment: the EK certificate is verified up to the manufacturer's root (a CA that swtpm_localca
makes for this TPM alone), a credential is made for EK and AK, only a TPM that holds both can
activate it, and only then does the operator certify the AK.
"""

# ruff: noqa: PLC0415 - without tpm2-pytss these tests are skipped, not broken

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.simulators.vendor import Operator, pem

_SETUP = """\
create_certs_tool={tool}
create_certs_tool_config={ca}
create_certs_tool_options={options}
active_pcr_banks = sha256
"""
_CA = """\
statedir = {ca}
signingkey = {ca}/signkey.pem
issuercert = {ca}/issuercert.pem
certserial = {ca}/certserial
"""
_OPTIONS = "--platform-manufacturer Test\n--platform-version 1\n--platform-model swtpm\n"
_SECONDS = 10.0


@attrs.frozen(kw_only=True)
class Swtpm:
    """A running TPM and the manufacturer's CA that only it was made under."""

    tcti: str
    issuer: x509.Certificate
    manufacturer: x509.Certificate


def require_swtpm() -> None:
    """Skip the calling test when this machine cannot run a software TPM."""
    missing = [tool for tool in ("swtpm", "swtpm_setup", "swtpm_localca") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (apt-get install swtpm swtpm-tools)")
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss not installed (extra [tpm])")


@contextmanager
def running_swtpm(directory: Path) -> Iterator[Swtpm]:
    """Manufacture a TPM in `directory` and run it."""
    # Absolute: with a relative state directory the TPM ends in failure mode.
    directory = directory.resolve()
    state, ca = directory / "state", directory / "ca"
    state.mkdir(parents=True)
    ca.mkdir()
    _manufacture(directory, state, ca)
    port = _free_port()
    process = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={state}",
            "--server",
            f"type=tcp,port={port},bindaddr=127.0.0.1",
            # The TCTI expects the control channel on the next port.
            "--ctrl",
            f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
            "--flags",
            "not-need-init,startup-clear",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port + 1, process)
        yield Swtpm(
            tcti=f"swtpm:host=127.0.0.1,port={port}",
            issuer=x509.load_pem_x509_certificate((ca / "issuercert.pem").read_bytes()),
            manufacturer=x509.load_pem_x509_certificate(
                (ca / "swtpm-localca-rootca-cert.pem").read_bytes()
            ),
        )
    finally:
        process.terminate()
        process.wait(_SECONDS)


def enrol(tpm: Swtpm, operator: Operator, path: Path) -> Path:
    """Certify the attestation key of `tpm` after it activated a credential; returns a PEM file."""
    import tpm2_pytss as tpm2
    from tpm2_pytss.utils import NVReadEK, create_ek_template, make_credential

    from enclave_worker.attester.tpm import create_attestation_key, open_tpm

    esapi = open_tpm(tpm.tcti)
    try:
        der, template = create_ek_template("EK-RSA2048", NVReadEK(esapi))
        ek_certificate = x509.load_der_x509_certificate(bytes(der))
        ek_certificate.verify_directly_issued_by(tpm.issuer)
        tpm.issuer.verify_directly_issued_by(tpm.manufacturer)
        ek, ek_public, *_ = esapi.create_primary(
            tpm2.TPM2B_SENSITIVE_CREATE(), template, tpm2.ESYS_TR.ENDORSEMENT
        )
        assert ek_public.to_der() == ek_certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        ak, ak_public = create_attestation_key(esapi)
        secret = os.urandom(32)
        credential, encrypted = make_credential(ek_public, secret, ak_public.get_name())
        assert _activate(esapi, ak, ek, credential, encrypted) == secret
        esapi.flush_context(ek)
        esapi.flush_context(ak)
    finally:
        esapi.close()
    chain = operator.certify(serialization.load_der_public_key(ak_public.to_der()))
    path.write_bytes(pem(*chain))
    return path


def extend(tpm: Swtpm, pcr: int, digest: bytes) -> None:
    """Measure something into `pcr`, as a boot loader would."""
    import tpm2_pytss as tpm2

    from enclave_worker.attester.tpm import open_tpm

    esapi = open_tpm(tpm.tcti)
    try:
        value = tpm2.TPMT_HA(hashAlg=tpm2.TPM2_ALG.SHA256, digest=tpm2.TPMU_HA(sha256=digest))
        esapi.pcr_extend(tpm2.ESYS_TR(pcr), tpm2.TPML_DIGEST_VALUES([value]))
    finally:
        esapi.close()


def _activate(esapi: Any, ak: Any, ek: Any, credential: Any, encrypted: Any) -> bytes:
    import tpm2_pytss as tpm2

    session = esapi.start_auth_session(
        tpm_key=tpm2.ESYS_TR.NONE,
        bind=tpm2.ESYS_TR.NONE,
        session_type=tpm2.TPM2_SE.POLICY,
        symmetric=tpm2.TPMT_SYM_DEF(algorithm=tpm2.TPM2_ALG.NULL),
        auth_hash=tpm2.TPM2_ALG.SHA256,
    )
    esapi.policy_secret(tpm2.ESYS_TR.RH_ENDORSEMENT, session, b"", b"", b"", 0)
    return bytes(
        esapi.activate_credential(
            ak, ek, credential, encrypted, session1=tpm2.ESYS_TR.PASSWORD, session2=session
        )
    )


def _manufacture(directory: Path, state: Path, ca: Path) -> None:
    options, localca, setup = (
        directory / name for name in ("localca.options", "localca.conf", "setup.conf")
    )
    options.write_text(_OPTIONS)
    localca.write_text(_CA.format(ca=ca))
    setup.write_text(_SETUP.format(tool=shutil.which("swtpm_localca"), ca=localca, options=options))
    done = subprocess.run(
        [
            "swtpm_setup",
            "--tpm2",
            "--config",
            str(setup),
            "--tpmstate",
            str(state),
            "--create-ek-cert",
            "--lock-nvram",
            "--overwrite",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _free_port() -> int:
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "swtpm ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("swtpm does not listen")
