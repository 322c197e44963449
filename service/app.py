"""The application: health, version, authentication, and the ledger's routes."""

import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker
from starlette.exceptions import HTTPException as StarletteHTTPException

from service import api, database, problems
from service.logs import release_tag
from service.middleware import RequestMiddleware
from service.settings import Settings, read_settings_or_exit

public_router = APIRouter(responses=problems.openapi_problems(500))


class Health(BaseModel):
    """The service can handle requests."""

    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """The running release, its environment, and when it started (UTC)."""

    tag: str
    environment: str
    started_at: datetime


@public_router.get("/healthz", responses=problems.openapi_problems(503))
def healthz(request: Request) -> Health:
    """Return 200 when the database is available and its schema is compatible, otherwise 503 with the reason."""
    reason = _unhealthy_reason(request.app.state.engine, request.app.state.required_revision)
    if reason is not None:
        raise HTTPException(503, reason)
    return Health()


def _unhealthy_reason(engine: Engine, required_revision: str) -> str | None:
    try:
        with engine.connect() as connection:
            state, message = database.schema_state(connection, required_revision)
    except SQLAlchemyError as error:
        return f"the database is unavailable: {database.error_message(error)}"
    return None if state == database.SchemaState.COMPATIBLE else message


@public_router.get("/version")
def version(request: Request) -> Version:
    """Return the tag that this image was built with ("dev" outside an image)."""
    return request.app.state.version


async def _require_token(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    token = credentials.credentials.encode() if credentials else b""
    # Compare with every token, each in constant time, so that the response time does not reveal their content.
    if not sum(secrets.compare_digest(token, each.encode()) for each in request.app.state.settings.api_token):
        raise HTTPException(401, "a valid bearer token is required", {"WWW-Authenticate": "Bearer"})


class Application(FastAPI):
    """FastAPI whose OpenAPI document gives errors the media type application/problem+json."""

    def openapi(self) -> dict:
        """Return the OpenAPI description of the API."""
        if not self.openapi_schema:
            operations = [each for path in super().openapi()["paths"].values() for each in path.values()]
            for content in [
                response["content"]
                for each in operations
                for status, response in each["responses"].items()
                if status >= "400"
            ]:
                content["application/problem+json"] = content.pop("application/json")
        return self.openapi_schema


@asynccontextmanager
async def _lifespan(app: FastAPI):
    yield
    app.state.engine.dispose()


def connect_database(app: FastAPI, db_conn: str) -> None:
    """Give the application an engine and sessions for DB_CONN; they connect on first use."""
    app.state.engine = database.create_engine(db_conn)
    app.state.sessions = sessionmaker(app.state.engine, expire_on_commit=False)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application. Without `settings`, read them from the environment; exit with status 2 on an error."""
    settings = settings or read_settings_or_exit()
    # /docs loads scripts from a CDN, so it is available in development only.
    docs = "/docs" if settings.app_env == "dev" else None
    app = Application(title="Quai", lifespan=_lifespan, docs_url=docs, redoc_url=None, redirect_slashes=False)
    app.version = release_tag()
    app.state.settings = settings
    connect_database(app, settings.db_conn)
    app.state.required_revision = database.required_revision()
    app.state.version = Version(tag=release_tag(), environment=settings.app_env, started_at=datetime.now(UTC))
    app.add_exception_handler(SQLAlchemyError, problems.handle_database_error)
    app.add_exception_handler(StarletteHTTPException, problems.handle_http_error)
    app.add_exception_handler(RequestValidationError, problems.handle_validation_error)
    app.add_middleware(RequestMiddleware)
    token = {"dependencies": [Depends(_require_token)], "responses": problems.openapi_problems(401)}
    app.state.routers = [public_router, api.read_router, api.write_router]
    app.include_router(public_router)
    app.include_router(api.read_router, **token if settings.read_access == "token" else {})
    app.include_router(api.write_router, **token)
    return app
