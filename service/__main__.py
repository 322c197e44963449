"""`python -m service`: serve the API on API_PORT until SIGTERM; `--help` tells the options."""

import argparse
import signal
import sys

import uvicorn

from service.answers import LOGGING
from service.app import create_app
from service.settings import settings_or_exit


def main() -> None:
    """Serve; SIGTERM lets the requests in flight finish and ends with status 0."""
    parser = argparse.ArgumentParser(prog="python -m service", description="Serve the API on API_PORT.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")  # noqa: S104 - only the front reaches a container
    parser.add_argument("--reload", action="store_true", help="start again when the code changes")
    options = parser.parse_args()
    settings = settings_or_exit()
    # uvicorn raises the signal again after its graceful shutdown; without this the status would be 143.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        "service.app:create_app" if options.reload else create_app(settings),
        factory=options.reload,
        host=options.host,
        port=settings.api_port,
        reload=options.reload,
        reload_dirs=["service"] if options.reload else None,
        timeout_keep_alive=75,
        access_log=False,  # answers.Frame writes it
        log_config=LOGGING,
        forwarded_allow_ips="*",  # the front is the only one that reaches a container
        server_header=False,
    )


if __name__ == "__main__":
    main()
