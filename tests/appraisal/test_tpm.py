"""Evidence of kind `tpm`: one accepted machine, and one test for each attack on it."""

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.appraisal.result import NOT_REACHED, AttestationResult, Question, Tier
from attestation.appraisal.verifier import appraise
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral, CollateralKind
from attestation.errors import EvidenceRefusedError, LocalProtocolError
from attestation.evidence.binding import NonceTree, report_data
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.evidence.tpm import PcrBank, Public, TpmEvidence
from attestation.policy.policy import Policy
from attestation.policy.revocation import Revocation
from tests.simulators import tpm as simulated
from tests.simulators.evidence import NOW, bundle_for, draw_keyset, tpm_policy
from tests.simulators.tpm import PCRS, PssTpm, RsaTpm, SimulatedTpm
from tests.simulators.vendor import AK_LIFE, BEGINNING, TLS_PURPOSE, Operator, der

Collect = Callable[[bytes], bytes]


OPERATOR = Operator()


def lists(crls: Sequence[bytes]) -> Collateral:
    return Collateral.from_items([(CollateralKind.CRL, crl) for crl in crls])


LISTS = lists(OPERATOR.crls(NOW))


@pytest.fixture(scope="module")
def operator() -> Operator:
    return OPERATOR


@pytest.fixture(scope="module")
def tpm(operator: Operator) -> SimulatedTpm:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = [der(entry) for entry in operator.certify(key.public_key())]
    return SimulatedTpm(key=key, certificates=chain)


@pytest.fixture
def policy(operator: Operator) -> Policy:
    """A policy that asks for revocation lists, as every policy does that does not say otherwise."""
    return tpm_policy(
        {11: [bytes(32), PCRS[11]], 7: [PCRS[7]]},
        roots=[operator.root_der],
        revocation=Revocation.REQUIRED,
    )


@attrs.frozen
class Window:
    """A Challenge, the keys drawn for it, and its place in the tree."""

    nonce: bytes = attrs.field(factory=lambda: os.urandom(32))
    keyset: KeySet = attrs.field(factory=draw_keyset)

    @property
    def tree(self) -> NonceTree:
        return NonceTree.over([bytes(32), self.nonce])

    def bundle(self, collect: Collect) -> EvidenceBundle:
        return bundle_for(self.keyset, self.tree, collect)

    def judge(self, bundle: EvidenceBundle, policy: Policy, **changes: Any) -> AttestationResult:
        arguments = {
            "nonce": self.nonce,
            "path": self.tree.proofs[1],
            "now": NOW,
            "collateral": LISTS,
        }
        return appraise(bundle, policy=policy, **(arguments | changes))


def altered(tpm: SimulatedTpm, change: Callable[[TpmEvidence], TpmEvidence]) -> Collect:
    """Return a `collect` whose honest evidence somebody changes on the way."""
    return lambda data: change(tpm.evidence(data)).to_bytes()


def codes(result: AttestationResult) -> list[str]:
    with pytest.raises(EvidenceRefusedError) as refused:
        result.recipient_key()
    assert refused.value.result is result  # type: ignore[attr-defined]
    return [check.code for check in result.refusals]


def refused_questions(result: AttestationResult) -> set[Question]:
    return {check.question for check in result.refusals}


