"""Explains a job's state in one or two sentences: whether it is making progress, what is normal, what comes next."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from core.finetuning.job_views import JobView
from core.message import msg, percent, sentences
from core.pricing.prices import ENGINE

_STALE_AFTER = timedelta(minutes=2)  # the provider is polled every two seconds
_LONG_QUEUE = timedelta(hours=1)
_NO_EVENT_AFTER = timedelta(minutes=15)  # providers send an event per step or per epoch
_SECONDS_BELOW_S = 120  # shorter times are shown in seconds
_MAX_ORDINAL = 20  # from 21 on, the position is shown as a plain number
_LATE_RATIO = 2.0  # delay / training time so far
_HOURS_FROM_MINUTES = 90


def explain(job: JobView, now: datetime, last_event: datetime | None = None) -> str:
    """Explain a job's state at `now` (UTC) in one or two sentences.

    `last_event`: time of the newest event (`job_views.last_event`); None if unknown.
    """
    if job.finished:
        return _explain_finished(job, now)
    if job.request == "cancel":
        return msg("The job is being cancelled.")
    if job.error:
        return msg("Waiting to retry: {error}", error=job.error)
    if job.remote_id is not None and now - job.updated_at > _STALE_AFTER:
        return msg(
            "No update for {minutes} min. The job may still be running; check that the worker is up.",
            minutes=_minutes(now - job.updated_at),
        )
    if (
        job.status == "running"
        and last_event is not None
        and now - last_event > _NO_EVENT_AFTER
        and not _is_progressing(job, now)
    ):
        minutes = _minutes(now - last_event)
        return msg(
            "No event for {minutes} min; the provider still reports {status}. This is common in long epochs.",
            minutes=minutes,
            status=job.status,
        )
    return _explain_unfinished(job, now)


def _is_progressing(job: JobView, now: datetime) -> bool:
    """Whether steps still arrive without events: the engine updates its estimate with each step."""
    return job.provider == ENGINE and job.estimated_finish is not None and job.estimated_finish > now


def failure_advice(error: str) -> str:
    """What to do about a failed job, based on the provider's error message."""
    text = error.lower()
    if any(keyword in text for keyword in ("moderation", "usage policies", "safety", "unsafe")):
        return msg(
            "The provider's moderation rejected some examples. Remove the ones it names, or train on the engine."
        )
    if any(keyword in text for keyword in ("quota", "billing", "credit", "hard limit")):
        return msg("Add credit or raise the limit at the provider, then submit again. Your file is fine.")
    if any(keyword in text for keyword in ("context", "too long", "too many tokens")):
        return msg("Shorten or remove the long examples listed by the check, then submit again.")
    if any(keyword in text for keyword in ("infinite", "not a number", "nan", "diverg")):
        return msg("The training diverged. Use a lower learning rate multiplier, then submit again.")
    if any(keyword in text for keyword in ("line ", "invalid_training_file", "format", "jsonl", "parse")):
        return msg("Fix the lines listed in the file, then submit again.")
    if any(keyword in text for keyword in ("internal", "server error", "try again", "retry", "restart", "memory")):
        return msg("The data is fine. Submit it again, with a smaller batch size if this happens twice.")
    return msg("Read the events, change the data or the settings, then submit again.")


def _explain_finished(job: JobView, now: datetime) -> str:
    if job.status == "failed":
        return msg("Failed: {reason}", reason=job.error or "the provider gives no reason.")
    if job.status in ("cancelled", "canceled"):
        return msg("The job was cancelled. Nothing more is trained or billed.")
    if job.fine_tuned_model is None:
        return msg(
            "The provider reports success but names no model yet. That can take minutes; if it persists, contact "
            "the provider."
        )
    training_s = job.training_s(now)
    if training_s is None:
        return msg("Training is done. The model is ready: {fine_tuned_model}", fine_tuned_model=job.fine_tuned_model)
    if training_s < _SECONDS_BELOW_S:
        return msg(
            "Done after {seconds} s of training. The model is ready: {fine_tuned_model}",
            seconds=max(1, round(training_s)),
            fine_tuned_model=job.fine_tuned_model,
        )
    minutes = _minutes(timedelta(seconds=training_s))
    return msg(
        "Done after {minutes} min of training. The model is ready: {fine_tuned_model}",
        minutes=minutes,
        fine_tuned_model=job.fine_tuned_model,
    )


