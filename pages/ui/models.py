"""Pickers for models, and their names on pages."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.datasets import presets
from core.errors import FabulaError
from core.pricing.prices import tuned_base
from core.providers import ModelInfo
from pages.ui import cached, cards, model_purpose, state
from pages.ui.lang import _, language, localized

_LOOK_S = 2.0  # the engine takes about ten seconds to start


def storyteller() -> str:
    """The packaged writer of the page's language."""
    return presets.get(language=language()).recipe.model


def picker(
    title: str,
    key: str,
    *,
    prefer: str = "",
    among: Sequence[ModelInfo] | None = None,
    help: str | None = None,
    width: int | Literal["stretch"] = "stretch",
    purpose_in: DeltaGenerator | None = None,
) -> ModelInfo | None:
    """A model picker, initially `prefer` or an untuned model; None if there is no model.

    The model's purpose and the sample button are under the list, or in `purpose_in`.
    """
    found = list(cached.models().found if among is None else among)
    by_id = {f"{info.provider}/{info.id}": info for info in found}
    if among is None and (unlisted := _unlisted_model(key, by_id)) is not None:
        by_id[f"{unlisted.provider}/{unlisted.id}"] = unlisted
    if not by_id:
        st.selectbox(title, [], key=f"{key}_none", placeholder=_("No model yet"), disabled=True, width=width)
        return None
    if state.get(key) not in by_id:
        first = min(by_id, key=lambda k: (by_id[k].id != prefer, by_id[k].id.startswith("ft:")))
        state.set_value(key, first)
    chosen = st.selectbox(
        title,
        list(by_id),
        format_func=lambda k: label(by_id[k]),
        key=key,
        help=help,
        width=width,
        persist_state="session",
    )
    info = by_id[str(chosen)]
    with purpose_in or st.container():
        model_purpose.show(info, key)
    return info


def _unlisted_model(key: str, listed: Container[str]) -> ModelInfo | None:
    """A requested model that is not in the lists: a checkpoint, or a model that was just created."""
    requested = state.get(key)
    if requested is None or requested in listed:
        requested = state.get(f"{key}_made")
    if requested is None or requested in listed:
        return None
    provider, _slash, model = str(requested).partition("/")
    job = cached.job_of(model)
    if job is None or job.provider != provider or provider not in cached.registry().ids():
        return None
    state.set_value(f"{key}_made", requested)
    endpoint: Literal["chat", "completion"] = "chat" if job.file_format == "chat" else "completion"
    return ModelInfo(model, provider, tuned_base(job.base_model) or job.base_model, endpoint, job.finished_at)


def none_yet() -> None:
    """Why there is no model to pick, and what to do."""
    engine = cached.status().engine
    if engine.state == "missing":
        cards.engine_missing_card()
        return
    if engine.state != "starting" and (problems := _refreshed_models().problems):
        for problem in problems.values():
            cards.error_card(problem)
        st.button(_("Refresh"), icon=":material/refresh:", key="models_again", on_click=cached.forget_models)
        return
    st.fragment(run_every=_LOOK_S)(_wait)()


def _refreshed_models() -> cached.OfferedModels:
    """The current models: the cached ones may be from the engine's start. Reruns the page if they differ."""
    before = cached.models().found
    cached.forget_models()
    offered = cached.models()
    if offered.found != before:
        st.rerun()
    return offered


def _wait() -> None:
    """Wait for the engine; then redraw the page with its models."""
    st.info(_("The engine is starting; its models appear in a moment."), icon=":material/hourglass_top:")
    if cached.status().engine.state != "starting":
        cached.forget_models()
        offered = cached.models()
        if offered.found or offered.problems:  # problems: the engine did not start
            st.rerun()


def label(info: ModelInfo) -> str:
    """A model's name for a list: shortened for our own tuned models, with the provider if it is not the engine."""
    name = info.id
    if info.id.startswith("ft:"):
        parts = info.id.split(":")
        name = " · ".join((" ".join(part for part in parts[3:] if part) or info.id, parts[1]))
    return name if info.provider == "engine" else f"{name} · {info.provider}"


def provider_name(provider_id: str) -> str:
    """A provider's name, in the visitor's language if it is translated."""
    if provider_id == "engine":
        return _("Engine")
    try:
        return localized(cached.registry().provider(provider_id).name)
    except FabulaError:  # it is no longer configured
        return provider_id
