"""A client on one side of a bad line: reads what to do from its arguments, prints how it went."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from attestation.client.client import Client
from attestation.client.transport import CurveKeys
from attestation.policy.loading import load_policy

RESULT_SECONDS = 90.0


def main(url: str, policy: str, own: str, server: str, count: str) -> None:
    """Submit small and large, durable and streaming jobs; print what came back."""
    curve = CurveKeys.load(Path(own), Path(server))
    began = time.monotonic()
    right, attempts = 0, []
    with Client(
        url, policy=load_policy(policy), curve=curve, connect_timeout=20.0, worker_timeout=30.0
    ) as client:
        print(json.dumps({"connected": time.monotonic() - began}), flush=True)  # noqa: T201
        jobs = []
        for number in range(int(count)):
            x = np.full((6_000 if number % 8 == 0 else 10, 16), float(number))
            parameters = {"scale": 2.0, "shift": 1.0}
            job = client.submit(
                "nn.affine", {"x": x}, parameters=parameters, durable=number % 4 > 0
            )
            jobs.append((x, job))
            time.sleep(0.15)
        for x, job in jobs:
            right += bool(np.array_equal(job.result(RESULT_SECONDS)["y"], 2.0 * x + 1.0))
            attempts.append(job.claims.attempt)
        kept = len(client.jobs())
    print(json.dumps({"right": right, "attempts": attempts, "kept": kept}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
