"""Names and states of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.finetuning.job_explanation import minutes_left
from core.finetuning.job_views import JobView
from core.finetuning.results import Definition, Figure
from pages.ui.components import models
from pages.ui.i18n import _, localized, mark

STATUSES = {
    "preparing": mark("preparing"),
    "submitting": mark("submitting"),
    "validating_files": mark("checking the file"),
    "queued": mark("queued"),
    "running": mark("training"),
    "paused": mark("paused"),
    "succeeded": mark("finished"),
    "failed": mark("failed"),
    "cancelled": mark("cancelled"),
    "canceled": mark("cancelled"),
}
DEFINITIONS: dict[Definition, str] = {
    "smoothed": mark("smoothed"),
    "last_step": mark("last step"),
    "held_out": mark("held-out"),
}
TRACKERS = {"wandb": "Weights & Biases", "trackio": "Trackio"}
_SHORT_ID = 4  # characters at the end of an id: enough to distinguish jobs with the same name


def status(job: JobView) -> str:
    """A job's state in a word."""
    return status_word(job.status)


def status_word(status: str) -> str:
    """A state in a word; an unknown one is shown as the provider sends it."""
    return _(STATUSES[status]) if status in STATUSES else status


def named(title: str, figure: Figure | None) -> str:
    """The title of a figure with its definition: "Token accuracy, smoothed"; without it if nothing was measured."""
    if figure is None:
        return title
    return _("{figure}, {definition}").format(figure=title, definition=_(DEFINITIONS[figure.definition]))


def time_left(job: JobView, now: datetime, *, short: bool = False) -> str:
    """The time left, the same figure on every page: "about 5 min left"; "" if unknown.

    `short`: "5 min", for a titled column.
    """
    left = job.eta_s(now)
    if left is None:
        return ""
    return _("{n} min").format(n=localized(minutes_left(left))) if short else about_left(left)


def about_left(seconds: float) -> str:
    """A remaining time in words: "about 5 min left"."""
    return _("about {minutes} min left").format(minutes=localized(minutes_left(seconds)))


def base_and_chain(chain: Sequence[JobView]) -> str:
    """The base model and the ancestor jobs, first one first."""
    return " → ".join([models.short_name(chain[0].base_model), *(job.name for job in chain[:-1])])


def names(jobs: Sequence[JobView]) -> dict[str, str]:
    """A name for each job, by id: its own, with the end of its id if two jobs have the same name."""
    all_names = [job.name for job in jobs]
    return {
        job.id: job.name if all_names.count(job.name) == 1 else f"{job.name} · {job.id[-_SHORT_ID:]}" for job in jobs
    }
