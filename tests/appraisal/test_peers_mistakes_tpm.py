"""Mistakes that other systems shipped about TPMs and virtual TPMs: none of them is made here.

Each docstring names the mistake. How they are refused in detail is in test_tpm.py,
test_event_log.py and test_azure_vtpm.py.
"""

import hashlib
import os
import struct
from collections.abc import Callable

import attrs
import pytest

from attestation.appraisal.result import AttestationResult
from attestation.appraisal.verifier import appraise
from attestation.encoding import cbor
from attestation.errors import DecodeError
from attestation.evidence.binding import NonceTree
from attestation.evidence.event_log import EventLog
from attestation.evidence.tpm import Public, TpmEvidence
from attestation.policy.policy import Policy
from tests.simulators import tpm as simulated
from tests.simulators.evidence import NOW, bundle_for, draw_keyset, tpm_policy
from tests.simulators.tpm import PCRS, RsaTpm, SimulatedTpm
from tests.simulators.vendor import Operator, der

OPERATOR = Operator()
KEYED = SimulatedTpm()
TPM = KEYED.but(certificates=[der(entry) for entry in OPERATOR.certify(KEYED.key.public_key())])
POLICY = tpm_policy({11: [PCRS[11]]}, roots=[OPERATOR.root_der])
KEYSET = draw_keyset()
NONCE = os.urandom(32)
TREE = NonceTree.over([NONCE])


def judge(
    collect: Callable[[bytes], bytes] = TPM.collect, policy: Policy = POLICY
) -> AttestationResult:
    bundle = bundle_for(KEYSET, TREE, collect)
    return appraise(bundle, policy=policy, nonce=NONCE, path=TREE.proofs[0], now=NOW)


def codes(result: AttestationResult) -> list[str]:
    assert not result.accepted
    return [check.code for check in result.refusals]


