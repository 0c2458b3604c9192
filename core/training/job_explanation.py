"""What a job's state means, in plain words: is it alive, is this normal, what comes next?"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from core.cost.prices import ENGINE
from core.message import msg, sentences
from core.training.job_views import JobView

_QUIET = timedelta(minutes=2)  # we ask every two seconds: so long without an answer is worth a word
_LONG_QUEUE = timedelta(hours=1)
_SILENT = timedelta(minutes=15)  # providers tell of every step, or of every epoch: so long without a word is noticed
_SECONDS_BELOW_S = 120  # a shorter time is told in seconds
_ORDINALS_UP_TO = 20  # 21st and beyond are told as a number
_LATE = 2.0  # times what was expected
_MANY_MINUTES = 90


def explain(job: JobView, now: datetime, last_event: datetime | None = None) -> str:
    """One or two sentences about a job at the time `now` (UTC).

    `last_event` is when its provider last told something new (`job_views.last_event`); None: not known.
    """
    if job.finished:
        return _ended(job, now)
    if job.request == "cancel":
        return msg("The job is being cancelled.")
    if job.error:
        return msg("Waiting to retry: {error}", error=job.error)
    if job.remote_id is not None and now - job.updated_at > _QUIET:
        return msg(
            "No update for {updated_at} min. The job may still be running; check that the worker is up.",
            updated_at=_minutes(now - job.updated_at),
        )
    if job.status == "running" and last_event is not None and now - last_event > _SILENT and not _moves(job, now):
        silent = _minutes(now - last_event)
        return msg(
            "No event for {silent} min; the provider still reports {status}. This is common in long epochs.",
            silent=silent,
            status=job.status,
        )
    return _under_way(job, now)


def _moves(job: JobView, now: datetime) -> bool:
    """Whether its steps are seen to come though nothing is said: the engine's estimate is made anew with each step."""
    return job.provider == ENGINE and job.estimated_finish is not None and job.estimated_finish > now


def failure_advice(error: str) -> str:
    """What to do about a training that failed, from the provider's own words."""
    words = error.lower()
    if any(word in words for word in ("moderation", "usage policies", "safety", "unsafe")):
        return msg(
            "The provider's moderation rejects some examples: leave out those that it names, or train on the engine."
        )
    if any(word in words for word in ("quota", "billing", "credit", "hard limit")):
        return msg("Add credit or raise the limit at the provider, then submit again. Your file is fine.")
    if any(word in words for word in ("context", "too long", "too many tokens")):
        return msg("Shorten or leave out the long examples that the check names, and submit again.")
    if any(word in words for word in ("infinite", "not a number", "nan", "diverg")):
        return msg("The training diverged: use a lower learning rate multiplier, and submit again.")
    if any(word in words for word in ("line ", "invalid_training_file", "format", "jsonl", "parse")):
        return msg("Fix the lines listed in the file, then submit again.")
    if any(word in words for word in ("internal", "server error", "try again", "retry", "restart", "memory")):
        return msg("The data is fine: submit it again, with a smaller batch size if this happens twice.")
    return msg("Read the events, change the data or the settings, and submit again.")


def _ended(job: JobView, now: datetime) -> str:
    if job.status == "failed":
        return msg("It failed: {reason}", reason=job.error or "the provider gives no reason.")
    if job.status in ("cancelled", "canceled"):
        return msg("The job was cancelled. Nothing more is trained or billed.")
    if job.fine_tuned_model is None:
        return msg(
            "The provider reports success but names no model yet. That can take minutes; if it persists, contact "
            "the provider."
        )
    took = job.training_s(now)
    if took is None:
        return msg("Training is done. The model is ready: {fine_tuned_model}", fine_tuned_model=job.fine_tuned_model)
    if took < _SECONDS_BELOW_S:
        return msg(
            "Done after {took} s of training. The model is ready: {fine_tuned_model}",
            took=max(1, round(took)),
            fine_tuned_model=job.fine_tuned_model,
        )
    minutes = _minutes(timedelta(seconds=took))
    return msg(
        "Done after {minutes} min of training. The model is ready: {fine_tuned_model}",
        minutes=minutes,
        fine_tuned_model=job.fine_tuned_model,
    )


def _under_way(job: JobView, now: datetime) -> str:
    age = now - job.created_at
    match job.status:
        case "preparing" if job.upload_share is not None:
            return msg(
                "The training file is being uploaded: {upload_share} of {file_bytes}.",
                upload_share=f"{job.upload_share:.0%}",
                file_bytes=_size(job.file_bytes or 0),
            )
        case "preparing":
            return msg("The training file is being prepared and uploaded.")
        case "submitting":
            return msg("The file is uploaded; the job is being created.")
        case "queued" if job.queue_position is not None:
            return _in_line(job, job.queue_position, now)
        case "validating_files":
            return msg("The provider is checking the training file.")
        case "queued" if age > _LONG_QUEUE:
            return msg("Queued at the provider for {age} min. This happens, and costs nothing.", age=_minutes(age))
        case "queued" if age > _QUIET:
            return msg("Queued for {age} min. This is normal.", age=_minutes(age))
        case "queued":
            return msg("Waiting in the queue.")
        case "paused":
            return msg("Paused. Everything learned so far is kept; resume to continue.")
        case "running":
            return _running(job, now)
    return msg("The provider says: {status}.", status=job.status)


def _in_line(job: JobView, position: int, now: datetime) -> str:
    """Where a job stands in the engine's line, and when its training should start."""
    wait = job.wait_s(now)
    if position <= 1:
        return msg("Next in line: training starts in a moment.")
    if wait is None:
        return sentences(_place(position), msg("The start time is known once the jobs ahead have an estimate."))
    minutes = _minutes(timedelta(seconds=wait))
    match position:
        case 2:
            return msg("{position}nd in line, starts in about {minutes} min.", position=position, minutes=minutes)
        case 3:
            return msg("{position}rd in line, starts in about {minutes} min.", position=position, minutes=minutes)
    if position <= _ORDINALS_UP_TO:
        return msg("{position}th in line, starts in about {minutes} min.", position=position, minutes=minutes)
    return msg("Number {position} in line, starts in about {minutes} min.", position=position, minutes=minutes)


def _place(position: int) -> str:
    match position:
        case 2:
            return msg("{position}nd in line.", position=position)
        case 3:
            return msg("{position}rd in line.", position=position)
    return (
        msg("{position}th in line.", position=position)
        if position <= _ORDINALS_UP_TO
        else msg("Number {position} in line.", position=position)
    )


def _running(job: JobView, now: datetime) -> str:
    if job.request == "pause":
        return msg("The job is being paused.")
    trained, left = timedelta(seconds=job.training_s(now) or 0.0), job.eta_s(now)
    late = timedelta(seconds=job.late_s(now))
    if late > trained / _LATE and late > _SILENT:
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
    """The time to the end in front of "min", rounded up: "12", "6 h 40", and "1" at the end, never "0"."""
    return _minutes(timedelta(minutes=math.ceil(seconds / 60)))


def _minutes(span: timedelta) -> str:
    """A stretch of time in front of "min", hours with it where there are many: "12", "6 h 40"."""
    minutes = max(1, round(span.total_seconds() / 60))
    if minutes < _MANY_MINUTES:
        return f"{minutes}"
    return msg("{hours} h {minutes}", hours=minutes // 60, minutes=minutes % 60)


def _size(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{max(1, size >> 10):,} KiB"
