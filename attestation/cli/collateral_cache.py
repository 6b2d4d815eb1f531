"""A cache of what vendors gave out, so that their outages and rate limits are not ours.

An item is taken from the cache, without asking, while it is young; when it is older, the vendor is
asked, and if he does not answer, or answers something else, the cached item serves on **inside the
window that it was signed for**, and the user is told. Outside that window it is never used: a
revocation list of last year is not a revocation list.
"""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from attrs import field, frozen

from attestation import limits
from attestation.cli.collateral_http import Answer, Http, Query, VendorUnavailableError
from attestation.cli.collateral_windows import Description
from attestation.encoding.record import Record, item, octets, table, text, uint
from attestation.errors import DecodeError

_HEADER_CHARACTERS: Final = 32 * limits.KIB
_URL_CHARACTERS: Final = 2048


@frozen(kw_only=True)
class CachedAnswer(Record):
    """A file of the cache. What is in it is as little believed as what comes from the network."""

    VERSION = 1
    LIMIT = limits.COLLATERAL_ITEM_BYTES + 128 * limits.KIB

    url: str = item(text(_URL_CHARACTERS))
    fetched_at_ms: int = item(uint())
    data: bytes = item(octets(limit=limits.COLLATERAL_ITEM_BYTES), secret=True)
    headers: dict[str, str] = item(table(text(_HEADER_CHARACTERS), limit=8), secret=True)


@frozen(kw_only=True)
class Wish:
    """One item that is wanted: how to ask, how to read the answer, when to ask again."""

    name: str
    query: Query
    read: Callable[[Answer], Description] = field(repr=False)
    """Raises `DecodeError` for an answer that is something else."""
    young: timedelta
    """How long a cached answer is used without asking."""
    for_the_past: bool = False
    """Whether it serves after its window too, for appraisals as of then: reference values do."""


@frozen(kw_only=True)
class Cache:
    """Files in one directory, each named by the hash of its question."""

    directory: Path

    def get(self, query: Query) -> CachedAnswer | None:
        """Return what is kept; a file that is damaged or about something else is not there."""
        try:
            with self._path(query).open("rb") as file:
                kept = CachedAnswer.from_bytes(file.read(CachedAnswer.LIMIT + 1))
        except (OSError, DecodeError):
            return None
        return kept if kept.url == query.url else None

    def put(self, query: Query, answer: Answer, now: datetime) -> None:
        """Keep an answer, whole or not at all."""
        kept = CachedAnswer(
            url=query.url,
            fetched_at_ms=int(now.timestamp() * 1000),
            data=answer.data,
            headers=dict(answer.headers),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self._path(query)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(kept.to_bytes())
        partial.replace(path)

    def _path(self, query: Query) -> Path:
        name = hashlib.sha256(query.url.encode() + b"\0" + (query.body or b"")).hexdigest()
        return self.directory / name


@frozen(kw_only=True)
class Gatherer:
    """Fulfils wishes from the cache and the network. `notes` hears what a user should know."""

    http: Http
    cache: Cache
    now: datetime
    notes: Callable[[str], None]
    refresh: bool = False
    """Ask for everything anew; the cache then serves only when a vendor does not answer."""

    def get(self, wish: Wish) -> Answer:
        """Return an answer whose window contains `now`; raises `VendorUnavailableError`."""
        kept = self.cache.get(wish.query)
        found = None if kept is None else self._look(wish, kept)
        if kept is not None and found is not None and self._young(wish, kept, found):
            return _answer(kept)
        try:
            answer = self._ask(wish)
        except VendorUnavailableError as error:
            if kept is None or found is None:
                raise VendorUnavailableError(f"{wish.name}: {error}") from error
            if not self._usable(wish, found):
                raise VendorUnavailableError(
                    f"{wish.name}: {error}; what is cached was meant to be used until "
                    f"{found.ends.isoformat()} and is not used"
                ) from error
            self.notes(
                f"{wish.name}: {error}; taken from the cache, where it is since "
                f"{_fetched(kept).isoformat(timespec='seconds')} (valid until "
                f"{found.ends.isoformat()})"
            )
            return _answer(kept)
        self.cache.put(wish.query, answer, self.now)
        return answer

    def _ask(self, wish: Wish) -> Answer:
        answer = self.http.ask(wish.query)
        try:
            found = wish.read(answer)
        except DecodeError as error:
            raise VendorUnavailableError(f"the answer is something else ({error})") from error
        window = f"for {found.begins.isoformat()} to {found.ends.isoformat()}"
        if not self._usable(wish, found):
            raise VendorUnavailableError(f"the answer is {window}")
        if not found.current(self.now):
            self.notes(f"{wish.name}: {window} only; it serves appraisals as of that time")
        return answer

    def _usable(self, wish: Wish, found: Description) -> bool:
        return wish.for_the_past or found.current(self.now)

    def _look(self, wish: Wish, kept: CachedAnswer) -> Description | None:
        try:
            return wish.read(_answer(kept))
        except DecodeError:
            return None

    def _young(self, wish: Wish, kept: CachedAnswer, found: Description) -> bool:
        # An item from the future was written while this clock was wrong, or by somebody else.
        age = self.now - _fetched(kept)
        return not self.refresh and timedelta() <= age < wish.young and self._usable(wish, found)


def cache_directory() -> Path:
    """Return where the user's cache is kept (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "enclave-worker" / "collateral"


def _answer(kept: CachedAnswer) -> Answer:
    return Answer(data=kept.data, headers=kept.headers)


def _fetched(kept: CachedAnswer) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=kept.fetched_at_ms)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
