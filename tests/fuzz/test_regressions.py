"""What fuzzing found, each under the name of what went wrong. The body is the same that found it.

A new crash from `fuzz-output/crashes/BODY` becomes a test here: its bytes, cut to what matters, and
the error that a user sees now.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from zmq.utils import z85

from attestation.client.errors import KeyFileError
from attestation.client.files import TensorFileError, load_tensor
from attestation.client.keys import ClientKey
from attestation.client.transport import CurveKeys
from attestation.errors import PolicyError
from attestation.policy.loading import parse_policy
from attestation.programs.errors import ParameterUnknownError, ProgramTooLargeError
from attestation.programs.loading import load_program_toml
from attestation.programs.program import encode_parameters
from coordinator.errors import KeyFileError as CoordinatorKeyFileError
from coordinator.keys import load as load_coordinator_key
from coordinator.keys import load_allowed
from enclave_worker.transport import KeyFileError as WorkerKeyFileError
from enclave_worker.transport import load_curve_keys
from tests.fuzz import honest
from tests.fuzz.bodies import TPM_POLICY, pem
from tests.fuzz.corpus import PROGRAM_TOML
from tests.fuzz.registry import BODIES

KEY = z85.encode(bytes(range(32)))

BROKEN_CURVE_FILES = {
    "no equals sign, which was an IndexError": b'public-key "' + KEY + b'"\n',
    "a character that Z85 lacks, which was a KeyError": b'public-key = "\0' + KEY[1:] + b'"\n',
    "41 characters, which was a ValueError": b'public-key = "' + KEY + b'0"\n',
    "five characters beyond 2^32, which was a struct.error": b'public-key = "' + b"#" * 40 + b'"\n',
    "35 characters, which was taken for a key": b'public-key = "' + KEY[:35] + b'"\n',
}


@pytest.mark.parametrize("text", BROKEN_CURVE_FILES.values(), ids=BROKEN_CURVE_FILES)
def test_a_broken_curve_key_file_is_named_by_all_who_read_it(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "any.curve"
    path.write_bytes(text + text.replace(b"public", b"secret"))
    with pytest.raises(KeyFileError, match=r"any\.curve"):
        CurveKeys.load(path, path)
    with pytest.raises(WorkerKeyFileError, match=r"any\.curve"):
        load_curve_keys(path, path)
    with pytest.raises(CoordinatorKeyFileError, match=r"any\.curve"):
        load_coordinator_key(path)
    BODIES["curve_key"](path.read_bytes())


def test_an_allowed_key_beyond_2_to_the_32_is_refused_with_its_line(tmp_path: Path) -> None:
    """It was a struct.error out of the Z85 decoder."""
    path = tmp_path / "allow"
    path.write_bytes(KEY + b" a name\n" + b"#" * 40 + b"\n")
    with pytest.raises(CoordinatorKeyFileError, match=r"allow:2"):
        load_allowed(path)


PKCS8 = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            "MC4CAQAwBQYDK1VwBCIEIDU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1",
            id="a key type that nobody knows, which was an UnsupportedAlgorithm",
        ),
        pytest.param(
            "MC4CAQAwBQYDK2VvBCIEIDU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1NTU1",
            id="an X448 key of another length, which was an InternalError",
        ),
    ],
)
def test_a_private_key_of_a_foreign_type_is_not_a_client_key(tmp_path: Path, body: str) -> None:
    path = tmp_path / "client.key"
    path.touch(mode=0o600)
    path.write_text(PKCS8.format(body))
    with pytest.raises(KeyFileError):
        ClientKey.load(path)


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            npy(b"{'descr': '<f4', 'fortran_order': False, 's2, 3), }\n", bytes(24)),
            id="an open bracket, which was a TokenError",
        ),
        pytest.param(
            npy(b"{'descr': '<f4', \0'fortran_order': False, 'shape': (2, 3), }\n", bytes(24)),
            id="a zero byte, which was a SyntaxError",
        ),
        pytest.param(
            npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 8), }\n"),
            id="2^43 elements in a hundred bytes, which was a MemoryError",
        ),
    ],
)
def test_a_npy_header_that_is_no_literal_or_asks_for_too_much_is_refused(
    tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    for source in ("-", str(path)):
        with pytest.raises(TensorFileError):
            load_tensor(source, stdin=io.BytesIO(data))


def test_a_npz_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    """NumPy returned its bytes, which went on as if they were an array."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"not an array")
        archive.writestr("y.npy", b"not an array either")
    for source in (f"{path}:x", f"{path}:y", f"{path}:z"):
        with pytest.raises(TensorFileError):
            load_tensor(source, stdin=io.BytesIO())


