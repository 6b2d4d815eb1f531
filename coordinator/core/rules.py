"""Every bound the core keeps, in one value. Each has a refusal code or ends in an orderly loss."""

from attrs import field, frozen, validators

from attestation import limits

_positive = validators.ge(1)


@frozen(kw_only=True)
class Rules:
    """What the coordinator allows. Times are milliseconds, sizes bytes."""

    memory_limit: int = field(default=256 * limits.MIB, validator=_positive)
    """Sealed bytes held or promised at once (credit): the ceiling whatever the size of jobs."""
    window_bytes: int = field(default=8 * limits.MIB, validator=_positive)
    """Credit of one transfer; 6 MiB in flight already saturate a link on loopback."""
    spool_limit: int = field(default=64 << 30, validator=_positive)
    """Bytes of durable jobs on disk, their promised outputs included: `spool-full`."""
    max_job_bytes: int = field(default=limits.TENSOR_BYTES, validator=_positive)
    """Sealed inputs and outputs of one job: `too-large`."""
    max_jobs: int = field(default=100_000, validator=_positive)
    """Unfinished or unfetched jobs of everybody: `queue-full`."""
    max_jobs_per_client: int = field(default=20_000, validator=_positive)
    """The same of one client key: `queue-full`."""
    index_limit: int = field(default=128 * limits.MIB, validator=_positive)
    """Bytes of wrapped keys and bookkeeping held for all jobs: `queue-full`."""
    account_share: float = field(
        default=0.5, validator=validators.and_(validators.gt(0), validators.le(1))
    )
    """The part of the memory, disk, index and `max_jobs` that one account may hold: whoever floods
    leaves the rest to the others. An account is a CURVE key, or without CURVE a client key."""
    max_peers: int = field(default=1024, validator=_positive)
    """Connections that have said hello: `queue-full`."""
    max_peers_per_key: int = field(default=256, validator=_positive)
    """The same of one CURVE key: `queue-full`."""
    max_attempts: int = field(default=5, validator=_positive)
    """Failed attempts of one job before `attempts-exhausted`."""
    heartbeat_ms: int = field(default=2_000, validator=_positive)
    lease_ms: int = field(default=10_000, validator=_positive)
    """A worker silent for so long is gone, and a job that its heartbeats leave out is lost."""
    client_silence_ms: int = field(default=15_000, validator=_positive)
    """A client silent for so long is gone: its streaming jobs end, its uploads are dropped."""
    hello_ms: int = field(default=10_000, validator=_positive)
    """Time to answer the challenge."""
    stall_ms: int = field(default=60_000, validator=_positive)
    """A client that owes a segment, credit or an acknowledgement for so long frees its memory."""
    park_ms: int = field(default=1_000, validator=_positive)
    """Pause before a job is tried again after the disk refused us."""
    retention_ms: int = field(default=7 * 24 * 3600 * 1000, validator=_positive)
    """How long a result waits for its client."""
    deliveries_per_client: int = field(default=64, validator=_positive)
    """Stored results on their way to one client; more wait for acknowledgements."""

    def share(self, limit: int) -> int:
        """Return how much of `limit` one account may hold."""
        return max(1, int(limit * self.account_share))

    def window(self, segment_bytes: int) -> int:
        """Return how many segments of a transfer may be in flight; 0 when none fits."""
        sealed = sealed_segment(segment_bytes)
        # A lane takes at most an eighth of the memory, so that eight jobs always move at once;
        # a segment larger than that still gets a lane of one while it fits in a quarter.
        wanted = min(self.window_bytes, self.memory_limit // 8) // sealed
        if wanted:
            return min(wanted, 128)
        return 1 if sealed <= self.memory_limit // 4 else 0


SEGMENT_OVERHEAD = 32
"""A sealed segment is so much longer than its plaintext (docs/sealed-tensor.md)."""


def sealed_segment(segment_bytes: int) -> int:
    """Return the length of a full sealed segment."""
    return segment_bytes + SEGMENT_OVERHEAD
