from django.db import models
from django.db.models.functions import Now


class Job(models.Model):
    """Work that a client asked for. A client may use the same key again."""

    key = models.TextField(db_index=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self):
        return self.key


class Run(models.Model):
    """One execution of a job."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="runs")
    worker = models.TextField()
    finished_at = models.DateTimeField(auto_now_add=True)


class Tick(models.Model):
    """A sign of life of the scheduler."""

    instance = models.TextField(db_index=True)
    at = models.DateTimeField(db_default=Now())
