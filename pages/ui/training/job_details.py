"""Events and settings of a job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import streamlit as st

from core.db.tables import utcnow
from core.finetuning import job_events, jobs
from core.finetuning.jobs import JobEvent, JobView
from core.pricing.prices import ENGINE
from pages.ui import cached, models
from pages.ui.lang import _, as_markdown, clock, code, duration, mark, n_, number, pair, percent, plain, usd
from pages.ui.money import work_cost
from pages.ui.training import job_labels

_LEVELS = {"warn": ":material/warning: ", "error": ":material/error: "}
_MOST = 200  # events on the page; all of them are in the zip
HYPERPARAMETERS = {
    "n_epochs": mark("Epochs"),
    "batch_size": mark("Batch size"),
    "learning_rate_multiplier": mark("Learning rate multiplier"),
}
_TRACKERS = {"wandb": "Weights & Biases", "trackio": "Trackio"}
_TRACKED = {
    "live": mark("logged up to step {step}, in the project {project}"),
    "logged": mark("logged, in the project {project}"),
}


def events(job: JobView) -> None:
    """Every event, newest first, with the provider's text."""
    found = jobs.events(cached.store(), job.id, _MOST)
    if not found:
        st.caption(_("No events yet."))
        return
    st.caption(n_("{n} event", "{n} events", len(found)))
    now = utcnow()
    with st.container(height=320 if len(found) > 10 else "content", border=False):
        st.caption("  \n".join(_line(event, now) for event in reversed(found)))


def _line(event: JobEvent, now: datetime) -> str:
    kind = "" if event.type == "message" else f"{plain(event.type)}: "  # an unknown type is shown as it is
    return f"{clock(event.at, now)} · {_LEVELS.get(event.level, '')}{kind}{as_markdown(event.message)}"


def settings(job: JobView) -> None:
    """Requested settings, and the outcome next to the estimate."""
    left, right = st.columns(2)
    with left:
        _table(_("Settings of this job"), _requested_settings(job))
    with right:
        _table(_("Outcome"), _took(job))
        _trackers(job)


def hyperparameter(job: JobView, name: str) -> str:
    """A hyperparameter as requested."""
    value = job.hyperparameters.get(name)
    if value in (None, "auto"):
        return _("automatic")
    return f"{value:g}" if isinstance(value, int | float) else plain(value)


def _requested_settings(job: JobView) -> dict[str, str]:
    share = _("none") if not job.validation_share else percent(job.validation_share, 0)
    names = {one.id: one.name for one in cached.dataset_list()}
    return {
        _("Provider"): plain(models.provider_name(job.provider)),
        _("Started from"): code(job.base_model),
        _("Data set"): plain(names.get(job.dataset_id or "", _("no longer exists"))),
        _("Rows"): number(job.n_examples),
        _("Kept for validation"): share,
        _("Format of the file"): plain(job.file_format),
        _("Separator"): _("none") if job.separator is None else code(repr(job.separator)),
        _("Stop"): _("none") if job.stop is None else code(repr(job.stop)),
        **{_(title): hyperparameter(job, name) for name, title in HYPERPARAMETERS.items()},
        _("Seed"): _("automatic") if job.seed is None else number(job.seed),
        _("Suffix"): plain(job.suffix or "–"),
    }


def _took(job: JobView) -> dict[str, str]:
    took = duration(job.training_s(utcnow()))
    return {
        _("Status"): plain(job_labels.status(job)),
        _("Resulting model"): code(job.fine_tuned_model) if job.fine_tuned_model else _("none yet"),
        _("Provider's job id"): code(job.remote_id) if job.remote_id else _("none yet"),
        _("Tokens trained on"): number(job.trained_tokens),
        _("Cost"): _beside(
            work_cost(job.provider, job.cost_usd, job.training_s(utcnow())),
            None if job.estimated_usd is None or job.provider == ENGINE else usd(job.estimated_usd),
        ),
        _("Submitted"): clock(job.created_at),
        _("Training began"): _began(job),
        _("Ended"): _ended(job),
        _("Training time"): _beside(took, None if job.estimated_s is None else duration(job.estimated_s)),
        _("Started by"): plain(job.created_by or "–"),
    }


def _began(job: JobView) -> str:
    """When training started, excluding time in the queue."""
    began = job_events.training_started_at(cached.store(), job.id) or job.running_since
    if began is not None:
        return clock(began)
    if job.training_s(utcnow()) == 0:
        return _("not started") if job.finished else _("not yet")
    return _("unknown")


def _ended(job: JobView) -> str:
    if not job.finished:
        return _("not yet")
    return _("unknown") if job.finished_at is None else clock(job.finished_at)


def _beside(actual: str, expected: str | None) -> str:
    return actual if expected is None else _("{actual}, expected: {expected}").format(actual=actual, expected=expected)


def _table(title: str, rows: Mapping[str, str]) -> None:
    st.markdown(f"**{title}**")
    st.table(dict(rows), border="horizontal", width="content", alt=title)


def _trackers(job: JobView) -> None:
    """The trackers of the job."""
    for name, logged in job.trackers.items():
        facts = logged if isinstance(logged, Mapping) else {}
        words = [as_markdown(str(fact)) for fact in (facts.get("error"), facts.get("url")) if fact]
        state = _TRACKED.get(str(facts.get("state") or ""))
        if state is not None and not facts.get("error"):
            words.insert(0, _(state).format(step=number(facts.get("step")), project=plain(facts.get("project"))))
        if name == "trackio" and not facts.get("error"):
            words.append(code(f"trackio show --project {facts.get('project')}"))
        st.caption(f":material/monitoring: {pair(plain(_TRACKERS.get(name, name)), ' · '.join(words) or '–')}")
