"""Tests a provider: the button, the progress, and the results in words."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core.db.tables import utcnow
from core.errors import FabulaError
from core.jobs import provider_probe
from core.jobs.provider_probe import Answer, Check, Finding, ProbeReport
from core.providers import RetryPolicy, saved
from core.providers.registry import ENGINE
from core.providers.saved import SavedView
from pages.ui import cache, state, visible
from pages.ui.background import BackgroundTask
from pages.ui.components import cards, models, shutdown_notes, views
from pages.ui.i18n import _, ago, as_markdown, mark, n_, plain, sentences
from pages.ui.sign_in import current_actor

_ONE_TRY = RetryPolicy(tries=1, total_s=60.0)
_TIMEOUT_S = 60.0  # a server on this machine may load the model first
_LOOK_S = 0.5
_NAMES: dict[Check, str] = {
    "models": mark("List of models"),
    "chat": mark("Chat"),
    "streaming": mark("Streaming"),
    "choices": mark("Several texts per request (`n`)"),
    "usage": mark("Token counts"),
    "completions": mark("Completions without chat"),
    "batches": mark("Batches"),
    "training": mark("Fine-tuning"),
    "speech": mark("Speech"),
}
_ICONS: Mapping[Answer, str] = {
    "yes": ":green[:material/check_circle:]",
    "no": ":gray[:material/do_not_disturb_on:]",
    "unknown": ":orange[:material/help:]",
}


def button(provider_id: str) -> None:
    """Render the **Test** button."""
    work = _work(provider_id)
    st.button(
        _("Test"), icon=":material/network_check:", key=f"settings_test_{provider_id}",
        disabled=work is not None and not work.done, on_click=start, args=(provider_id,),
    )  # fmt: skip


def start(provider_id: str, model: str = "") -> None:
    """Start a test in the background. Call only from a callback, or before the card is rendered."""
    actor, store, book, registry = current_actor(), cache.store(), cache.prices(), cache.registry()
    lists = cache.model_lists()
    registry.refresh()

    def run(count: object) -> ProbeReport:
        client = registry.client(provider_id, retry_policy=_ONE_TRY, timeout=_TIMEOUT_S)
        revision = next((view.revision for view in saved.list_saved(store) if view.id == provider_id), "")
        report = provider_probe.probe(store, actor, client, book, model, lambda check: seen.append(check))
        lists.forget(provider_id)
        if revision:
            saved.save_findings(store, actor, provider_id, revision, report.to_dict())
            registry.refresh()
        return report

    seen: list[Check] = []
    work = BackgroundTask(run, len(_NAMES), asks=True)
    state.set_value(_key(provider_id), (work, seen))


def show(provider_id: str, view: SavedView | None) -> bool:
    """Render the progress of a test, or the results of the last one. True if these already explain a failure."""
    work = _work(provider_id)
    if work is not None and not work.done:
        st.fragment(run_every=_LOOK_S)(_progress)(provider_id)
        return True
    try:
        tested = work.get() if work is not None else None
    except FabulaError as problem:
        cards.error_card(problem)
        return True
    stored = ProbeReport.from_dict(view.found) if view is not None else None
    if (report := tested or stored) is not None:
        _report(provider_id, report)
    return report is not None and not report.usable


def forget(provider_id: str) -> None:
    """Discard this session's results of a test."""
    state.drop(_key(provider_id))


def _report(provider_id: str, report: ProbeReport) -> None:
    if report.usable:
        words = n_("Ready: {n} model.", "Ready: {n} models.", report.models) if report.models else _("Ready.")
        st.markdown(f":green[:material/check_circle:] {words} {_summary(report)}")
    else:
        st.error(as_markdown(report.problem or _("It can't write texts.")), icon=":material/error:")
    with st.expander(_("What the test found"), key=f"settings_found_{provider_id}"):
        for finding in report.findings:
            if finding.answer != "untested":
                st.markdown(_line(finding))
        untested = [_(_NAMES[finding.check]) for finding in report.findings if finding.answer == "untested"]
        if untested:
            st.caption(_("Not tested: {checks}").format(checks=" · ".join(untested)))
        asked = _("Asked: {model}").format(model=plain(report.model)) if report.model else ""
        views.facts((asked, ago(report.at, utcnow())))
        _another_model(provider_id, report)


def _another_model(provider_id: str, report: ProbeReport) -> None:
    """Test again with a model of the visitor's choice."""
    offered = {info.id: info for info in visible.models().found if info.provider == provider_id}
    if len(offered) < 2 or provider_id == ENGINE:
        return
    names, labels = list(offered), models.options(offered)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.selectbox(
            _("Test with another model"), names, key=f"settings_probe_model_{provider_id}",
            index=names.index(report.model) if report.model in offered else 0, format_func=labels.__getitem__,
        )  # fmt: skip
        st.button(
            _("Test it"), key=f"settings_probe_again_{provider_id}", on_click=start, args=(provider_id, str(model))
        )
    if (info := offered.get(str(model))) is not None:
        shutdown_notes.show(provider_id, info.id, info.base)


def _summary(report: ProbeReport) -> str:
    """What the provider supports, in one line."""
    can = [_(_NAMES[f.check]) for f in report.findings if f.answer == "yes" and f.check != "models"]
    return f":gray[{' · '.join(can)}]"


def _line(finding: Finding) -> str:
    name = _(_NAMES[finding.check])
    note = as_markdown(finding.note) if finding.note else ""
    return f"{_ICONS[finding.answer]} {name}" + (f"  \n:small[:gray[{note}]]" if note else "")


def _progress(provider_id: str) -> None:
    work, seen = state.get(_key(provider_id))
    if work.done:
        cache.forget_models(provider_id)
        st.rerun()
    current = _(_NAMES[seen[-1]]) if seen else _("connecting")
    st.progress(min(1.0, len(seen) / len(_NAMES)), text=sentences(_("Testing: {step}").format(step=current)))


def _work(provider_id: str) -> BackgroundTask[ProbeReport] | None:
    found = state.get(_key(provider_id))
    return None if found is None else found[0]


def _key(provider_id: str) -> str:
    return f"settings_probe_{provider_id}"
