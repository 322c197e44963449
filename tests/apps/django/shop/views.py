import json
from functools import partial
from secrets import compare_digest

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.http import JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from .models import Job
from .tasks import process


def has_token(request):
    expected = f"Bearer {settings.API_TOKEN}"
    return compare_digest(request.headers.get("Authorization", "").encode(), expected.encode())


def read_key(request):
    """Return the key in the body of a request, or None if there is no valid one."""
    try:
        key = json.loads(request.body)["key"]
    except (ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, str) and key and "/" not in key and "\0" not in key else None


@require_GET
def index(request):
    return render(request, "shop/index.html", {"jobs": Job.objects.prefetch_related("runs")[:20]})


@require_GET
def health(request):
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return JsonResponse({"status": "database unavailable"}, status=503)
    return JsonResponse({"status": "ok"})


@csrf_exempt
@require_POST
def create_job(request):
    if not has_token(request):
        return JsonResponse({"error": "invalid token"}, status=401)
    key = read_key(request)
    if key is None:
        return JsonResponse({"error": "expected a JSON object with a key"}, status=400)
    with transaction.atomic():
        job = Job.objects.create(key=key)
        transaction.on_commit(partial(process.delay, job.id))
    return JsonResponse({"id": job.id, "key": job.key}, status=201)


@require_GET
def job(request, key):
    """Show the latest job with this key."""
    found = Job.objects.filter(key=key).first()
    if found is None:
        return JsonResponse({"error": "not found"}, status=404)
    runs = [{"worker": run.worker, "finished_at": run.finished_at} for run in found.runs.all()]
    return JsonResponse({"id": found.id, "key": found.key, "created": found.created, "runs": runs})
