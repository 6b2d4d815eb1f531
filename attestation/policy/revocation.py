"""Whether revocation data must be there: shared by the tables of several kinds."""

from enum import StrEnum


class Revocation(StrEnum):
    """What a missing or stale revocation list means. That a key was revoked always refuses."""

    REQUIRED = "required"
    OPTIONAL = "optional"
