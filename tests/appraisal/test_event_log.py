"""The log of a boot, in the steps of kind `tpm` that look at it: is it true, is it wanted?"""

from collections.abc import Sequence

import pytest

from attestation.appraisal.result import Tier
from attestation.policy.policy import Policy
from attestation.policy.revocation import Revocation
from tests.appraisal.test_tpm import OPERATOR, Window, codes
from tests.simulators.event_log import BOOT, Measured, agile_log, old_log, values
from tests.simulators.evidence import tpm_policy
from tests.simulators.tpm import PCRS, SimulatedTpm
from tests.simulators.vendor import Operator, der

MEASURED = values(BOOT)
EVENTS = tuple(
    (pcr, tuple(event.digest("sha256") for event in BOOT if event.pcr == pcr)) for pcr in (4, 7)
)


@pytest.fixture(scope="module")
def operator() -> Operator:
    return OPERATOR


@pytest.fixture(scope="module")
def tpm(operator: Operator) -> SimulatedTpm:
    keyed = SimulatedTpm()
    chain = operator.certify(keyed.key.public_key())
    return keyed.but(certificates=[der(entry) for entry in chain])


@pytest.fixture
def booted(tpm: SimulatedTpm) -> SimulatedTpm:
    return tpm.but(pcrs=MEASURED, event_log=agile_log(BOOT))


@pytest.fixture
def listed(operator: Operator) -> Policy:
    """A policy that lists what may be measured, and not what that adds up to."""
    return tpm_policy({}, roots=[operator.root_der], events=EVENTS, revocation=Revocation.REQUIRED)


def test_a_boot_of_listed_events_is_affirmed(booted: SimulatedTpm, listed: Policy) -> None:
    window = Window()
    result = window.judge(window.bundle(booted.collect), listed)
    assert result.tier is Tier.AFFIRMING


def test_a_log_that_hides_an_event_is_refused(booted: SimulatedTpm, listed: Policy) -> None:
    """Something else was booted, and the worker shows the log of an honest machine."""
    backdoor = values([*BOOT, Measured(4, b"backdoor")])
    window = Window()
    result = window.judge(window.bundle(booted.but(pcrs=backdoor).collect), listed)
    assert codes(result) == ["event-log-mismatch"]


@pytest.mark.parametrize("changed", [BOOT[1:], [*reversed(BOOT)], [*BOOT, BOOT[2]]])
def test_a_log_with_an_event_dropped_moved_or_repeated_is_refused(
    changed: Sequence[Measured], booted: SimulatedTpm, listed: Policy
) -> None:
    window = Window()
    lie = booted.but(event_log=agile_log(changed))
    assert "event-log-mismatch" in codes(window.judge(window.bundle(lie.collect), listed))


def test_an_event_that_the_policy_does_not_list_is_refused(
    booted: SimulatedTpm, listed: Policy
) -> None:
    boot = [*BOOT, Measured(4, b"another kernel")]
    window = Window()
    other = booted.but(pcrs=values(boot), event_log=agile_log(boot))
    assert codes(window.judge(window.bundle(other.collect), listed)) == ["event-not-accepted"]


def test_a_log_that_is_silent_about_a_listed_pcr_is_refused(
    booted: SimulatedTpm, listed: Policy
) -> None:
    boot = [event for event in BOOT if event.pcr != 7]
    window = Window()
    silent = booted.but(event_log=agile_log(boot))
    assert codes(window.judge(window.bundle(silent.collect), listed)) == ["event-log-missing"]


def test_a_log_about_a_pcr_that_is_not_quoted_proves_nothing(
    booted: SimulatedTpm, listed: Policy
) -> None:
    quoted = {pcr: value for pcr, value in MEASURED.items() if pcr != 7}
    window = Window()
    silent = booted.but(pcrs=quoted)
    assert codes(window.judge(window.bundle(silent.collect), listed)) == ["event-log-missing"]


def test_events_without_a_log_are_refused(booted: SimulatedTpm, listed: Policy) -> None:
    window = Window()
    silent = booted.but(event_log=None)
    assert codes(window.judge(window.bundle(silent.collect), listed)) == ["event-log-missing"]


def test_a_log_that_the_policy_requires_has_to_be_there(
    tpm: SimulatedTpm, operator: Operator
) -> None:
    policy = tpm_policy({11: [PCRS[11]]}, roots=[operator.root_der], require_event_log=True)
    window = Window()
    assert codes(window.judge(window.bundle(tpm.collect), policy)) == ["event-log-missing"]


def test_a_false_log_is_refused_even_where_nobody_asked_for_one(
    booted: SimulatedTpm, operator: Operator
) -> None:
    policy = tpm_policy({4: [MEASURED[4]]}, roots=[operator.root_der])
    window = Window()
    lie = booted.but(event_log=agile_log(BOOT[1:]))
    assert codes(window.judge(window.bundle(lie.collect), policy)) == ["event-log-mismatch"]


def test_a_log_of_sha1_digests_does_not_explain_a_quote_over_sha256(
    booted: SimulatedTpm, listed: Policy
) -> None:
    window = Window()
    old = booted.but(event_log=old_log(BOOT))
    assert codes(window.judge(window.bundle(old.collect), listed)) == [
        "event-log-mismatch",
        "event-log-missing",
    ]


def test_a_log_that_does_not_parse_is_malformed(booted: SimulatedTpm, listed: Policy) -> None:
    window = Window()
    cut = booted.but(event_log=agile_log(BOOT)[:-1])
    assert codes(window.judge(window.bundle(cut.collect), listed)) == ["malformed"]
