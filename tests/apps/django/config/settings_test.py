"""Settings of `manage.py test`: SQLite, and tasks that run in the process that enqueues them."""

import os

os.environ.update(
    SECRET_KEY="test",
    ALLOWED_HOSTS="testserver",
    API_TOKEN="test-token",
    DATABASE_URL="sqlite://:memory:",
)

from .settings import *  # noqa: E402, F403
from .settings import STORAGES  # noqa: E402

CELERY_TASK_ALWAYS_EAGER = True
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
