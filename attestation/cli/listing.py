"""`enclave workers` and `enclave jobs`: what a coordinator has, and what our policy says of it."""

from datetime import UTC, datetime
from typing import Any

import click

from attestation.appraisal.result import Check
from attestation.cli.connecting import Target, target_options
from attestation.cli.output import emit_json, emit_table, json_option, warn_insecure
from attestation.client.client import WorkerStatus
from attestation.client.workers import Reason


@click.command(
    epilog="""\b
Examples:
  enclave workers --policy policy.toml
  enclave workers --policy policy.toml --json
"""
)
@target_options
@json_option
def workers(*, target: Target, as_json: bool) -> None:
    """List the coordinator's workers, each with the verdict of your policy.

    What a worker says of itself (device, price, region) is a claim; the verdict comes from its
    evidence, asked for just now.
    """
    with target.connect() as client:
        found = client.workers()
    if any(worker.insecure for worker in found):
        warn_insecure()
    if as_json:
        emit_json({"workers": [_worker_map(worker) for worker in found]})
        return
    emit_table(
        f"{len(found)} worker(s) at {target.url}",
        ("worker", "verdict", "evidence", "device", "state", "running", "price", "region"),
        [
            (
                worker.entry.worker_id,
                _verdict(worker),
                worker.entry.description.evidence_kind,
                worker.entry.description.device,
                worker.entry.state,
                f"{worker.entry.running}/{worker.entry.description.capacity}",
                worker.entry.description.price,
                worker.entry.description.region,
            )
            for worker in found
        ],
    )


@click.command(
    epilog="""\b
Examples:
  enclave jobs --policy policy.toml --key client.key
"""
)
@target_options
@json_option
def jobs(*, target: Target, as_json: bool) -> None:
    """List the jobs of your signing key that are not finished and fetched."""
    with target.connect() as client:
        found = client.jobs()
    if as_json:
        emit_json(
            {
                "jobs": [
                    {
                        "job_id": job.job_id,
                        "state": job.state,
                        "attempt": job.attempt,
                        "durable": job.durable,
                        "input_bytes": job.input_bytes,
                        "submitted_ms": job.submitted_ms,
                    }
                    for job in found
                ]
            }
        )
        return
    emit_table(
        f"{len(found)} job(s) at {target.url}",
        ("job", "state", "attempt", "durable", "sealed bytes", "submitted"),
        [
            (
                job.job_id.hex(),
                job.state,
                job.attempt,
                "yes" if job.durable else "no",
                job.input_bytes,
                datetime.fromtimestamp(job.submitted_ms / 1000, UTC).isoformat(timespec="seconds"),
            )
            for job in found
        ],
    )


def _verdict(worker: WorkerStatus) -> str:
    if worker.accepted:
        return "accepted (INSECURE)" if worker.insecure else "accepted"
    if not worker.refusals:
        return "no answer yet"
    return "refused: " + ", ".join(_code(reason) for reason in worker.refusals)


def _worker_map(worker: WorkerStatus) -> dict[str, Any]:
    description = worker.entry.description
    return {
        "worker_id": worker.entry.worker_id,
        "accepted": worker.accepted,
        "insecure": worker.insecure,
        "refusals": [
            reason.to_map() if isinstance(reason, Check) else {"code": str(reason)}
            for reason in worker.refusals
        ],
        "state": worker.entry.state,
        "running": worker.entry.running,
        "claims": {
            "backend": description.backend,
            "device": description.device,
            "evidence_kind": description.evidence_kind,
            "catalogue_digest": description.catalogue_digest,
            "capacity": description.capacity,
            "max_job_bytes": description.max_job_bytes,
            "price": description.price,
            "region": description.region,
        },
    }


def _code(reason: Reason) -> str:
    return f"({reason.number}) {reason.code}" if isinstance(reason, Check) else str(reason)
