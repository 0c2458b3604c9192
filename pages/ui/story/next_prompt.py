"""The next prompt, filled into the composer: another cell of the grid, or values outside it."""

from __future__ import annotations

from collections.abc import Sequence

from core.datasets import presets
from core.stories import prompt_suggestions
from pages.ui import state
from pages.ui.story.story_model import PromptFormat
from pages.ui.story.story_session import story_session

_TRIES = 20  # skips prompts that are empty or already in the composer


def outside(prompt_format: PromptFormat) -> list[tuple[str, ...]]:
    """Values outside the grid, in column order; only if the columns are a preset's."""
    names = tuple(name for name, _values in prompt_format.columns)
    return [
        values
        for preset in presets.load()
        if tuple(column.name for column in preset.recipe.columns) == names
        for values in preset.outside
    ]


def fill_in(names: Sequence[str], values: Sequence[str]) -> None:
    """Set one value per column; a story with other values is removed from the page."""
    for name, value in zip(names, values, strict=True):
        state.set_value(f"story_column_{name}", value)
    story_session().clear()


def advance(prompt_format: PromptFormat) -> None:
    """Fill in the next prompt: into the columns, or as text in free-prompt mode."""
    session, offers = story_session(), outside(prompt_format)
    for _try in range(_TRIES):
        session.prompt_number += 1
        values = prompt_suggestions.nth_prompt(prompt_format.columns, offers, session.prompt_number)
        prompt = prompt_format.prompt(values)
        if not prompt:
            continue
        if state.get("story_mode") == "free":
            if prompt != state.get("story_prompt"):
                state.set_value("story_prompt", prompt)
                session.clear()
                return
        elif any(value != state.get(f"story_column_{name}") for name, value in values.items()):
            fill_in(list(values), list(values.values()))
            return
