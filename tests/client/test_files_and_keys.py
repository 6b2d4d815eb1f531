"""Files that clients read and write: tensors without pickles, keys that others cannot read."""

import io
import os
import resource
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from attestation.client.errors import KeyFileError, TransportKeysMissingError
from attestation.client.files import TensorFileError, load_tensor, save_tensor
from attestation.client.keys import ClientKey
from attestation.client.transport import CurveKeys, DealerTransport, is_local
from attestation.client.transport_keys import create_curve_keys

X = np.arange(6.0).reshape(2, 3)


def load(source: str, stdin: bytes = b"") -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    return load_tensor(source, stdin=io.BytesIO(stdin))


def test_npy_npz_safetensors_and_stdin_give_the_same_array(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    save_tensor(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X, y=X + 1)
    safetensors.save_file({"x": X, "y": X + 1}, tmp_path / "x.safetensors")
    for source in ("x.npy", "x.npz:x", "x.safetensors:x"):
        np.testing.assert_array_equal(load(str(tmp_path / source)), X)
    np.testing.assert_array_equal(load("-", (tmp_path / "x.npy").read_bytes()), X)


def test_one_array_in_an_archive_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", only=X)
    np.testing.assert_array_equal(load(str(tmp_path / "x.npz")), X)


def test_a_pickle_in_a_file_is_never_opened(tmp_path: Path) -> None:
    """An object array runs code when it is loaded; ours refuses before that."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    bomb = np.array([Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=bomb)
    for source in ("x.npy", "x.npz:x"):
        with pytest.raises(TensorFileError):
            load(str(tmp_path / source))
    with pytest.raises(TensorFileError):
        load("-", (tmp_path / "x.npy").read_bytes())
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.safetensors", "-"])
@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"PK\x03\x04", bytes(range(100))])
def test_files_of_something_else_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TensorFileError):
        load(name if name == "-" else str(tmp_path / name), data)


@pytest.mark.parametrize("elements", [1 << 40, 1 << 60])
@pytest.mark.parametrize("place", ["x.npy", "x.npz:x", "-"])
def test_a_shape_of_two_to_the_fortieth_in_a_small_file_reserves_nothing(
    tmp_path: Path, place: str, elements: int
) -> None:
    described = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({elements},), }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(described).to_bytes(2, "little") + described
    assert len(data) <= 100
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TensorFileError) as refused:
        load(place if place == "-" else str(tmp_path / place), data)
    assert refused.value.code == "tensor-file"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"


def test_missing_files_and_names_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, b=X)
    save_tensor(tmp_path / "x.npy", X)
    for source in ("no.npy", "x.npz", "x.npz:c", "x.npy:c"):
        with pytest.raises(TensorFileError):
            load(str(tmp_path / source))


def test_a_saved_key_is_private_and_comes_back(tmp_path: Path) -> None:
    key = ClientKey.of(None)
    private, public = key.save(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert ClientKey.of(private).key_id == key.key_id
    assert ClientKey.of(str(private)).public_bytes == key.public_bytes
    assert b"PRIVATE" not in public.read_bytes()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    ClientKey.of(None).save(tmp_path)
    with pytest.raises(KeyFileError):
        ClientKey.of(None).save(tmp_path)
    create_curve_keys(tmp_path)
    with pytest.raises(KeyFileError):
        create_curve_keys(tmp_path)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    private, _ = ClientKey.of(None).save(tmp_path)
    private.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod"):
        ClientKey.load(private)


def other_keys() -> dict[str, bytes]:
    ed25519, x25519 = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    pem, pkcs8 = Encoding.PEM, PrivateFormat.PKCS8
    return {
        "encrypted": ed25519.private_bytes(pem, pkcs8, BestAvailableEncryption(b"password")),
        "another-algorithm": x25519.private_bytes(pem, pkcs8, NoEncryption()),
        "empty": b"",
        "noise": os.urandom(200),
    }


@pytest.mark.parametrize("name", ["encrypted", "another-algorithm", "empty", "noise"])
def test_files_that_are_no_signing_key_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "client.key"
    path.write_bytes(other_keys()[name])
    path.chmod(0o600)
    with pytest.raises(KeyFileError):
        ClientKey.load(path)


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        ClientKey.load(tmp_path / "client.key")


def test_a_signing_key_does_not_show() -> None:
    assert "private" not in repr(ClientKey.of(None)).lower().replace("private=", "")


def test_curve_keys_come_back_and_hide_the_secret(tmp_path: Path) -> None:
    private, public, text = create_curve_keys(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert text in public.read_text()
    keys = CurveKeys.load(private, public)
    assert keys.public == keys.coordinator
    assert keys.secret.hex() not in repr(keys)
    assert repr(keys.secret) not in repr(keys)
    with pytest.raises(KeyFileError):
        CurveKeys.load(public, public)
    with pytest.raises(KeyFileError):
        CurveKeys.load(tmp_path / "none", public)


LOCAL = ["tcp://127.0.0.1:5700", "tcp://127.8.9.1:1", "tcp://[::1]:5700", "tcp://localhost:5700"]
LOCAL += ["ipc:///run/enclave", "inproc://x"]

REMOTE = [
    "tcp://10.0.0.1:5700",
    "tcp://0.0.0.0:5700",
    "tcp://example.org:5700",
    "tcp://localhost.example.org:5700",
    "tcp://127.0.0.1.example.org:5700",
    "tcp://127.0.0.1:0;example.org:5700",
    "tcp://127.0.0.1@example.org:5700",
    "tcp://[2001:db8::1]:5700",
    "tcp://",
    "udp://127.0.0.1:5700",
    "",
]


@pytest.mark.parametrize("url", LOCAL)
def test_loopback_addresses_may_do_without_curve(url: str) -> None:
    assert is_local(url)


@pytest.mark.parametrize("url", REMOTE)
def test_anything_else_needs_curve_before_a_socket_is_opened(url: str) -> None:
    assert not is_local(url)
    with pytest.raises(TransportKeysMissingError):
        DealerTransport(url)
