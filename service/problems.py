"""Around each request: its id, the limit of its body, one answer for all errors, and its line in the log."""

import json
import logging
import os
import re
import secrets
import time
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import Match

from service import database

log = logging.getLogger("service")

MOST_BYTES = 128 * 1024  # of a request's body: the longest reason, each character of it escaped


def release() -> str:
    """The tag that the image was built as. The Dockerfile bakes it in, so it is no setting."""
    return os.environ.get("RELEASE") or "dev"


class JsonLines(logging.Formatter):
    """One line of JSON for each record: what is in `extra={"fields": ...}`, or else its message."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line; a traceback stands under "error"."""
        line = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")}
        line |= {"level": record.levelname.lower(), "tag": release()}
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        return json.dumps(line | ({"error": self.formatException(record.exc_info)} if record.exc_info else {}))


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {"alembic": {"level": "WARNING"}},  # it says a word each time the schema is looked at
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 says; `errors` names the fields when the request is not valid."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] | None = None


def problems(*statuses: int) -> dict[int | str, dict]:
    """What OpenAPI says of these answers."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def problem(
    request_id: str, status: int, detail: str, headers=None, errors: list[FieldError] | None = None
) -> Response:
    """The answer for an error."""
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id, errors=errors
    ).model_dump_json(exclude_none=True)
    return Response(body, status, headers, media_type="application/problem+json")


async def refused(request: Request, error: HTTPException) -> Response:
    """Answer what FastAPI and the handlers refuse; a 405 names what the path allows."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        routes = [route for router in request.app.state.routers for route in router.routes]
        fitting = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
        if fitting:  # else the framework's own, which names them all
            methods = {method for route in fitting for method in route.methods}
            headers["Allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    # FastAPI's only 400 is a body that is not UTF-8: no more valid than one that is not JSON.
    status = 422 if error.status_code == 400 else error.status_code
    return problem(request.state.request_id, status, error.detail, headers)


async def invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer 422 and name the fields, without echoing what was given."""
    errors = []
    for found in error.errors():
        names = [str(part) for part in found["loc"][1:]] if found["type"] != "json_invalid" else []
        errors.append(
            FieldError(field=".".join(names) or found["loc"][0], message=found["msg"].removeprefix("Value error, "))
        )
    named = "; ".join(f"{each.field}: {each.message}" for each in errors)
    return problem(request.state.request_id, 422, named, errors=errors)


async def failed(request: Request, error: SQLAlchemyError) -> Response:
    """Answer 503 when the database is away, and 500 when what it was asked is wrong."""
    if not database.is_away(error):
        raise error
    fields = {"request_id": request.state.request_id, "message": f"the database is away: {database.why(error)}"}
    log.error("", extra={"fields": fields})
    return problem(request.state.request_id, 503, "the database is not available", {"Retry-After": "1"})


class Frame:
    """The outermost layer, as ASGI has it."""

    def __init__(self, app):
        """Wrap an application."""
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """Serve one request, whatever happens in it, and log it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, size = time.perf_counter(), None, 0
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch("[A-Za-z0-9._-]{1,64}", given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def receive_some():
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BYTES:
                raise HTTPException(413, f"the body is longer than {MOST_BYTES} bytes")
            return message

        async def send_with_id(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        fields = {"request_id": request_id, "method": scope["method"], "path": scope["path"]}
        if scope["method"] == "HEAD":  # the server itself leaves the body out
            scope = scope | {"method": "GET"}
        try:
            await self.app(scope, receive_some, send_with_id)
        except Exception:
            log.exception("", extra={"fields": fields})
            if status is None:
                await problem(request_id, 500, "the service failed; its log has the reason")(
                    scope, receive, send_with_id
                )
        finally:
            if (scope["path"], status) != ("/healthz", 200):
                ms = round((time.perf_counter() - began) * 1000, 1)
                client = (scope.get("client") or [None])[0]
                log.info("", extra={"fields": fields | {"status": status, "ms": ms, "client": client}})
