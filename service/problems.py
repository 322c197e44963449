"""Error responses: problem details (RFC 9457), and the exception handlers that return them."""

from http import HTTPStatus

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import Match

from service import database
from service.logs import logger


class FieldError(BaseModel):
    """A validation error in one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """Problem details as defined in RFC 9457; `errors` lists the invalid fields of a request."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] | None = None


def openapi_problems(*statuses: int) -> dict[int | str, dict]:
    """Return the OpenAPI responses for these error statuses."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def problem_response(
    request_id: str, status: int, detail: str, headers=None, errors: list[FieldError] | None = None
) -> Response:
    """Return an error response with problem details as its body."""
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id, errors=errors
    ).model_dump_json(exclude_none=True)
    return Response(body, status, headers, media_type="application/problem+json")


async def handle_http_error(request: Request, error: HTTPException) -> Response:
    """Return the error that FastAPI or a route raised; a 405 lists the allowed methods."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        routes = [route for router in request.app.state.routers for route in router.routes]
        matching = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
        if matching:  # the framework's own routes, such as /openapi.json, set a complete header themselves
            methods = {method for route in matching for method in route.methods}
            headers["Allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    # FastAPI raises 400 only for a body that is not UTF-8; every other invalid body is 422.
    status = 422 if error.status_code == 400 else error.status_code
    return problem_response(request.state.request_id, status, error.detail, headers)


async def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
    """Return 422 with the names of the invalid fields, but not their values."""
    errors = []
    for each in error.errors():
        names = [str(part) for part in each["loc"][1:]] if each["type"] != "json_invalid" else []
        errors.append(
            FieldError(field=".".join(names) or each["loc"][0], message=each["msg"].removeprefix("Value error, "))
        )
    detail = "; ".join(f"{each.field}: {each.message}" for each in errors)
    return problem_response(request.state.request_id, 422, detail, errors=errors)


async def handle_database_error(request: Request, error: SQLAlchemyError) -> Response:
    """Return 503 when the database is unavailable. Any other error is a bug and raised again, for a 500."""
    if not database.is_unavailable(error):
        raise error
    message = f"the database is unavailable: {database.error_message(error)}"
    logger.error("", extra={"fields": {"request_id": request.state.request_id, "message": message}})
    return problem_response(request.state.request_id, 503, "the database is unavailable", {"Retry-After": "1"})
