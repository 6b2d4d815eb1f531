"""Questions to the coordinator that wait for its answer: our jobs, the workers."""

from concurrent.futures import Future
from typing import Generic, TypeVar

from attestation.errors import EnclaveError

_T = TypeVar("_T")


class Questions(Generic[_T]):
    """Everybody who asked the same; one answer is for all of them."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._waiting: list[Future[_T]] = []

    def add(self, answer: Future[_T]) -> None:
        """Remember who asked."""
        self._waiting.append(answer)

    def answer(self, value: _T) -> None:
        """Give everybody the answer."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.set_result(value)

    def abandon(self, error: EnclaveError) -> None:
        """Tell everybody that there will be none."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.set_exception(error)
