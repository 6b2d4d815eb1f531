"""Small segments are to be streamed here, or each of these tests would have to move megabytes."""

import pytest

from attestation import limits


@pytest.fixture(autouse=True)
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let less travel inside a message than in production."""
    monkeypatch.setattr(limits, "INLINE_BYTES", 256 * limits.KIB)
