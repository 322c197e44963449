"""The expected failures of a command."""


class UsageError(Exception):
    """Invalid arguments or settings; nothing was changed. Exit code 2, or 1 if found under the lock."""


class Refused(Exception):
    """The deploy must stop; the message says why. Exit code 1, the live release is kept."""


class TimedOut(Refused):
    """A command exceeded its time limit."""


class Interrupted(Exception):
    """A signal ended the deploy. Not a Refused: code that catches Refused and continues must not catch a signal."""
