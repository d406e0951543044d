"""One JSON object a line on standard error, which may be full without stopping anybody.

What libraries log and warn of is told in the same form. No line names a folder of this machine:
files are told as they are imported, `app/keys.py`, and others by their names alone.
"""

import logging
import re
import sys
import traceback
from typing import TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, Processor

_FOLDERS = re.compile(r"(?<![\w./:-])/(?:[^/\s'\"]+/)+")


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
    """Send every log from this level on to standard error, and the warnings of libraries.

    Of what libraries log by Python's `logging`, as uvicorn and asyncio do, nothing below a warning.
    """
    stream = Lossy(sys.stderr)
    begin: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    end: list[Processor] = [
        structlog.processors.ExceptionRenderer(_told),
        _without_folders,
        structlog.processors.JSONRenderer(),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *begin],
            processors=[ProcessorFormatter.remove_processors_meta, *end],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *begin, *end],
        logger_factory=structlog.PrintLoggerFactory(file=stream),  # type: ignore[arg-type]
    )
    show_from(level)
    return stream


def show_from(level: str) -> None:
    """Log nothing that matters less."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))


def _told(exc_info: ExcInfo) -> str:
    return "".join(traceback.format_exception(*exc_info)).rstrip()


def _without_folders(logger: object, name: str, event: EventDict) -> EventDict:
    return {key: _bare(value) if isinstance(value, str) else value for key, value in event.items()}


def _bare(text: str) -> str:
    """The text without the folders of its absolute paths; of modules those below `sys.path`."""
    if "/" not in text:
        return text
    for root in sorted(filter(None, sys.path), key=len, reverse=True):
        text = text.replace(f"{root}/", "")
    return _FOLDERS.sub("", text)
