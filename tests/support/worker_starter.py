"""Starts workers that stop when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from core.jobs.worker import Worker
from core.settings import Settings


@contextmanager
def start_workers(settings: Settings) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts a worker with the given options and waits until it is ready."""
    hired: list[Worker] = []

    def start(**options: Any) -> Worker:
        worker = Worker(settings, **options)
        hired.append(worker)
        worker.start()
        assert worker.wait_until_ready(120)
        return worker

    yield start
    for worker in hired:
        worker.stop()