def test_a_npz_that_is_really_a_npy_is_refused(tmp_path: Path) -> None:
    """NumPy goes by the first bytes and not by the name; closing an array was a TypeError."""
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        np.save(file, np.eye(2))
    with pytest.raises(TensorFileError):
        load_tensor(str(path), stdin=io.BytesIO())


def test_every_array_of_an_honest_npz_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, first=np.eye(2), second=np.arange(3))
    assert load_tensor(f"{path}:first", stdin=io.BytesIO()).tolist() == np.eye(2).tolist()
    assert load_tensor(f"{path}:second", stdin=io.BytesIO()).tolist() == [0, 1, 2]
    with pytest.raises(TensorFileError, match="first, second"):
        load_tensor(str(path), stdin=io.BytesIO())


def test_a_policy_with_an_empty_key_is_refused_as_a_policy() -> None:
    """TOML allows `"" = 1`; looking for its line ended in a RuntimeError."""
    for text in ('""=""', '["".a]\nb = 1', "''.\"\" = 1"):
        with pytest.raises(PolicyError):
            parse_policy(text, directory=Path("/nonexistent"))


def test_a_pinned_root_of_an_unknown_x509_version_is_refused_as_a_policy(tmp_path: Path) -> None:
    """It was an InvalidVersion, which is no ValueError."""
    certificate = honest.tpm().certificates[0]
    place = certificate.index(b"\xa0\x03\x02\x01\x02") + 4
    (tmp_path / "roots.pem").write_text(pem(certificate))
    assert parse_policy(TPM_POLICY, directory=tmp_path).tpm is not None
    changed = certificate[:place] + b"\x07" + certificate[place + 1 :]
    (tmp_path / "roots.pem").write_text(pem(changed))
    with pytest.raises(PolicyError):
        parse_policy(TPM_POLICY, directory=tmp_path)


@pytest.mark.parametrize("name", ["e-x", "1k", "", "k" * 65, "k.x"])
def test_parameters_that_no_worker_could_parse_are_not_sealed(name: str) -> None:
    """They were encoded, and would have come back as a refusal of what the client had sealed."""
    text = PROGRAM_TOML.decode().replace("k = 2", f'"{name}" = 2')
    _, parameters = load_program_toml(text)
    with pytest.raises(ParameterUnknownError):
        encode_parameters(parameters)
    with pytest.raises(ParameterUnknownError):
        encode_parameters({name: {"k": 1}})


def test_more_parameters_than_a_worker_reads_are_not_sealed() -> None:
    with pytest.raises(ProgramTooLargeError):
        encode_parameters({"run": {f"k{number}": 1 for number in range(65)}})
    with pytest.raises(ProgramTooLargeError):
        encode_parameters({f"s{number}": {"k": 1} for number in range(257)})


def test_a_result_sent_again_to_a_coordinator_that_forgot_the_worker_is_no_second_run() -> None:
    """The body counted messages where it meant receipts: a second welcome made it fail."""
    BODIES["worker_runtime"](b"\x03\x12\x01" + bytes(6) + b"\x01" + bytes(5) + b"floor\x01\x00")
