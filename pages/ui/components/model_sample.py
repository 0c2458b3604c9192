"""A short sample of a model's writing, streamed; for a paid provider its price is shown first."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from core.datasets import grid
from core.db.tables.story import SAMPLE
from core.evaluation.evaluation_request import with_separator
from core.model_profile import model_purpose
from core.model_profile.model_purpose import Purpose
from core.pricing import tokens
from core.pricing.price_book import cost_of
from core.pricing.prices import ENGINE
from core.providers import CompletionRequest, ModelInfo
from core.stories.story_record import StoryPlacement
from core.stories.stream import StoryStream, StreamRequest
from pages.ui import cache, state
from pages.ui.components import cards, prompt_formats, story_text, views
from pages.ui.components.story_session import story_session
from pages.ui.i18n import _, usd
from pages.ui.sign_in import current_actor

_POLL_S = 0.3  # interval between redraws of the text
_LEAVE_S = 5.0  # time since the page last drew the sample; even a busy page redraws sooner
_STORY_TOKENS = 300  # a story of the packaged writers
_TEXT_TOKENS = 120  # three sentences
_TEMPERATURE = 0.5  # temperature for small models: above it, texts become incoherent


@dataclass(frozen=True, slots=True)
class ModelSample:
    """A sample that one visitor requested; `model` is `provider/id`."""

    model: str
    story: StoryStream


def button(info: ModelInfo, purpose: Purpose, key: str) -> None:
    """The button: Show a sample, with its price if it has one, or Stop while it is written."""
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
            request = request_for(info, purpose)
            st.button(
                _("Show a sample"), icon=":material/edit_note:", type="tertiary", key=f"{key}_sample",
                on_click=_begin, args=(info, request, key), disabled=story_session().writing,
            )  # fmt: skip
            if info.provider != ENGINE:
                st.caption(price(info, request), width="content")


def show(info: ModelInfo, key: str) -> None:
    """Draw the sample of this model as it arrives; nothing if none was requested."""
    sample = _current_sample(info, key)
    if sample is None:
        return
    writing = not sample.story.done
    with st.container(border=True, key=f"{key}_sample_text"):
        st.fragment(run_every=_POLL_S if writing else None)(_text)(sample, writing)
        if not writing:
            st.button(
                _("Close the sample"), icon=":material/close:", type="tertiary", key=f"{key}_sample_close",
                on_click=state.drop, args=(_state_key(key),),
            )  # fmt: skip


def request_for(info: ModelInfo, purpose: Purpose) -> CompletionRequest:
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
            temperature=_TEMPERATURE,
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
            temperature=_TEMPERATURE,
            max_tokens=_TEXT_TOKENS,
        )
    prompt = _("Write three sentences about a lighthouse keeper who finds a letter.")
    return CompletionRequest(model=info.id, prompt=prompt, endpoint=endpoint, max_tokens=_TEXT_TOKENS)


def price(info: ModelInfo, request: CompletionRequest) -> str:
    """The highest possible cost of the sample, in words."""
    read = tokens.count([request.system, request.prompt], request.model).tokens
    worst = cost_of(cache.prices(), info.provider, request.model, read, request.max_tokens)
    return _("price unknown") if worst is None else _("costs {price} at most").format(price=usd(worst))


def _text(sample: ModelSample, was_writing: bool) -> None:
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


def _begin(info: ModelInfo, request: CompletionRequest, key: str) -> None:
    """Start the sample, unless one is being written."""
    before = _current_sample(info, key)
    if before is not None and not before.story.done:  # double click
        return
    with cards.keep_errors():
        story = StoryStream(current_actor(), StreamRequest(
            cache.store(), cache.client(info.provider), request, cache.prices(),
            placement=StoryPlacement(step=SAMPLE), idle_timeout_s=_LEAVE_S,
        ))  # fmt: skip
        state.set_value(_state_key(key), ModelSample(_name(info), story))


def _current_sample(info: ModelInfo, key: str) -> ModelSample | None:
    """The sample of this picker if it is from this model; a sample of another model is stopped and discarded."""
    sample: ModelSample | None = state.get(_state_key(key))
    if sample is None or sample.model == _name(info):
        return sample
    sample.story.cancel()
    state.drop(_state_key(key))
    return None


def _state_key(key: str) -> str:
    return f"{key}_sample_shown"


def _name(info: ModelInfo) -> str:
    return f"{info.provider}/{info.id}"
