"""The middleware around each request: its ID, its log line, the body limit, and a 500 for an unhandled exception."""

import re
import secrets
import time

from fastapi import HTTPException

from service.logs import logger
from service.problems import problem_response

MAX_BODY_BYTES = 128 * 1024  # large enough for the longest reason with every character JSON-escaped


class RequestMiddleware:
    """ASGI middleware around the whole application; only Starlette's ServerErrorMiddleware is outside of it."""

    def __init__(self, app):
        """Wrap an ASGI application."""
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """Handle one request and log it, even when the application raises."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status, size = time.perf_counter(), None, 0
        header = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = header if re.fullmatch("[A-Za-z0-9._-]{1,64}", header) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def receive_limited():
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"the request body exceeds {MAX_BODY_BYTES} bytes")
            return message

        async def send_with_id(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        fields = {"request_id": request_id, "method": scope["method"], "path": scope["path"]}
        if scope["method"] == "HEAD":  # routed like GET; uvicorn omits the body
            scope = scope | {"method": "GET"}
        try:
            await self.app(scope, receive_limited, send_with_id)
        except Exception:
            logger.exception("", extra={"fields": fields})
            if status is None:
                detail = "internal error: search the log for this request_id"
                await problem_response(request_id, 500, detail)(scope, receive, send_with_id)
        finally:
            if (scope["path"], status) != ("/healthz", 200):
                ms = round((time.perf_counter() - started) * 1000, 1)
                client = (scope.get("client") or [None])[0]
                logger.info("", extra={"fields": fields | {"status": status, "ms": ms, "client": client}})
