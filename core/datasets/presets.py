"""What ships with Fabula: presets (recipes, `data/presets.json`), sample stories and small example data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from core import languages
from core.datasets.example_pairs import ExamplePair
from core.datasets.importers import table_reader
from core.datasets.recipe import Recipe
from core.errors import NotFound
from core.message import msg

DATA = Path(__file__).resolve().parents[2] / "data"
_ROLES_FILE = "roles.json"  # column roles of samples, if not "the last column is the completion"


@dataclass(frozen=True, slots=True)
class Preset:
    """A ready-made grid.

    Attributes:
        id: its short id.
        name: its display name in English.
        names: display names by language (`en`, `zh_CN`).
        language: the page language it is the default for (`en`, `zh_CN`); None means both.
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


@dataclass(frozen=True, slots=True)
class ExampleSample:
    """Examples that ship with Fabula (`data/samples/examples/*.json`), in one language.

    Attributes:
        id: also the suffix of the model trained on it.
        names: display names by language.
        icon: icon of its button.
        prompt: a prompt that is not among the pairs, for testing the fine-tuned model.
        pairs: the examples.
    """

    id: str
    names: Mapping[str, str]
    icon: str
    prompt: str
    pairs: tuple[ExamplePair, ...]


def example_samples(language: str) -> tuple[ExampleSample, ...]:
    """The samples in a language (`en`, `zh_CN`)."""
    return tuple(
        ExampleSample(
            id=item["id"],
            names=item["name"],
            icon=item["icon"],
            prompt=item[language]["prompt"],
            pairs=tuple(ExamplePair(pair["prompt"], pair["answer"]) for pair in item[language]["pairs"]),
        )
        for item in _example_files()
    )


def example_sample_of(sample_id: str | None, pairs: Sequence[ExamplePair], language: str) -> ExampleSample | None:
    """The sample that these pairs came from, in the pairs' own language; None if they came from none."""
    given = set(pairs)
    for sample_language in sorted(languages.LANGUAGES, key=lambda code: code != language):
        for sample in example_samples(sample_language):
            if sample.id == sample_id and given.intersection(sample.pairs):
                return sample
    return None


@lru_cache(maxsize=1)
def _example_files() -> tuple[dict[str, Any], ...]:
    items = [json.loads(path.read_text(encoding="utf-8")) for path in (DATA / "samples" / "examples").glob("*.json")]
    return tuple(sorted(items, key=lambda item: item["order"]))


@dataclass(frozen=True, slots=True)
class SampleTable:
    """A sample's table, and which columns make the prompt, the completion and the split; others are kept."""

    frame: pd.DataFrame
    columns: list[str]
    completion: str
    split: str | None
    others: list[str]


def read_sample(name: str) -> SampleTable:
    """Sample stories (`data/samples/*.csv`).

    Raises:
        NotFound: there is no such sample.
    """
    path = DATA / "samples" / f"{name}.csv"
    if not name.replace("_", "").isalnum() or not path.is_file():
        raise NotFound(msg("There is no sample called {name}.", name=name), msg("Choose one from the list."))
    frame = table_reader.read_table(path.read_bytes(), path.name).frame
    names = [str(column) for column in frame.columns]
    roles = json.loads(path.with_name(_ROLES_FILE).read_text(encoding="utf-8")).get(name, {})
    completion, split = roles.get("completion", names[-1]), roles.get("split")
    columns = roles.get("prompt", [column for column in names if column not in (completion, split)])
    labels = roles.get("labels", [])  # columns of the sample only, not copied to a data set
    others = [column for column in names if column not in (*columns, *labels, completion, split)]
    return SampleTable(frame, columns, completion, split, others)
