"""Details of a job: events, settings, and the family tree, with the curves of the jobs it continued joined into one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import streamlit as st

from core.charts import lineage as charts_family
from core.charts.lineage import Member
from core.db.tables import utcnow
from core.finetuning import job_events, lineage
from core.finetuning.job_events import JobEvent
from core.finetuning.job_views import JobView
from core.finetuning.lineage import Family, Node
from core.people import people
from core.pricing.prices import ENGINE
from pages.ui import cache, visible
from pages.ui.components import models, shutdown_notes, views
from pages.ui.components.money import local_amount, work_cost
from pages.ui.i18n import _, as_markdown, clock, code, duration, mark, n_, number, pair, percent, plain, usd
from pages.ui.training import cached_training, curves, job_labels, job_list

_LEVELS = {"warn": ":material/warning: ", "error": ":material/error: "}
_MOST = 200  # events on the page; all of them are in the zip
HYPERPARAMETERS = {
    "n_epochs": mark("Epochs"),
    "batch_size": mark("Batch size"),
    "learning_rate_multiplier": mark("Learning rate multiplier"),
}
_TRACKED = {
    "live": mark("logged up to step {step}, in the project {project}"),
    "logged": mark("logged, in the project {project}"),
}

_NODE_KINDS = {
    "dataset": mark("Data set"),
    "base": mark("Base model"),
    "job": mark("Job"),
    "checkpoint": mark("Checkpoint"),
    "model": mark("Model"),
}
_BAR, _HIGHEST = 24, 640  # px: space for the scroll bar; visible part of a large graph


def events(job: JobView) -> None:
    """Render every event, newest first, with the provider's text."""
    found = job_events.events(cache.store(), job.id, _MOST)
    if not found:
        st.caption(_("No events yet."))
        return
    st.caption(n_("{n} event", "{n} events", len(found)))
    now = utcnow()
    with st.container(height=320 if len(found) > 10 else "content", border=False):
        st.caption("  \n".join(_line(event, now) for event in reversed(found)))


def _line(event: JobEvent, now: datetime) -> str:
    kind = "" if event.type == "message" else f"{plain(event.type)}: "  # an unknown type is shown as it is
    return f"{clock(event.created_at, now)} · {_LEVELS.get(event.level, '')}{kind}{as_markdown(event.message)}"


def settings(job: JobView) -> None:
    """Render requested settings, and the outcome next to the estimate."""
    left, right = st.columns(2)
    with left:
        _table(_("Settings of this job"), _requested_settings(job))
    with right:
        _table(_("Outcome"), _took(job))
        _trackers(job)


def hyperparameter(job: JobView, name: str) -> str:
    """A hyperparameter as requested."""
    value = job.hyperparameters.get(name)
    if name in job_labels.OPTIONS:
        return job_labels.option(name, value)
    if value in (None, "auto"):
        return _("automatic")
    return f"{value:g}" if isinstance(value, int | float) else plain(value)


def _requested_settings(job: JobView) -> dict[str, str]:
    share = _("none") if not job.validation_share else percent(job.validation_share, 0)
    names = {one.id: one.name for one in visible.dataset_list()}
    return {
        _("Provider"): plain(models.provider_name(job.provider)),
        _("Started from"): code(job.base_model),
        _("Data set"): plain(names.get(job.dataset_id or "", _("no longer exists"))),
        _("Rows"): number(job.n_examples),
        _("Kept for validation"): share,
        _("Method"): _(job_labels.METHODS.get(job.method, job.method)),
        _("Format of the file"): plain(job.file_format),
        _("Separator"): _("none") if job.separator is None else code(repr(job.separator)),
        _("Stop"): _("none") if job.stop is None else code(repr(job.stop)),
        **{_(title): hyperparameter(job, name) for name, title in HYPERPARAMETERS.items()},
        **({_("Beta"): hyperparameter(job, "beta")} if job.method == "dpo" else {}),
        **{_(title): hyperparameter(job, name) for name, title in _options(job).items()},
        _("Seed"): _("automatic") if job.seed is None else number(job.seed),
        _("Suffix"): plain(job.suffix or "–"),
    }


def _options(job: JobView) -> dict[str, str]:
    """The hyperparameters that only engine jobs have."""
    return job_labels.OPTIONS if job.provider == ENGINE else {}


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
        _("Started by"): plain(people.name_of(cache.store(), job.created_by)),
    }


