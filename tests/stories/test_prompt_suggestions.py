"""The order of suggested prompts."""

from __future__ import annotations

import math

import pytest

from core.datasets import presets
from core.stories import prompt_suggestions
from core.stories.prompt_suggestions import Columns

_TWO = (("hero", ("a", "b", "c")), ("mood", ("x", "y")))


@pytest.mark.parametrize(
    ("columns", "outside", "first"),
    [
        (_TWO, [], ["ax", "cy", "cx", "by"]),
        (_TWO, [("d", "z")], ["ax", "dz", "cy", "cx"]),
        (_TWO, [("d", "z"), ("e", "z")], ["ax", "dz", "cy", "ez", "cx", "by"]),
        ((("one", ("a",)),), [], ["a", "a"]),
        ((("one", ("a", "b")),), [("c",)], ["a", "c", "b", "a"]),
        ((("one", ("a", "")),), [], ["a", ""]),
        ((("one", ()), ("two", ("a",))), [], ["", ""]),
        ((), [], ["", ""]),
    ],
    ids=["grid only", "one outside", "two outside", "one cell", "one column", "empty value", "no values", "no columns"],
)
def test_cells_and_values_outside_the_grid_take_turns(
    columns: Columns, outside: list[tuple[str, ...]], first: list[str]
) -> None:
    assert ["".join(prompt_suggestions.nth_prompt(columns, outside, n).values()) for n in range(len(first))] == first


@pytest.mark.parametrize("preset", presets.load(), ids=lambda preset: preset.id)
def test_every_preset_cell_appears_once_before_any_repeats(preset: presets.Preset) -> None:
    columns = [(column.name, column.values) for column in preset.recipe.columns]
    size = math.prod(len(values) for _name, values in columns)
    first = [
        tuple(prompt_suggestions.nth_prompt(columns, preset.outside, n).values())
        for n in range(size + len(preset.outside))
    ]
    assert len(set(first)) == len(first) and set(preset.outside) < set(first)
