"""Pickers for models, their names on pages, what a model is for, and a short sample of its writing."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.datasets import grid, presets
from core.db.tables.story import SAMPLE
from core.errors import FabulaError
from core.evaluation.evaluation_request import with_separator
from core.languages import CHINESE, ENGLISH
from core.model_profile import model_purpose
from core.model_profile.model_purpose import Purpose, purpose_of
from core.pricing import tokens
from core.pricing.price_book import cost_of
from core.pricing.prices import ENGINE, tuned_base
from core.providers import CompletionRequest, ModelInfo
from core.stories.story_record import StoryPlacement
from core.stories.stream import StoryStream, StreamRequest
from pages.ui import cache, state, visible
from pages.ui.components import cards, prompt_formats, shutdown_notes, story_text, views
from pages.ui.components.story_session import story_session
from pages.ui.i18n import _, code, column_name, language, localized, mark, n_, plain, usd_at_most
from pages.ui.sign_in import current_actor

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
    found = list(visible.models().found if among is None else among)
    by_id = {f"{info.provider}/{info.id}": info for info in found}
    if among is None and (unlisted := _unlisted_model(key, by_id)) is not None:
        by_id[f"{unlisted.provider}/{unlisted.id}"] = unlisted
    if not by_id:
        st.selectbox(title, [], key=f"{key}_none", placeholder=_("No model yet"), disabled=True, width=width)
        return None
    if state.get(key) not in by_id:
        first = min(by_id, key=lambda k: (by_id[k].id != prefer, by_id[k].id.startswith("ft:")))
        state.set_value(f"{key}_before", (state.get(key), first))
        state.set_value(key, first)
    labels = options(by_id)
    chosen = st.selectbox(
        title,
        list(by_id),
        format_func=labels.__getitem__,
        key=key,
        help=help,
        width=width,
        persist_state="session",
    )
    info = by_id[str(chosen)]
    with purpose_in or st.container():
        _stopped_before(key)
        _purpose_line(info, key)
        shutdown_notes.show(info.provider, info.id, info.base)
    return info


def options(by_key: Mapping[str, ModelInfo]) -> dict[str, str]:
    """The labels of the models in a list, with the date for those that stop soon or have stopped."""
    book = cache.prices() if any(info.provider != ENGINE for info in by_key.values()) else None
    return {
        key: shutdown_notes.with_date(label(info), shutdown_notes.of_info(info, book)) for key, info in by_key.items()
    }


def _stopped_before(key: str) -> None:
    """Say that the model chosen earlier, for example in a saved form, has stopped, until another one is chosen."""
    before, instead = state.get(f"{key}_before") or (None, None)
    provider, _slash, model = str(before or "").partition("/")
    if state.get(key) == instead and model:
        shutdown_notes.gone(provider, model)


def _unlisted_model(key: str, listed: Container[str]) -> ModelInfo | None:
    """A requested model that is not in the lists: a checkpoint, or a model that was just created."""
    requested = state.get(key)
    if requested is None or requested in listed:
        requested = state.get(f"{key}_made")
    if requested is None or requested in listed:
        return None
    provider, _slash, model = str(requested).partition("/")
    job = visible.job_of(model)
    if job is None or job.provider != provider or provider not in cache.registry().ids():
        return None
    state.set_value(f"{key}_made", requested)
    endpoint: Literal["chat", "completion"] = "chat" if job.file_format == "chat" else "completion"
    return ModelInfo(model, provider, tuned_base(job.base_model) or job.base_model, endpoint, job.finished_at)


def none_yet() -> None:
    """Explain why there is no model to pick, and what to do."""
    engine = cache.status().engine
    if engine.state == "missing":
        cards.engine_missing_card()
        return
    if engine.state != "starting" and (problems := _refreshed_models().problems):
        for problem in problems.values():
            cards.error_card(problem)
        st.button(_("Try again"), icon=":material/refresh:", key="models_again", on_click=cache.forget_models)
        return
    st.fragment(run_every=_LOOK_S)(_wait)()


def _refreshed_models() -> cache.OfferedModels:
    """The current models: the engine's cached ones may date from its startup. Reruns the page if they differ."""
    before = cache.models().found
    cache.forget_models(ENGINE)
    offered = cache.models()
    if offered.found != before:
        st.rerun()
    return offered


def _wait() -> None:
    """Wait for the engine; then re-render the page with its models."""
    st.info(_("The engine is starting; its models appear in a moment."), icon=":material/hourglass_top:")
    if cache.status().engine.state != "starting":
        cache.forget_models(ENGINE)
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


def own_name(model: str) -> str:
    """A tuned model's suffix and id, without its base, for columns of tables; any other text unchanged."""
    return short_name(model).partition(" · ")[0] if model.startswith("ft:") else model


def dated_name(provider: str, model: str, base: str | None = None) -> str:
    """A model's short name, with its last day if it stops soon or has stopped.

    Args:
        base: the model it was tuned from, if its name does not say so.
    """
    return shutdown_notes.with_date(short_name(model), shutdown_notes.notice_of(provider, model, base))


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
    """Render the purpose line and the button that writes a sample; `key` distinguishes several pickers on a page."""
    purpose = known_purpose(info)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key}_purpose"):
        st.caption(_purpose_sentence(purpose), width="content")
        _sample_button(info, purpose, key)
    _show_sample(info, key)


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


# --- a sample ---------------------------------------------------------------------------------------------------------

_POLL_S = 0.3  # interval between re-renders of the text
_LEAVE_S = 5.0  # time since the page last rendered the sample; even a busy page re-renders sooner
_STORY_TOKENS = 300  # a story by a packaged writer
_TEXT_TOKENS = 120  # three sentences
_SAMPLE_TEMPERATURE = 0.5  # temperature for small models: above it, texts become incoherent


