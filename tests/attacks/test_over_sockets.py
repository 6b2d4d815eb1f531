"""The same lies over real sockets: in the coordinator's place, and on the way to a real one."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.attack import attacks
from tests.attacks.stage import MEDIA, SECONDS, Stage, X

OVER_SOCKETS = (
    "swap-keys",
    "own-keys",
    "relayed-evidence",
    "replayed-evidence",
    "replayed-opening",
    "crossed-openings",
    "changed-input",
    "spliced-inputs",
    "reordered-inputs",
    "replayed-job",
    "replayed-job-as-another-attempt",
    "other-commitment",
    "results-of-two-jobs",
    "results-of-two-clients",
    "changed-output",
    "reordered-outputs",
    "truncated-outputs",
    "invented-failure",
    "withheld-result",
)


@pytest.fixture(params=MEDIA)
def any_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage over each medium."""
    with ExitStack() as stack:
        yield Stage(stack, tmp_path, request.param)


@pytest.fixture(params=MEDIA[1:])
def socket_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage over real sockets."""
    with ExitStack() as stack:
        yield Stage(stack, tmp_path, request.param)


def test_without_a_lie_every_job_comes_back(any_stage: Stage) -> None:
    """Otherwise the attacks would fail for another reason than a defence."""
    site = any_stage.site(workers=2)
    large = np.arange(200_000, dtype=np.float64).reshape(400, 500)
    for client in (site.client(), site.client()):
        for x in (X, large):
            for durable in (True, False):
                job = client.submit("nn.softmax", {"x": x}, durable=durable)
                assert job.result(SECONDS)
                assert job.attestation.accepted


@pytest.mark.parametrize("name", OVER_SOCKETS)
def test_the_lie_is_refused_over_real_sockets_too(socket_stage: Stage, name: str) -> None:
    attack = attacks()[name]
    assert attack.run(socket_stage) == attack.refused
