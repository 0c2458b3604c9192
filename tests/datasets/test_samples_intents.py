"""The support messages: eight intents in two languages, distinct messages, a quarter of them held out."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets, export, presets
from core.db.store import Store
from core.db.tables import Row

_FILE = Path(__file__).parents[2] / "data" / "samples" / "support_intents.csv"
_INTENTS, _PER_LANGUAGE, _HELD_OUT = 8, 10, 5
_GRAM = {"en": 5, "zh": 2}  # characters; short Chinese messages have few longer sequences
_HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def messages() -> pd.DataFrame:
    return pd.read_csv(_FILE, keep_default_na=False)


def test_each_intent_has_ten_messages_in_each_language(messages: pd.DataFrame) -> None:
    assert list(messages.columns) == ["message", "intent", "language", "split"]
    counted = Counter(zip(messages["intent"], messages["language"], strict=True))
    assert len(messages) == 160 and len(counted) == 2 * _INTENTS
    assert set(counted.values()) == {_PER_LANGUAGE}
    assert set(messages["language"]) == {"en", "zh"}


def test_five_of_each_intent_are_held_out_in_both_languages(messages: pd.DataFrame) -> None:
    assert set(messages["split"]) == {"", "held_out"}
    held = messages[messages["split"] == "held_out"]
    assert len(held) == 40 and set(Counter(held["intent"]).values()) == {_HELD_OUT}
    assert Counter(held["language"]) == {"en": 20, "zh": 20}
    assert all(set(part["language"]) == {"en", "zh"} for _, part in held.groupby("intent"))


def test_messages_are_in_the_language_that_they_claim(messages: pd.DataFrame) -> None:
    for row in messages.itertuples():
        assert bool(_HAN.search(row.message)) == (row.language == "zh"), row.message
        assert row.message == row.message.strip() and "\n" not in row.message
        assert not row.message.startswith(tuple("=+-@")), row.message


def test_lengths_vary_as_peoples_do(messages: pd.DataFrame) -> None:
    for language, low, high in (("en", 12, 140), ("zh", 4, 60)):
        lengths = [len(m) for m in messages[messages["language"] == language]["message"]]
        assert low <= min(lengths) and max(lengths) <= high, (min(lengths), max(lengths))
        assert statistics.stdev(lengths) >= 6


@pytest.mark.parametrize("language", _GRAM)
def test_no_two_messages_are_alike(messages: pd.DataFrame, language: str) -> None:
    size = _GRAM[language]
    grams = []
    for message in messages[messages["language"] == language]["message"]:
        text = re.sub(r"\W", "", message.lower())
        grams.append({text[i : i + size] for i in range(len(text) - size + 1)})
    for one, other in itertools.combinations(grams, 2):
        assert len(one & other) / len(one | other) <= 0.25


def test_the_sample_is_loaded_with_its_label_as_completion_and_its_held_out_rows(
    store: Store, messages: pd.DataFrame
) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "support_intents")
    one = datasets.summary(store, dataset_id)
    assert (one.columns, one.total, one.done) == (("message",), 160, 160)
    learnt = messages[messages["split"] == ""]  # held-out rows are not trained on
    assert dict(export.examples(store, dataset_id)) == dict(zip(learnt["message"], learnt["intent"], strict=True))
    with store.reading() as session:
        splits = Counter(session.scalars(select(Row.split).where(Row.dataset_id == dataset_id)))
    assert splits == {None: 120, "held_out": 40}


def test_the_preset_asks_for_the_intents_of_the_sample(messages: pd.DataFrame) -> None:
    preset = next(p for p in presets.load() if p.sample == "support_intents")
    preset.recipe.check()
    assert preset.recipe.columns[0].name == "message"
    assert not set(preset.recipe.columns[0].values) & set(messages["message"])  # new rows get labels
    for intent in set(messages["intent"]):
        assert intent in preset.recipe.system
    assert json.dumps(preset.recipe.to_dict(), ensure_ascii=False)