@dataclass(frozen=True, slots=True)
class ModelSample:
    """A sample that one visitor requested; `model` is `provider/id`."""

    model: str
    story: StoryStream


def _sample_button(info: ModelInfo, purpose: Purpose, key: str) -> None:
    """Render the button: Show a sample (with its price, if any), or Stop while it is being written."""
    sample = _current_sample(info, key)
    writing = sample is not None and not sample.story.done
    with views.one_of((True, False), writing):
        if sample is not None and writing:
            st.button(
                _("Stop"), icon=":material/stop:", type="tertiary", key=f"{key}_sample_stop",
                on_click=sample.story.cancel,
            )  # fmt: skip
            return
        with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):
            request = _sample_request(info, purpose)
            st.button(
                _("Show a sample"), icon=":material/edit_note:", type="tertiary", key=f"{key}_sample",
                on_click=_begin_sample, args=(info, request, key), disabled=story_session().writing,
            )  # fmt: skip
            if info.provider != ENGINE:
                st.caption(_sample_price(info, request), width="content")


def _show_sample(info: ModelInfo, key: str) -> None:
    """Render the sample of this model as it arrives; nothing if none was requested."""
    sample = _current_sample(info, key)
    if sample is None:
        return
    writing = not sample.story.done
    with st.container(border=True, key=f"{key}_sample_text"):
        st.fragment(run_every=_POLL_S if writing else None)(_sample_text)(sample, writing)
        if not writing:
            st.button(
                _("Close the sample"), icon=":material/close:", type="tertiary", key=f"{key}_sample_close",
                on_click=state.drop, args=(_sample_key(key),),
            )  # fmt: skip


def _sample_request(info: ModelInfo, purpose: Purpose) -> CompletionRequest:
    """A short request that fits the model: one of its own training prompts, a cell of its preset, the beginning of a
    text for a base model, a small task for any other model.
    """
    shape = prompt_formats.prompt_format_of(info)
    training = cache.training_of(info.provider, info.id)
    endpoint = shape.endpoint or cache.endpoint_of(info)
    if training is not None and training.prompt:
        return CompletionRequest(
            model=info.id,
            prompt=with_separator(training.prompt, shape.separator),
            system=shape.system,
            endpoint=endpoint,
            temperature=_SAMPLE_TEMPERATURE,
            max_tokens=_STORY_TOKENS,
            stop=shape.stop,
        )
    if purpose.kind == "stories":
        preset = model_purpose.presets_of(purpose.language or "")[0]
        names = [column.name for column in preset.recipe.columns]
        values = dict(zip(names, preset.outside[0], strict=True))
        prompt = grid.render(preset.recipe.template, values)
        return CompletionRequest(
            model=info.id,
            prompt=prompt,
            endpoint=endpoint,
            temperature=shape.sampling.temperature,
            top_p=shape.sampling.top_p,
            max_tokens=_STORY_TOKENS,
        )
    if purpose.kind == "base":
        return CompletionRequest(
            model=info.id,
            prompt=_("Once upon a time, a baker named Rosa"),
            endpoint="completion" if info.format in ("both", "completion") else endpoint,
            temperature=_SAMPLE_TEMPERATURE,
            max_tokens=_TEXT_TOKENS,
        )
    prompt = _("Write three sentences about a lighthouse keeper who finds a letter.")
    return CompletionRequest(model=info.id, prompt=prompt, endpoint=endpoint, max_tokens=_TEXT_TOKENS)


def _sample_price(info: ModelInfo, request: CompletionRequest) -> str:
    """The highest possible cost of the sample, in words."""
    read = tokens.count([request.system, request.prompt], request.model).tokens
    worst = cost_of(cache.prices(), info.provider, request.model, read, request.max_tokens)
    return _("price unknown") if worst is None else _("costs {price}").format(price=usd_at_most(worst))


def _sample_text(sample: ModelSample, was_writing: bool) -> None:
    story = sample.story
    with story.reading():  # the visitor is present
        views.prompt(story.request.prompt, f"sample_{story.id}")
        if story.text.strip():
            views.story_text(story.text)
        elif not story.done:
            st.markdown(f":shimmer[{story_text.waiting(story)}]")
        st.caption(story_text.line(story.facts, story.provider, writing=not story.done))
    if not story.done:
        return
    if was_writing:
        st.rerun()  # the button becomes Show a sample
    views.parameter_notes(story.notes)
    if story.error is not None:
        cards.error_card(story.error)


def _begin_sample(info: ModelInfo, request: CompletionRequest, key: str) -> None:
    """Start the sample, unless one is being written."""
    before = _current_sample(info, key)
    if before is not None and not before.story.done:  # double click
        return
    with cards.keep_errors():
        story = StoryStream(current_actor(), StreamRequest(
            cache.store(), cache.client(info.provider), request, cache.prices(),
            placement=StoryPlacement(step=SAMPLE), idle_timeout_s=_LEAVE_S,
        ))  # fmt: skip
        state.set_value(_sample_key(key), ModelSample(_model_key(info), story))


def _current_sample(info: ModelInfo, key: str) -> ModelSample | None:
    """This picker's sample if it is from this model; if it is from another model, it is stopped and discarded."""
    sample: ModelSample | None = state.get(_sample_key(key))
    if sample is None or sample.model == _model_key(info):
        return sample
    sample.story.cancel()
    state.drop(_sample_key(key))
    return None


def _sample_key(key: str) -> str:
    return f"{key}_sample_shown"


def _model_key(info: ModelInfo) -> str:
    return f"{info.provider}/{info.id}"
