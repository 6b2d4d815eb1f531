"""What the demo tells its reader, step by step, and the facts it leaves for a program."""

from pathlib import Path
from typing import Any, Final

from attrs import define
from rich.console import Console

from attestation.cli.demo_audit import Audit
from attestation.cli.demo_cluster import Cluster
from attestation.cli.demo_dataset import TOLERANCE
from attestation.cli.demo_jobs import JobsDone
from attestation.cli.output import short

_PROVES: Final = {
    "tpm": (
        "Evidence: a software TPM per worker. Its quotes are checked like a real TPM's, against",
        "the key and PCR values enrolled just now. But its keys are files here, and it measured",
        "no boot: this shows the protocol at work, and proves nothing about this machine.",
    ),
    "insecure": (
        "Evidence: INSECURE. Sealing, binding and receipts work as always, but nothing signs the",
        "evidence: this proves nothing about any machine. The policy had to spell it out.",
    ),
}


@define
class Story:
    """Numbered steps on a terminal; nothing at all when a program asked for JSON."""

    silent: bool
    _steps: int = 0

    def begin(self, cluster: Cluster, fallback: str, policy_digest: bytes) -> None:
        """Tell what runs, and what its evidence is worth."""
        names = ", ".join(f"{worker.name} (pid {worker.process.pid})" for worker in cluster.workers)
        self._step(f"Started a coordinator at {cluster.url}, and {names}.")
        for line in _PROVES[cluster.kind]:
            self._detail(line)
        if fallback:
            self._detail(f"(A software TPM would be used, but {fallback}.)")
        self._detail(f"Policy: {cluster.policy}, digest {short(policy_digest)}")

    def accepted(self, workers: int) -> None:
        """Tell that the client has appraised the workers."""
        self._step(
            f"Challenged {workers} workers, appraised their evidence under the policy, and opened a"
        )
        self._detail(
            "session with each: hybrid ML-KEM-768 + X25519, to keys made after the challenge."
        )
        self._detail("What is sealed from here on opens in those workers only.")

    def submitting(self, jobs: int) -> None:
        """Tell what is computed."""
        self._step(
            f"Sealing {jobs} durable jobs: cross-validated diagnosis of 569 biopsies (standardise,"
        )
        self._detail(
            "PCA to 10 components, logistic regression, prediction, accuracy: one program)."
        )

    def done(self, done: JobsDone) -> None:
        """Tell of the death, of what moved, and of the numbers."""
        killed, comparison = done.killed, done.comparison
        self._step(
            f"Killed {killed.name} (pid {killed.pid}) with -9. Jobs it held: {killed.jobs_held}."
        )
        self._detail(f"All {len(done.jobs)} jobs are done. Moved to another worker, by receipt:")
        for job in done.moved:
            self._detail(f"  job {short(job.job_id)}  attempt {job.claims.attempt}")
        self._step("Compared with plain NumPy on this side:")
        self._detail(f"  mean accuracy, sealed: {comparison.sealed_accuracy:.4f}")
        self._detail(f"  mean accuracy, NumPy:  {comparison.numpy_accuracy:.4f}")
        self._detail(
            f"  largest difference between two probabilities: {comparison.largest_difference:.1e}"
            f" (accepted: {TOLERANCE:.0e})"
        )

    def audited(self, audit: Audit) -> None:
        """Tell what the auditor did."""
        self._step("As an auditor, who has nothing but files:")
        self._detail(
            f"  evidence appraised: {audit.evidence_files}, receipts verified: {audit.receipts},"
        )
        self._detail(
            f"  receipts with one changed bit refused: {audit.forgeries_refused}. By hand:"
        )
        self._detail(f"  {audit.example}")

    def ended(self, directory: Path, seconds: float) -> None:
        """Tell where everything is."""
        self._step(f"Shut down, after {seconds:.1f} s. In {directory}:")
        self._detail("  policy.toml  proofs/*.receipt  proofs/*.evidence  logs/*.log  demo.json")

    def _step(self, text: str) -> None:
        self._steps += 1
        self._print(f"{self._steps}. {text}", style="bold")

    def _detail(self, text: str) -> None:
        self._print(f"   {text}")

    def _print(self, text: str, style: str | None = None) -> None:
        if not self.silent:
            console = Console(highlight=False, soft_wrap=True)
            console.print(text, style=style, markup=False)


def facts(kind: str, done: JobsDone, audit: Audit) -> dict[str, Any]:
    """Return the outcome as `--json` prints it."""
    comparison = done.comparison
    return {
        "evidence_kind": kind,
        "confidential": any(job.claims.confidential for job in done.jobs),
        "jobs": len(done.jobs),
        "killed": {
            "worker": done.killed.name,
            "pid": done.killed.pid,
            "jobs_held": done.killed.jobs_held,
        },
        "moved": [job.job_id.hex() for job in done.moved],
        "attempts": {str(attempt): count for attempt, count in sorted(done.attempts.items())},
        "accuracy": {
            "sealed": comparison.sealed_accuracy,
            "numpy": comparison.numpy_accuracy,
            "largest_difference": comparison.largest_difference,
            "tolerance": TOLERANCE,
        },
        "audit": {
            "evidence_files": audit.evidence_files,
            "receipts": audit.receipts,
            "forgeries_refused": audit.forgeries_refused,
        },
    }
