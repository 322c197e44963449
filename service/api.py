"""What can be asked of the ledger, and told to it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service import database, ledger
from service.answers import problems
from service.shapes import (
    Deploy,
    DeployFilter,
    Earliers,
    Figures,
    Live,
    NewDeploy,
    NewNote,
    Note,
    OneRelease,
    Page,
    Release,
    ReleaseFilter,
    Tag,
    ToldDeploy,
    Window,
)

reads = APIRouter(responses=problems(422, 500, 503))
writes = APIRouter(responses=problems(401, 409, 413, 422, 500, 503))


async def _sessions(request: Request) -> sessionmaker[Session]:
    return request.app.state.sessions


Sessions = Annotated[sessionmaker[Session], Depends(_sessions)]
Key = Annotated[str | None, Header(pattern="^[!-~]{1,64}$")]


def _added(model: type, *errors: int) -> dict:
    before = {200: {"model": model, "description": "It was recorded before"}}
    return {"status_code": 201, "responses": before | problems(*errors)}


def _record(sessions, response: Response, tag: str, attempt: str, content: dict) -> database.Deploy:
    deploy, new = ledger.record(sessions, tag, attempt, content)
    response.status_code = 201 if new else 200
    return deploy


@writes.put("/releases/{tag}/deploys/{attempt}", **_added(Deploy))
def record(tag: Tag, attempt: Tag, deploy: NewDeploy, sessions: Sessions, response: Response) -> Deploy:
    """Record a deploy, and its release; 409 when this attempt was recorded with other content."""
    return _record(sessions, response, tag, attempt, deploy.model_dump())


@writes.post("/deploys", **_added(Deploy))
def record_told(told: ToldDeploy, sessions: Sessions, response: Response) -> Deploy:
    """Record a deploy as a webhook tells it."""
    return _record(sessions, response, told.tag, told.id, told.model_dump(exclude={"id", "tag"}))


@reads.get("/deploys")
def list_deploys(asked: Annotated[DeployFilter, Query()], sessions: Sessions) -> Page[Deploy]:
    """List the deploys; the newest is the one recorded last."""
    with sessions() as session:
        return ledger.deploys(session, **asked.model_dump())


@reads.get("/releases")
def list_releases(asked: Annotated[ReleaseFilter, Query()], sessions: Sessions) -> Page[Release]:
    """List the releases; the newest is the one recorded last."""
    query = select(database.Release).where(database.Release.tag.startswith(asked.tag or "", autoescape=True))
    with sessions() as session:
        return ledger.page(session, query, asked.limit, asked.before)


@reads.get("/releases/{tag}", responses=problems(404))
def get_release(tag: Tag, sessions: Sessions) -> OneRelease:
    """One release with its last deploy."""
    with sessions() as session:
        release = ledger.find(session, tag)
        last = ledger.last_deploy(session, release)
    return OneRelease(tag=tag, recorded_at=release.recorded_at, last_deploy=last)


@reads.get("/live", responses=problems(404))
def get_live(sessions: Sessions) -> Live:
    """What is live; 404 when nothing is yet."""
    with sessions() as session:
        now = ledger.live(session)
    if now is None:
        raise HTTPException(404, "nothing is live yet")
    return Live(tag=now.tag, since=now.ended_at, by=now.actor, seconds=now.seconds)


@reads.get("/rollbacks")
def list_rollbacks(sessions: Sessions, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Earliers:
    """List what can be rolled back to: earlier releases that were live, the last one first."""
    with sessions() as session:
        return Earliers(items=ledger.rollbacks(session, limit))


@reads.get("/figures")
def get_figures(sessions: Sessions, days: Annotated[int, Query(ge=1, le=3650)] = 30) -> Figures:
    """The four delivery figures, as DORA defines them, of the last days."""
    with sessions() as session:
        return Figures(days=days, **ledger.figures(session, days))


@writes.post("/releases/{tag}/notes", **_added(Note, 404))
def add_note(tag: Tag, note: NewNote, sessions: Sessions, response: Response, idempotency_key: Key = None) -> Note:
    """Leave a note on a release. The same Idempotency-Key again gives the same note, or 409 for another text."""
    added, new = ledger.add_note(sessions, tag, note.text, idempotency_key)
    response.status_code = 201 if new else 200
    return added


@reads.get("/releases/{tag}/notes", responses=problems(404))
def list_notes(tag: Tag, asked: Annotated[Window, Query()], sessions: Sessions) -> Page[Note]:
    """List the notes on a release."""
    with sessions() as session:
        query = select(database.Note).where(database.Note.release_id == ledger.find(session, tag).id)
        return ledger.page(session, query, asked.limit, asked.before)
