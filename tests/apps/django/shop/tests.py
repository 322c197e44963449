import os
import signal
from io import StringIO
from unittest import mock

from django.core.management import call_command
from django.db import DatabaseError
from django.test import TestCase

from .models import Job, Run, Tick


class ShopTestCase(TestCase):
    def get(self, path):
        return self.client.get(path, secure=True)

    def post_job(self, body, token="test-token"):
        with self.captureOnCommitCallbacks(execute=True):
            return self.client.post(
                "/jobs/",
                body,
                content_type="application/json",
                headers={"Authorization": f"Bearer {token}"},
                secure=True,
            )


@mock.patch("shop.tasks.PRICE_LOOKUP_SECONDS", 0)
class JobTests(ShopTestCase):
    def test_create(self):
        response = self.post_job({"key": "A-1"})
        self.assertEqual(response.status_code, 201)
        self.assertEqual(Run.objects.get().job, Job.objects.get())
        job = self.get("/jobs/A-1/").json()
        self.assertEqual(job["id"], response.json()["id"])
        self.assertEqual(len(job["runs"]), 1)

    def test_each_post_creates_a_job(self):
        self.post_job({"key": "A-1"})
        self.post_job({"key": "A-1"})
        self.assertEqual(Job.objects.filter(key="A-1").count(), 2)
        self.assertEqual(Run.objects.count(), 2)

    def test_invalid_token(self):
        self.assertEqual(self.post_job({"key": "A-1"}, token="wrong").status_code, 401)
        self.assertFalse(Job.objects.exists())

    def test_invalid_body(self):
        for body in ("not JSON", "[]", "{}", '{"key": ""}', '{"key": 1}', '{"key": "a/b"}', '{"key": "a\\u0000"}'):
            with self.subTest(body=body):
                self.assertEqual(self.post_job(body).status_code, 400)

    def test_get_is_not_allowed(self):
        self.assertEqual(self.get("/jobs/").status_code, 405)

    def test_unknown_key(self):
        self.assertEqual(self.get("/jobs/A-1/").status_code, 404)


class PageTests(ShopTestCase):
    def test_index(self):
        Job.objects.create(key="A-1")
        response = self.get("/")
        self.assertContains(response, "/jobs/A-1/")
        self.assertContains(response, "shop/shop.css")

    def test_health(self):
        self.assertEqual(self.get("/health/").status_code, 200)

    def test_health_without_database(self):
        with mock.patch("shop.views.connection.cursor", side_effect=DatabaseError):
            self.assertEqual(self.get("/health/").status_code, 503)

    def test_http_redirects_to_https(self):
        self.assertRedirects(
            self.client.get("/"), "https://testserver/", status_code=301, fetch_redirect_response=False
        )

    def test_https_behind_a_proxy(self):
        self.assertEqual(self.client.get("/", headers={"X-Forwarded-Proto": "https"}).status_code, 200)


class SchedulerTests(TestCase):
    def test_ticks_until_sigterm(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        waits = iter([None, None, signal.SIGTERM])

        def wait(event, timeout):
            number = next(waits)
            if number:
                os.kill(os.getpid(), number)

        with mock.patch("threading.Event.wait", wait):
            call_command("run_scheduler", stdout=StringIO())
        self.assertEqual(Tick.objects.count(), 4)
        self.assertEqual(Tick.objects.values("instance").distinct().count(), 1)
