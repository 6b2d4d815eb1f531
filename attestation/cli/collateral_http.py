"""Ask a vendor for one item over HTTPS, politely and with a limit on everything.

The answer is believed by nobody: whatever comes back is looked at by the one who asked
(collateral_cache.py) and verified in every appraisal. So TLS is not what makes collateral true; it
keeps an onlooker from learning which machine somebody is interested in.

urllib, because it is there: an auditor's installation needs no HTTP library.
"""

import random
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from attrs import field, frozen

from attestation import limits
from attestation.errors import UnavailableError
from attestation.logging import get_logger

TIMEOUT_SECONDS: Final = 20.0
"""One attempt, from the connection to the last byte: a server that drips does not hold us up."""

ATTEMPTS: Final = 4
BACK_OFF_SECONDS: Final = 1.0
BACK_OFF_SECONDS_MAX: Final = 60.0
"""The longest wait that a vendor may ask for; asked for more, we give up and say so."""

_CHUNK: Final = 64 * limits.KIB
_HEADERS_KEPT: Final = 32 * limits.KIB
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

log = get_logger(__name__)


class VendorUnavailableError(UnavailableError):
    """A vendor's service did not give the item. Try later; what is cached stays usable."""

    code = "vendor-unavailable"


@frozen(kw_only=True)
class Query:
    """One request. `body` makes it a POST; `headers` of the answer named in `keep` come along."""

    url: str
    body: bytes | None = field(default=None, repr=False)
    content_type: str = ""
    keep: tuple[str, ...] = ()


@frozen(kw_only=True)
class Answer:
    """The bytes of a vendor's answer, and the headers that were asked for."""

    data: bytes = field(repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)


class _NoRedirects(HTTPRedirectHandler):
    """A vendor's addresses do not move; a redirect leads to a captive portal or to somebody."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@frozen(kw_only=True)
class Http:
    """Asks, waits and asks again. `clock` and `sleep` are arguments so that tests need no time."""

    context: ssl.SSLContext = field(factory=ssl.create_default_context, repr=False)
    timeout: float = TIMEOUT_SECONDS
    attempts: int = ATTEMPTS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def ask(self, query: Query) -> Answer:
        """Return the answer; raises `VendorUnavailableError` when there is none in the end."""
        _check_address(query.url)
        for attempt in range(1, self.attempts + 1):
            try:
                return self._attempt(query)
            except _RetryError as error:
                pause = _pause(attempt, error.retry_after)
                if attempt == self.attempts or pause > BACK_OFF_SECONDS_MAX:
                    raise VendorUnavailableError(f"{_host(query)}: {error}") from error
                log.info("collateral.retry", host=_host(query), reason=str(error))
                self.sleep(pause)
        raise VendorUnavailableError(f"{_host(query)}: no attempt is allowed")

    def _attempt(self, query: Query) -> Answer:
        request = Request(query.url, data=query.body)  # noqa: S310 - checked by _check_address
        request.add_header("User-Agent", "enclave-worker")
        if query.content_type:
            request.add_header("Content-Type", query.content_type)
        opener = build_opener(HTTPHandler(), HTTPSHandler(context=self.context), _NoRedirects())
        deadline = self.clock() + self.timeout
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return self._read(response, query, deadline)
        except HTTPError as error:
            with error:
                if error.code in _AGAIN:
                    after = _retry_after(error.headers.get("Retry-After"))
                    raise _RetryError(_status(error.code), after) from error
                raise VendorUnavailableError(f"{_host(query)}: {_status(error.code)}") from error
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                # Trying again would not make the certificate right.
                raise VendorUnavailableError(f"{_host(query)}: {error.reason}") from error
            raise _RetryError(str(error.reason)) from error
        except (OSError, HTTPException) as error:
            raise _RetryError(str(error) or type(error).__name__) from error

    def _read(self, response: HTTPResponse, query: Query, deadline: float) -> Answer:
        if response.status != HTTPStatus.OK:
            raise VendorUnavailableError(f"{_host(query)}: {_status(response.status)}")
        data = bytearray()
        while chunk := response.read1(_CHUNK):
            data += chunk
            if len(data) > limits.COLLATERAL_ITEM_BYTES:
                raise VendorUnavailableError(
                    f"{_host(query)}: more than {limits.COLLATERAL_ITEM_BYTES} bytes"
                )
            if self.clock() > deadline:
                raise _RetryError(f"not done after {self.timeout:g} s")
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(len(data)):
            raise _RetryError("the answer was cut short")
        headers = {name: response.headers.get(name, "") for name in query.keep}
        if sum(map(len, headers.values())) > _HEADERS_KEPT:
            raise VendorUnavailableError(f"{_host(query)}: headers of more than {_HEADERS_KEPT}")
        return Answer(data=bytes(data), headers=headers)


class _RetryError(VendorUnavailableError):
    """An attempt failed in a way that may pass. Never leaves this module."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise VendorUnavailableError(f"{url}: not an https address")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pause(attempt: int, retry_after: float | None) -> float:
    if retry_after is not None:
        return max(retry_after, 0.0)
    longest: float = min(BACK_OFF_SECONDS * 2 ** (attempt - 1), BACK_OFF_SECONDS_MAX)
    # Not for secrecy: so that a thousand clients do not come back in the same moment.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311


def _retry_after(value: str | None) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3): seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _host(query: Query) -> str:
    return urlsplit(query.url).netloc
