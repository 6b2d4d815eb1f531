"""One broker in a process of its own: `python -m tests.port.serve STATE READY_FILE`."""

import os
import sys
from pathlib import Path

from coordinator.broker import Broker
from coordinator.core.rules import Rules
from coordinator.settings import Settings

MEMORY_LIMIT = 32 << 20


def main() -> None:
    state, ready = map(Path, sys.argv[1:])
    rules = Rules(
        memory_limit=MEMORY_LIMIT,
        window_bytes=4 << 20,
        lease_ms=20_000,
        heartbeat_ms=2_000,
        stall_ms=20_000,
        hello_ms=2_000,
    )
    broker = Broker(Settings(listen="tcp://127.0.0.1:0", state=state, rules=rules))
    partial = ready.with_suffix(".partial")
    partial.write_text(broker.address)
    os.replace(partial, ready)
    broker.run()


if __name__ == "__main__":
    main()
