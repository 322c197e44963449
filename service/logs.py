"""JSON logs, and the release tag that each line carries."""

import json
import logging
import os
from datetime import UTC, datetime

logger = logging.getLogger("service")


def release_tag() -> str:
    """Return the tag that the image was built with, or "dev" outside an image.

    docker-compose.prod.yml sets RELEASE, so it is not one of the settings.
    """
    return os.environ.get("RELEASE") or "dev"


class JsonFormatter(logging.Formatter):
    """Format each record as one line of JSON: `extra={"fields": {...}}` if given, otherwise the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback goes into the field "error"."""
        line = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")}
        line |= {"level": record.levelname.lower(), "tag": release_tag()}
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        return json.dumps(line | ({"error": self.formatException(record.exc_info)} if record.exc_info else {}))


LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {"alembic": {"level": "WARNING"}},  # at INFO, Alembic logs a line for every health check
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
