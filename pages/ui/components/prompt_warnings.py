"""Warnings about a prompt before it is sent: it differs from the model's training prompts, or is too long for the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import streamlit as st

from core import packaged_models
from core.errors import FabulaError
from core.model_profile.model_purpose import writer_vocabulary
from core.model_profile.prompt_similarity import PromptSimilarity, PromptVocabulary, compare
from core.pricing.prices import ENGINE
from core.providers import CompletionRequest, ModelInfo
from pages.ui import cache, state, visible
from pages.ui.cache import shared
from pages.ui.components import models
from pages.ui.i18n import _, label, mark, number, percent, plain, sentences

_SCRIPTS = {
    "chinese": mark("Chinese"),
    "japanese": mark("Japanese"),
    "korean": mark("Korean"),
    "latin": mark("Latin letters"),
    "other": mark("another script"),
}

_MARKUP = 16  # tokens that the chat format adds to a prompt
_FOR_THE_STORY = 0.25  # share of the model's context length reserved for the story


@dataclass(frozen=True, slots=True)
class Remedy:
    """A better choice, with the button that makes it."""

    label: str
    icon: str
    key: str
    act: Callable[..., None]
    args: tuple[Any, ...] = ()


def likeness(info: ModelInfo, text: str) -> PromptSimilarity | None:
    """How far a prompt is from the model's training prompts; None if the model is general, or its training unknown.

    Args:
        text: the prompt, or the fixed words of a template and its system text.
    """
    purpose = models.known_purpose(info)
    if not purpose.narrow:
        return None
    learned = _learned(info, purpose.language)
    return None if learned is None else compare(text, learned)


def far_prompt(info: ModelInfo, text: str, picker_key: str | None, own: Remedy | None = None) -> None:
    """Render the warning, with remedies that need one click; nothing if the prompt is near.

    Args:
        text: the prompt, or the fixed words of a template and its system text.
        picker_key: key of the picker that the model was chosen in; None if it is one of several; then no remedy is
            offered.
        own: the remedy that returns to the model's training prompts, if there is one.
    """
    found = likeness(info, text)
    if found is None or not found.far:
        return
    with st.container(border=picker_key is not None, key=picker_key and f"{picker_key}_far"):
        words = sentences(_reason(info, found), _("It will probably write nonsense."))
        st.warning(words, icon=":material/warning:")
        if picker_key is None:
            return
        better = [*_writers(info, picker_key, text), *([] if own is None else [own]), *_general(picker_key)]
        if better:
            st.caption(_("Better choices:"))
            with st.container(horizontal=True):
                for one in better:
                    st.button(one.label, icon=one.icon, key=one.key, on_click=one.act, args=one.args)
        if not any(one.key.endswith("_general") for one in better):
            st.caption(
                _(
                    "A model that follows instructions is a better choice: add a provider with a key or a "
                    "local server under Settings, or train a base model on examples like this."
                )
            )


def model_of(provider: str, model: str) -> ModelInfo:
    """What is known about a model by its name, even if it is not in the lists of the providers."""
    listed = (one for one in visible.models().found if (one.provider, one.id) == (provider, model))
    return next(listed, ModelInfo(model, provider, None, None, None))


def _learned(info: ModelInfo, language: str | None) -> PromptVocabulary | None:
    if language is not None:
        return writer_vocabulary(language)
    training = cache.training_of(info.provider, info.id)
    return None if training is None else training.vocabulary


def _reason(info: ModelInfo, found: PromptSimilarity) -> str:
    name = plain(models.label(info))
    if found.other_script:
        return _("{model} was trained on prompts in another language; this one is in {script}.").format(
            model=name, script=_(_SCRIPTS[found.script or "other"])
        )
    if found.known_share is None:
        return _("{model} was trained on whole sentences; this prompt has only values.").format(model=name)
    return _(
        "This prompt differs from the training prompts of {model}: only {share} of its words appear in them."
    ).format(model=name, share=percent(found.known_share, 0))


def _writers(info: ModelInfo, picker_key: str, text: str) -> list[Remedy]:
    """The engine's other packaged writer, if it was trained on prompts like this one."""
    return [
        _use_model(one, picker_key, one.id)
        for one in visible.models().found
        if one.provider == ENGINE and one.id in packaged_models.WRITERS and one.id != info.id
        if (other := likeness(one, text)) is not None and not other.far
    ]


def _general(picker_key: str) -> list[Remedy]:
    """The first model that follows instructions."""
    found = (one for one in visible.models().found if models.known_purpose(one).kind == "instructions")
    return [_use_model(one, picker_key, "general") for one in islice(found, 1)]


def _use_model(info: ModelInfo, picker_key: str, name: str) -> Remedy:
    """Pick another model in the same list."""
    return Remedy(
        _("Use {model}").format(model=label(models.label(info))),
        ":material/swap_horiz:",
        f"{picker_key}_use_{name}",
        state.set_value,
        (picker_key, f"{info.provider}/{info.id}"),
    )


def too_long(asked: Sequence[tuple[ModelInfo, CompletionRequest]]) -> bool:
    """Render a warning for each model whose prompt is too long; returns True if there are any."""
    found = False
    for info, request in asked:
        tokens = _tokens_beyond(info, request)
        if tokens is None or info.context is None:
            continue
        found = True
        characters = int(len(request.prompt) * info.context * (1 - _FOR_THE_STORY) / tokens) // 100 * 100
        words = _(
            "The prompt is too long for {model}: it has {tokens} tokens, and the model's limit for "
            "prompt and answer together is {context}. Shorten it to about {characters} characters, "
            "or choose another model."
        )
        st.error(
            words.format(
                model=plain(models.label(info)),
                tokens=number(tokens),
                context=number(info.context),
                characters=number(characters),
            ),
            icon=":material/content_cut:",
        )
    return found


def _tokens_beyond(info: ModelInfo, request: CompletionRequest) -> int | None:
    """The number of tokens of the prompt if it is too long for the model; None if it fits, or if this is unknown."""
    text = request.system + request.prompt
    if info.provider != ENGINE or info.context is None or len(text.encode()) + _MARKUP < info.context:
        return None  # a token has at least one byte
    try:
        tokens = _counted(info.id, text) + _MARKUP
    except FabulaError:
        return None
    return tokens if tokens >= info.context else None


@shared(max_entries=64)
def _counted(model: str, text: str) -> int:
    """The number of tokens, counted with the engine's own tokenizer."""
    return cache.client(ENGINE).count_tokens(model, text)
