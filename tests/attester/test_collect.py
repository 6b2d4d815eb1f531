"""Keys after the Challenges, attested once; and the choice of an Attester."""

import inspect
import os
import sys
from pathlib import Path

import pytest

from attestation.errors import LocalProtocolError, UnavailableError
from attestation.evidence.binding import gpu_nonce, report_data
from attestation.evidence.insecure import InsecureEvidence
from attestation.evidence.keyset import KeySet
from enclave_worker.attester import collect
from enclave_worker.attester.collect import EvidenceCollector
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.attester.selection import NoAttesterError, select_attester
from enclave_worker.attester.tpm import TpmAttester, TpmUnavailableError
from tests.simulators.evidence import draw_keyset

NOWHERE = "device:/nonexistent/tpm"


def collector() -> EvidenceCollector:
    return EvidenceCollector(InsecureAttester(), draw_keyset=draw_keyset)


def test_two_windows_give_two_key_sets_even_for_the_same_challenge() -> None:
    ours, nonce = collector(), os.urandom(32)
    first, second = ours.collect_window([nonce]), ours.collect_window([nonce])
    assert first.keyset.kem_public_key != second.keyset.kem_public_key
    assert first.keyset.receipt_key != second.keyset.receipt_key
    assert first.bundle.body != second.bundle.body


def test_a_key_set_is_never_attested_a_second_time() -> None:
    """Re-attesting a key is the relay attack: a store that hands one out twice is stopped."""
    same = draw_keyset()
    ours = EvidenceCollector(InsecureAttester(), draw_keyset=lambda: same)
    ours.collect_window([bytes(32)])
    with pytest.raises(LocalProtocolError):
        ours.collect_window([bytes(32)])


def test_keys_are_drawn_after_the_challenges_are_known() -> None:
    drawn: list[KeySet] = []

    def draw() -> KeySet:
        drawn.append(draw_keyset())
        return drawn[-1]

    ours = EvidenceCollector(InsecureAttester(), draw_keyset=draw)
    assert drawn == []
    with pytest.raises(LocalProtocolError):
        ours.collect_window([])
    assert drawn == []
    assert ours.collect_window([bytes(32)]).keyset == drawn[0]


def test_nothing_in_the_collector_takes_a_key_to_attest() -> None:
    methods = [entry for _, entry in inspect.getmembers(EvidenceCollector, inspect.isfunction)]
    functions = [
        entry
        for _, entry in inspect.getmembers(collect, inspect.isfunction)
        if entry.__module__ == collect.__name__
    ]
    names = {
        name for entry in (*methods, *functions) for name in inspect.signature(entry).parameters
    }
    assert names == {"self", "attester", "gpu_attester", "draw_keyset", "nonces"}


def test_a_window_answers_each_of_its_challenges() -> None:
    nonces = [os.urandom(32) for _ in range(4)]
    window = collector().collect_window(nonces)
    for nonce, proof in zip(nonces, window.proofs, strict=True):
        proof.verify(nonce, nonce_root=window.bundle.nonce_root)
    body = InsecureEvidence.from_bytes(window.bundle.body)
    assert body.report_data == report_data(window.keyset.keyset_id(), window.bundle.nonce_root)


class Gpus:
    """GPUs that say what they were asked."""

    def __init__(self) -> None:
        self.nonces: list[bytes] = []

    def collect(self, nonce: bytes) -> bytes:
        self.nonces.append(nonce)
        return b"evidence over " + nonce


def test_gpu_evidence_is_collected_first_and_the_processor_signs_its_digest() -> None:
    gpus = Gpus()
    ours = EvidenceCollector(InsecureAttester(), draw_keyset=draw_keyset, gpu_attester=gpus)
    window = ours.collect_window([os.urandom(32)])
    keyset_id, root = window.keyset.keyset_id(), window.bundle.nonce_root
    assert gpus.nonces == [gpu_nonce(keyset_id, root)]
    assert window.bundle.gpu_evidence == b"evidence over " + gpus.nonces[0]
    signed = InsecureEvidence.from_bytes(window.bundle.body).report_data
    assert signed == report_data(keyset_id, root, window.bundle.gpu_evidence)
    assert signed != report_data(keyset_id, root)


