"""The one command for a machine with a GPU: is it right, how fast is it, what does it leave.

    python -m tests.bench.gpu [--dry-run] [--quick] [--seconds 480] [--output bench-output]

First every tuning has to compute the processor's bytes and refuse what it must, at sizes up to more
than 4 GiB and under compute-sanitizer where that is installed; only tunings that are right are
timed. Each part stands alone: one that fails is reported, the others go on; one that would begin
after `--seconds` is left out and named. Prints Markdown, writes gpu.json and gpu.md after every
part, and ends with 1 if anything failed. `--dry-run` goes through all of it without a GPU, at small
sizes, over the simulated one of the tests.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.bench import gpu_report, gpu_residue, gpu_right, gpu_speed
from tests.bench.gpu_rigs import Rig
from tests.bench.gpu_run import DRY, FULL, QUICK, Run


def residue(run: Run) -> dict[str, int]:
    """Let a process open and seal a job, and look for it in that process and on the device."""
    return gpu_residue.measure(dry=run.rig.dry)


SECTIONS: Final[dict[str, Callable[[Run], Any]]] = {
    "right": gpu_right.right,
    "large": gpu_right.large,
    "sanitizer": gpu_right.sanitizer,
    "residue": residue,
    "small": gpu_speed.small,
    "job": gpu_speed.job,
    "rates": gpu_speed.rates,
    "bus": gpu_speed.bus,
    "beside": gpu_speed.beside,
}
"""In the order of what is wanted first."""


def main() -> int:
    """Run everything as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, small sizes")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--seconds", type=float, default=480, help="begin no part later than this")
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder) if arguments.dry_run else None)
        effort = DRY if rig.dry else QUICK if arguments.quick else FULL
        run = Run(rig, effort, arguments.seconds)
        for name, measure in SECTIONS.items():
            run.section(name, measure)
            page = _write(run, arguments.output)
    sys.stdout.write(f"{page}\n\nwritten to {arguments.output}/gpu.json and gpu.md\n")
    return 1 if run.failures else 0


def _write(run: Run, output: Path) -> str:
    results = {"about": run.rig.about(), **run.results}
    if "rates" in results:
        results["rates"] = {**results["rates"], "best": run.tuning.name}
    results |= {"failures": run.failures, "left_out": run.left_out, "took_seconds": run.took}
    page = gpu_report.markdown(results)
    (output / "gpu.json").write_text(json.dumps(results, indent=2) + "\n")
    (output / "gpu.md").write_text(page + "\n")
    return page


if __name__ == "__main__":
    sys.exit(main())
