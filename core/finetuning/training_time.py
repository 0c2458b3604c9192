"""Training time of a job, without queued and paused time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from core.finetuning.job_views import FINISHED, JobView
from core.providers import RemoteEvent, RemoteJob

STARTED = "Fine-tuning job started"
"""Start of the message of the event that reports the start of training, at OpenAI and the engine."""


def after_poll(job: JobView, remote: RemoteJob, events: Sequence[RemoteEvent], now: datetime) -> dict[str, Any]:
    """The columns `training_s` and `running_since` of a job after polling its provider.

    The engine measures the time itself. Elsewhere it is the time with status `running`, from the start event or, if
    there is none, from the first poll with that status.

    Args:
        job: as saved.
        remote: the provider's current state.
        events: new since the last poll.
        now: time of the poll (UTC).
    """
    if remote.training_s is not None:
        return {"training_s": remote.training_s, "running_since": None}
    started = next((event.at for event in events if event.message.startswith(STARTED)), None)
    since, trained_s = job.running_since, job.trained_s
    if remote.status == "running":
        return {"training_s": trained_s, "running_since": since or started or now}
    if since is None and trained_s is None and remote.status in FINISHED:  # started and ended between two polls
        since = started
    if since is not None:
        trained_s = (trained_s or 0.0) + max(0.0, ((remote.finished_at or now) - since).total_seconds())
    return {"training_s": trained_s, "running_since": None}
