"""Labels of evaluations: state, figures, and a job's main result."""

from __future__ import annotations

from collections.abc import Sequence

from core.evaluation import evaluations
from core.evaluation.evaluations import EvaluationView
from core.evaluation.scoring import Interval
from pages.ui import cached
from pages.ui.lang import _, as_markdown, mark, number, percent

STATES = {
    "queued": mark("waiting for the worker"),
    "running": mark("running"),
    "stopping": mark("stopping"),
    "stopped": mark("stopped"),
    "done": mark("finished"),
    "failed": mark("failed"),
}


def state(view: EvaluationView) -> str:
    """Its state in words, with its progress."""
    words = _(STATES[view.state]) if view.state in STATES else view.state
    if view.active:
        words += " · " + _("{n} of {total} answers").format(n=number(view.answered), total=number(view.total))
    if view.reason:
        words += f" · {as_markdown(view.reason)}"
    return words


def share(interval: Interval | None) -> str:
    """A share with its 95 % interval."""
    if interval is None:
        return _("unknown")
    return _("{share} ({low} to {high})").format(
        share=percent(interval.value), low=percent(interval.low), high=percent(interval.high)
    )


def judged(view: EvaluationView) -> Interval | None:
    """The main score: the share of correct labels, or for texts the similarity to the expected ones."""
    if view.metrics is None:
        return None
    return view.metrics.accuracy if view.kind == "label" else view.metrics.overlap


def newest(job_ids: Sequence[str]) -> dict[str, EvaluationView]:
    """The newest finished evaluation of each job's own model, by the job's id."""
    found: dict[str, EvaluationView] = {}
    for job_id in job_ids:
        done = [one for one in evaluations.list_evaluations(cached.store(), job_id=job_id) if one.metrics is not None]
        if done:
            found[job_id] = max(done, key=lambda one: one.created_at)
    return found
