"""One workload at one broker process, through whatever happens to it, and the books afterwards."""

import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Final

from tests.faults.actors import MIXED, HonestClient, HonestWorker
from tests.faults.broker_process import Nursery
from tests.faults.points import Plan
from tests.faults.wires import Wires

RULES: Final = {
    "lease_ms": 600,
    "heartbeat_ms": 60,
    "client_silence_ms": 2_000,
    "stall_ms": 2_000,
    "park_ms": 30,
    "max_attempts": 100,
}
RUN_SECONDS: Final = 15.0


class Run:
    """Four jobs, inline and spooled, of one client, on one worker."""

    def __init__(
        self,
        nursery: Nursery,
        *,
        power: bool = False,
        sabotage: str = "",
        seconds: float = RUN_SECONDS,
    ) -> None:
        self.nursery = nursery
        self.sabotage = sabotage
        self.power = power
        self.seconds = seconds
        self.client = HonestClient(MIXED)
        self.worker = HonestWorker(capacity=2)
        self.faults: Counter[str] = Counter()

    def live(self, plan: Plan) -> bool:
        """One life of the broker; returns whether it came to an orderly end, with all done."""
        self.nursery.start(plan, shadow=self.power, sabotage=self.sabotage, **RULES)
        with Wires(self.nursery.address, self.client, self.worker) as wires:
            wires.connect()
            assert wires.pump(self.over, self.seconds), self.state_of_affairs()
        self.nursery.stop()
        if self.nursery.status == 0:
            return True
        assert self.nursery.status == -signal.SIGKILL, self.state_of_affairs()
        self.faults[f"killed at {self.nursery.passed()[-1]}"] += 1
        if self.power:
            self.nursery.stable.cut_power()
            self.faults["power cut"] += 1
        return False

    @property
    def done(self) -> bool:
        # The last RESULT_ACK has to leave, too.
        return self.client.done and not self.client.outbox and not left_over(self.nursery.state)

    def over(self) -> bool:
        return self.done or not self.nursery.alive()

    def check(self) -> None:
        """After the last life: everything once, nothing else, and nobody accepted was refused."""
        for wanted in self.client.wanted:
            assert wanted.delivered == 1, self.state_of_affairs()
        assert left_over(self.nursery.state) == []
        check_whole(self.nursery.state)

    def state_of_affairs(self) -> str:
        jobs = [(w.number, w.accepted, w.delivered, w.refusals) for w in self.client.wanted]
        log = self.nursery.log.read_text()[-2000:]
        kept = left_over(self.nursery.state)
        return f"(number, accepted, delivered, refusals): {jobs}, kept: {kept}, {log}"


def left_over(state: Path) -> list[str]:
    """Return the jobs and files in a state directory."""
    files = [path.name for path in (state / "spool").glob("*")]
    with sqlite3.connect(f"file:{state}/jobs.sqlite?mode=ro", uri=True) as database:
        rows = database.execute("SELECT job_id FROM jobs UNION SELECT job_id FROM bodies")
        return files + [row[0].hex() for row in rows]


def check_whole(state: Path) -> None:
    """Check the database from end to end."""
    with sqlite3.connect(state / "jobs.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
