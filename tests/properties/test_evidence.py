"""Any bytes parse or raise `DecodeError`, and no verdict on them is ever a crash or a yes."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from attestation.appraisal.verifier import appraise
from attestation.endorsements.chains import parse_certificate, verify_chain
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.errors import DecodeError, PolicyError, VerificationError
from attestation.evidence.azure_vtpm import HclReport, RuntimeClaims
from attestation.evidence.binding import FreshnessProof, NonceTree
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.event_log import EventLog
from attestation.evidence.insecure import InsecureEvidence
from attestation.evidence.keyset import KeySet
from attestation.evidence.nitro import NitroDocument
from attestation.evidence.tpm import Attest, Public, Signature, TpmEvidence
from attestation.evidence.tpm_forms import read_key
from attestation.policy.loading import parse_policy
from attestation.policy.template import policy_template
from tests.simulators.amd import SimulatedChip
from tests.simulators.azure import SimulatedParavisor
from tests.simulators.event_log import BOOT, agile_log
from tests.simulators.evidence import NOW, bundle_for, draw_keyset, insecure_policy, tpm_policy
from tests.simulators.nitro import SimulatedNsm
from tests.simulators.tpm import PCRS, SimulatedTpm
from tests.simulators.vendor import Operator, der

PARAVISOR = SimulatedParavisor(chip=SimulatedChip())
OPERATOR = Operator()
CHAIN = OPERATOR.certify(SimulatedTpm().key.public_key())
_KEYED = SimulatedTpm()
TPM = _KEYED.but(certificates=[der(entry) for entry in OPERATOR.certify(_KEYED.key.public_key())])
NONCE = os.urandom(32)
TREE = NonceTree.over([NONCE])
BUNDLE = bundle_for(draw_keyset(), TREE, TPM.collect)
POLICY = tpm_policy({11: [PCRS[11]]}, roots=[OPERATOR.root_der])
EVIDENCE = TPM.evidence(bytes(64))

SAMPLES: dict[Callable[[bytes], object], bytes] = {
    Attest.from_bytes: EVIDENCE.attest,
    Signature.from_bytes: EVIDENCE.signature,
    Public.from_bytes: EVIDENCE.ak_public,
    TpmEvidence.from_bytes: EVIDENCE.to_bytes(),
    InsecureEvidence.from_bytes: InsecureEvidence(report_data=bytes(64)).to_bytes(),
    KeySet.from_bytes: BUNDLE.keyset,
    EvidenceBundle.from_bytes: BUNDLE.to_bytes(),
    EvidenceRecord.from_bytes: EvidenceRecord(
        bundle=b"bundle",
        nonce=NONCE,
        leaf_index=0,
        tree_size=1,
        path=(),
        catalogue=b"",
        collateral=NO_COLLATERAL.to_bytes(),
    ).to_bytes(),
    parse_certificate: der(CHAIN[0]),
    read_key: EVIDENCE.ak_public,
    EventLog.from_bytes: agile_log(BOOT),
    HclReport.from_bytes: PARAVISOR.hcl_report(),
    RuntimeClaims.from_text: PARAVISOR.runtime_text(),
    NitroDocument.from_bytes: SimulatedNsm().document(bytes(64)),
}
PARSERS = st.sampled_from(sorted(SAMPLES, key=repr))


@st.composite
def mutated(draw: st.DrawFn, sample: bytes) -> bytes:
    """`sample` with a few bytes changed, inserted or cut: deeper than random bytes get."""
    data = bytearray(sample)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[place:place] = draw(st.binary(min_size=1, max_size=4))
            case 2:
                del data[place : place + draw(st.integers(1, 8))]
            case _:
                del data[place:]
    return bytes(data)


@given(PARSERS, st.binary(max_size=300))
def test_any_bytes_parse_or_raise_decode_error(
    parser: Callable[[bytes], object], data: bytes
) -> None:
    try:
        parser(data)
    except DecodeError:
        return


@given(st.data(), PARSERS)
def test_almost_right_bytes_parse_or_raise_decode_error(
    data: st.DataObject, parser: Callable[[bytes], object]
) -> None:
    try:
        parser(data.draw(mutated(SAMPLES[parser])))
    except DecodeError:
        return


@given(st.data())
def test_no_changed_certificate_is_endorsed(data: st.DataObject) -> None:
    sample = der(CHAIN[0])
    changed = data.draw(mutated(sample).filter(lambda entry: entry != sample))
    try:
        certificate: x509.Certificate = parse_certificate(changed)
    except DecodeError:
        return
    with pytest.raises(VerificationError):
        verify_chain([certificate, CHAIN[1]], roots=[OPERATOR.root], now=NOW)


def test_the_bundle_that_the_next_properties_change_is_accepted() -> None:
    assert appraise(BUNDLE, policy=POLICY, nonce=NONCE, path=TREE.proofs[0], now=NOW).accepted


@given(
    st.data(),
    st.sampled_from(["kind", "keyset", "nonce_root"]),
    st.integers(-100_000_000, 100_000_000),
)
def test_no_changed_bundle_is_accepted_at_any_time(
    data: st.DataObject, field: str, seconds: int
) -> None:
    honest = getattr(BUNDLE, field)
    sample = honest.encode() if isinstance(honest, str) else honest
    changed = data.draw(mutated(sample).filter(lambda entry: entry != sample))
    value = changed.decode("latin-1") if isinstance(honest, str) else changed
    bundle = attrs.evolve(BUNDLE, **{field: value})
    now = NOW + timedelta(seconds=seconds)
    for policy in (POLICY, insecure_policy()):
        result = appraise(bundle, policy=policy, nonce=NONCE, path=TREE.proofs[0], now=now)
        assert not result.accepted


@given(st.data())
def test_a_changed_body_never_yields_another_key(data: st.DataObject) -> None:
    """Bits that nothing signs may change (the key's public area); what is sealed to may not."""
    bundle = attrs.evolve(BUNDLE, body=data.draw(mutated(BUNDLE.body)))
    result = appraise(bundle, policy=POLICY, nonce=NONCE, path=TREE.proofs[0], now=NOW)
    if result.accepted:
        honest = KeySet.from_bytes(BUNDLE.keyset)
        assert result.recipient_key().public_bytes == honest.kem_public_key
        body, before = TpmEvidence.from_bytes(bundle.body), TpmEvidence.from_bytes(BUNDLE.body)
        assert body.attest == before.attest
        assert body.pcrs == before.pcrs


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 1 << 70),
    st.integers(0, 1 << 70),
    st.lists(st.binary(max_size=40), max_size=70),
)
def test_no_made_up_path_makes_a_foreign_challenge_fresh(
    nonce: bytes, index: int, size: int, path: list[bytes]
) -> None:
    proof = FreshnessProof(leaf_index=index, tree_size=size, path=tuple(path))
    with pytest.raises(VerificationError):
        proof.verify(nonce, nonce_root=TREE.root)


@given(
    st.one_of(
        st.text(max_size=300),
        mutated(policy_template(allow_insecure_evidence=True).encode()).map(
            lambda data: data.decode("utf-8", "replace")
        ),
    )
)
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    try:
        policy = parse_policy(text, directory=Path("/nonexistent"))
    except PolicyError:
        return
    assert policy.evidence.kinds
    assert policy.catalogue.accept_any or policy.catalogue.digests
