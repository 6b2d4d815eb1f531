"""Structured log lines whose values can only be ids, sizes, codes and digests.

A library must not print: unconfigured, what `get_logger` returns is Python's own `logging`, silent
below warnings. A process of ours calls `configure` once, and then every line, from structlog and
from `logging`, goes to standard error in one format. `public_values` is the last guard against a
tensor or key in a log: a value that is not a short scalar is replaced by the name of its type.
The events and their keys are listed in docs/logging.md.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog
from structlog.typing import FilteringBoundLogger, Processor

Format = Literal["console", "json"]
FORMATS: Final[tuple[Format, ...]] = ("console", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_ID_CHARACTERS: Final = 16
_TEXT_CHARACTERS: Final = 200
_SEQUENCE_ITEMS: Final = 16


_PROCESS: Final[dict[str, str]] = {}


def name_process(slot: str) -> None:
    """Have every further line of this process say which of several workers it is: `slot`."""
    _PROCESS["slot"] = slot


class _Logger(structlog.stdlib.BoundLogger):
    """A logger whose debug lines, four a job, cost one question where nobody wants them."""

    def debug(self, event: str | None = None, *args: Any, **values: Any) -> Any:
        if self._logger.isEnabledFor(logging.DEBUG):
            return super().debug(event, *args, **values)
        return None


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger that takes an event name and keys, and obeys the application's `logging`."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            public_values,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=_Logger,
        # The level is still asked for at every line.
        cache_logger_on_first_use=True,
    )
    return logger


def configure(log_format: Format = "console", level: str = "info") -> None:
    """Send every log line of this process to standard error as `log_format`, from `level` up."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_process,
        public_values,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def public_values(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Shorten byte strings to 16 hexadecimal characters and drop what is not a short scalar."""
    # Keys with a leading underscore are structlog's own (the LogRecord) and never printed.
    return {key: value if key.startswith("_") else _public(value) for key, value in event.items()}


def _with_process(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.update(_PROCESS)
    return event


def _public(value: Any) -> Any:
    match value:
        case bool() | int() | float() | None:
            return value
        case str():
            return value[:_TEXT_CHARACTERS]
        case bytes():
            return value.hex()[:_ID_CHARACTERS]
        case list() | tuple():
            return [_public(entry) for entry in value[:_SEQUENCE_ITEMS]]
        case _:
            return f"<{type(value).__name__}>"
