"""The grid of a recipe: cells that are made when they are looked at, never all at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.dataset.recipe import Recipe, template_parts
from core.errors import BadRecipe
from core.message import msg


@dataclass(frozen=True, slots=True)
class Cell:
    """One row to be written: its place in the grid, the values of its columns, and which repeat it is (from 0)."""

    position: int
    repeat: int
    values: Mapping[str, str]


def size(recipe: Recipe) -> int:
    """How many rows the grid has."""
    return recipe.rows()


def cell(recipe: Recipe, position: int) -> Cell:
    """The cell at `position` (from 0): the last column turns fastest, the repeats of a cell stand together.

    That is the order of the article's nested loops.

    Raises:
        IndexError: there is no such cell.
    """
    if not 0 <= position < recipe.rows():
        raise IndexError(position)
    rest, repeat = divmod(position, recipe.repeats)
    values = {}
    for column in reversed(recipe.columns):
        rest, index = divmod(rest, len(column.values))
        values[column.name] = column.values[index]
    return Cell(position, repeat, {column.name: values[column.name] for column in recipe.columns})


def cells(recipe: Recipe, start: int = 0) -> Iterator[Cell]:
    """All cells from `start` on, one at a time."""
    for position in range(start, recipe.rows()):
        yield cell(recipe, position)


def placer(recipe: Recipe) -> Callable[[Mapping[str, Any], int], int | None]:
    """The way back: a function from (values, repeat) to the position of that row, None when the grid has no such row.

    It keeps the place of every value, so that a look-up costs the same however long the lists are.
    """
    columns = [(c.name, {value: i for i, value in enumerate(c.values)}) for c in recipe.columns]

    def place(values: Mapping[str, Any], repeat: int) -> int | None:
        if repeat >= recipe.repeats or len(values) != len(columns):
            return None
        position = 0
        for name, places in columns:
            index = places.get(values.get(name, ""))
            if index is None:
                return None
            position = position * len(places) + index
        return position * recipe.repeats + repeat

    return place


def render(template: str, values: Mapping[str, str]) -> str:
    """The prompt of one cell. Values are put in as they are: braces in a value stay braces.

    Raises:
        BadRecipe: the template is broken or names a column that is not there.
    """
    out = []
    for text, name in template_parts(template):
        out.append(text)
        if name is not None:
            if name not in values:
                raise BadRecipe(
                    msg(
                        "The template names {{{name}}}, but there is no column {column}.", name=name, column=repr(name)
                    ),
                    msg("Add the column or remove it."),
                )
            out.append(values[name])
    return "".join(out)


def key(recipe: Recipe, values: Mapping[str, str], repeat: int) -> str:
    """What makes a row the same row: everything that shapes its text. SHA-256, 64 hex digits.

    Name, list of values and number of repeats are not in it, so that a grid can grow without buying a row twice.
    """
    shaping: dict[str, object] = {
        "template": recipe.template,
        "system": recipe.system,
        "provider": recipe.provider,
        "model": recipe.model,
        "temperature": float(recipe.temperature),
        "top_p": float(recipe.top_p),
        "max_tokens": recipe.max_tokens,
        "seed": recipe.seed,
        "values": dict(values),
        "repeat": repeat,
    }
    if recipe.endpoint != "auto":  # left out otherwise, so that rows written before there was a choice keep their keys
        shaping["endpoint"] = recipe.endpoint
    canonical = json.dumps(shaping, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def loaded_key(values: Mapping[str, str], repeat: int) -> str:
    """The key of a row that was not written here: its values, and which row with these values it is (from 0)."""
    return hashlib.sha256(json.dumps([list(values.items()), repeat], ensure_ascii=False).encode()).hexdigest()


def row_seed(recipe: Recipe, row_key: str) -> int | None:
    """The seed of one row: its own for every row, the same at every try; None when the recipe has none."""
    if recipe.seed is None:
        return None
    return (recipe.seed + int(row_key[:8], 16)) % 2**31
