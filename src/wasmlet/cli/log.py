"""What the log's records look like: an agent's are logfmt lines, a command's warnings are sentences for a person."""

from __future__ import annotations

import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Logfmt(logging.Formatter):
    """`time=… level=… message="…" key=value`: one line a record, fields last."""

    def format(self, record: logging.LogRecord) -> str:
        """As of any formatter."""
        fields: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields |= _fields(record)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(_shown(value))}" for key, value in fields.items())


class Sentence(logging.Formatter):
    """`wasmlet: message (key: value, …)`."""

    def format(self, record: logging.LogRecord) -> str:
        """As of any formatter."""
        details = ", ".join(f"{key}: {_shown(value)}" for key, value in _fields(record).items())
        return f"wasmlet: {record.getMessage()}{f' ({details})' if details else ''}"


def log_handler() -> logging.Handler:
    """Writes records of the log to standard error, one logfmt line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logfmt())
    return handler


def show_warnings() -> None:
    """Have a command that configures no log tell its warnings with all that they say."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Sentence())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _shown(value: object) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    plain = text and not any(each in text for each in ' "=\n\\')
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
