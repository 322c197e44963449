import time

from celery import shared_task

from .models import Run

PRICE_LOOKUP_SECONDS = 0.1


@shared_task(bind=True)
def process(self, job_id):
    time.sleep(PRICE_LOOKUP_SECONDS)  # until the supplier has an API
    Run.objects.create(job_id=job_id, worker=self.request.hostname or "local")
