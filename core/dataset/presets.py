"""Recipes that ship with the studio. What they say is in `data/presets.json`; nothing of it is in code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.dataset.recipe import Recipe
from core.errors import NotFound

DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True, slots=True)
class Preset:
    """A ready grid, and what goes with it.

    Attributes:
        id: its short name.
        name: its name for people, in English; names: by language (`en`, `zh_CN`).
        recipe: the grid.
        sample: name of the sample stories that fill it (see `datasets.load_sample`), or None.
        outside: values that no cell of the grid has, one list a row, in the order of the columns.
        story: sampling for the tuned model (S6).
    """

    id: str
    name: str
    names: Mapping[str, str]
    recipe: Recipe
    sample: str | None
    outside: tuple[tuple[str, ...], ...]
    story: Mapping[str, Any]


@lru_cache(maxsize=1)
def load() -> tuple[Preset, ...]:
    """All presets, the default first."""
    data = json.loads((DATA / "presets.json").read_text(encoding="utf-8"))
    return tuple(
        Preset(
            id=item["id"],
            name=item["name"]["en"],
            names=item["name"],
            recipe=Recipe.from_dict(item["recipe"]),
            sample=item.get("sample"),
            outside=tuple(tuple(values) for values in item.get("outside", ())),
            story=item.get("story", {}),
        )
        for item in data["presets"]
    )


def get(preset_id: str | None = None) -> Preset:
    """One preset; the default without an id.

    Raises:
        NotFound: there is no such preset.
    """
    for item in load():
        if preset_id in (None, item.id):
            return item
    raise NotFound(f"There is no preset {preset_id!r}.", "Choose one of the list.")
