"""Request and response schemas. All times are RFC 3339; responses give them in UTC."""

import re
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from service.outcomes import Outcome, OutcomeInput


def _require_rfc3339(value: object) -> object:
    # pydantic also accepts numbers and other formats.
    if isinstance(value, str) and re.fullmatch("[0-9-]{10}[Tt][0-9:]{8}([.][0-9]+)?([Zz]|[+-][0-9:]{5})", value):
        return value
    raise ValueError("expected a time such as 2026-01-31T12:00:00Z")


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the result would be outside the years 1 to 9999, so the offset (at most a day) is dropped
        return value.replace(tzinfo=UTC)


NO_NUL = "^[^\x00]*$"  # PostgreSQL cannot store NUL in text

Identifier = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
UtcTime = Annotated[AwareDatetime, BeforeValidator(_require_rfc3339), AfterValidator(_to_utc)]
Actor = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
Step = Annotated[str, Field(pattern="^[A-Za-z0-9 ._-]{1,32}$")]
Seconds = Annotated[float, Field(strict=True, ge=0, le=1e9)]
Item = TypeVar("Item")


class NewDeploy(BaseModel):
    """A finished attempt. `committed_at` is the time of the release's commit, `seconds` the duration of each step."""

    outcome: OutcomeInput
    reason: str = Field("", max_length=10000, pattern=NO_NUL)
    actor: Actor = ""
    committed_at: UtcTime | None = None
    ended_at: UtcTime
    # pydantic validates the keys, but the generated schema does not say that other keys are rejected.
    seconds: dict[Step, Seconds] = Field({}, max_length=50, json_schema_extra={"additionalProperties": False})


class WebhookDeploy(NewDeploy):
    """A finished attempt with the field names of deploy.sh's webhook; other fields are ignored."""

    id: Identifier
    tag: Identifier
    actor: Actor = Field("", validation_alias="by")
    committed_at: Annotated[UtcTime | Literal[""] | None, AfterValidator(lambda time: time or None)] = Field(
        None, validation_alias="committed"
    )
    ended_at: UtcTime = Field(validation_alias="time")


class NewNote(BaseModel):
    """A note to add to a release."""

    text: str = Field(min_length=1, max_length=2000, pattern=NO_NUL)


class PageQuery(BaseModel):
    """Which part of a list to return: at most `limit` items, older than the cursor `before`."""

    limit: int = Field(20, ge=1, le=100)
    before: int | None = Field(None, ge=1, le=2**63 - 1)


class ReleaseQuery(PageQuery):
    """Which releases to return: those whose tag starts with `tag`."""

    tag: Identifier | None = None


class DeployQuery(PageQuery):
    """Which deploys to return: by outcome and tag, ended at or after `since` and before `until`."""

    outcome: OutcomeInput | None = None
    tag: Identifier | None = None
    since: UtcTime | None = None
    until: UtcTime | None = None


class Stored(BaseModel):
    """A schema that is filled from a database row."""

    model_config = ConfigDict(from_attributes=True)


class Page(Stored, Generic[Item]):
    """Part of a list, newest first; `next` is the cursor of the following page, or null."""

    items: list[Item]
    next: int | None = None


class Release(Stored):
    """A recorded release."""

    tag: str
    recorded_at: datetime


class Deploy(Stored):
    """An attempt to make a release live."""

    attempt: str
    tag: str
    outcome: Outcome
    reason: str
    actor: str
    committed_at: datetime | None
    ended_at: datetime
    seconds: dict[str, float]
    recorded_at: datetime


class ReleaseDetail(Release):
    """A release and its most recent deploy."""

    last_deploy: Deploy | None


class Note(Stored):
    """A note on a release."""

    id: int
    tag: str
    text: str
    created_at: datetime


class Live(BaseModel):
    """The live release, when and by whom it went live, and the duration of each step of its deploy in seconds."""

    tag: str
    since: datetime
    by: str
    seconds: dict[str, float]


class RollbackCandidate(Stored):
    """A release that was live before, and when it last went live."""

    tag: str
    live_at: datetime


class RollbackCandidates(Stored):
    """Releases that were live before, most recently live first."""

    items: list[RollbackCandidate]


class DeliveryMetrics(BaseModel):
    """The four DORA metrics over the last `days` days; null if there is no data."""

    days: int
    deploys_per_day: float | None
    lead_time_seconds: float | None
    change_failure_rate: float | None
    time_to_restore_seconds: float | None
