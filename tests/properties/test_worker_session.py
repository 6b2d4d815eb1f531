"""Whatever order messages come in, a session is open only after all its checks held, once."""

from collections.abc import Callable

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import EnclaveError, LocalProtocolError, ProtocolError
from attestation.wire.messages import SessionOpen
from attestation.wire.transitions import Machine
from attestation.wire.worker_session import TRANSITIONS, State, WorkerSession
from tests.wire.test_worker_session import KeyHolder
from tests.worker.simulated_client import SimulatedClient

CLIENT = SimulatedClient()
HOLDER = KeyHolder(CLIENT.nonce)
CLIENT.keyset, CLIENT.evidence_digest = HOLDER.keyset, HOLDER.evidence
HONEST = CLIENT.open()
FORGERIES = (
    attrs.evolve(HONEST, signature=bytes(64)),
    attrs.evolve(HONEST, enc=HONEST.enc[:-1]),
    attrs.evolve(HONEST, keyset_id=bytes(32)),
    attrs.evolve(HONEST, policy_digest=bytes(32)),
)

STEPS = st.lists(st.sampled_from(["attest", "open", "forge", "close", "fail", "read"]), max_size=12)


def act(session: WorkerSession, step: str, forgery: SessionOpen) -> None:
    match step:
        case "attest":
            session.attest(
                HOLDER.reply, keyset_id=HOLDER.keyset.keyset_id(), evidence=HOLDER.evidence
            )
        case "open":
            session.receive_open(HONEST, open_keys=HOLDER.open)
        case "forge":
            session.receive_open(forgery, open_keys=HOLDER.open)
        case "close":
            session.close()
        case "fail":
            session.fail()
        case "read":
            assert session.keys.confirmation() == CLIENT.keys.confirmation()


@settings(max_examples=200)
@given(steps=STEPS, forgery=st.sampled_from(FORGERIES))
def test_only_the_documented_order_opens_a_session_and_every_error_ends_it(
    steps: list[str], forgery: SessionOpen
) -> None:
    session = WorkerSession(nonce=CLIENT.nonce)
    good: list[str] = []
    for step in steps:
        before = session.state
        error = raised(lambda step=step: act(session, step, forgery))
        if error is None:
            good.append(step)
            assert step != "forge"
        elif step == "read":
            assert isinstance(error, LocalProtocolError)
            assert session.state is before is not State.OPEN
        else:
            assert session.state is State.FAILED
        if session.state is State.OPEN:
            assert [each for each in good if each != "read"] == ["attest", "open"]
        if before in (State.FAILED, State.CLOSED):
            assert session.state in (State.FAILED, before)


def raised(step: Callable[[], object]) -> Exception | None:
    try:
        step()
    except (EnclaveError, KeyError) as error:
        return error
    return None


EVENTS = [event for _, event in TRANSITIONS]


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), st.booleans()), max_size=10))
def test_the_machine_moves_along_its_table_or_fails(
    moves: list[tuple[type, bool, bool]],
) -> None:
    machine = Machine(TRANSITIONS, start=State.CHALLENGED, failed=State.FAILED)
    for event, ours, breaks in moves:
        before = machine.state
        expected = TRANSITIONS.get((before, event))
        error = raised(lambda move=(event, ours, breaks): take(machine, *move))
        if error is None:
            assert machine.state is expected
        else:
            assert machine.state is State.FAILED
            assert isinstance(error, KeyError if expected is not None else ProtocolError)


def take(machine: Machine[State], event: type, ours: bool, breaks: bool) -> None:
    with machine.ours(event) if ours else machine.theirs(event):
        if breaks:
            {}["a check that does not hold"]


@given(st.binary(max_size=200))
def test_no_bytes_from_outside_open_a_session(data: bytes) -> None:
    session = WorkerSession(nonce=CLIENT.nonce)
    act(session, "attest", HONEST)
    try:
        message = SessionOpen.from_bytes(data)
        session.receive_open(message, open_keys=HOLDER.open)
    except EnclaveError:
        pass
    assert session.state is not State.OPEN
