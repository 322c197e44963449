"""The ways in which a command ends early."""


class UsageError(Exception):
    """The request or a setting is wrong; nothing was touched. Exit code 2, one line on stderr."""


class Refused(Exception):
    """The deploy must not go on; the message says why. Exit code 1, production keeps its release."""


class TimedOut(Refused):
    """A command took longer than it may."""


class Interrupted(Refused):
    """A signal ended the deploy."""
