"""The API: health, version, releases and the notes on them."""

import logging
import os
import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session, sessionmaker

from service import database
from service.settings import Settings, settings_or_exit

log = logging.getLogger("uvicorn.error")
router = APIRouter()

TAG = "^[A-Za-z0-9._-]{1,64}$"
NO_NUL = "^[^\x00]*$"  # PostgreSQL cannot store it
LAST_ID = 2**63 - 1


class NewRelease(BaseModel):
    """A release to record."""

    tag: str = Field(pattern=TAG)


class Release(BaseModel):
    """A recorded release; the time is UTC."""

    model_config = ConfigDict(from_attributes=True)
    tag: str
    recorded_at: datetime


class NewNote(BaseModel):
    """A note to leave on a release."""

    text: str = Field(min_length=1, max_length=2000, pattern=NO_NUL)


class Note(BaseModel):
    """A note on a release; the time is UTC."""

    id: int
    tag: str
    text: str
    created_at: datetime


class Releases(BaseModel):
    """A page of releases, newest first; `next` is the cursor of the page after it."""

    items: list[Release]
    next: int | None


class Notes(BaseModel):
    """A page of notes, newest first; `next` is the cursor of the page after it."""

    items: list[Note]
    next: int | None


class Version(BaseModel):
    """What runs, where, and since when (UTC)."""

    tag: str
    environment: str
    started_at: datetime


async def _sessions(request: Request) -> sessionmaker[Session]:
    return request.app.state.sessions


async def _require_token(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    expected = request.app.state.settings.api_token
    if given is None or not secrets.compare_digest(given.credentials.encode(), expected.encode()):
        raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})


Sessions = Annotated[sessionmaker[Session], Depends(_sessions)]
Tag = Annotated[str, Path(pattern=TAG)]
Limit = Annotated[int, Query(ge=1, le=100)]
Before = Annotated[int | None, Query(ge=1, le=LAST_ID)]
AUTHENTICATED = [Depends(_require_token)]


def _page(session: Session, query, row, limit: int, before: int | None) -> tuple[list, int | None]:
    """One page of the query's rows, newest first, and the cursor of the next.

    The cursor is the last id shown, so rows that are added meanwhile shift nothing.
    """
    if before is not None:
        query = query.where(row.id < before)
    found = session.scalars(query.order_by(row.id.desc()).limit(limit + 1)).all()
    shown = found[:limit]
    return shown, shown[-1].id if len(found) > limit else None


def _find(session: Session, tag: str) -> database.Release:
    release = session.scalar(select(database.Release).where(database.Release.tag == tag))
    if release is None:
        raise HTTPException(404, f"no release {tag} was recorded")
    return release


def _note(note: database.Note, tag: str) -> Note:
    return Note(id=note.id, tag=tag, text=note.text, created_at=note.created_at)


@router.get("/healthz")
def healthz(request: Request) -> JSONResponse:
    """200 when the database answers and its schema is new enough for this code, else 503 with the reason."""
    reason = _why_not(request.app.state.engine, request.app.state.needed)
    if reason is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "unavailable", "reason": reason}, 503)


def _why_not(engine, needed: str) -> str | None:
    try:
        with engine.connect() as connection:
            current = database.current_revision(connection)
    except SQLAlchemyError as error:
        return f"database does not answer: {database.why(error)}"
    if current is None or current < needed:
        return f"schema is {current or 'none'}, this code needs {needed}: run python -m service.migrate"
    return None


@router.get("/version")
def version(request: Request) -> Version:
    """The tag that this image was built as ("dev" outside an image)."""
    return request.app.state.version


@router.post("/releases", status_code=201, dependencies=AUTHENTICATED)
def record_release(new: NewRelease, sessions: Sessions) -> Release:
    """Record a release; 409 when it already is."""
    release = database.Release(tag=new.tag)
    try:
        with sessions.begin() as session:
            session.add(release)
    except IntegrityError:
        raise HTTPException(409, f"release {new.tag} is already recorded") from None
    return release


@router.get("/releases")
def list_releases(sessions: Sessions, limit: Limit = 20, before: Before = None) -> Releases:
    """List the releases, newest first."""
    with sessions() as session:
        rows, after = _page(session, select(database.Release), database.Release, limit, before)
    return Releases(items=rows, next=after)


@router.post("/releases/{tag}/notes", status_code=201, dependencies=AUTHENTICATED)
def add_note(tag: Tag, new: NewNote, sessions: Sessions) -> Note:
    """Leave a note on a release; it is committed when this answers."""
    with sessions.begin() as session:
        note = database.Note(release_id=_find(session, tag).id, text=new.text)
        session.add(note)
    return _note(note, tag)


@router.get("/releases/{tag}/notes")
def list_notes(tag: Tag, sessions: Sessions, limit: Limit = 20, before: Before = None) -> Notes:
    """List the notes on a release, newest first."""
    with sessions() as session:
        query = select(database.Note).where(database.Note.release_id == _find(session, tag).id)
        rows, after = _page(session, query, database.Note, limit, before)
    return Notes(items=[_note(row, tag) for row in rows], next=after)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, database.why(error))
    return JSONResponse({"detail": "the database is not available"}, 503)


async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    # FastAPI's own answer echoes the input, and fails where JSON cannot hold it: NaN, half a surrogate pair.
    problems = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": problems}, 422)


@asynccontextmanager
async def _lifespan(app: FastAPI):
    yield
    app.state.engine.dispose()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; settings are read from the environment unless given.

    RELEASE is not a setting: the Dockerfile bakes it into the image.
    """
    settings = settings or settings_or_exit()
    # /docs loads its scripts from elsewhere, so it stays on the developer's machine.
    docs = "/docs" if settings.app_env == "dev" else None
    app = FastAPI(title="Quai", lifespan=_lifespan, docs_url=docs, redoc_url=None)
    app.state.settings = settings
    app.state.engine = database.create_engine(settings.db_conn)
    app.state.sessions = sessionmaker(app.state.engine, expire_on_commit=False)
    app.state.needed = database.needed_revision()
    app.state.version = Version(
        tag=os.environ.get("RELEASE") or "dev",
        environment=settings.app_env,
        started_at=datetime.now(UTC),
    )
    for error in (DBAPIError, TimeoutError):
        app.add_exception_handler(error, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(router)
    return app
