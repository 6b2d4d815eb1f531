"""A storm over a site: processes die by SIGKILL or hang at random, and successors take their place.

Who and when is drawn from one seed. What the seed cannot fix is where each process is at that
moment; that is what many kills are for.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from tests.scenarios.processes import EnclaveProcess, Site

CALM_SECONDS: Final = (0.8, 2.2)
"""Between two disasters: long enough for work to be under way again, not for it to be done."""

HANG_SECONDS: Final = 2.5
THROWAWAY_SECONDS: Final = (0.9, 2.0)
"""How long a client lives that nobody waits for: some die importing, some after submitting."""


class Storm:
    """A coordinator, some workers, and what happens to them."""

    def __init__(
        self,
        site: Site,
        *,
        seed: int,
        workers: int = 3,
        worker_options: Sequence[str] = ("--capacity", "2"),
        coordinator_options: Sequence[str] = (),
    ) -> None:
        """Start everybody."""
        self.site = site
        self.faults: Counter[str] = Counter()
        self.random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._worker_options = tuple(worker_options)
        self._coordinator_options = tuple(coordinator_options)
        self.coordinator = site.coordinator(*self._coordinator_options)
        self.workers = site.workers(workers, *self._worker_options)
        self._throwaways: list[EnclaveProcess] = []

    def kills(self) -> int:
        """Return how many processes that had work were killed."""
        return self.faults["coordinator killed"] + self.faults["worker killed"]

    def pause(self) -> None:
        """Let some time pass."""
        time.sleep(self.random.uniform(*CALM_SECONDS))

    def strike(self) -> None:
        """Let one thing happen."""
        self.random.choices(
            [self.kill_coordinator, self.kill_worker, self.kill_both, self.hang_worker],
            weights=[5, 5, 1, 1],
        )[0]()

    def kill_coordinator(self) -> None:
        """kill -9, and another one on the same state."""
        self.faults["coordinator killed"] += 1
        self.coordinator.kill()
        time.sleep(self.random.uniform(0, 0.3))
        self.coordinator = self.site.coordinator(*self._coordinator_options)

    def kill_worker(self) -> None:
        """kill -9, and a new one without the other's keys; nobody waits for it to be ready."""
        self.faults["worker killed"] += 1
        victim = self.random.randrange(len(self.workers))
        self.workers[victim].kill()
        self.workers[victim] = self.site.start_worker(*self._worker_options)

    def kill_both(self) -> None:
        """The machine with both of them goes down."""
        self.kill_worker()
        self.kill_coordinator()

    def hang_worker(self) -> None:
        """SIGSTOP for longer than a lease, then SIGCONT: it believes that nothing happened."""
        self.faults["worker stopped"] += 1
        victim = self.random.choice(self.workers)
        victim.pause()
        time.sleep(HANG_SECONDS)
        victim.resume()

    def throw_away(
        self, command: Sequence[str], *, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Start a client and kill it somewhere on its way."""
        process = self.site.start("throwaway", command)
        wait(self.random.uniform(*THROWAWAY_SECONDS))
        process.kill()
        self.faults["client killed"] += 1
