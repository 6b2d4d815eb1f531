"""A coordinator that lies between the two ends of a session."""

from collections.abc import Sequence
from os import urandom

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label, prefix
from attestation.evidence.bundle import EvidenceBundle
from attestation.sealing.session_keys import Transcript
from attestation.wire.frames import Kind
from attestation.wire.messages import (
    AttestationReply,
    Challenge,
    SessionAccepted,
    SessionOpen,
    SessionRefused,
    parse,
)
from tests.attacks.attack import attack
from tests.attacks.lies import OneWindow, both, on_record
from tests.attacks.stage import DamageError, Site, Stage, X, refused_session
from tests.simulators.hostile_coordinator import Leg, Message


def refused_opening(site: Site, *, accepted: int = 1) -> str:
    """Return the code by which a worker refuses to open a session; `accepted` are too many."""
    code = site.session_outcome(accepted=accepted)
    if code is None:
        raise DamageError("the worker opened a session that its client did not ask for")
    return code


@attack(
    "replayed-opening",
    "Replay the message that opened a session, to have a second one under the same secret",
    "G4",
    refused="unknown-keyset",
)
def test_a_session_is_opened_once(stage: Stage) -> str:
    site = stage.site()
    assert site.client().submit("nn.softmax", {"x": X}).result(20)
    (opening,) = site.end_to_end(Leg.TO_WORKER, SessionOpen)
    site.relay.inject(Leg.TO_WORKER, opening.peer, opening.message)
    return refused_opening(site, accepted=2)


@attack(
    "crossed-openings",
    "Hand each of two clients' openings over as the other's",
    "G4",
    refused="signature-invalid",
)
def test_an_opening_under_another_clients_challenge_is_refused(stage: Stage) -> str:
    """Both challenges are answered by one key set: only the transcript tells them apart."""
    site = stage.site()
    peers: list[bytes] = []

    def cross(leg: Leg, _peer: bytes, message: Message) -> Sequence[Message]:
        if leg is not Leg.TO_WORKER or message.kind is not Kind.END_TO_END:
            return (message,)
        if isinstance(parse(message.body[0]), Challenge):
            peers.append(message.header.peer)
            return (message,)
        (other,) = {*peers} - {message.header.peer}
        return (message.but(peer=other),)

    site.relay.lie = both(OneWindow(site.relay, 2), cross)
    site.client()
    site.client()
    return refused_opening(site)


@attack(
    "own-client-key",
    "Put the coordinator's own client key into an opening, and sign it again",
    "G5",
    refused="not-authentic",
)
def test_a_session_is_not_opened_for_another_key_than_the_clients(stage: Stage) -> str:
    site = stage.site()
    key = Ed25519PrivateKey.generate()

    def put_in(opening: SessionOpen) -> SessionOpen:
        (challenge,) = site.end_to_end(Leg.TO_WORKER, Challenge)
        (reply,) = site.end_to_end(Leg.FROM_WORKER, AttestationReply)
        bundle = AttestationReply.from_bytes(reply.message.body[0]).bundle
        own = key.public_key().public_bytes_raw()
        transcript = Transcript(
            keyset_id=opening.keyset_id,
            evidence_digest=EvidenceBundle.from_bytes(bundle).digest(),
            policy_digest=opening.policy_digest,
            client_key=own,
            session_id=opening.session_id,
            nonce=Challenge.from_bytes(challenge.message.body[0]).nonce,
        )
        signed = prefix(Label.SESSION_OPEN) + transcript.digest() + opening.enc
        return attrs.evolve(opening, client_key=own, signature=key.sign(signed))

    site.relay.lie = on_record(Leg.TO_WORKER, SessionOpen, put_in)
    site.client()
    return refused_opening(site)


@attack(
    "policy-passed-off",
    "Tell the worker that the session was opened under another policy",
    "G9",
    refused="signature-invalid",
)
def test_a_session_under_another_policy_than_the_clients_is_refused(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = on_record(
        Leg.TO_WORKER, SessionOpen, lambda each: attrs.evolve(each, policy_digest=bytes(32))
    )
    site.client()
    return refused_opening(site)


@attack(
    "crossed-confirmations",
    "Give each of two clients the confirmation of the other's session",
    "G2",
    refused="protocol-violation",
)
def test_the_confirmation_of_another_session_is_refused(stage: Stage) -> str:
    site = stage.site()
    held: list[tuple[bytes, Message]] = []

    def cross(leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        confirms = leg is Leg.TO_CLIENT and message.kind is Kind.END_TO_END
        if not confirms or not isinstance(parse(message.body[0]), SessionAccepted):
            return (message,)
        if not held:
            held.append((peer, message))
            return ()
        other_peer, other = held.pop()
        site.relay.inject(Leg.TO_CLIENT, other_peer, message)
        return (message.but(*other.body),)

    site.relay.lie = cross
    client, _ = site.client(), site.client()
    return refused_session(client)


@attack(
    "forged-confirmation",
    "Confirm a session in the worker's place",
    "G2",
    refused="not-authentic",
)
def test_a_confirmation_that_somebody_made_up_is_refused(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = on_record(
        Leg.TO_CLIENT, SessionAccepted, lambda each: attrs.evolve(each, confirmation=urandom(32))
    )
    return refused_session(site.client())


@attack(
    "challenge-flood",
    "Flood a worker with Challenges, from as many peers as one likes",
    "G11",
    refused="queue-full",
)
def test_a_worker_holds_a_bounded_number_of_challenges(stage: Stage) -> str:
    workshop = stage.workshop()
    refusals = []
    for number in range(5_000):
        challenge = Challenge(nonce=urandom(32)).to_bytes()
        peer = number.to_bytes(16, "big")
        refusals += workshop.attestations.receive(peer, challenge, workshop.now_ms)
    if not refusals:
        raise DamageError("the worker remembers every challenge that it gets")
    (code,) = {each.record.code for each in refusals if isinstance(each.record, SessionRefused)}
    return str(code)
