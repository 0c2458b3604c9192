"""The grid of a recipe. Cells are computed on demand, never all at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.datasets.recipe import Recipe, template_parts
from core.errors import BadRecipe
from core.message import msg


@dataclass(frozen=True, slots=True)
class Cell:
    """One row to be written: its position in the grid, its column values, and its repeat (from 0)."""

    position: int
    repeat: int
    values: Mapping[str, str]


def cell(recipe: Recipe, position: int) -> Cell:
    """The cell at `position` (from 0). The last column varies fastest; the repeats of a cell are adjacent.

    This is the order of the article's nested loops.

    Raises:
        IndexError: the position is outside the grid.
    """
    if not 0 <= position < recipe.rows():
        raise IndexError(position)
    remainder, repeat = divmod(position, recipe.repeats)
    values = {}
    for column in reversed(recipe.columns):
        remainder, index = divmod(remainder, len(column.values))
        values[column.name] = column.values[index]
    return Cell(position, repeat, {column.name: values[column.name] for column in recipe.columns})


def cells(recipe: Recipe, start: int = 0) -> Iterator[Cell]:
    """All cells from `start` on, one at a time."""
    for position in range(start, recipe.rows()):
        yield cell(recipe, position)


def position_lookup(recipe: Recipe) -> Callable[[Mapping[str, Any], int], int | None]:
    """The inverse of `cell`: a function from (values, repeat) to the position, None if the grid has no such row.

    It indexes every value, so a lookup takes constant time.
    """
    columns = [(c.name, {value: i for i, value in enumerate(c.values)}) for c in recipe.columns]

    def position_of(values: Mapping[str, Any], repeat: int) -> int | None:
        if repeat >= recipe.repeats or len(values) != len(columns):
            return None
        position = 0
        for name, indices in columns:
            index = indices.get(values.get(name, ""))
            if index is None:
                return None
            position = position * len(indices) + index
        return position * recipe.repeats + repeat

    return position_of


def render(template: str, values: Mapping[str, str]) -> str:
    """The prompt of a cell. Braces inside values are not interpreted.

    Raises:
        BadRecipe: the template is invalid or uses an unknown column.
    """
    parts = []
    for text, name in template_parts(template):
        parts.append(text)
        if name is not None:
            if name not in values:
                raise BadRecipe(
                    msg(
                        "The template names {{{name}}}, but there is no column {column}.", name=name, column=repr(name)
                    ),
                    msg("Add the column or remove it."),
                )
            parts.append(values[name])
    return "".join(parts)


def key(recipe: Recipe, values: Mapping[str, str], repeat: int) -> str:
    """The identity of a row: a hash of everything that determines its text. SHA-256, 64 hex digits.

    It does not include the name, the list of values and the number of repeats, so that a grid can grow without paying
    for a row twice.
    """
    return _hash({"template": recipe.template, **_settings(recipe), "values": dict(values), "repeat": repeat})


def listed_key(recipe: Recipe, prompt: str, repeat: int) -> str:
    """The identity of a row whose prompt comes from a list, like `key`."""
    return _hash({"prompt": prompt, **_settings(recipe), "repeat": repeat})


def _settings(recipe: Recipe) -> dict[str, object]:
    settings: dict[str, object] = {
        "system": recipe.system,
        "provider": recipe.provider,
        "model": recipe.model,
        "temperature": float(recipe.temperature),
        "top_p": float(recipe.top_p),
        "max_tokens": recipe.max_tokens,
        "seed": recipe.seed,
    }
    # Omitted by default, so that rows written before these settings existed keep their keys.
    if recipe.endpoint != "auto":
        settings["endpoint"] = recipe.endpoint
    if recipe.stop:
        settings["stop"] = list(recipe.stop)
    if recipe.response_format:
        settings["response_format"] = recipe.response_format
    return settings


def _hash(identity: Mapping[str, object]) -> str:
    canonical = json.dumps(identity, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def loaded_key(values: Mapping[str, str], repeat: int) -> str:
    """The key of a loaded row: its values, and its number among rows with these values (from 0)."""
    return hashlib.sha256(json.dumps([list(values.items()), repeat], ensure_ascii=False).encode()).hexdigest()


def row_seed(recipe: Recipe, row_key: str) -> int | None:
    """The seed of a row: different for each row, the same for each attempt. None if the recipe has no seed."""
    if recipe.seed is None:
        return None
    return (recipe.seed + int(row_key[:8], 16)) % 2**31
