"""On a Chinese page every word is Chinese, except for names, codes, units and model ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets, presets
from core.db.store import Store
from core.db.tables import Row, Story, TrainingJob, utcnow
from tests.support.app_pages import visit, words

_NOT_WORDS = re.compile(
    r"`[^`]*`|:material/\w+:|:[a-z]+(?:-badge)?\[|https?://\S+|\{\w*\}|make run|python -m [\w.]+|"
    r"[\w.-]*[\d_/\\][\w./\\:-]*|ft:\S+",
    re.ASCII,
)
_NAMES = """
token tokens Fabula English OpenAI Azure Together Google Gemma Anthropic Mistral DeepSeek DashScope Zhipu Trackio
storyteller ultraman tuned davinci claude haiku sonnet opus gemini flash lite pro mini nano luna sol terra gpt qwen
plus max turbo deepseek mistral small large medium latest preview glm air chat reasoner genai prices
CSV TSV JSON JSONL Excel Parquet ODS zst API URL SVG PNG HTML zip USD CNY EUR MIT BSD Apache License Clause GPU CPU
ShareGPT Alpaca Dolly messages prompt completion Top Python pandas altair streamlit sqlalchemy dbos torch transformers
MinHash chrF Distinct McNemar Mozilla Public
xllamacpp sqlite LLVM exception with AND BSL PSF ISC OPENAI KEY BASE FABULA HOME DATABASE
"""
_ALLOWED = frozenset(_NAMES.split())
_PARTS: dict[str, list[dict[str, Any]]] = {
    "home": [{}],
    "dataset": [{"dataset_part": part} for part in ("design", "bring", "run", "quality", "use")],
    "training": [{"training_part": part} for part in ("jobs", "read")],
    "cost": [{}],
    "story": [{}],
    "settings": [{}],
}
_VIEWS = [(page, state) for page, states in _PARTS.items() for state in states]


def _shown(at: AppTest) -> Iterator[str]:
    """All texts of a page: texts, labels, placeholders, help and options."""
    yield words(at)
    kinds = (
        at.button, at.selectbox, at.multiselect, at.text_input, at.text_area, at.number_input, at.toggle, at.checkbox,
        at.radio, at.metric, at.expander, at.slider,
    )  # fmt: skip
    for element in (element for kind in kinds for element in kind):
        for name in ("label", "placeholder", "help"):
            yield str(getattr(element, name, "") or "")
    for kind in (at.radio, at.selectbox):
        for element in kind:
            yield from map(str, element.options)


def _english(at: AppTest) -> set[str]:
    text = _NOT_WORDS.sub(" ", "\n".join(_shown(at)))
    return {word for word in re.findall(r"[A-Za-z]{3,}", text) if word not in _ALLOWED}


def _some_of_everything(store: Store) -> None:
    recipe = presets.load()[0].recipe
    dataset = datasets.create(store, LOCAL, recipe)
    with store.session() as session:
        for row, state in zip(session.query(Row).limit(3), ("done", "failed", "excluded"), strict=False):
            row.state, row.text, row.finish_reason = state, "从前，有一位英雄。", "stop"
        for status in ("succeeded", "failed", "queued", "running", "paused", "cancelled"):
            session.add(TrainingJob(
                id=status, dataset_id=dataset, name="任务", provider="engine", base_model="gemma-3-270m", n_examples=9,
                hyperparameters={"n_epochs": 1}, file_format="completion", separator=" ->", stop=".", status=status,
                created_by="local", finished_at=utcnow() if status in ("succeeded", "failed", "cancelled") else None,
            ))  # fmt: skip
        session.add(Story(
            id="s", actor="local", provider="engine", model="storyteller", prompt="唐", parameters={}, tags=[],
            text="从前，有一位英雄。", finish_reason="stop", column_values={"dynasty": "唐"}, liked=True,
        ))  # fmt: skip


@pytest.mark.parametrize(("page", "state"), _VIEWS, ids=[f"{page}{''.join(s.values())}" for page, s in _VIEWS])
@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_a_chinese_page_has_no_english_words(store: Store, page: str, state: dict[str, str], full: bool) -> None:
    if full:
        _some_of_everything(store)
    assert _english(visit(page, "zh-CN", **state)) == set()