def test_an_honest_quote_is_affirmed_in_every_numbered_step(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    window = Window()
    result = window.judge(window.bundle(tpm.collect), policy)
    assert result.tier is Tier.AFFIRMING
    assert [check.number for check in result.checks] == list(range(1, 20))
    assert not result.insecure
    assert result.recipient_key().keyset_id == window.keyset.keyset_id()


# -- step 8: format --


@pytest.mark.parametrize("field", ["attest", "signature", "ak_public"])
def test_a_structure_with_a_byte_too_many_is_malformed(
    field: str, tpm: SimulatedTpm, policy: Policy
) -> None:
    window = Window()
    bundle = window.bundle(
        altered(tpm, lambda body: attrs.evolve(body, **{field: getattr(body, field) + b"\0"}))
    )
    result = window.judge(bundle, policy)
    assert codes(result) == ["malformed"]
    assert result.checks[-1].code == NOT_REACHED


# -- step 9: a quote, made by a TPM --


def test_a_certification_signed_by_the_same_key_is_not_a_quote(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    window = Window()
    result = window.judge(window.bundle(tpm.but(kind=simulated.CERTIFY).collect), policy)
    assert codes(result) == ["not-a-quote"]


def test_bytes_that_do_not_start_with_the_tpms_magic_are_refused(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    window = Window()
    result = window.judge(window.bundle(tpm.but(magic=0xFF544348).collect), policy)
    assert codes(result) == ["not-tpm-generated"]


# -- binding, the last step --


def test_evidence_for_another_workers_key_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    """A coordinator that swaps key sets between two honest workers gets nothing."""
    window = Window()
    honest = window.bundle(tpm.collect)
    swapped = attrs.evolve(honest, keyset=draw_keyset().to_bytes())
    assert codes(window.judge(swapped, policy)) == ["binding-mismatch"]


def test_one_byte_of_the_key_exchanged_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    honest = window.bundle(tpm.collect)
    key = bytearray(window.keyset.kem_public_key)
    key[-1] ^= 1
    keyset = attrs.evolve(window.keyset, kem_public_key=bytes(key))
    swapped = attrs.evolve(honest, keyset=keyset.to_bytes())
    assert codes(window.judge(swapped, policy)) == ["binding-mismatch"]


def test_a_nonce_root_put_in_later_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    """Replayed evidence under a tree that contains the new Challenge."""
    old, new = Window(), Window()
    replayed = attrs.evolve(old.bundle(tpm.collect), nonce_root=new.tree.root)
    assert codes(new.judge(replayed, policy)) == ["binding-mismatch"]


def test_gpu_evidence_added_later_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    added = attrs.evolve(window.bundle(tpm.collect), gpu_evidence=b"a GPU")
    assert "binding-mismatch" in codes(window.judge(added, policy))


# -- step 10: what kind of key --


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(simulated.AK_ATTRIBUTES & ~bit, id=name)
        for name, bit in {
            "unrestricted": simulated.RESTRICTED,
            "not for signing": simulated.SIGN,
            "may leave its TPM": simulated.FIXED_TPM,
            "may leave its parent": simulated.FIXED_PARENT,
            "made outside": simulated.ORIGIN,
        }.items()
    ]
    + [pytest.param(simulated.AK_ATTRIBUTES | simulated.DECRYPT, id="also decrypts")],
)
def test_a_key_that_could_sign_foreign_bytes_is_refused(
    attributes: int, tpm: SimulatedTpm, policy: Policy
) -> None:
    """An unrestricted key signs whatever its owner writes, the magic included."""
    window = Window()
    result = window.judge(window.bundle(tpm.but(attributes=attributes).collect), policy)
    assert codes(result) == ["ak-attributes"]


# -- step 11: signature --


def test_a_quote_signed_by_another_key_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    stranger = SimulatedTpm()
    bundle = window.bundle(
        altered(tpm, lambda body: attrs.evolve(body, signature=stranger.sign(body.attest)))
    )
    result = window.judge(bundle, policy)
    assert codes(result) == ["signature-invalid"]
    assert {check.code for check in result.checks[11:]} == {NOT_REACHED}


@pytest.mark.parametrize("offset", [0, 20, -1])
def test_a_changed_signature_is_refused(offset: int, tpm: SimulatedTpm, policy: Policy) -> None:
    def flip(body: TpmEvidence) -> TpmEvidence:
        changed = bytearray(body.signature)
        changed[8 if offset == 0 else offset] ^= 1
        return attrs.evolve(body, signature=bytes(changed))

    window = Window()
    assert codes(window.judge(window.bundle(altered(tpm, flip)), policy)) == ["signature-invalid"]


def test_a_good_signature_over_sha1_is_refused() -> None:
    """Real TPMs of old images sign so: the quote is genuine, and worth nothing."""
    tpm = RsaTpm(hash_name="sha1")
    policy = tpm_policy({11: [PCRS[11]]}, keys=[tpm.fingerprint()])
    window = Window()
    result = window.judge(window.bundle(tpm.collect), policy)
    assert codes(result) == ["weak-hash"]
    assert refused_questions(result) == {Question.ACCEPTABLE}


def test_a_signature_relabelled_as_one_over_sha1_is_refused(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    def relabel(body: TpmEvidence) -> TpmEvidence:
        return attrs.evolve(body, signature=body.signature[:2] + b"\x00\x04" + body.signature[4:])

    window = Window()
    result = window.judge(window.bundle(altered(tpm, relabel)), policy)
    assert codes(result) == ["signature-invalid"]


def test_a_signature_by_another_scheme_than_the_keys_own_is_refused(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    """A restricted key has one scheme; a good signature by another was not made by its TPM."""

    def resign(body: TpmEvidence) -> TpmEvidence:
        r, s = decode_dss_signature(tpm.key.sign(body.attest, ec.ECDSA(hashes.SHA384())))
        values = b"".join(b"\x00\x20" + value.to_bytes(32, "big") for value in (r, s))
        return attrs.evolve(body, signature=b"\x00\x18\x00\x0c" + values)

    window = Window()
    result = window.judge(window.bundle(altered(tpm, resign)), policy)
    assert codes(result) == ["signature-invalid"]


# -- step 12: endorsement --


def test_a_forged_attestation_key_with_a_stolen_certificate_is_refused(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    """Someone shows an honest machine's certificate beside a key of his own."""
    window = Window()
    forger = SimulatedTpm(certificates=tpm.certificates)
    result = window.judge(window.bundle(forger.collect), policy)
    assert codes(result) == ["ak-certificate-mismatch"]


def test_an_attestation_key_without_endorsement_is_unverifiable(policy: Policy) -> None:
    window = Window()
    result = window.judge(window.bundle(SimulatedTpm().collect), policy)
    assert codes(result) == ["ak-not-endorsed"]
    assert result.tier is Tier.UNVERIFIABLE


def test_a_chain_to_a_root_of_the_same_name_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    impostor = Operator()
    chain = [der(entry) for entry in impostor.certify(tpm.key.public_key())]
    window = Window()
    result = window.judge(window.bundle(tpm.but(certificates=chain).collect), policy)
    assert not result.accepted
    assert codes(result) in (["ak-not-endorsed"], ["chain-invalid"])


def test_a_root_that_comes_with_the_evidence_is_not_an_anchor(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    impostor = Operator("somebody else")
    chain = [*impostor.certify(tpm.key.public_key()), impostor.root]
    window = Window()
    shown = tpm.but(certificates=[der(entry) for entry in chain])
    assert codes(window.judge(window.bundle(shown.collect), policy)) == ["ak-not-endorsed"]


def test_a_certificate_without_its_issuer_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    shown = tpm.but(certificates=tpm.certificates[:1])
    assert codes(window.judge(window.bundle(shown.collect), policy)) == ["ak-not-endorsed"]


def test_a_certificate_for_another_purpose_is_refused(
    tpm: SimulatedTpm, operator: Operator, policy: Policy
) -> None:
    """A key that the same CA certified for TLS does not become an attestation key."""
    chain = operator.certify(tpm.key.public_key(), purpose=TLS_PURPOSE)
    window = Window()
    shown = tpm.but(certificates=[der(entry) for entry in chain])
    assert codes(window.judge(window.bundle(shown.collect), policy)) == ["ak-certificate-mismatch"]


@pytest.mark.parametrize(
    ("shift", "code"),
    [
        (-timedelta(days=1), "certificate-not-yet-valid"),
        (AK_LIFE + timedelta(days=1), "certificate-expired"),
    ],
)
def test_a_certificate_outside_its_life_is_refused_at_that_time(
    shift: timedelta, code: str, tpm: SimulatedTpm, policy: Policy
) -> None:
    now = BEGINNING + shift
    window = Window(keyset=draw_keyset(now=now))
    result = window.judge(window.bundle(tpm.collect), policy, now=now)
    assert codes(result) == [code]


def test_garbage_instead_of_a_certificate_is_malformed(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    shown = tpm.but(certificates=[b"\x30\x03garbage"])
    assert codes(window.judge(window.bundle(shown.collect), policy)) == ["malformed"]


def test_a_pinned_key_needs_no_certificate() -> None:
    tpm = SimulatedTpm()
    pinned = tpm_policy({11: [PCRS[11]]}, keys=[Public.from_bytes(tpm.public()).fingerprint()])
    window = Window()
    assert window.judge(window.bundle(tpm.collect), pinned).accepted


def test_a_pin_of_another_key_does_not_endorse(tpm: SimulatedTpm) -> None:
    pinned = tpm_policy({11: [PCRS[11]]}, keys=[hashlib.sha256(b"another").digest()])
    window = Window()
    assert codes(window.judge(window.bundle(tpm.collect), pinned)) == ["ak-not-endorsed"]


# -- step 13: PCR values --


def test_pcr_values_under_other_numbers_are_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    """The digest covers values only: PCR 2 shown as PCR 3 hashes to the same quote."""

    def renumber(body: TpmEvidence) -> TpmEvidence:
        rows = [(bank, 3 if index == 2 else index, value) for bank, index, value in body.pcrs]
        return attrs.evolve(body, pcrs=tuple(rows))

    window = Window()
    result = window.judge(window.bundle(altered(tpm, renumber)), policy)
    assert codes(result) == ["pcr-selection-mismatch"]


def test_pcr_values_listed_in_another_order_are_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    bundle = window.bundle(
        altered(tpm, lambda body: attrs.evolve(body, pcrs=tuple(reversed(body.pcrs))))
    )
    assert codes(window.judge(bundle, policy)) == ["pcr-selection-mismatch"]


def test_a_pcr_value_that_was_not_quoted_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    def forge(body: TpmEvidence) -> TpmEvidence:
        rows = [(bank, index, bytes(32)) for bank, index, _ in body.pcrs]
        return attrs.evolve(body, pcrs=tuple(rows))

    window = Window()
    result = window.judge(window.bundle(altered(tpm, forge)), policy)
    assert codes(result) == ["pcr-digest-mismatch", "pcr-not-accepted"]


def test_two_values_glued_differently_are_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    """The same bytes cut at another place hash to the same digest."""

    def shift(body: TpmEvidence) -> TpmEvidence:
        (b0, i0, v0), (b1, i1, v1), *rest = body.pcrs
        return attrs.evolve(body, pcrs=((b0, i0, v0 + v1[:1]), (b1, i1, v1[1:]), *rest))

    window = Window()
    result = window.judge(window.bundle(altered(tpm, shift)), policy)
    assert codes(result) == ["pcr-digest-mismatch"]


# -- steps 15 to 17: hash, banks, reference values --


def test_a_pcr_that_the_quote_leaves_out_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    silent = tpm.but(pcrs={index: value for index, value in PCRS.items() if index != 11})
    assert codes(window.judge(window.bundle(silent.collect), policy)) == ["pcr-not-quoted"]


def test_a_pcr_of_another_bank_does_not_stand_in(tpm: SimulatedTpm, policy: Policy) -> None:
    assert policy.tpm is not None
    other = attrs.evolve(policy, tpm=attrs.evolve(policy.tpm, pcr_bank=PcrBank.SHA384))
    window = Window()
    assert codes(window.judge(window.bundle(tpm.collect), other)) == ["pcr-not-quoted"]


def test_a_machine_that_booted_something_else_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    other = tpm.but(pcrs=dict(PCRS) | {11: hashlib.sha256(b"another image").digest()})
    assert codes(window.judge(window.bundle(other.collect), policy)) == ["pcr-not-accepted"]


def test_a_policy_without_reference_values_denies(tpm: SimulatedTpm, operator: Operator) -> None:
    window = Window()
    result = window.judge(window.bundle(tpm.collect), tpm_policy({}, roots=[operator.root_der]))
    assert codes(result) == ["reference-values-missing"]
    assert result.tier is Tier.UNVERIFIABLE


def test_a_policy_without_a_tpm_section_denies(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    result = window.judge(window.bundle(tpm.collect), attrs.evolve(policy, tpm=None))
    assert codes(result) == ["ak-not-endorsed", "reference-values-missing"]


def test_a_quote_of_the_sha1_bank_is_genuine_and_refused(
    tpm: SimulatedTpm, operator: Operator
) -> None:
    old = tpm.but(bank=PcrBank.SHA1, pcrs={11: bytes(20)})
    anything = tpm_policy({}, roots=[operator.root_der], accept_any_pcrs=True)
    window = Window()
    result = window.judge(window.bundle(old.collect), anything)
    assert codes(result) == ["pcr-bank-sha1"]
    assert refused_questions(result) == {Question.ACCEPTABLE}


def test_a_quote_of_no_pcr_is_refused_even_where_any_value_will_do(
    tpm: SimulatedTpm, operator: Operator
) -> None:
    anything = tpm_policy({}, roots=[operator.root_der], accept_any_pcrs=True)
    window = Window()
    assert codes(window.judge(window.bundle(tpm.but(pcrs={}).collect), anything)) == [
        "pcr-not-quoted"
    ]


def test_values_that_were_not_sent_are_not_taken_for_accepted(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    """The digest of all values is signed; what the named PCR is in it cannot be told."""
    window = Window()
    silent = altered(tpm, lambda body: attrs.evolve(body, pcrs=()))
    assert codes(window.judge(window.bundle(silent), policy)) == ["pcr-value-missing"]


# -- step 12, again: revocation --


def test_a_revoked_attestation_key_is_refused(tpm: SimulatedTpm, policy: Policy) -> None:
    leaf = x509.load_der_x509_certificate(tpm.certificates[0])
    window = Window()
    result = window.judge(
        window.bundle(tpm.collect), policy, collateral=lists(OPERATOR.crls(NOW, revoked=[leaf]))
    )
    assert codes(result) == ["certificate-revoked"]


def test_a_revoked_ca_is_refused_though_the_other_list_is_missing(
    tpm: SimulatedTpm, operator: Operator
) -> None:
    """A policy that does without lists still heeds those that are there."""
    policy = tpm_policy({11: [PCRS[11]]}, roots=[operator.root_der])
    of_root, _ = operator.crls(NOW, revoked=[operator.intermediate])
    window = Window()
    result = window.judge(window.bundle(tpm.collect), policy, collateral=lists([of_root]))
    assert codes(result) == ["certificate-revoked"]


def test_without_revocation_lists_a_certificate_is_unverifiable(
    tpm: SimulatedTpm, policy: Policy
) -> None:
    window = Window()
    result = window.judge(window.bundle(tpm.collect), policy, collateral=NO_COLLATERAL)
    assert codes(result) == ["revocation-missing"]
    assert result.tier is Tier.UNVERIFIABLE


def test_revocation_lists_of_another_day_are_stale(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    old = lists(OPERATOR.crls(NOW - timedelta(days=3)))
    result = window.judge(window.bundle(tpm.collect), policy, collateral=old)
    assert codes(result) == ["revocation-stale"]


def test_a_policy_that_does_without_lists_is_warned(tpm: SimulatedTpm, operator: Operator) -> None:
    policy = tpm_policy({11: [PCRS[11]]}, roots=[operator.root_der])
    window = Window()
    result = window.judge(window.bundle(tpm.collect), policy, collateral=NO_COLLATERAL)
    assert result.accepted
    assert result.tier is Tier.WARNING
    assert "revocation-unknown" in {check.code for check in result.checks}


# -- keys and signatures in other forms --


@pytest.mark.parametrize("hash_name", ["sha256", "sha384"])
def test_an_rsa_quote_is_accepted_with_a_bare_signature_as_well(hash_name: str) -> None:
    tpm = RsaTpm(hash_name=hash_name)
    policy = tpm_policy({11: [PCRS[11]]}, keys=[tpm.fingerprint()])
    bare = altered(tpm, lambda body: attrs.evolve(body, signature=tpm.bare_signature(body.attest)))
    window = Window()
    for collect in (tpm.collect, bare):
        assert window.judge(window.bundle(collect), policy).accepted


@pytest.mark.parametrize("salt_bytes", [0, 32, 222])
def test_an_rsapss_quote_is_accepted_whatever_the_length_of_its_salt(salt_bytes: int) -> None:
    """The longest that fits where FIPS does not apply, that of the hash where it does."""
    tpm = PssTpm(salt_bytes=salt_bytes)
    policy = tpm_policy({11: [PCRS[11]]}, keys=[tpm.fingerprint()])
    window = Window()
    assert window.judge(window.bundle(tpm.collect), policy).accepted


def test_an_rsa_key_signs_with_the_one_scheme_that_it_has() -> None:
    pss = PssTpm()
    policy = tpm_policy({11: [PCRS[11]]}, keys=[pss.fingerprint()])
    other = RsaTpm(rsa_key=pss.rsa_key)
    swapped = altered(pss, lambda body: attrs.evolve(body, signature=other.sign(body.attest)))
    window = Window()
    assert codes(window.judge(window.bundle(swapped), policy)) == ["signature-invalid"]


def test_a_bare_signature_by_another_key_is_refused() -> None:
    tpm, stranger = RsaTpm(), RsaTpm()
    policy = tpm_policy({11: [PCRS[11]]}, keys=[tpm.fingerprint()])
    forged = altered(
        tpm, lambda body: attrs.evolve(body, signature=stranger.bare_signature(body.attest))
    )
    window = Window()
    assert codes(window.judge(window.bundle(forged), policy)) == ["signature-invalid"]


def test_a_key_without_its_public_area_counts_only_if_somebody_vouches_for_it() -> None:
    tpm = RsaTpm()
    bare_key = altered(tpm, lambda body: attrs.evolve(body, ak_public=tpm.spki()))
    window = Window()
    pinned = tpm_policy({11: [PCRS[11]]}, keys=[tpm.fingerprint()])
    assert window.judge(window.bundle(bare_key), pinned).accepted
    assert codes(window.judge(window.bundle(bare_key), tpm_policy({11: [PCRS[11]]}))) == [
        "ak-not-endorsed"
    ]


# -- all at once --


def test_one_appraisal_shows_everything_that_is_wrong(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    other = tpm.but(pcrs=dict(PCRS) | {11: bytes(31) + b"x"}, certificates=())
    bundle = window.bundle(other.collect)
    result = window.judge(bundle, policy, now=NOW + timedelta(hours=2))
    assert codes(result) == ["keyset-expired", "ak-not-endorsed", "pcr-not-accepted"]


def test_a_time_without_zone_is_our_own_mistake(tpm: SimulatedTpm, policy: Policy) -> None:
    window = Window()
    with pytest.raises(LocalProtocolError):
        window.judge(window.bundle(tpm.collect), policy, now=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("field", ["attest", "signature", "ak_certificates"])
def test_no_flipped_bit_of_anything_signed_is_accepted(
    field: str, tpm: SimulatedTpm, policy: Policy
) -> None:
    """The key's public area is left out: whoever certified or pinned the key vouches for it."""
    window = Window()
    honest = window.bundle(tpm.collect)
    body = honest.body
    value = getattr(TpmEvidence.from_bytes(body), field)
    for part in [value] if isinstance(value, bytes) else value:
        start = body.index(part)
        for offset in range(start, start + len(part)):
            changed = body[:offset] + bytes([body[offset] ^ 1]) + body[offset + 1 :]
            result = window.judge(attrs.evolve(honest, body=changed), policy)
            assert not result.accepted, f"byte {offset - start}"


def test_report_data_depends_on_each_part() -> None:
    keyset = draw_keyset().keyset_id()
    root = bytes(32)
    variants = {
        report_data(keyset, root),
        report_data(draw_keyset().keyset_id(), root),
        report_data(keyset, bytes(31) + b"\1"),
        report_data(keyset, root, b"gpu"),
    }
    assert len(variants) == 4


def test_a_policy_that_accepts_any_boot_is_warned(tpm: SimulatedTpm, operator: Operator) -> None:
    anything = tpm_policy(
        {}, roots=[operator.root_der], accept_any_pcrs=True, revocation=Revocation.REQUIRED
    )
    window = Window()
    result = window.judge(window.bundle(tpm.collect), anything)
    assert result.tier is Tier.WARNING
    assert {check.code for check in result.checks} == {"ok", "pcr-any"}
