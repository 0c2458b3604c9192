"""The state of engine, worker and providers: a strip for the home page, cards for the settings page."""

from __future__ import annotations

import streamlit as st

from core.jobs.system_status import EngineStatus, WorkerStatus
from core.providers.registry import ENGINE
from pages.ui import cache, live_updates, visible
from pages.ui.components import cards, views
from pages.ui.i18n import _, as_markdown, code, n_, number, plain, sentences, token_speed


@st.fragment
def strip() -> None:
    """Render one line: engine with its current job, worker, providers."""
    status = live_updates.follow(cache.status)
    engine, worker = status.engine, status.worker
    badges = [_engine_badge(engine)]
    if engine.models:
        badges.append(_badge("gray", "deployed_code", n_("{n} model", "{n} models", len(engine.models))))
    if engine.training:
        badges.append(_badge("blue", "model_training", _training(engine)))
    if not worker.up:
        badges.append(_badge("orange", "pause_circle", _("Worker not running")))
    elif worker.running or worker.queued:
        words = _("Worker: {running} running, {queued} waiting").format(running=worker.running, queued=worker.queued)
        badges.append(_badge("blue", "sync", words))
    else:
        badges.append(_badge("green", "check_circle", _("Worker ready")))
    badges += [_badge("gray", "cloud", plain(p.name)) for p in status.providers if p.id != ENGINE]
    st.markdown(" ".join(badges))
    _trouble(engine)
    _trouble(worker)


@st.fragment
def engine_card() -> None:
    """Render the engine's details: state, models, speed, queue."""
    with st.container(border=True):
        st.subheader(_("Engine"), anchor=False)
        engine = live_updates.follow(cache.status).engine
        st.markdown(_engine_badge(engine))
        if engine.state == "missing":
            cards.engine_missing_card()
            return
        _trouble(engine)
        if engine.state != "up":
            return
        st.table(
            {
                _("Version"): plain(engine.version or _("unknown")),
                _("Address"): code(engine.url),
                _("Last measured speed"): token_speed(engine.tokens_per_s)
                if engine.tokens_per_s
                else _("not measured yet"),
                _("Training now"): _training(engine) if engine.training else _("nothing"),
                _("Jobs waiting"): number(engine.queue),
            },
            border="horizontal",
            alt=_("State of the engine"),
        )
        st.markdown(_("**Models**"))
        with st.container(gap="xsmall"):
            for model in visible.models().found:
                if model.provider == ENGINE:
                    base = model.base if model.base not in (None, model.id) else None
                    views.facts((code(model.id), _("tuned from {base}").format(base=base) if base else ""))


def _trouble(part: EngineStatus | WorkerStatus) -> None:
    """Render why a component is not running, and what to do."""
    if part.message:
        st.caption(sentences(as_markdown(part.message), as_markdown(part.next_step)))


def _engine_badge(engine: EngineStatus) -> str:
    match engine.state:
        case "up":
            return _badge("green", "check_circle", _("Engine ready"))
        case "starting":
            return _badge("orange", "hourglass_top", _("Engine starting"))
        case "missing":
            return _badge("gray", "memory", _("Engine not installed"))
    return _badge("red", "error", _("Engine not running"))


def _training(engine: EngineStatus) -> str:
    training = engine.training or {}
    if not training.get("total_steps"):
        return _("Training: preparing")
    return _("Training: step {step} of {total}").format(
        step=number(training.get("step") or 0), total=number(training.get("total_steps"))
    )


def _badge(color: str, icon: str, words: str) -> str:
    return f":{color}-badge[:material/{icon}: {words}]"
