"""A warning before sending a prompt that is too long for a model."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.errors import FabulaError
from core.providers import CompletionRequest, ModelInfo
from core.providers.registry import ENGINE
from pages.ui import cached, models
from pages.ui.cache import shared
from pages.ui.lang import _, number, plain

_MARKUP = 16  # tokens that the chat format adds to a prompt
_FOR_THE_STORY = 0.25  # share of the model's context length


def too_long(asked: Sequence[tuple[ModelInfo, CompletionRequest]]) -> bool:
    """Draw a warning for each model whose prompt is too long; returns True if there are any."""
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
    """The number of tokens of the prompt if it is too long for the model; None: it fits, or this is unknown."""
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
    """Counted with the engine's own tokenizer."""
    return cached.client(ENGINE).count_tokens(model, text)
