"""The services of AMD, Intel and NVIDIA on a port of this machine, with their bad days.

Answers are as the vendors form them, with certificates, lists and signatures of our own. A test
plans faults per path: a rate limit, an outage, silence, dripping, an endless answer, a redirect, a
captive portal's page.
"""

import base64
import contextlib
import hashlib
import ipaddress
import json
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from attestation import limits

Reply = tuple[int, dict[str, str], bytes]
Fault = Callable[[BaseHTTPRequestHandler], Reply | None]

DAY = timedelta(days=1)
KEY_FOR_BUNDLES = ed25519.Ed25519PrivateKey.generate()


class Vendor:
    """Keys, certificates and signed documents, current at `now`."""

    def __init__(self, now: datetime) -> None:
        self.now = now.replace(microsecond=0)
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.certificate("root", self.root_key.public_key(), "root", self.root_key)
        self.signer = self.certificate("signer", self.key.public_key(), "root", self.root_key)
        leaf = ec.generate_private_key(ec.SECP256R1()).public_key()
        self.leaf = self.certificate("leaf", leaf, "signer", self.key)
        self._crls: dict[int, bytes] = {}

    def certificate(
        self, name: str, key: ec.EllipticCurvePublicKey, issuer: str, signer: object
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - 30 * DAY)
            .not_valid_after(self.now + 300 * DAY)
            .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
        )

    def chain_pem(self) -> bytes:
        return b"".join(
            entry.public_bytes(serialization.Encoding.PEM) for entry in (self.signer, self.root)
        )

    def crl(self, *, days: int = 30) -> bytes:
        """A list for that many days, the same bytes each time."""
        if days not in self._crls:
            self._crls[days] = self._sign_crl(days)
        return self._crls[days]

    def _sign_crl(self, days: int) -> bytes:
        return (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name("root"))
            .last_update(self.now - DAY)
            .next_update(self.now + days * DAY)
            .sign(self.root_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )

    def signed(self, member: str, content: dict[str, object], *, days: int = 30) -> bytes:
        """What Intel's PCS answers: one member and the signature over its exact text."""
        text = json.dumps(
            content
            | {
                "issueDate": (self.now - DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "nextUpdate": (self.now + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            separators=(",", ":"),
        )
        return f'{{"{member}":{text},"signature":"{"ab" * 64}"}}'.encode()

    def rim(self) -> bytes:
        """A manifest, as far as its names and its certificate go."""
        texts = [
            base64.b64encode(entry.public_bytes(serialization.Encoding.DER)).decode()
            for entry in (self.leaf, self.signer)
        ]
        certificates = "".join(f"<X509Certificate>{text}</X509Certificate>" for text in texts)
        return (
            '<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" '
            'name="GH100"><Meta colloquialVersion="550.90.07"/>'
            f"{certificates}</SoftwareIdentity>"
        ).encode()

    def ocsp_answer(self, request: bytes, *, hours: int = 24) -> bytes:
        asked = ocsp.load_der_ocsp_request(request)
        certificate = self.leaf if asked.serial_number == self.leaf.serial_number else self.signer
        issuer = self.signer if certificate is self.leaf else self.root
        return (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=certificate,
                issuer=issuer,
                algorithm=hashes.SHA384(),
                cert_status=ocsp.OCSPCertStatus.GOOD,
                this_update=self.now - timedelta(hours=1),
                next_update=self.now + timedelta(hours=hours),
                revocation_time=None,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.NAME, self.root)
            .sign(self.root_key, hashes.SHA384())
            .public_bytes(serialization.Encoding.DER)
        )

    def answer(self, path: str, body: bytes) -> Reply:
        """What the services say when nothing is wrong."""
        chain = {"TCB-Info-Issuer-Chain": "", "SGX-Enclave-Identity-Issuer-Chain": ""}
        chain = {name: quote(self.chain_pem().decode()) for name in chain}
        crl_chain = {"SGX-PCK-CRL-Issuer-Chain": quote(self.chain_pem().decode())}
        der = self.leaf.public_bytes(serialization.Encoding.DER)
        match urlsplit(path).path.strip("/").split("/"):
            case [("vcek" | "vlek"), "v1", _, "cert_chain"]:
                return 200, {}, self.chain_pem()
            case ["vcek", "v1", _, "crl"]:
                return 200, {}, self.crl()
            case ["vcek", "v1", _, _]:
                return 200, {}, der
            case [("sgx" | "tdx") as tee, "certification", "v4", "tcb"]:
                content: dict[str, object] = {"id": tee.upper(), "fmspc": "00906ED50000"}
                return 200, chain, self.signed("tcbInfo", content)
            case [("sgx" | "tdx"), "certification", "v4", "qe", "identity"]:
                return 200, chain, self.signed("enclaveIdentity", {"id": "TD_QE"})
            case ["sgx", "certification", "v4", "pckcrl"]:
                return 200, crl_chain, self.crl()
            case ["IntelSGXRootCA.der"]:
                return 200, {}, self.crl()
            case ["v1", "rim", identifier]:
                rim = self.rim()
                document = {
                    "id": identifier,
                    "rim": base64.b64encode(rim).decode(),
                    "sha256": hashlib.sha256(rim).hexdigest(),
                }
                return 200, {}, json.dumps(document).encode()
            case ["ocsp"]:
                return 200, {}, self.ocsp_answer(body)
        return 404, {}, b"no such thing"


class VendorServices:
    """One server for all vendors; counts questions, and fails as it is told."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        self.asked: list[str] = []
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.url = ""

    def fail(self, part: str, *faults: Fault, times: int = 1) -> None:
        """Let the next questions whose path holds `part` go wrong."""
        self.faults[part].extend(faults * times)

    def down(self, part: str = "") -> None:
        """Let every question fail from now on."""
        self.fail(part, status(503), times=1000)

    def up(self) -> None:
        """End all faults."""
        self.faults.clear()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> Reply | None:
        self.asked.append(handler.path)
        for part, faults in self.faults.items():
            if part in handler.path and faults:
                return faults.popleft()(handler)
        return self.vendor.answer(handler.path, body)


def status(code: int, **headers: str) -> Fault:
    """Answer with a status and headers (`retry_after="1"`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _handler: (code, named, b"not now")


def content(data: bytes) -> Fault:
    """Answer with something else, and 200."""
    return lambda _handler: (200, {}, data)


def portal(_handler: BaseHTTPRequestHandler) -> Reply:
    """A hotel's page, which says 200 to everything."""
    return 200, {"Content-Type": "text/html"}, b"<html><body>Please log in</body></html>"


def endless(handler: BaseHTTPRequestHandler) -> None:
    """More than anybody can use."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(limits.COLLATERAL_ITEM_BYTES // limits.MIB + 2):
            handler.wfile.write(bytes(limits.MIB))


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: each arrives in time, the whole never does."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)


def silent(_handler: BaseHTTPRequestHandler) -> None:
    """Accept the question and say nothing."""
    time.sleep(1.0)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Announce more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x")


@contextlib.contextmanager
def running(vendor: Vendor, tls: ssl.SSLContext | None = None) -> Iterator[VendorServices]:
    """Serve on loopback until the end of the block."""
    services = VendorServices(vendor)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

        def _reply(self, body: bytes) -> None:
            reply = services.handle(self, body)
            if reply is None:
                return
            code, headers, data = reply
            self.send_response(code)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    services.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tls_files(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""

    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name("127.0.0.1"))
        .issuer_name(_name("127.0.0.1"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "server.pem", directory / "server.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
