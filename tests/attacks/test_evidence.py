"""A coordinator that lies about who its workers are."""

import time
from collections.abc import Sequence
from os import urandom

import attrs
import numpy as np

from attestation.client.errors import PolicyUnmetError
from attestation.evidence.bundle import EvidenceBundle
from attestation.identifiers import WorkerId
from attestation.programs.catalogue import Catalogue
from attestation.wire.control import WorkerListing
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import (
    AttestationReply,
    Challenge,
    SessionAccepted,
    SessionOpen,
    parse,
)
from enclave_worker.attester.insecure import InsecureAttester
from tests.attacks.attack import DROPPED, attack
from tests.attacks.impostor import Impostor
from tests.attacks.lies import on_record
from tests.attacks.stage import (
    SECONDS,
    DamageError,
    Stage,
    TpmAttester,
    X,
    refusal_code,
    refused_evidence,
    refused_session,
)
from tests.simulators.hostile_coordinator import Leg, Message, Relay
from tests.simulators.tpm import SimulatedTpm


class SwappedKeys:
    """A lie: each of two workers' evidence shows the other's keys."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._held: list[tuple[bytes, Message, AttestationReply]] = []

    def __call__(self, leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        if leg is not Leg.TO_CLIENT or message.kind is not Kind.END_TO_END:
            return (message,)
        reply = parse(message.body[0])
        if not isinstance(reply, AttestationReply):
            return (message,)
        if not self._held:
            self._held.append((peer, message, reply))
            return ()
        other_peer, other_message, other = self._held.pop()
        self._relay.inject(Leg.TO_CLIENT, other_peer, with_keys_of(other_message, other, reply))
        return (with_keys_of(message, reply, other),)


def with_keys_of(message: Message, reply: AttestationReply, other: AttestationReply) -> Message:
    bundle = EvidenceBundle.from_bytes(reply.bundle)
    swapped = attrs.evolve(bundle, keyset=EvidenceBundle.from_bytes(other.bundle).keyset)
    return message.but(attrs.evolve(reply, bundle=swapped.to_bytes()).to_bytes())


class StolenName:
    """A lie: a worker that does not exist answers with the evidence of one that does."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._true = WorkerId(bytes(16))
        self._false = WorkerId(urandom(16))

    def __call__(self, leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        match leg, message.kind:
            case Leg.TO_CLIENT, Kind.WORKERS:
                return (self._rename(message),)
            case Leg.TO_CLIENT, Kind.END_TO_END:
                return (message.but(peer=self._false),)
            case Leg.FROM_CLIENT, Kind.END_TO_END:
                said = parse(message.body[0])
                if isinstance(said, SessionOpen):
                    self._confirm(peer, said)
                    return ()
                return (message.but(peer=self._true),)
        return (message,)

    def _rename(self, message: Message) -> Message:
        listing = WorkerListing.from_bytes(message.body[0])
        self._true = listing.workers[0].worker_id
        renamed = attrs.evolve(listing.workers[0], worker_id=self._false)
        return message.but(WorkerListing(workers=(renamed,)).to_bytes())

    def _confirm(self, peer: bytes, said: SessionOpen) -> None:
        forged = SessionAccepted(session_id=said.session_id, confirmation=urandom(32))
        header = Header(Kind.END_TO_END, peer=self._false)
        self._relay.inject(Leg.TO_CLIENT, peer, Message(header, (forged.to_bytes(),)))


@attack(
    "swap-keys",
    "Swap the keys of two honest workers, so that one reads what is meant for the other",
    "G2",
    refused="binding-mismatch",
)
def test_keys_swapped_between_two_workers_are_refused(stage: Stage) -> str:
    site = stage.site(workers=2)
    site.relay.lie = SwappedKeys(site.relay)
    return refused_evidence(site, site.client())


@attack(
    "own-keys",
    "Put the coordinator's own key into a worker's evidence, and read what is sealed to it",
    "G1",
    refused="binding-mismatch",
)
def test_a_coordinator_that_puts_in_its_own_keys_reads_nothing(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = impostor = Impostor(site.relay)
    client = site.client()
    try:
        client.submit("nn.softmax", {"x": X}).wait_accepted(SECONDS)
    except PolicyUnmetError as error:
        return refusal_code(error.refusals)
    np.testing.assert_array_equal(impostor.read[0], X)
    raise DamageError("the coordinator read the input")


@attack(
    "own-worker",
    "Add a worker of the coordinator's own: a genuine TPM, but nobody the client trusts",
    "G2",
    refused="ak-not-endorsed",
)
def test_a_worker_that_the_operator_never_enrolled_gets_no_key(stage: Stage) -> str:
    site = stage.site(workers=0)
    site.worker(attester=TpmAttester(SimulatedTpm()))
    return refused_evidence(site, site.client())


@attack(
    "own-worker-beside-a-good-one",
    "Ask the client to wrap a job's key for the coordinator's own worker (WRAP_WANTED)",
    "G1",
    refused=DROPPED,
)
def test_no_key_is_wrapped_for_a_worker_only_because_it_is_wanted(stage: Stage) -> str:
    site = stage.site()
    (good,) = site.worker_ids
    site.worker(attester=TpmAttester(SimulatedTpm()))
    own = next(each for each in site.worker_ids if each != good)
    client = site.client()
    job = client.submit("nn.softmax", {"x": X})
    wanted = Message(Header(Kind.WRAP_WANTED, job.job_id, peer=own))
    site.relay.inject(Leg.TO_CLIENT, site.relay.clients[0], wanted)
    assert job.result(SECONDS)
    client.jobs()  # a question and its answer: whatever came before them has been dealt with
    (submitted,) = site.relay.find(Leg.FROM_CLIENT, Kind.SUBMIT)
    if own in submitted.message.body[0] or site.relay.find(Leg.FROM_CLIENT, Kind.WRAP):
        raise DamageError("a content key was wrapped for a worker that nobody vouches for")
    return DROPPED


@attack(
    "no-hardware",
    "Offer a worker without hardware to a client that asks for a TPM",
    "G9",
    refused="kind-not-accepted",
)
def test_evidence_that_nothing_signed_does_not_stand_in_for_a_tpm(stage: Stage) -> str:
    site = stage.site(workers=0)
    site.worker(attester=InsecureAttester())
    return refused_evidence(site, site.client())


@attack(
    "replayed-evidence",
    "Answer a Challenge with the evidence that another client was given before",
    "G3",
    refused="nonce-mismatch",
)
def test_evidence_that_answered_somebody_else_is_refused(stage: Stage) -> str:
    site = stage.site()
    earlier: list[AttestationReply] = []

    def replay(reply: AttestationReply) -> AttestationReply:
        earlier.append(reply)
        return earlier[0]

    site.relay.lie = on_record(Leg.TO_CLIENT, AttestationReply, replay)
    assert site.client().submit("nn.softmax", {"x": X}).result(SECONDS)
    return refused_evidence(site, site.client(), secrets_before=1)


@attack(
    "replaced-challenge",
    "Have a worker attest a Challenge of the coordinator's choice instead of the client's",
    "G3",
    refused="nonce-mismatch",
)
def test_evidence_for_a_challenge_that_was_put_in_is_refused(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = on_record(
        Leg.TO_WORKER, Challenge, lambda challenge: attrs.evolve(challenge, nonce=urandom(32))
    )
    return refused_evidence(site, site.client())


@attack(
    "evidence-kept-too-long",
    "Deliver genuine evidence after its key set has ended",
    "G3",
    refused="keyset-expired",
)
def test_evidence_that_outlived_its_keys_is_refused(stage: Stage) -> str:
    site = stage.site(keyset_seconds=1)

    def late(reply: AttestationReply) -> AttestationReply:
        time.sleep(1.1)
        return reply

    site.relay.lie = on_record(Leg.TO_CLIENT, AttestationReply, late)
    return refused_evidence(site, site.client())


@attack(
    "relayed-evidence",
    "Show the evidence of a genuine worker as that of another, and confirm the session oneself",
    "G2",
    refused="not-authentic",
)
def test_relayed_evidence_opens_no_session_with_the_relay(stage: Stage) -> str:
    """The secret is sealed to the key inside the evidence: the relay cannot confirm it."""
    site = stage.site()
    site.relay.lie = StolenName(site.relay)
    return refused_session(site.client())


@attack(
    "other-catalogue",
    "Send a catalogue that names other kernel code than the worker attested",
    "G5",
    refused="catalogue-mismatch",
)
def test_a_catalogue_that_was_changed_on_the_way_is_refused(stage: Stage) -> str:
    def change(reply: AttestationReply) -> AttestationReply:
        catalogue = Catalogue.from_bytes(reply.catalogue)
        entries = tuple(attrs.evolve(each, source_digest=bytes(32)) for each in catalogue.entries)
        return attrs.evolve(reply, catalogue=attrs.evolve(catalogue, entries=entries).to_bytes())

    site = stage.site()
    site.relay.lie = on_record(Leg.TO_CLIENT, AttestationReply, change)
    return refused_evidence(site, site.client())
