"""The family tree of a job as a chart, and its chain as one curve."""

from __future__ import annotations

import streamlit as st

from core.charts import lineage as charts_family
from core.charts.lineage import Member
from core.db.tables import utcnow
from core.finetuning import lineage
from core.finetuning.jobs import JobView
from core.finetuning.lineage import Family, Node
from core.pricing.prices import ENGINE
from pages.ui import cached, views
from pages.ui.lang import _, duration, mark, n_, number, usd
from pages.ui.money import local_amount
from pages.ui.training import cached_curves, cached_training, curves, job_labels, job_list

_KINDS = {
    "dataset": mark("Data set"),
    "base": mark("Base model"),
    "job": mark("Job"),
    "checkpoint": mark("Checkpoint"),
    "model": mark("Model"),
}
_BAR, _HIGHEST = 24, 640  # px: space for the scroll bar; visible part of a large graph


def show(job: JobView) -> None:
    """Draw the tree; for a job that continues an earlier one also the chain from the first base model."""
    family = cached_training.family(job)
    _tree(family, job)
    chain = lineage.chain(cached.store(), job.id)
    if len(chain) > 1:
        _chain(chain)


def _tree(family: Family, job: JobView) -> None:
    """The chart; a click on another job opens it."""
    members = [_member(one, job) for one in family.nodes]
    kinds = {kind: _(title) for kind, title in _KINDS.items()}
    key = (tuple(members), family.edges, tuple(kinds.values()))
    chart = cached_curves.cached_chart(key, lambda: charts_family.family(members, family.edges, kinds))
    with st.container(height=min(_HIGHEST, chart.spec["height"] + _BAR), border=False):  # so that it can be scrolled
        event = st.vega_lite_chart(
            chart.rows, chart.spec, key=f"training_family_{job.id}", on_select="rerun", width="content",
            selection_mode=charts_family.OPENED,
            alt=_("Data sets, jobs, checkpoints and models, and how each was made"),
        )  # fmt: skip
    st.caption(_("Read from left to right: each part was made from the one before. Click another job to open it."))
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
        label, _slash, base = job_labels.model_name(node.model.partition("/")[2]).partition(" · ")
        detail = base
    elif node.kind == "job" and node.status:
        rows = _("{rows} rows").format(rows=node.detail) if node.detail else ""
        detail = " · ".join(part for part in (job_labels.status_word(node.status), rows) if part)
    return Member(node.id, node.kind, label, detail, marked=node.kind == "job" and node.ref == job.id)


def _chain(chain: tuple[JobView, ...]) -> None:
    """One continuous curve, and the total cost."""
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
    source = cached_curves.chain_source(chain)
    if source.results.steps:
        curves.charts_only(source, "training_chain")
