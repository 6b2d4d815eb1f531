"""A client judges with the collateral that it is given, and keeps it beside the evidence."""

import attrs
import pytest

from attestation.client.keys import ClientKey
from attestation.client.workers import Surroundings, WorkerBook
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral, CollateralKind
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceRecord
from attestation.identifiers import WorkerId
from attestation.policy.policy import CataloguePolicy
from attestation.wire.client_session import AcceptedWorker, ClientSession
from attestation.wire.control import WorkerEntry, WorkerListing
from attestation.wire.messages import AttestationReply
from tests.fuzz import honest
from tests.programs.kernels import CATALOGUE
from tests.simulators.evidence import (
    NOW,
    bundle_for,
    collect_insecure,
    draw_keyset,
    insecure_policy,
)

GIVEN = Collateral.from_items([(CollateralKind.AMD_CRL, b"a list")])
NONCE = b"n" * 32
TREE = NonceTree.over([NONCE])


def accepted(collateral: Collateral) -> AcceptedWorker:
    """What a client knows of a worker that it judged with `collateral`."""
    keyset = draw_keyset(catalogue_digest=CATALOGUE.digest())
    bundle = bundle_for(keyset, TREE, collect_insecure, kind="insecure")
    any_kernels = CataloguePolicy(accept_any=True, digests=())
    policy = attrs.evolve(insecure_policy(), catalogue=any_kernels)
    session = ClientSession(policy=policy, client_key=bytes(32), collateral=collateral)
    session.challenge(NONCE)
    reply = AttestationReply(
        bundle=bundle.to_bytes(),
        leaf_index=0,
        tree_size=1,
        path=(),
        catalogue=CATALOGUE.to_bytes(),
    )
    return session.receive_attestation(reply, now=NOW)


@pytest.mark.parametrize("collateral", [GIVEN, NO_COLLATERAL], ids=["given", "none"])
def test_what_was_judged_with_is_in_the_verdict_and_in_the_evidence_file(
    collateral: Collateral,
) -> None:
    """Years later no vendor gives it out, and the verdict could not be repeated without it."""
    worker = accepted(collateral)
    assert worker.result.collateral == collateral
    kept = EvidenceRecord.from_bytes(worker.record.to_bytes())
    assert Collateral.from_bytes(kept.collateral) == collateral


def test_new_collateral_asks_refused_workers_again_at_once() -> None:
    """A worker refused for want of a list is not fenced for minutes once the list is there."""
    sent: list[WorkerId] = []
    seen: list[Surroundings] = []
    book = WorkerBook(
        policy=insecure_policy(),
        key=ClientKey.of(None),
        send=lambda worker_id, _data: sent.append(worker_id),
        changed=seen.append,
    )
    entry = WorkerEntry(
        worker_id=honest.WORKER_ID, state="ready", running=0, description=honest.description()
    )
    book.listed(WorkerListing(workers=(entry,)), 0.0)
    [worker_id] = sent
    book.fence(worker_id, "revocation-missing", 0.0)
    book.tick(1.0)
    assert len(sent) == 1
    book.use_collateral(GIVEN)
    book.tick(1.0)
    assert len(sent) == 2
