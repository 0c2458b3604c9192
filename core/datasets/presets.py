"""Presets: recipes that ship with Fabula. Their content is in `data/presets.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.datasets.recipe import Recipe
from core.errors import NotFound
from core.message import msg

DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True, slots=True)
class Preset:
    """A ready-made grid.

    Attributes:
        id: its short id.
        name: its display name in English.
        names: display names by language (`en`, `zh_CN`).
        language: the page language it is the default for (`en`, `zh_CN`); None: both.
        recipe: the grid.
        sample: name of the sample stories that fill it (see `datasets.load_sample`), or None.
        outside: column values that no cell of the grid has, one list per row, in column order.
        composed: language of the composed stories for its columns, as base code (`core.tours.composed_stories`).
        story: how the writer trained on it is sampled: `temperature`, `top_p`, `max_tokens`.
    """

    id: str
    name: str
    names: Mapping[str, str]
    language: str | None
    recipe: Recipe
    sample: str | None
    outside: tuple[tuple[str, ...], ...]
    composed: str | None
    story: Mapping[str, Any]


def load(language: str | None = None) -> tuple[Preset, ...]:
    """All presets, the default first; with a language, those of that language come first."""
    if language is None:
        return _all()
    return tuple(sorted(_all(), key=lambda preset: (preset.language != language, preset.language is not None)))


def get(preset_id: str | None = None, language: str | None = None) -> Preset:
    """A preset; without an id, the default of the language.

    Raises:
        NotFound: there is no such preset.
    """
    for item in load(language):
        if preset_id in (None, item.id):
            return item
    raise NotFound(msg("There is no preset {preset_id}.", preset_id=repr(preset_id)), msg("Choose one from the list."))


def column_name(name: str, language: str) -> str:
    """The display name of a preset's column in a language; other columns keep their name."""
    return str(_data()["column_names"].get(name, {}).get(language, name))


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / "presets.json").read_text(encoding="utf-8"))
    return data


@lru_cache(maxsize=1)
def _all() -> tuple[Preset, ...]:
    return tuple(
        Preset(
            id=item["id"],
            name=item["name"]["en"],
            names=item["name"],
            language=item.get("language"),
            recipe=Recipe.from_dict(item["recipe"]),
            sample=item.get("sample"),
            outside=tuple(tuple(values) for values in item.get("outside", ())),
            composed=item.get("composed"),
            story=item.get("story", {}),
        )
        for item in _data()["presets"]
    )
