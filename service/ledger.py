"""What is written of releases, deploys and notes, and what can be read out of it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median

from fastapi import HTTPException
from sqlalchemy import Row, Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from service.database import Deploy, Note, Release

WENT_LIVE = Deploy.outcome.in_(("live", "rolled_back"))


def _once(sessions: sessionmaker[Session], work: Callable[[Session], tuple], tries: int = 3) -> tuple:
    """Work in a transaction; again when somebody did the same meanwhile, since then it is there to be found."""
    try:
        with sessions.begin() as session:
            return work(session)
    except IntegrityError:
        if tries == 1:
            raise
    return _once(sessions, work, tries - 1)


def record(sessions: sessionmaker[Session], tag: str, attempt: str, content: dict) -> tuple[Deploy, bool]:
    """The deploy of this attempt, and whether it is new. 409 when it was recorded with other content."""

    def work(session: Session) -> tuple[Deploy, bool]:
        if deploy := session.scalar(select(Deploy).where(Deploy.attempt == attempt)):
            return deploy, False
        release = session.scalar(select(Release).where(Release.tag == tag)) or Release(tag=tag)
        deploy = Deploy(attempt=attempt, release=release, **content)
        session.add(deploy)
        return deploy, True

    deploy, new = _once(sessions, work)
    differing = [name for name, value in content.items() if getattr(deploy, name) != value]
    if deploy.release.tag != tag or differing:
        raise HTTPException(409, f"attempt {attempt} was recorded with another {(differing or ['tag'])[0]}")
    return deploy, new


def add_note(sessions: sessionmaker[Session], tag: str, text: str, key: str | None) -> tuple[Note, bool]:
    """The note of this key, and whether it is new: without a key it is. 404 without the release, 409 for other text."""

    def work(session: Session) -> tuple[Note, bool]:
        release = find(session, tag)
        if key and (note := session.scalar(select(Note).where(Note.release == release, Note.key == key))):
            return note, False
        note = Note(release=release, text=text, key=key)
        session.add(note)
        return note, True

    note, new = _once(sessions, work)
    if note.text != text:
        raise HTTPException(409, "this Idempotency-Key was used for a note with another text")
    return note, new


def find(session: Session, tag: str) -> Release:
    """The release of a tag; 404 without."""
    release = session.scalar(select(Release).where(Release.tag == tag))
    if release is None:
        raise HTTPException(404, f"no release {tag} was recorded")
    return release


def page(session: Session, query: Select, limit: int, before: int | None) -> dict:
    """One page of the query's rows, newest first, and the cursor of the next.

    The cursor is the last id shown, so rows that are added meanwhile shift nothing.
    """
    identity = query.column_descriptions[0]["entity"].id
    if before is not None:
        query = query.where(identity < before)
    found = session.scalars(query.order_by(identity.desc()).limit(limit + 1)).all()
    shown = found[:limit]
    return {"items": shown, "next": shown[-1].id if len(found) > limit else None}


def deploys(session: Session, limit: int, before: int | None, **wanted) -> dict:
    """One page of the deploys; None asks for nothing."""
    conditions = {
        "outcome": Deploy.outcome.__eq__,
        "tag": Release.tag.__eq__,
        "since": Deploy.ended_at.__ge__,
        "until": Deploy.ended_at.__lt__,
    }
    where = [conditions[name](value) for name, value in wanted.items() if value is not None]
    return page(session, select(Deploy).join(Deploy.release).where(*where), limit, before)


def last_deploy(session: Session, release: Release) -> Deploy | None:
    """The release's deploy that ended last."""
    query = select(Deploy).where(Deploy.release_id == release.id)
    return session.scalar(query.order_by(Deploy.ended_at.desc(), Deploy.id.desc()).limit(1))


def live(session: Session) -> Deploy | None:
    """The deploy that made live what is: the one that ended last of those that did not end in a refusal."""
    return session.scalar(select(Deploy).where(WENT_LIVE).order_by(Deploy.ended_at.desc(), Deploy.id.desc()).limit(1))


def rollbacks(session: Session, limit: int) -> Sequence[Row]:
    """Tags of earlier releases that were live and when they last went live, newest first."""
    now = live(session)
    last = func.max(Deploy.ended_at)
    query = select(Release.tag, last.label("live_at")).join(Deploy).where(WENT_LIVE).group_by(Release.id)
    if now:
        query = query.where(Release.id != now.release_id)
    return session.execute(query.order_by(last.desc(), Release.id.desc()).limit(limit)).all()


def figures(session: Session, days: int) -> dict[str, float | None]:
    """The four figures of https://dora.dev/guides/dora-metrics-four-keys/ over the last days."""
    since = datetime.now(UTC) - timedelta(days)
    query = select(Deploy.outcome, Deploy.ended_at).where(WENT_LIVE, Deploy.ended_at >= since)
    deploys = session.execute(query.order_by(Deploy.ended_at, Deploy.id)).all()
    return {
        "deploys_per_day": deployment_frequency(deploys, days),
        "lead_time_seconds": lead_time(session, since),
        "change_failure_rate": change_failure_rate(deploys),
        "time_to_restore_seconds": time_to_restore(deploys),
    }


def deployment_frequency(deploys: Sequence[Row], days: int) -> float | None:
    """Deploys that went live, a day. DORA: how often changes are deployed to production."""
    return sum(deploy.outcome == "live" for deploy in deploys) / days if deploys else None


def lead_time(session: Session, since: datetime) -> float | None:
    """Median seconds from a release's commit until it first went live, of those that did since then.

    DORA: the time from a change's commit until it is deployed to production.
    """
    first = func.min(Deploy.ended_at)
    query = select(func.min(Deploy.committed_at), first).where(
        Deploy.outcome == "live", Deploy.committed_at.is_not(None)
    )
    times = session.execute(query.group_by(Deploy.release_id).having(first >= since)).all()
    return median((ended - committed).total_seconds() for committed, ended in times) if times else None


def _failures(deploys: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Deploys that went live and were rolled back next, each with its rollback."""
    return [pair for pair in pairwise(deploys) if [deploy.outcome for deploy in pair] == ["live", "rolled_back"]]


def change_failure_rate(deploys: Sequence[Row]) -> float | None:
    """Which part of the deploys that went live was rolled back next, 0 to 1. A refused one never served.

    DORA: the ratio of deployments that need immediate intervention, such as a rollback.
    """
    count = sum(deploy.outcome == "live" for deploy in deploys)
    return len(_failures(deploys)) / count if count else None


def time_to_restore(deploys: Sequence[Row]) -> float | None:
    """Median seconds from when a deploy that was rolled back went live until the rollback was live.

    DORA: the time to recover from a deployment that fails and needs immediate intervention.
    """
    failures = _failures(deploys)
    return median((back.ended_at - went.ended_at).total_seconds() for went, back in failures) if failures else None
