"""How a scenario fails: expectations, errors, and their messages."""

BUILT_BY = {"code": "code_change", "compose": "compose_change", "forward": "roll_forward"}  # scenarios


class Failed(Exception):
    """A scenario did not end as expected; the message says how."""


class MissingRelease(Failed):
    """A scenario needs a release that no scenario of this run has built."""


class NotApplicable(Exception):
    """A scenario needs what the application does not have; the message says what."""


class Commits(dict[str, str]):
    """The commits of releases, by name."""

    def __missing__(self, name: str) -> str:
        scenario = BUILT_BY.get(name, "the one that does")
        raise MissingRelease(f"no scenario of this run built the release {name!r}: add {scenario} to --only")


def describe_error(error: Exception) -> str:
    """Return the error's message, with its type unless it is Failed; a Failed that was being handled comes first."""
    message = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
    earlier = error.__context__
    return f"{describe_error(earlier)}; then {message}" if isinstance(earlier, Failed) else message


def expect(condition: bool, message: str) -> None:
    """Raise Failed with the message unless the condition holds."""
    if not condition:
        raise Failed(message)


def say(text: str) -> None:
    """Print one line of progress of a scenario."""
    print(f"  {text}", flush=True)
