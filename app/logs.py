"""One JSON object a line on standard error, which may be full without stopping anybody."""

import logging
import sys
from typing import TextIO

import structlog


class Lossy:
    """A stream that counts the lines it could not write, instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.dropped = 0

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self.dropped += 1
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what was held back."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.dropped += 1


def configure(level: str) -> Lossy:
    """Send every log from this level on to standard error, uvicorn's own messages included."""
    stream = Lossy(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=stream),  # type: ignore[arg-type]
    )
    show_from(level)
    return stream


def show_from(level: str) -> None:
    """Log nothing that matters less."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
