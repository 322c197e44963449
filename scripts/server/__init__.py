"""The deploy program: runs on the server, extracted from the live release's image. Standard library only.

Version 1 was a Bash program. Servers may still have releases that it deployed, and can roll back to them.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - the server's python3 may be older; this file must run there
    sys.exit("deploy.sh: Python 3.10 or later is required; this is " + sys.version.split()[0])
