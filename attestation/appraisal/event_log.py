"""Whether a boot's log is true, and whether the policy wants what it tells.

A log is believed for one reason: what it says was measured, in its order, gives the PCR values that
the TPM signed. Descriptions in it are measured only where the specification says so, and are never
looked at here: digests are what a policy lists.
"""

from collections.abc import Mapping

from attestation.errors import VerificationError
from attestation.evidence.event_log import EventLog
from attestation.evidence.tpm import PcrName
from attestation.policy.tpm import PcrPolicy


class EventLogMismatchError(VerificationError):
    """The log does not lead to the quoted PCR values. Quote no PCR that software extends later."""

    code = "event-log-mismatch"


class EventLogMissingError(VerificationError):
    """The policy asks what was measured, and no log says it. Configure the worker to send one."""

    code = "event-log-missing"


class EventNotAcceptedError(VerificationError):
    """Something was measured that the policy does not list. Review it, or refuse."""

    code = "event-not-accepted"


def check_log(log: EventLog | None, values: Mapping[PcrName, bytes]) -> str:
    """Check that `log` explains every value of a PCR that it measures something into."""
    if log is None:
        return "none given"
    explained = 0
    for bank in sorted(log.banks & {bank for bank, _ in values}):
        for pcr, value in log.replay(bank).items():
            if (bank, pcr) not in values:
                continue
            if values[bank, pcr] != value:
                raise EventLogMismatchError(f"PCR {pcr} of bank {bank.value} is not what it says")
            explained += 1
    if not explained:
        raise EventLogMismatchError("it is about none of the quoted PCRs")
    return f"{len(log.events)} events lead to {explained} of the quoted values"


def check_events(policy: PcrPolicy, log: EventLog | None, values: Mapping[PcrName, bytes]) -> str:
    """Check that only what the policy lists was measured into each PCR that it lists events for."""
    if log is None:
        if policy.events or policy.require_event_log:
            raise EventLogMissingError("no log of the boot came with the quote")
        return "not asked for"
    for pcr, accepted in policy.events:
        bank = policy.pcr_bank
        digests = log.digests(bank, pcr) if bank in log.banks else ()
        # Without a quoted value nothing has confirmed the log of this PCR.
        if not digests or (bank, pcr) not in values:
            raise EventLogMissingError(f"the log and the quote do not both have PCR {pcr}")
        for digest in digests:
            if digest not in accepted:
                raise EventNotAcceptedError(f"PCR {pcr} measures {digest.hex()}")
    return f"the events of {len(policy.events)} PCRs are listed"
