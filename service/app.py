"""The application: its health, its version, and the ledger with its doors."""

import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker
from starlette.exceptions import HTTPException as AnyHTTPException

from service import answers, api, database
from service.settings import Settings, settings_or_exit

open_to_all = APIRouter(responses=answers.problems(500))


class Health(BaseModel):
    """It can serve."""

    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """What runs, where, and since when (UTC)."""

    tag: str
    environment: str
    started_at: datetime


@open_to_all.get("/healthz", responses=answers.problems(503))
def healthz(request: Request) -> Health:
    """200 when the database answers and its schema suits this code, else 503 with the reason."""
    reason = _why_not(request.app.state.engine, request.app.state.needed)
    if reason is not None:
        raise HTTPException(503, reason)
    return Health()


def _why_not(engine, needed: str) -> str | None:
    try:
        with engine.connect() as connection:
            suits, line = database.fit(connection, needed)
    except SQLAlchemyError as error:
        return f"database does not answer: {database.why(error)}"
    return None if suits == database.FITS else line


@open_to_all.get("/version")
def version(request: Request) -> Version:
    """The tag that this image was built as ("dev" outside an image)."""
    return request.app.state.version


async def _require_token(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    token = given.credentials.encode() if given else b""
    # All are compared, each in constant time, so that the time tells nothing of any.
    if not sum(secrets.compare_digest(token, each.encode()) for each in request.app.state.settings.api_token):
        raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})


class Application(FastAPI):
    """FastAPI, whose OpenAPI says of errors what they are here."""

    def openapi(self) -> dict:
        """The description of the API."""
        if not self.openapi_schema:
            operations = [each for path in super().openapi()["paths"].values() for each in path.values()]
            for content in [
                answer["content"] for each in operations for code, answer in each["responses"].items() if code >= "400"
            ]:
                content["application/problem+json"] = content.pop("application/json")
        return self.openapi_schema


@asynccontextmanager
async def _lifespan(app: FastAPI):
    yield
    app.state.engine.dispose()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; settings are read from the environment unless given."""
    settings = settings or settings_or_exit()
    # /docs loads its scripts from elsewhere, so it stays on the developer's machine.
    docs = "/docs" if settings.app_env == "dev" else None
    app = Application(title="Quai", lifespan=_lifespan, docs_url=docs, redoc_url=None, redirect_slashes=False)
    app.version = answers.release()
    app.state.settings = settings
    app.state.engine = database.create_engine(settings.db_conn)
    app.state.sessions = sessionmaker(app.state.engine, expire_on_commit=False)
    app.state.needed = database.needed_revision()
    app.state.version = Version(
        tag=answers.release(),
        environment=settings.app_env,
        started_at=datetime.now(UTC),
    )
    app.add_exception_handler(SQLAlchemyError, answers.failed)
    app.add_exception_handler(AnyHTTPException, answers.refused)
    app.add_exception_handler(RequestValidationError, answers.invalid)
    app.add_middleware(answers.Frame)
    token = {"dependencies": [Depends(_require_token)], "responses": answers.problems(401)}
    app.state.routers = [open_to_all, api.reads, api.writes]
    app.include_router(open_to_all)
    app.include_router(api.reads, **token if settings.read_access == "token" else {})
    app.include_router(api.writes, **token)
    return app