def altered(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: attrs.evolve(TPM.evidence(data), **changes).to_bytes()


def test_the_machine_that_each_mistake_is_tried_on_is_accepted() -> None:
    assert judge().accepted


def test_a_key_beside_the_quote_is_not_taken_for_one_in_it() -> None:
    """Clients encrypted to a key that came with the quote and was never compared with it."""
    bundle = attrs.evolve(bundle_for(KEYSET, TREE, TPM.collect), keyset=draw_keyset().to_bytes())
    result = appraise(bundle, policy=POLICY, nonce=NONCE, path=TREE.proofs[0], now=NOW)
    assert codes(result) == ["binding-mismatch"]


def test_a_quote_copied_to_another_host_is_not_taken_for_its_own() -> None:
    """Quotes were accepted from whoever showed them: nothing tied them to a session's keys."""
    other = draw_keyset()
    stolen = bundle_for(KEYSET, TREE, TPM.collect).body
    bundle = bundle_for(other, TREE, lambda _: stolen)
    result = appraise(bundle, policy=POLICY, nonce=NONCE, path=TREE.proofs[0], now=NOW)
    assert codes(result) == ["binding-mismatch"]


def test_an_empty_nonce_is_not_taken_for_any_nonce() -> None:
    """A quote that was asked for without a nonce passed for an answer to every Challenge."""

    def unasked(data: bytes) -> bytes:
        attest = TPM.attest(b"")
        signed = attrs.evolve(TPM.evidence(data), attest=attest, signature=TPM.sign(attest))
        return signed.to_bytes()

    assert codes(judge(unasked)) == ["binding-mismatch"]


def test_pcr_values_under_other_numbers_are_not_taken_for_those_quoted() -> None:
    """Numbers were read from the list that came along; only the values are in the digest."""
    rows = [(bank, 12 if index == 11 else index, value) for bank, index, value in rows_of(TPM)]
    assert "pcr-selection-mismatch" in codes(judge(altered(pcrs=tuple(rows))))


def test_values_run_together_without_lengths_are_not_taken_apart_elsewhere() -> None:
    """A signature over parts put in a row, without their lengths, holds for other parts too."""
    (b0, i0, v0), (b1, i1, v1), *rest = rows_of(TPM)
    glued = ((b0, i0, v0 + v1[:4]), (b1, i1, v1[4:]), *rest)
    assert "pcr-digest-mismatch" in codes(judge(altered(pcrs=glued)))


def test_a_certification_is_not_taken_for_a_quote() -> None:
    """A statement of another type has a good signature by the same restricted key."""
    assert codes(judge(TPM.but(kind=simulated.CERTIFY).collect)) == ["not-a-quote"]


def test_an_unrestricted_key_is_not_taken_for_an_attestation_key() -> None:
    """Software that holds an unrestricted key writes whatever quote it likes."""
    free = TPM.but(attributes=simulated.AK_ATTRIBUTES & ~simulated.RESTRICTED)
    assert codes(judge(free.collect)) == ["ak-attributes"]


def test_a_software_tpm_that_nobody_vouches_for_is_not_taken_for_a_chip() -> None:
    """A mock that always passes: anybody can run swtpm, and its quotes are perfect."""
    assert codes(judge(SimulatedTpm().collect)) == ["ak-not-endorsed"]


@pytest.mark.parametrize("field", ["test_purpose", "mock", "skip_verification"])
def test_a_field_that_asks_for_a_milder_verifier_is_refused(field: str) -> None:
    """A field in the Evidence chose which verifier looked at it."""

    def asking(data: bytes) -> bytes:
        return cbor.encode({**TPM.evidence(data).to_map(), field: True})

    assert codes(judge(asking)) == ["malformed"]


def test_a_certificate_for_another_key_is_not_taken_for_any_key() -> None:
    """A chain was verified, and the key in it never compared with the one that signed."""
    stranger = SimulatedTpm(certificates=TPM.certificates)
    assert codes(judge(stranger.collect)) == ["ak-certificate-mismatch"]


def test_a_root_in_the_evidence_is_not_taken_for_an_anchor() -> None:
    """The end of the chain that came along was trusted because it was the end."""
    impostor = Operator("somebody else")
    chain = [*impostor.certify(TPM.key.public_key()), impostor.root]
    shown = TPM.but(certificates=[der(entry) for entry in chain])
    assert codes(judge(shown.collect)) == ["ak-not-endorsed"]


def test_a_missing_endorsement_is_neither_a_pass_nor_a_forgery() -> None:
    """What could not be looked up was accepted by one tool and called forged by another."""
    result = judge(SimulatedTpm().collect)
    assert result.tier.value == "unverifiable"


def test_a_length_in_the_evidence_does_not_decide_how_much_is_allocated() -> None:
    """A length prefix from outside was believed before there was anything behind it."""
    head = struct.pack("<II", 0, 1) + bytes(20)
    with pytest.raises(DecodeError):
        EventLog.from_bytes(head + b"\xff\xff\xff\x7f" + b"x")


def test_a_weak_key_in_a_long_field_is_not_taken_for_a_long_key() -> None:
    """The size of a key was taken from its field, not from the number in it."""
    public = RsaTpm().public()
    with pytest.raises(DecodeError):
        Public.from_bytes(public[:-256] + bytes(128) + public[-128:])


def test_sha1_is_not_accepted_because_a_real_machine_signs_with_it() -> None:
    """Old banks and schemes went on being accepted because some machines have no other."""
    tpm = RsaTpm(hash_name="sha1")
    policy = tpm_policy({11: [PCRS[11]]}, keys=[tpm.fingerprint()])
    assert codes(judge(tpm.collect, policy)) == ["weak-hash"]


def test_a_pin_is_of_the_whole_key_and_not_of_a_name_that_it_gives_itself() -> None:
    """An identity that was not in the list of keys counted as valid."""
    unknown = tpm_policy({11: [PCRS[11]]}, keys=[hashlib.sha256(b"another").digest()])
    assert codes(judge(policy=unknown)) == ["ak-not-endorsed"]


def rows_of(tpm: SimulatedTpm) -> tuple[tuple[object, int, bytes], ...]:
    evidence: TpmEvidence = tpm.evidence(bytes(64))
    return evidence.pcrs
