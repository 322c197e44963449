"""The outcomes of a deploy, and the one place that translates the former name of `rollback`.

`rollback` (a previous release was made live on purpose) was named `rolled_back` before:
- clients that still send `rolled_back`, such as the first version of deploy.sh, record a `rollback`;
- the database still stores `rolled_back`, because the previous release runs on the same schema
  during a deploy and after a rollback, and would fail on an unknown value.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from sqlalchemy import String
from sqlalchemy.types import TypeDecorator

LIVE, REFUSED, ROLLBACK = "live", "refused", "rollback"
FORMER_ROLLBACK = "rolled_back"

Outcome = Literal["live", "refused", "rollback"]


def _to_current_name(value: str) -> str:
    return ROLLBACK if value == FORMER_ROLLBACK else value


def _to_stored_name(value: str) -> str:
    return FORMER_ROLLBACK if value == ROLLBACK else value


OutcomeInput = Annotated[
    Literal["live", "refused", "rollback", "rolled_back"],
    AfterValidator(_to_current_name),
    Field(description="`rolled_back` is the deprecated name of `rollback`; responses contain `rollback` only."),
]


class OutcomeColumn(TypeDecorator):
    """A column that holds an outcome by its stored name; Python code reads and writes the current name."""

    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect) -> str | None:
        """Return the name to store or to compare with."""
        return value and _to_stored_name(value)

    def process_result_value(self, value: str | None, dialect) -> str | None:
        """Return the current name of a stored outcome."""
        return value and _to_current_name(value)
