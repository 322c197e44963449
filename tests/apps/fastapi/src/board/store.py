"""The latest messages, in memory."""

from collections import deque
from datetime import UTC, datetime
from itertools import count

from pydantic import BaseModel, Field

MAX_MESSAGES = 100


class NewMessage(BaseModel):
    author: str = Field(min_length=1, max_length=50)
    text: str = Field(min_length=1, max_length=1000)


class Message(NewMessage):
    id: int
    posted_at: datetime


class Board:
    def __init__(self) -> None:
        self._messages: deque[Message] = deque(maxlen=MAX_MESSAGES)
        self._ids = count(1)

    def post(self, new: NewMessage) -> Message:
        message = Message(id=next(self._ids), posted_at=datetime.now(UTC), **new.model_dump())
        self._messages.append(message)
        return message

    def latest(self) -> list[Message]:
        """Return the messages, newest first."""
        return list(reversed(self._messages))
