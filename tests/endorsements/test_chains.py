"""What is remembered of a chain saves work, and never says yes to anything that was not checked."""

from datetime import datetime, timedelta

import pytest
from cryptography import x509

from attestation.endorsements import chains
from attestation.endorsements.chains import (
    CertificateExpiredError,
    CertificateNotYetValidError,
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    check_window,
    parse_certificate,
    verify_chain,
    verify_link,
)
from attestation.errors import DecodeError, LocalProtocolError
from tests.simulators.evidence import NOW
from tests.simulators.tpm import SimulatedTpm
from tests.simulators.vendor import AK_LIFE, BEGINNING, Operator, der

AFTER = BEGINNING + AK_LIFE + timedelta(seconds=1)


@pytest.fixture(scope="module")
def operator() -> Operator:
    return Operator()


@pytest.fixture(scope="module")
def chain(operator: Operator) -> list[x509.Certificate]:
    return operator.certify(SimulatedTpm().key.public_key())


def test_a_chain_that_was_seen_before_is_not_searched_for_again(
    operator: Operator, chain: list[x509.Certificate]
) -> None:
    verify_chain(chain, roots=[operator.root], now=NOW)
    before = chains._found_path.cache_info()
    verify_chain(chain, roots=[operator.root], now=NOW + timedelta(hours=1))
    after = chains._found_path.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (AFTER, CertificateExpiredError),
        (BEGINNING - timedelta(seconds=1), CertificateNotYetValidError),
    ],
)
def test_a_remembered_chain_is_refused_outside_its_windows(
    now: datetime,
    error: type[Exception],
    operator: Operator,
    chain: list[x509.Certificate],
) -> None:
    """A cache that kept the verdict instead of the signatures would never let a key expire."""
    verify_chain(chain, roots=[operator.root], now=NOW)
    with pytest.raises(error):
        verify_chain(chain, roots=[operator.root], now=now)


def test_a_chain_remembered_under_one_root_is_refused_under_another(
    operator: Operator, chain: list[x509.Certificate]
) -> None:
    verify_chain(chain, roots=[operator.root], now=NOW)
    with pytest.raises(ChainNotAnchoredError):
        verify_chain(chain, roots=[Operator("stranger").root], now=NOW)


def test_a_leaf_of_another_issuer_is_refused_beside_a_remembered_chain(
    operator: Operator, chain: list[x509.Certificate]
) -> None:
    verify_chain(chain, roots=[operator.root], now=NOW)
    forged = Operator().certify(SimulatedTpm().key.public_key())[0]
    with pytest.raises((ChainInvalidError, ChainNotAnchoredError)):
        verify_chain([forged, chain[1]], roots=[operator.root], now=NOW)


def test_a_refusal_is_not_remembered(operator: Operator) -> None:
    """Else whoever shows a chain too early could keep it refused for good."""
    chain = operator.certify(SimulatedTpm().key.public_key())
    with pytest.raises(CertificateNotYetValidError):
        verify_chain(chain, roots=[operator.root], now=BEGINNING - timedelta(days=1))
    verify_chain(chain, roots=[operator.root], now=NOW)


def test_every_cache_is_bounded() -> None:
    for cached in (parse_certificate, check_issued, chains._found_path):
        assert cached.cache_info().maxsize is not None


def test_a_link_needs_the_issuers_signature(
    operator: Operator, chain: list[x509.Certificate]
) -> None:
    leaf, intermediate = chain
    verify_link(leaf, issuer=intermediate, now=NOW)
    verify_link(intermediate, issuer=operator.root, now=NOW)
    with pytest.raises(ChainInvalidError):
        verify_link(leaf, issuer=Operator().intermediate, now=NOW)
    with pytest.raises(ChainInvalidError):
        verify_link(leaf, issuer=operator.root, now=NOW)


def test_a_changed_byte_breaks_a_remembered_link(chain: list[x509.Certificate]) -> None:
    leaf, intermediate = chain
    check_issued(leaf, intermediate)
    data = der(leaf)
    for index in range(len(data) - 1, 0, -17):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        with pytest.raises((ChainInvalidError, DecodeError)):
            check_issued(parse_certificate(changed), intermediate)


def test_a_link_is_refused_outside_its_window(chain: list[x509.Certificate]) -> None:
    verify_link(chain[0], issuer=chain[1], now=AFTER - timedelta(seconds=1))
    with pytest.raises(CertificateExpiredError):
        verify_link(chain[0], issuer=chain[1], now=AFTER)


def test_a_time_without_its_zone_is_our_own_mistake(chain: list[x509.Certificate]) -> None:
    with pytest.raises(LocalProtocolError):
        check_window(chain[0], now=NOW.replace(tzinfo=None))
    with pytest.raises(LocalProtocolError):
        verify_chain(chain, roots=chain, now=NOW.replace(tzinfo=None))


def test_nothing_leads_nowhere(operator: Operator) -> None:
    with pytest.raises(ChainNotAnchoredError):
        verify_chain([], roots=[operator.root], now=NOW)
