"""Pickers for models, their names on pages, and what a model is for."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.datasets import presets
from core.errors import FabulaError
from core.languages import CHINESE, ENGLISH
from core.model_profile import model_purpose
from core.model_profile.model_purpose import Purpose, purpose_of
from core.pricing.prices import tuned_base
from core.providers import ModelInfo
from pages.ui import cache, state
from pages.ui.components import cards, model_sample
from pages.ui.i18n import _, code, column_name, language, localized, mark, n_, plain

_LOOK_S = 2.0  # the engine takes about ten seconds to start

_SENTENCES = {
    "instructions": mark("Follows instructions."),
    "base": mark("Base model: continues text, does not follow instructions."),
    "unknown": mark("This model's purpose is unknown."),
}
_LANGUAGES = {ENGLISH: mark("English"), CHINESE: mark("Chinese")}


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
    found = list(cache.models().found if among is None else among)
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
        _purpose_line(info, key)
    return info


def _unlisted_model(key: str, listed: Container[str]) -> ModelInfo | None:
    """A requested model that is not in the lists: a checkpoint, or a model that was just created."""
    requested = state.get(key)
    if requested is None or requested in listed:
        requested = state.get(f"{key}_made")
    if requested is None or requested in listed:
        return None
    provider, _slash, model = str(requested).partition("/")
    job = cache.job_of(model)
    if job is None or job.provider != provider or provider not in cache.registry().ids():
        return None
    state.set_value(f"{key}_made", requested)
    endpoint: Literal["chat", "completion"] = "chat" if job.file_format == "chat" else "completion"
    return ModelInfo(model, provider, tuned_base(job.base_model) or job.base_model, endpoint, job.finished_at)


def none_yet() -> None:
    """Why there is no model to pick, and what to do."""
    engine = cache.status().engine
    if engine.state == "missing":
        cards.engine_missing_card()
        return
    if engine.state != "starting" and (problems := _refreshed_models().problems):
        for problem in problems.values():
            cards.error_card(problem)
        st.button(_("Refresh"), icon=":material/refresh:", key="models_again", on_click=cache.forget_models)
        return
    st.fragment(run_every=_LOOK_S)(_wait)()


def _refreshed_models() -> cache.OfferedModels:
    """The current models: the cached ones may be from the engine's start. Reruns the page if they differ."""
    before = cache.models().found
    cache.forget_models()
    offered = cache.models()
    if offered.found != before:
        st.rerun()
    return offered


def _wait() -> None:
    """Wait for the engine; then redraw the page with its models."""
    st.info(_("The engine is starting; its models appear in a moment."), icon=":material/hourglass_top:")
    if cache.status().engine.state != "starting":
        cache.forget_models()
        offered = cache.models()
        if offered.found or offered.problems:  # problems: the engine did not start
            st.rerun()


def short_name(model: str) -> str:
    """A model's name for narrow places: a tuned model's suffix and id, with its base."""
    if not model.startswith("ft:"):
        return model
    parts = model.split(":")
    own_name = " ".join(part for part in parts[3:] if part)
    return f"{own_name or model} · {parts[1]}"


def label(info: ModelInfo) -> str:
    """A model's name for a list: shortened for our own tuned models, with the provider if it is not the engine."""
    name = short_name(info.id)
    return name if info.provider == "engine" else f"{name} · {provider_name(info.provider)}"


def provider_name(provider_id: str) -> str:
    """A provider's name, in the visitor's language if it is translated."""
    if provider_id == "engine":
        return _("Engine")
    try:
        return localized(cache.registry().provider(provider_id).name)
    except FabulaError:  # it is no longer configured
        return provider_id


def known_purpose(info: ModelInfo) -> Purpose:
    """The purpose of a model, from the ledger, the price list and its name."""
    training = cache.training_of(info.provider, info.id)
    price = cache.prices().find(info.provider, info.id)
    priced = price is not None and not price.local and price.output_per_mtok is not None
    return purpose_of(info, None if training is None else training.facts, priced=priced)


def _purpose_line(info: ModelInfo, key: str) -> None:
    """The line, and the button that writes a sample; `key` distinguishes several pickers on a page."""
    purpose = known_purpose(info)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}_purpose"):
        st.caption(_purpose_sentence(purpose), width="content")
        model_sample.button(info, purpose, key)
    model_sample.show(info, key)


def _purpose_sentence(purpose: Purpose) -> str:
    """What a model is for, in one sentence."""
    if purpose.kind == "stories":
        language = purpose.language or ""
        names = dict.fromkeys(
            column_name(column.name).replace("_", " ")
            for preset in model_purpose.presets_of(language)
            for column in preset.recipe.columns
        )
        return _("Writes stories of the kind it was trained on ({language}: {columns}).").format(
            language=_(_LANGUAGES[language]), columns=_(", ").join(names)
        )
    if purpose.kind != "tuned":
        return _(_SENTENCES[purpose.kind])
    if purpose.dataset is None:
        return _("Tuned from {base}. Its training data is unknown.").format(base=code(purpose.base or _("unknown")))
    if purpose.rows is None:
        return _("Trained on {dataset}.").format(dataset=plain(purpose.dataset))
    rows = n_("{n} row", "{n} rows", purpose.rows)
    return _("Trained on {dataset}, {rows}.").format(dataset=plain(purpose.dataset), rows=rows)