def _explain_unfinished(job: JobView, now: datetime) -> str:
    age = now - job.created_at
    match job.status:
        case "preparing" if job.upload_share is not None:
            return msg(
                "The training file is being uploaded: {upload_share} of {file_bytes}.",
                upload_share=percent(job.upload_share, 0),
                file_bytes=_size(job.file_bytes or 0),
            )
        case "preparing":
            return msg("The training file is being prepared and uploaded.")
        case "submitting":
            return msg("The file is uploaded; the job is being created.")
        case "queued" if job.queue_position is not None:
            return _explain_queued(job, job.queue_position, now)
        case "validating_files":
            return msg("The provider is checking the training file.")
        case "queued" if age > _LONG_QUEUE:
            return msg("Queued at the provider for {age} min. This can happen and costs nothing.", age=_minutes(age))
        case "queued" if age > _STALE_AFTER:
            return msg("Queued for {age} min. This is normal.", age=_minutes(age))
        case "queued":
            return msg("Waiting in the queue.")
        case "paused":
            return msg("Paused. Everything learned so far is kept; resume to continue.")
        case "running":
            return _explain_running(job, now)
    return msg("Status reported by the provider: {status}.", status=job.status)


def _explain_queued(job: JobView, position: int, now: datetime) -> str:
    """The job's position in the engine's queue, and when its training should start."""
    wait = job.wait_s(now)
    if position <= 1:
        return msg("Next in line: training starts in a moment.")
    if wait is None:
        return sentences(_queue_place(position), msg("The start time is known once the jobs ahead have an estimate."))
    minutes = _minutes(timedelta(seconds=wait))
    match position:
        case 2:
            return msg("{position}nd in line, starts in about {minutes} min.", position=position, minutes=minutes)
        case 3:
            return msg("{position}rd in line, starts in about {minutes} min.", position=position, minutes=minutes)
    if position <= _MAX_ORDINAL:
        return msg("{position}th in line, starts in about {minutes} min.", position=position, minutes=minutes)
    return msg("Number {position} in line, starts in about {minutes} min.", position=position, minutes=minutes)


def _queue_place(position: int) -> str:
    match position:
        case 2:
            return msg("{position}nd in line.", position=position)
        case 3:
            return msg("{position}rd in line.", position=position)
    return (
        msg("{position}th in line.", position=position)
        if position <= _MAX_ORDINAL
        else msg("Number {position} in line.", position=position)
    )


def _explain_running(job: JobView, now: datetime) -> str:
    if job.request == "pause":
        return msg("The job is being paused.")
    trained, left = timedelta(seconds=job.training_s(now) or 0.0), job.eta_s(now)
    late = timedelta(seconds=job.late_s(now))
    if late > trained / _LATE_RATIO and late > _NO_EVENT_AFTER:
        return msg(
            "Training, {late} min longer than estimated. Ask the provider if it may be stuck.", late=_minutes(late)
        )
    if job.starting(now) and not late:
        if left is None:
            return msg("Loading the model and timing the first steps. This takes 1 to 2 min.")
        return msg(
            "Loading the model and timing the first steps (1 to 2 min) · about {left} min left.",
            left=minutes_left(left),
        )
    if left is not None:
        return msg("Training · about {left} min left.", left=minutes_left(left))
    if late:
        return msg("Training, a little longer than estimated.")
    if job.training_s(now) is None:
        return msg("Training · estimating time left…")
    return msg("Training · {trained} min elapsed · estimating time left…", trained=_minutes(trained))


def minutes_left(seconds: float) -> str:
    """The time left, to be followed by "min": "12" or "6 h 40". Rounded up, at least "1"."""
    return _minutes(timedelta(minutes=math.ceil(seconds / 60)))


def _minutes(span: timedelta) -> str:
    """A duration, to be followed by "min": "12" or "6 h 40"."""
    minutes = max(1, round(span.total_seconds() / 60))
    if minutes < _HOURS_FROM_MINUTES:
        return f"{minutes}"
    return msg("{hours} h {minutes}", hours=minutes // 60, minutes=minutes % 60)


def _size(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{max(1, size >> 10):,} KiB"
