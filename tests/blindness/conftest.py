"""Two runs of the same jobs, with sealing and without; every test looks at what they recorded."""

import os

import pytest

from attestation.client import requests
from attestation.errors import EnclaveError
from attestation.sealing import envelope
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import FloeSealer, octets, writable
from tests.blindness.watched import SIZES, Secrets, WatchedCoordinator
from tests.simulators.markers import Key

RESULT_SECONDS = 60


def remember_keys(patch: pytest.MonkeyPatch, secrets: Secrets) -> None:
    """Hook into the client: keep every content key and session secret that it draws."""
    generate = ContentKey.generate

    def remembered() -> ContentKey:
        key = generate()
        secrets.keys.append(Key(name=f"content key {len(secrets.keys)}", data=bytes(key._key)))
        return key

    def drawn(count: int) -> bytes:
        data = os.urandom(count)
        secrets.keys.append(Key(name=f"session secret {len(secrets.keys)}", data=data))
        return data

    # Everything that the coordinator can be made to say.
    patch.setenv("ENCLAVE_LOG_LEVEL", "debug")
    patch.setattr(ContentKey, "generate", remembered)
    patch.setattr(envelope, "urandom", drawn)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> WatchedCoordinator:
    """Jobs of both sizes, durable and streaming, that are held, finish, fail and are cancelled."""
    secrets = Secrets()
    watched = WatchedCoordinator(tmp_path_factory.mktemp("sealed"), secrets)
    with pytest.MonkeyPatch.context() as patch:
        remember_keys(patch, secrets)
        with watched:
            held = [
                watched.submit("residue.hold", nbytes, durable=durable)
                for nbytes in SIZES.values()
                for durable in (True, False)
            ]
            watched.wait_for(".in")
            watched.gate.touch()
            for job in held:
                result = job.result(RESULT_SECONDS)
                assert (result["same"] == secrets.input.array(result["same"].nbytes)).all()
                assert (result["constant"] == secrets.parameter.number()).all()
            watched.look()
            watched.gate.unlink()
            _let_outputs_wait(watched)
            failed = watched.submit("residue.crash", SIZES["small"], durable=True)
            assert isinstance(failed.exception(RESULT_SECONDS), EnclaveError)
            watched.submit("residue.hold", SIZES["large"], durable=True).cancel()
            watched.look()
    # Everything has ended and every record is whole.
    return watched


@pytest.fixture(scope="module")
def unsealed(tmp_path_factory: pytest.TempPathFactory) -> WatchedCoordinator:
    """The positive control: the same client, whose sealing does nothing, and the same recorders.

    The worker hangs, so that the jobs stay with the coordinator; it would refuse them.
    """
    secrets = Secrets()
    watched = WatchedCoordinator(tmp_path_factory.mktemp("unsealed"), secrets)
    with pytest.MonkeyPatch.context() as patch:
        remember_keys(patch, secrets)
        patch.setattr(FloeSealer, "seal_into", _no_sealing)
        patch.setattr(requests, "seal_bytes", _no_body_sealing)
        with watched:
            watched.pause_worker()
            for nbytes in SIZES.values():
                watched.submit("residue.hold", nbytes, durable=True)
            watched.wait_for(".in")
            watched.look()
    return watched


def _let_outputs_wait(watched: WatchedCoordinator) -> None:
    """Look while the coordinator keeps the outputs of a job that its client cannot fetch."""
    job = watched.submit("residue.hold", SIZES["large"], durable=True)
    assert job.wait_accepted(RESULT_SECONDS)
    watched.hold_client(held=True)
    watched.gate.touch()
    watched.wait_for(".out")
    watched.hold_client(held=False)
    job.result(RESULT_SECONDS)


def _no_sealing(
    self: FloeSealer, position: int, plaintext: bytes, out: bytearray, *, final: bool
) -> None:
    writable(out)[16:-16] = octets(plaintext)


def _no_body_sealing(key: bytes, aad: bytes, data: bytes) -> bytes:
    return bytes(12) + data + bytes(16)
