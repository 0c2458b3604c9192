"""Notes about parameters that a model does not accept."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import streamlit as st

from core.datasets.recipe import Recipe
from core.errors import FabulaError
from core.providers import CompletionRequest, parameters
from pages.ui import cached
from pages.ui.lang import as_markdown


def show(notes: Iterable[str]) -> None:
    """Draw one caption per note."""
    for note in notes:
        st.caption(f":material/info: {as_markdown(note)}")


def of_recipe(recipe: Recipe) -> tuple[str, ...]:
    """Rejected parameters known for the recipe's model, of those that the recipe sets."""
    chat = CompletionRequest(
        recipe.model, "", temperature=recipe.temperature, top_p=recipe.top_p, seed=recipe.seed, n=recipe.repeats
    )
    with suppress(FabulaError):  # nothing is known about a provider that is not configured
        provider = cached.registry().provider(recipe.provider)
        return parameters.notes(provider, chat) or parameters.notes(provider, replace(chat, endpoint="completion"))
    return ()
