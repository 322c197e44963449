"""The expected failures of a command."""


class UsageError(Exception):
    """Invalid arguments or settings. Exit code 2, or 1 if found under the lock."""


class Refused(Exception):
    """The command must stop; the message says why. Exit code 1. The live release, which .env names, is kept."""


class TimedOut(Refused):
    """A command exceeded its time limit."""


class Interrupted(Exception):
    """A signal ended the deploy. Not a Refused: code that catches Refused and continues must not catch a signal."""