def _began(job: JobView) -> str:
    """When training started, excluding time in the queue."""
    began = job_events.training_started_at(cache.store(), job.id) or job.running_since
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
    """Render the trackers of the job."""
    for name, logged in job.trackers.items():
        facts = logged if isinstance(logged, Mapping) else {}
        words = [as_markdown(str(fact)) for fact in (facts.get("error"), facts.get("url")) if fact]
        state = _TRACKED.get(str(facts.get("state") or ""))
        if state is not None and not facts.get("error"):
            words.insert(0, _(state).format(step=number(facts.get("step")), project=plain(facts.get("project"))))
        if name == "trackio" and not facts.get("error"):
            words.append(code(f"trackio show --project {facts.get('project')}"))
        st.caption(
            f":material/monitoring: {pair(plain(job_labels.TRACKERS.get(name, name)), ' · '.join(words) or '–')}"
        )


def family_tree(job: JobView) -> None:
    """Render the tree; for a job that continues an earlier one also the chain from the first base model."""
    family = visible.family(cached_training.family(job))
    _tree(family, job)
    seen = {one.id for one in visible.job_list()}
    chain = tuple(one for one in lineage.chain(cache.store(), job.id) if one.id in seen)
    if len(chain) > 1:
        _chain(chain)


def _tree(family: Family, job: JobView) -> None:
    """Render the chart; a click on another job opens it."""
    members = [_member(one, job) for one in family.nodes]
    kinds = {kind: _(title) for kind, title in _NODE_KINDS.items()}
    key = (tuple(members), family.edges, tuple(kinds.values()))
    chart = cached_training.cached_chart(key, lambda: charts_family.family(members, family.edges, kinds))
    with st.container(height=min(_HIGHEST, chart.spec["height"] + _BAR), border=False):  # so that it can be scrolled
        event = st.vega_lite_chart(
            chart.rows, chart.spec, key=f"training_family_{job.id}", on_select="rerun", width="content",
            selection_mode=charts_family.OPENED,
            alt=_("Data sets, jobs, checkpoints and models, and how each was made"),
        )  # fmt: skip
    st.caption(_("Read from left to right: each part was made from the one before. Click another job to open it."))
    shutdown_notes.show_all((*_called(one), None) for one in family.nodes if one.model)
    hits = event.selection.get(charts_family.OPENED) or []
    other_jobs = {one.id: one.ref for one in family.nodes if one.kind == "job" and one.ref != job.id}
    if hits and (job_id := other_jobs.get(str(hits[0].get("id")))) is not None:
        job_list.open_jobs(job_id)
        st.rerun()


def _member(node: Node, job: JobView) -> Member:
    """The label of a node, in the visitor's language."""
    label, detail = node.label, node.detail
    if node.kind == "checkpoint":
        label = _("step {step}").format(step=node.label)
    elif node.kind == "model" and node.model:
        label, _slash, base = models.short_name(node.model.partition("/")[2]).partition(" · ")
        detail = base
    elif node.kind == "job" and node.status:
        rows = _("{rows} rows").format(rows=node.detail) if node.detail else ""
        detail = " · ".join(part for part in (job_labels.status_word(node.status), rows) if part)
    if node.model and (notice := shutdown_notes.notice_of(*_called(node))) is not None:
        detail = " · ".join(part for part in (shutdown_notes.words(notice), detail) if part)
    return Member(node.id, node.kind, label, detail, marked=node.kind == "job" and node.ref == job.id)


def _called(node: Node) -> tuple[str, str]:
    """Provider and name of the model at this node."""
    provider, _slash, model = str(node.model).partition("/")
    return provider, model


def _chain(chain: tuple[JobView, ...]) -> None:
    """Render one continuous curve, and the total cost."""
    st.markdown(f"**{_('From the first job to this one')}**")
    cost = lineage.chain_cost(chain, utcnow())
    unknown = n_("and {n} job without a price", "and {n} jobs without a price", cost.unknown)
    with st.grid(4, min_column_width=150):
        views.metric(_("Jobs"), number(len(chain)))
        views.metric(_("Tokens trained on"), number(cost.tokens))
        if cost.unknown == len(chain):
            on_engine = all(job.provider == ENGINE for job in chain)
            views.metric(_("Total cost"), local_amount(None) if on_engine else usd(None))
        else:
            also = unknown if cost.unknown else None
            views.metric(_("Total cost"), usd(cost.known_usd), also, delta_color="off", delta_arrow="off")
        views.metric(_("Total training time"), duration(cost.seconds))
    same = [number for number, job in enumerate(chain) if job.method != chain[-1].method]  # losses of methods differ
    source = cached_training.chain_source(chain[same[-1] + 1 if same else 0 :])
    if source.results.steps:
        curves.charts_only(source, "training_chain")
