"""A client at an honest coordinator in this process, and what tests turn it into."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import attrs
import pytest

from attestation.policy.policy import CataloguePolicy, Policy
from tests.client.honest import HonestCoordinator, InMemoryClient
from tests.simulators.evidence import insecure_policy

Connect = Callable[..., InMemoryClient]


@pytest.fixture
def policy() -> Policy:
    """Accepts insecure evidence, in so many words, of any catalogue."""
    any_catalogue = CataloguePolicy(accept_any=True, digests=())
    return attrs.evolve(insecure_policy(), catalogue=any_catalogue)


@pytest.fixture
def connect(policy: Policy) -> Iterator[Connect]:
    """Connect clients that are closed when the test ends."""
    with ExitStack() as stack:

        def make(coordinator: HonestCoordinator, **options: float) -> InMemoryClient:
            return stack.enter_context(InMemoryClient(coordinator, policy, **options))

        yield make
