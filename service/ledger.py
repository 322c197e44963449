"""The ledger's queries and writes: releases, deploys, notes and the DORA metrics."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median

from fastapi import HTTPException
from sqlalchemy import Row, Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from service.database import Deploy, Note, Release
from service.outcomes import LIVE, ROLLBACK

WENT_LIVE = Deploy.outcome.in_((LIVE, ROLLBACK))


def _get_or_create(sessions: sessionmaker[Session], work: Callable[[Session], tuple], tries: int = 3) -> tuple:
    """Run `work` in a transaction. Retry on a conflict: a concurrent request created the row, so `work` finds it."""
    try:
        with sessions.begin() as session:
            return work(session)
    except IntegrityError:
        if tries == 1:
            raise
    return _get_or_create(sessions, work, tries - 1)


def record_deploy(sessions: sessionmaker[Session], tag: str, attempt: str, content: dict) -> tuple[Deploy, bool]:
    """Record a deploy, and its release if it is new; return the deploy and whether it was created.

    Raises HTTPException 409 if the attempt is already recorded with different content.
    """

    def work(session: Session) -> tuple[Deploy, bool]:
        if deploy := session.scalar(select(Deploy).where(Deploy.attempt == attempt)):
            return deploy, False
        release = session.scalar(select(Release).where(Release.tag == tag)) or Release(tag=tag)
        deploy = Deploy(attempt=attempt, release=release, **content)
        session.add(deploy)
        return deploy, True

    deploy, created = _get_or_create(sessions, work)
    differing = [name for name, value in content.items() if getattr(deploy, name) != value]
    if deploy.release.tag != tag or differing:
        raise HTTPException(409, f"attempt {attempt} is already recorded with a different {(differing or ['tag'])[0]}")
    return deploy, created


def add_note(sessions: sessionmaker[Session], tag: str, text: str, key: str | None) -> tuple[Note, bool]:
    """Add a note, or find the one with this key; return the note and whether it was created.

    Without a key, every call creates a note.
    Raises HTTPException 404 if the release does not exist, 409 if the note with this key has different text.
    """

    def work(session: Session) -> tuple[Note, bool]:
        release = get_release(session, tag)
        if key and (note := session.scalar(select(Note).where(Note.release == release, Note.key == key))):
            return note, False
        note = Note(release=release, text=text, key=key)
        session.add(note)
        return note, True

    note, created = _get_or_create(sessions, work)
    if note.text != text:
        raise HTTPException(409, "this Idempotency-Key was used for a note with different text")
    return note, created


def get_release(session: Session, tag: str) -> Release:
    """Return the release with this tag. Raises HTTPException 404 if it does not exist."""
    release = session.scalar(select(Release).where(Release.tag == tag))
    if release is None:
        raise HTTPException(404, f"release {tag} does not exist")
    return release


def get_page(session: Session, query: Select, limit: int, before: int | None) -> dict:
    """Return one page of the query's rows, newest first, and the cursor of the next page.

    The cursor is the last ID on the page, so rows added between two requests do not shift the pages.
    """
    row_id = query.column_descriptions[0]["entity"].id
    if before is not None:
        query = query.where(row_id < before)
    rows = session.scalars(query.order_by(row_id.desc()).limit(limit + 1)).all()
    items = rows[:limit]
    return {"items": items, "next": items[-1].id if len(rows) > limit else None}


def list_deploys(session: Session, limit: int, before: int | None, **filters) -> dict:
    """Return one page of deploys; a filter that is None does not apply."""
    conditions = {
        "outcome": Deploy.outcome.__eq__,
        "tag": Release.tag.__eq__,
        "since": Deploy.ended_at.__ge__,
        "until": Deploy.ended_at.__lt__,
    }
    where = [conditions[name](value) for name, value in filters.items() if value is not None]
    return get_page(session, select(Deploy).join(Deploy.release).where(*where), limit, before)


def get_last_deploy(session: Session, release: Release) -> Deploy | None:
    """Return the deploy of the release that ended last."""
    query = select(Deploy).where(Deploy.release_id == release.id)
    return session.scalar(query.order_by(Deploy.ended_at.desc(), Deploy.id.desc()).limit(1))


def get_live_deploy(session: Session) -> Deploy | None:
    """Return the deploy of the live release: the most recent deploy that went live."""
    return session.scalar(select(Deploy).where(WENT_LIVE).order_by(Deploy.ended_at.desc(), Deploy.id.desc()).limit(1))


def list_rollback_candidates(session: Session, limit: int) -> Sequence[Row]:
    """Return the tags of releases that were live before and when they last went live, newest first."""
    live = get_live_deploy(session)
    last = func.max(Deploy.ended_at)
    query = select(Release.tag, last.label("live_at")).join(Deploy).where(WENT_LIVE).group_by(Release.id)
    if live:
        query = query.where(Release.id != live.release_id)
    return session.execute(query.order_by(last.desc(), Release.id.desc()).limit(limit)).all()


def compute_delivery_metrics(session: Session, days: int) -> dict[str, float | None]:
    """Compute the metrics of https://dora.dev/guides/dora-metrics-four-keys/ over the last `days` days.

    Times are in seconds, rates from 0 to 1; None if there is no data.
    """
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
    """Return the number of deploys per day that went live. DORA: how often changes are deployed to production."""
    return sum(deploy.outcome == LIVE for deploy in deploys) / days if deploys else None


def lead_time(session: Session, since: datetime) -> float | None:
    """Return the median seconds from commit to first live deploy, for releases that first went live after `since`.

    DORA: the time from a change's commit until it is deployed to production.
    """
    first = func.min(Deploy.ended_at)
    query = select(func.min(Deploy.committed_at), first).where(Deploy.outcome == LIVE, Deploy.committed_at.is_not(None))
    times = session.execute(query.group_by(Deploy.release_id).having(first >= since)).all()
    return median((ended - committed).total_seconds() for committed, ended in times) if times else None


def _failures(deploys: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return each deploy that went live and was followed by a rollback, together with the rollback."""
    return [pair for pair in pairwise(deploys) if [deploy.outcome for deploy in pair] == [LIVE, ROLLBACK]]


def change_failure_rate(deploys: Sequence[Row]) -> float | None:
    """Return the share (0 to 1) of the deploys that went live that were followed by a rollback.

    A refused deploy does not count, because it never served requests.
    DORA: the ratio of deployments that need immediate intervention, such as a rollback.
    """
    count = sum(deploy.outcome == LIVE for deploy in deploys)
    return len(_failures(deploys)) / count if count else None


def time_to_restore(deploys: Sequence[Row]) -> float | None:
    """Return the median seconds between going live and the rollback, of the deploys that were rolled back.

    DORA: the time to recover from a deployment that fails and needs immediate intervention.
    """
    failures = _failures(deploys)
    seconds = [(rollback.ended_at - failed.ended_at).total_seconds() for failed, rollback in failures]
    return median(seconds) if seconds else None
