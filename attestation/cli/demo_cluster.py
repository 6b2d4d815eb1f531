"""What the demo sets up: evidence, a policy that names it, a coordinator and its workers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from attrs import field, frozen

from attestation.cli import demo_tpm
from attestation.cli.demo_processes import (
    DemoProcess,
    DemoProcesses,
    enclave_command,
)
from attestation.cli.demo_tpm import Enrolment, SoftwareTpm, SoftwareTpmError

LEASE_SECONDS: Final = 3
"""How long the coordinator waits for a silent worker. Short, so that the demo is."""

_POLICY: Final = """\
# Written by `enclave demo`, as docs/policy.md describes.
version = 1

[evidence]
{evidence}
max_age_seconds = 3600

[keys]
max_lifetime_seconds = 3600

[catalogue]
digests = ["sha256:{catalogue}"]
"""


@frozen(kw_only=True)
class DemoWorker:
    """A worker process, and the file in which it says what the coordinator calls it."""

    name: str
    process: DemoProcess
    ready_file: Path

    def worker_id(self) -> bytes:
        """Return the id under which clients see it; it has joined by then."""
        return bytes.fromhex(self.ready_file.read_text(encoding="ascii").strip())


@frozen(kw_only=True)
class Cluster:
    """Everything that runs, and where it is reached."""

    url: str
    kind: str
    policy: Path
    workers: tuple[DemoWorker, ...] = field(repr=False)

    @classmethod
    def start(
        cls, processes: DemoProcesses, *, kind: str, workers: int, output: Path, catalogue: bytes
    ) -> Self:
        """Start it all, with evidence of `kind`; nothing has been verified yet."""
        names = [f"worker-{number}" for number in range(1, workers + 1)]
        tpms = _software_tpms(processes, names, output) if kind == "tpm" else {}
        policy = output / "policy.toml"
        policy.write_text(policy_text(catalogue, [tpm.enrol() for tpm in tpms.values()]))
        ready = output / "coordinator.ready"
        processes.start(
            "coordinator",
            [
                *enclave_command(),
                "coordinator",
                *("--listen", "tcp://127.0.0.1:0"),
                *("--state", str(output / "coordinator-state")),
                *("--lease-seconds", str(LEASE_SECONDS)),
                *("--ready-file", str(ready)),
            ],
        )
        processes.wait_until(ready.is_file, what="the coordinator is not ready")
        url = ready.read_text(encoding="ascii").strip()
        return cls(
            url=url,
            kind=kind,
            policy=policy,
            workers=tuple(
                _start_worker(
                    processes,
                    name,
                    url,
                    tcti=tpms[name].tcti if tpms else "",
                    ready_file=output / f"{name}.id",
                )
                for name in names
            ),
        )


def choose_kind(attester: str) -> tuple[str, str]:
    """Return the kind of evidence for `--attester` and, when that is a fallback, the reason."""
    lacking = demo_tpm.missing()
    match attester:
        case "insecure":
            return "insecure", ""
        case "tpm" if lacking:
            raise SoftwareTpmError(f"{lacking} is not installed")
        case "auto" if lacking:
            return "insecure", f"{lacking} is not installed"
        case _:
            return "tpm", ""


def policy_text(catalogue: bytes, enrolments: Sequence[Enrolment]) -> str:
    """Return a policy that accepts these TPMs, or insecure evidence when there are none."""
    if not enrolments:
        evidence = 'kinds = ["insecure"]\nallow_insecure_evidence = true'
        return _POLICY.format(evidence=evidence, catalogue=catalogue.hex())
    keys = sorted({f'"sha256:{entry.key_digest.hex()}"' for entry in enrolments})
    lines = ["", "[tpm]", 'pcr_bank = "sha256"', f"attestation_keys = [{', '.join(keys)}]"]
    lines += ["", "[tpm.pcrs]"]
    for index in enrolments[0].pcrs:
        values = sorted({f'"{entry.pcrs[index].hex()}"' for entry in enrolments})
        lines.append(f"{index} = [{', '.join(values)}]")
    return _POLICY.format(evidence='kinds = ["tpm"]', catalogue=catalogue.hex()) + "\n".join(
        [*lines, ""]
    )


def _software_tpms(
    processes: DemoProcesses, names: Sequence[str], output: Path
) -> dict[str, SoftwareTpm]:
    return {
        name: SoftwareTpm.start(processes, f"tpm-of-{name}", output / "tpm-state" / name)
        for name in names
    }


def _start_worker(
    processes: DemoProcesses, name: str, url: str, *, tcti: str, ready_file: Path
) -> DemoWorker:
    process = processes.start(
        name,
        [
            *enclave_command(),
            "worker",
            *("--coordinator", url),
            *(("--attester", "tpm", "--tpm-tcti", tcti) if tcti else ("--attester", "insecure")),
            # The first GPU where there is one; the results are compared within a tolerance.
            *("--device", "auto"),
            *("--ready-file", str(ready_file)),
        ],
    )
    return DemoWorker(name=name, process=process, ready_file=ready_file)