def test_gpu_evidence_of_another_window_is_not_what_the_processor_signed() -> None:
    ours = EvidenceCollector(InsecureAttester(), draw_keyset=draw_keyset, gpu_attester=Gpus())
    first, second = (ours.collect_window([os.urandom(32)]) for _ in range(2))
    mixed = report_data(
        second.keyset.keyset_id(), second.bundle.nonce_root, first.bundle.gpu_evidence
    )
    assert InsecureEvidence.from_bytes(second.bundle.body).report_data != mixed


def test_gpus_that_fail_leave_no_evidence_without_them() -> None:
    """Leaving them out would make a worker with a lost GPU look like one that never had any."""

    class Lost:
        def collect(self, nonce: bytes) -> bytes:
            raise UnavailableError("the GPU is lost")

    asked: list[bytes] = []

    class Counting(InsecureAttester):
        def collect(self, report_data: bytes) -> bytes:
            asked.append(report_data)
            return super().collect(report_data)

    ours = EvidenceCollector(Counting(), draw_keyset=draw_keyset, gpu_attester=Lost())
    with pytest.raises(UnavailableError):
        ours.collect_window([bytes(32)])
    assert asked == []


def test_a_key_set_whose_attestation_failed_is_not_used_again() -> None:
    class Broken:
        kind = "tpm"

        def collect(self, report_data: bytes) -> bytes:
            raise UnavailableError("no device")

    same = draw_keyset()
    ours = EvidenceCollector(Broken(), draw_keyset=lambda: same)
    with pytest.raises(UnavailableError):
        ours.collect_window([bytes(32)])
    with pytest.raises(LocalProtocolError):
        ours.collect_window([bytes(32)])


def test_auto_never_falls_back_to_insecure() -> None:
    with pytest.raises(NoAttesterError, match="--attester insecure"):
        select_attester("auto", tcti=NOWHERE)


def test_a_tpm_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(TpmUnavailableError):
        select_attester("tpm", tcti=NOWHERE)
    with pytest.raises(TpmUnavailableError):
        TpmAttester(tcti=NOWHERE).collect(bytes(64))


@pytest.mark.parametrize(
    "tcti", ["", ":", "nonsense", "nonsense:x=y", "swtpm:host=127.0.0.1,port=1"]
)
def test_a_connection_that_means_nothing_is_unavailable(
    tcti: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPM2TOOLS_TCTI", NOWHERE)
    with pytest.raises(TpmUnavailableError):
        TpmAttester(tcti=tcti).check()


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_unreadable_certificates_are_reported_before_anything_runs(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "ak.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TpmUnavailableError, match=r"ak\.pem"):
        TpmAttester(tcti=NOWHERE, ak_certificates=path)


@pytest.mark.parametrize("pcrs", [[], [24], [-1, 11]])
def test_pcrs_that_no_tpm_has_are_reported_before_anything_runs(pcrs: list[int]) -> None:
    with pytest.raises(TpmUnavailableError):
        TpmAttester(tcti=NOWHERE, pcrs=pcrs)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    with pytest.raises(TpmUnavailableError, match=r"pip install"):
        TpmAttester(tcti=NOWHERE).check()
    with pytest.raises(NoAttesterError, match=r"pip install"):
        select_attester("auto")


def test_insecure_is_chosen_by_its_name_only() -> None:
    attester, reason = select_attester("insecure")
    assert attester.kind == "insecure"
    assert "INSECURE" in reason


def test_an_unknown_name_chooses_nothing() -> None:
    with pytest.raises(NoAttesterError):
        select_attester("none")  # type: ignore[arg-type]
