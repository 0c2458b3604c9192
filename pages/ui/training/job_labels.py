"""Names and states of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from core.finetuning.job_explanation import minutes_left
from core.finetuning.job_form import DEFAULT_OPTIONS
from core.finetuning.job_views import JobView
from core.finetuning.results import Definition, Figure
from pages.ui.components import models
from pages.ui.i18n import _, localized, mark, n_, percent, plain

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
METHODS = {"supervised": mark("Answers (supervised)"), "dpo": mark("Votes (DPO)")}
TRACKERS = {"wandb": "Weights & Biases", "trackio": "Trackio"}
OPTIONS = {
    "lora_rank": mark("LoRA rank"),
    "lora_alpha": mark("LoRA alpha"),
    "warmup": mark("Warm-up"),
    "schedule": mark("Schedule of the learning rate"),
    "early_stopping": mark("Early stopping"),
}
"""The hyperparameters of `core.engine.training_options`."""
_SCHEDULES: dict[str, str] = {
    "linear": mark("linear"),
    "cosine": mark("cosine"),
    "constant": mark("constant"),
}
_SHORT_ID = 4  # characters at the end of an id: enough to distinguish jobs with the same name


def status(job: JobView) -> str:
    """A job's state in a word."""
    return status_word(job.status)


def status_word(status: str) -> str:
    """A state in a word; an unknown one is shown as the provider sends it."""
    return _(STATUSES[status]) if status in STATUSES else status


def schedule(name: str) -> str:
    """The schedule of the learning rate, in a word."""
    return _(_SCHEDULES[name])


def option(name: str, value: Any) -> str:
    """A value of `OPTIONS` in words; None or "auto" gives the value that the engine uses."""
    is_set = value not in (None, "", "auto")
    match name:
        case "warmup":
            share = percent(float(value), 0) if is_set else ""
            return _("{share} of the steps").format(share=share) if is_set and float(value) else _("none")
        case "schedule":
            known = next((one for one in _SCHEDULES if one == value), None)
            return schedule(known or DEFAULT_OPTIONS.schedule) if known or not is_set else plain(value)
        case "early_stopping":
            epochs = n_(
                "after {n} epoch without a lower validation loss",
                "after {n} epochs without a lower validation loss",
                int(value) if is_set else 0,
            )
            return epochs if is_set else _("off")
    return f"{float(value):g}" if is_set else _("automatic")


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
