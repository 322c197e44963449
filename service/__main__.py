"""`python -m service`: serve the API on API_PORT until SIGTERM."""

import argparse
import signal
import sys

import uvicorn

from service.app import create_app
from service.logs import LOG_CONFIG
from service.settings import read_settings_or_exit


def main() -> None:
    """Serve until SIGTERM, finish the requests in flight, and exit with status 0; 2 for an invalid setting."""
    parser = argparse.ArgumentParser(prog="python -m service", description="Serve the API on API_PORT.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: 0.0.0.0)")  # noqa: S104 - see forwarded_allow_ips
    parser.add_argument("--reload", action="store_true", help="restart when the code changes")
    options = parser.parse_args()
    settings = read_settings_or_exit()
    # uvicorn raises SIGTERM again after its graceful shutdown; without this handler the status would be 143.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        "service.app:create_app" if options.reload else create_app(settings),
        factory=options.reload,
        host=options.host,
        port=settings.api_port,
        reload=options.reload,
        reload_dirs=["service"] if options.reload else None,
        timeout_keep_alive=75,
        access_log=False,  # RequestMiddleware logs each request
        log_config=LOG_CONFIG,
        # The compose files publish no port of the API: besides the host, only containers of this Compose project reach
        # it. nox -s dev listens on 127.0.0.1.
        forwarded_allow_ips="*",
        server_header=False,
    )


if __name__ == "__main__":
    main()
