"""The next prompt, filled into the composer: another cell of the grid, or values that no cell has."""

from __future__ import annotations

from collections.abc import Sequence

from core.dataset import presets
from core.story import prompt_order
from pages.ui import state
from pages.ui.story.story_desk import desk
from pages.ui.story.story_model import Shape

_TRIES = 20  # a prompt that stands in the composer already, or has no words, is passed over


def outside(shape: Shape) -> list[tuple[str, ...]]:
    """Values that no cell of the grid has, in the order of the columns; only where the columns are a preset's."""
    names = tuple(name for name, _values in shape.columns)
    return [
        values
        for preset in presets.load()
        if tuple(column.name for column in preset.recipe.columns) == names
        for values in preset.outside
    ]


def fill_in(names: Sequence[str], values: Sequence[str]) -> None:
    """Put one value into each column; a story that was written from others leaves the page."""
    for name, value in zip(names, values, strict=True):
        state.put(f"story_column_{name}", value)
    desk().clear()


def advance(shape: Shape) -> None:
    """Fill in the next prompt: into the columns, or as text where a free prompt is written."""
    held, offers = desk(), outside(shape)
    for _try in range(_TRIES):
        held.prompt_number += 1
        values = prompt_order.nth(shape.columns, offers, held.prompt_number)
        prompt = shape.prompt(values)
        if not prompt:
            continue
        if state.get("story_mode") == "free":
            if prompt != state.get("story_prompt"):
                state.put("story_prompt", prompt)
                held.clear()
                return
        elif any(value != state.get(f"story_column_{name}") for name, value in values.items()):
            fill_in(list(values), list(values.values()))
            return
