"""One table of a policy file: every key is taken once, checked, and none is left over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from attrs import frozen

from attestation.errors import PolicyError
from attestation.policy.locations import Locations

T = TypeVar("T")


@frozen(kw_only=True)
class Section:
    """A table. Each `take…` raises `PolicyError` with the line; `finish` refuses what is left."""

    values: dict[str, Any]
    path: tuple[str, ...]
    name: str
    locations: Locations
    directory: Path

    def error(self, key: str, problem: str) -> PolicyError:
        """Make the error that points at `key`."""
        path = (*self.path, key) if key else self.path
        line = self.locations.line(path)
        return PolicyError(f"{self.name}, line {line}: {'.'.join(path) or 'file'}: {problem}")

    def take(self, key: str) -> Any:
        """Take a value that must be there."""
        if key not in self.values:
            raise self.error(key, "is missing")
        return self.values.pop(key)

    def take_section(self, key: str) -> Self:
        """Take a table that must be there."""
        values = self.take(key)
        if not isinstance(values, dict):
            raise self.error(key, "is not a table")
        return type(self)(
            values=dict(values),
            path=(*self.path, key),
            name=self.name,
            locations=self.locations,
            directory=self.directory,
        )

    def take_uint(self, key: str, *, minimum: int, maximum: int) -> int:
        """Take an integer of a range."""
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.error(key, f"is not an integer from {minimum} to {maximum}")
        return value

    def take_boolean(self, key: str) -> bool:
        """Take true or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.error(key, "is not true or false")
        return value

    def take_list(self, key: str, convert: Callable[[str], T]) -> list[T]:
        """Take a list of at least one text, each of which `convert` accepts, none twice."""
        values = self.take(key)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.error(key, "is not a list of texts")
        if not values:
            raise self.error(key, "is an empty list, which accepts nothing")
        try:
            converted = [convert(value) for value in values]
        except ValueError as error:
            raise self.error(key, str(error)) from error
        if len(set(values)) != len(values):
            raise self.error(key, "lists something twice")
        return converted

    def finish(self) -> None:
        """Refuse keys that nothing has taken."""
        if self.values:
            raise self.error(next(iter(self.values)), "is not a known key")
