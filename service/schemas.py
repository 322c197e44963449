"""What the API takes and gives. All times are RFC 3339, and given in UTC."""

import re
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field


def _rfc3339(value: object) -> object:
    # pydantic would take numbers, too.
    if isinstance(value, str) and re.fullmatch("[0-9-]{10}[Tt][0-9:]{8}([.][0-9]+)?([Zz]|[+-][0-9:]{5})", value):
        return value
    raise ValueError("a time such as 2026-01-31T12:00:00Z is wanted")


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # within a day of what Python's years can hold, where the hour is nobody's question
        return value.replace(tzinfo=UTC)


NO_NUL = "^[^\x00]*$"  # PostgreSQL cannot store it

Tag = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_utc)]
Outcome = Literal["live", "refused", "rolled_back"]
Actor = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
Step = Annotated[str, Field(pattern="^[A-Za-z0-9 ._-]{1,32}$")]
Length = Annotated[float, Field(strict=True, ge=0, le=1e9)]
Item = TypeVar("Item")


class NewDeploy(BaseModel):
    """An attempt that has ended; `committed_at` is when the release was committed, `seconds` are of each step."""

    outcome: Outcome
    reason: str = Field("", max_length=10000, pattern=NO_NUL)
    actor: Actor = ""
    committed_at: Moment | None = None
    ended_at: Moment
    # pydantic forgets to say that there are no other names.
    seconds: dict[Step, Length] = Field({}, max_length=50, json_schema_extra={"additionalProperties": False})


class ToldDeploy(NewDeploy):
    """The same in a webhook's words; what is not named here is ignored."""

    id: Tag
    tag: Tag
    actor: Actor = Field("", validation_alias="by")
    committed_at: Annotated[Moment | Literal[""] | None, AfterValidator(lambda moment: moment or None)] = Field(
        None, validation_alias="committed"
    )
    ended_at: Moment = Field(validation_alias="time")


class NewNote(BaseModel):
    """A note to leave on a release."""

    text: str = Field(min_length=1, max_length=2000, pattern=NO_NUL)


class Window(BaseModel):
    """Which part of a list: at most `limit` items, those before the cursor `before`."""

    limit: int = Field(20, ge=1, le=100)
    before: int | None = Field(None, ge=1, le=2**63 - 1)


class ReleaseFilter(Window):
    """Which releases: those whose tag begins with this one."""

    tag: Tag | None = None


class DeployFilter(Window):
    """Which deploys: those with this outcome, of this tag, that ended from `since` on and before `until`."""

    outcome: Outcome | None = None
    tag: Tag | None = None
    since: Moment | None = None
    until: Moment | None = None


class Stored(BaseModel):
    """What is read from the database."""

    model_config = ConfigDict(from_attributes=True)


class Page(Stored, Generic[Item]):
    """A part of a list, newest first; `next` is the cursor of the part after it."""

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


class OneRelease(Release):
    """A release, with that of its deploys that ended last."""

    last_deploy: Deploy | None


class Note(Stored):
    """A note on a release."""

    id: int
    tag: str
    text: str
    created_at: datetime


class Live(BaseModel):
    """What is live, since when and by whom, and how long each step of its deploy took."""

    tag: str
    since: datetime
    by: str
    seconds: dict[str, float]


class Earlier(Stored):
    """An earlier release, and when it last went live."""

    tag: str
    live_at: datetime


class Earliers(Stored):
    """Releases that were live and are not, newest first."""

    items: list[Earlier]


class Figures(BaseModel):
    """The four delivery figures over so many days; null where there is nothing to compute one from."""

    days: int
    deploys_per_day: float | None
    lead_time_seconds: float | None
    change_failure_rate: float | None
    time_to_restore_seconds: float | None
