import signal
import socket
import threading
import uuid

from django.core.management.base import BaseCommand

from shop.models import Tick

INTERVAL_SECONDS = 0.5


class Command(BaseCommand):
    help = "Run the scheduler until SIGTERM. Start it once: there must never be two."

    def handle(self, *args, **options):
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        instance = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.stdout.write(f"Scheduler {instance} started")
        while not stop.is_set():
            Tick.objects.create(instance=instance)
            stop.wait(INTERVAL_SECONDS)
        Tick.objects.create(instance=instance)  # shows when this instance ended
        self.stdout.write(f"Scheduler {instance} stopped")
