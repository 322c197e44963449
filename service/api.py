"""The ledger's routes."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service import database, ledger
from service.problems import openapi_problems
from service.schemas import (
    DeliveryMetrics,
    Deploy,
    DeployQuery,
    Identifier,
    Live,
    NewDeploy,
    NewNote,
    Note,
    Page,
    PageQuery,
    Release,
    ReleaseDetail,
    ReleaseQuery,
    RollbackCandidates,
    WebhookDeploy,
)

read_router = APIRouter(responses=openapi_problems(422, 500, 503))
write_router = APIRouter(responses=openapi_problems(401, 409, 413, 422, 500, 503))


async def _get_sessions(request: Request) -> sessionmaker[Session]:
    return request.app.state.sessions


Sessions = Annotated[sessionmaker[Session], Depends(_get_sessions)]
IdempotencyKey = Annotated[str | None, Header(pattern="^[!-~]{1,64}$")]


def _create_route_options(model: type, *errors: int) -> dict:
    existing = {200: {"model": model, "description": "Already recorded with the same content"}}
    return {"status_code": 201, "responses": existing | openapi_problems(*errors)}


def _record(sessions, response: Response, tag: str, attempt: str, content: dict) -> database.Deploy:
    deploy, created = ledger.record_deploy(sessions, tag, attempt, content)
    response.status_code = 201 if created else 200
    return deploy


@write_router.put("/releases/{tag}/deploys/{attempt}", **_create_route_options(Deploy))
def record_deploy(
    tag: Identifier, attempt: Identifier, deploy: NewDeploy, sessions: Sessions, response: Response
) -> Deploy:
    """Record a deploy and its release; 409 if this attempt is already recorded with different content."""
    return _record(sessions, response, tag, attempt, deploy.model_dump())


@write_router.post("/deploys", **_create_route_options(Deploy))
def record_webhook_deploy(deploy: WebhookDeploy, sessions: Sessions, response: Response) -> Deploy:
    """Record a deploy from deploy.sh's webhook; 409 if this attempt is already recorded with different content."""
    return _record(sessions, response, deploy.tag, deploy.id, deploy.model_dump(exclude={"id", "tag"}))


@read_router.get("/deploys")
def list_deploys(query: Annotated[DeployQuery, Query()], sessions: Sessions) -> Page[Deploy]:
    """List deploys, the most recently recorded first."""
    with sessions() as session:
        return ledger.list_deploys(session, **query.model_dump())


@read_router.get("/releases")
def list_releases(query: Annotated[ReleaseQuery, Query()], sessions: Sessions) -> Page[Release]:
    """List releases, the most recently recorded first."""
    releases = select(database.Release).where(database.Release.tag.startswith(query.tag or "", autoescape=True))
    with sessions() as session:
        return ledger.get_page(session, releases, query.limit, query.before)


@read_router.get("/releases/{tag}", responses=openapi_problems(404))
def get_release(tag: Identifier, sessions: Sessions) -> ReleaseDetail:
    """Return a release and its most recent deploy."""
    with sessions() as session:
        release = ledger.get_release(session, tag)
        last = ledger.get_last_deploy(session, release)
    return ReleaseDetail(tag=tag, recorded_at=release.recorded_at, last_deploy=last)


@read_router.get("/live", responses=openapi_problems(404))
def get_live(sessions: Sessions) -> Live:
    """Return the live release; 404 if no release has gone live yet."""
    with sessions() as session:
        deploy = ledger.get_live_deploy(session)
    if deploy is None:
        raise HTTPException(404, "no release is live yet")
    return Live(tag=deploy.tag, since=deploy.ended_at, by=deploy.actor, seconds=deploy.seconds)


@read_router.get("/rollbacks")
def list_rollback_candidates(sessions: Sessions, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> RollbackCandidates:
    """List releases that were live before, the most recent first."""
    with sessions() as session:
        return RollbackCandidates(items=ledger.list_rollback_candidates(session, limit))


@read_router.get("/figures")
def get_delivery_metrics(sessions: Sessions, days: Annotated[int, Query(ge=1, le=3650)] = 30) -> DeliveryMetrics:
    """Return the four DORA metrics over the last `days` days."""
    with sessions() as session:
        return DeliveryMetrics(days=days, **ledger.compute_delivery_metrics(session, days))


@write_router.post("/releases/{tag}/notes", **_create_route_options(Note, 404))
def add_note(
    tag: Identifier, note: NewNote, sessions: Sessions, response: Response, idempotency_key: IdempotencyKey = None
) -> Note:
    """Add a note to a release. A repeated Idempotency-Key returns the existing note, or 409 if the text differs."""
    added, created = ledger.add_note(sessions, tag, note.text, idempotency_key)
    response.status_code = 201 if created else 200
    return added


@read_router.get("/releases/{tag}/notes", responses=openapi_problems(404))
def list_notes(tag: Identifier, query: Annotated[PageQuery, Query()], sessions: Sessions) -> Page[Note]:
    """List the notes on a release, newest first."""
    with sessions() as session:
        notes = select(database.Note).where(database.Note.release_id == ledger.get_release(session, tag).id)
        return ledger.get_page(session, notes, query.limit, query.before)
