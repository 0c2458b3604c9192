"""How long a job has been trained. Waiting in line and pauses are not training. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from core.providers import RemoteEvent, RemoteJob
from core.training.job_views import FINISHED, JobView

STARTED = "Fine-tuning job started"
"""How the event begins with which training starts, at OpenAI and at our engine."""


def after_poll(job: JobView, remote: RemoteJob, events: Sequence[RemoteEvent], now: datetime) -> dict[str, Any]:
    """The columns `training_s` and `running_since` of a job after a look at its provider.

    Our engine measures the time itself. Elsewhere it is the time in which the status was `running`: from the event of
    the start, or else from the first look that found it running.

    Args:
        job: as the ledger has it.
        remote: as the provider tells it now.
        events: that are new with this look.
        now: the time of the look, UTC.
    """
    if remote.training_s is not None:
        return {"training_s": remote.training_s, "running_since": None}
    started = next((event.at for event in events if event.message.startswith(STARTED)), None)
    since, spent_s = job.running_since, job.trained_s
    if remote.status == "running":
        return {"training_s": spent_s, "running_since": since or started or now}
    if since is None and spent_s is None and remote.status in FINISHED:  # it began and ended between two looks
        since = started
    if since is not None:
        spent_s = (spent_s or 0.0) + max(0.0, ((remote.finished_at or now) - since).total_seconds())
    return {"training_s": spent_s, "running_since": None}
