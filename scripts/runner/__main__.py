"""The commands that nox and the workflows run: `python -m scripts.runner COMMAND --help`."""

import argparse
import os
import shlex
import signal
import subprocess
import sys

from scripts.runner.deploy import deploy
from scripts.runner.image import make_image, move_latest
from scripts.runner.postgres import run_with_postgres
from scripts.runner.process import ROOT, Failure
from scripts.runner.settings import VARIABLES_PAGE

INTERRUPTED = 130  # the exit code of a shell after Ctrl-C


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. On invalid arguments, print the usage and exit with code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.runner",
        description="Build, smoke-test and push the image, ask the server to deploy it, and verify it.",
        epilog="Exit codes: 0 success, 1 failure (the message says why), 2 invalid usage, 130 after Ctrl-C."
        " `postgres` exits with the exit code of its command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    image = commands.add_parser(
        "image",
        help="build the image of this commit and smoke-test it",
        description="Build the image of this commit, start it with its docker-compose.prod.yml, and send requests.",
        epilog=f"IMAGE, REGISTRY_USER and REGISTRY_PASSWORD: see {VARIABLES_PAGE}.",
    )
    action = image.add_mutually_exclusive_group()
    action.add_argument("--push", action="store_true", help="then push it as IMAGE:<commit>")
    action.add_argument("--latest", action="store_true", help="build nothing; move IMAGE:latest to this commit's image")
    action.add_argument(
        "--twice",
        action="store_true",
        help="build it twice, without cache, instead of once; fail unless both builds have the same id",
    )

    commands.add_parser(
        "deploy",
        help="ask the server to deploy this commit, and verify it",
        description="Ask the server to deploy this commit, then wait until PUBLIC_URL serves it.",
        epilog=f"Required variables: see {VARIABLES_PAGE}.",
    )

    postgres = commands.add_parser(
        "postgres",
        help="run a command with a throwaway PostgreSQL server",
        description="Run a command with a throwaway PostgreSQL server in a container.",
    )
    postgres.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="NAME=VALUE ... -- COMMAND ...",
        help="variables for the command, in which {user}, {password}, {host}, {port} and {name} are those of the"
        " database; and the command",
    )

    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands.choices[options.command].error(f"unknown arguments: {' '.join(unknown)}")
    if options.command == "postgres":
        end = options.words.index("--") if "--" in options.words else len(options.words)
        variables, command = options.words[:end], options.words[end + 1 :]
        if not command or any("=" not in word for word in variables):
            postgres.error("expected NAME=VALUE ... -- COMMAND ...")
        options.variables, options.words = dict(word.split("=", 1) for word in variables), command
    return options


def run_command(options: argparse.Namespace) -> int:
    """Run the chosen command and return the exit code."""
    if options.command == "postgres":
        return run_with_postgres(options.words, options.variables)
    if options.command == "deploy":
        deploy()
    elif options.latest:
        move_latest()
    else:
        make_image(push=options.push, twice=options.twice)
    return 0


def main() -> int:
    """Run one command and return its exit code."""
    options = parse()
    os.chdir(ROOT)
    os.umask(0o022)  # containers read the files that it creates
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("runner: terminated by SIGTERM"))  # run the finally blocks
    try:
        return run_command(options)
    except Failure as failure:
        print(f"runner: {failure}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        command = shlex.join(map(str, error.cmd))
        print(f"runner: command failed with exit code {error.returncode}: {command}", file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1


if __name__ == "__main__":
    sys.exit(main())
