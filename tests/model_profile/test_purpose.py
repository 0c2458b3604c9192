"""The purpose of a model: from the ledger, the engine's list, the price list and its name; else unknown."""

from __future__ import annotations

import ast

import pytest

from core import packaged_models
from core.datasets import presets
from core.datasets.recipe import Recipe
from core.finetuning import job_form
from core.model_profile.model_purpose import Purpose, TrainingFacts, purpose_of
from core.providers import ModelInfo

_STORIES = Purpose("stories", language="zh_CN", narrow=True)
_ANSWERS, _CONTINUES, _UNKNOWN = Purpose("instructions"), Purpose("base"), Purpose("unknown")


@pytest.mark.parametrize(
    ("provider", "model", "base", "priced", "expected"),
    [
        ("engine", "storyteller", "gemma-3-270m", False, _STORIES),
        ("engine", "storyteller-en", "gemma-3-270m", False, Purpose("stories", language="en", narrow=True)),
        ("compatible", "storyteller", None, False, _UNKNOWN),  # another server's model with that name
        ("engine", "gemma-3-270m", "gemma-3-270m", False, _CONTINUES),
        ("compatible", "gemma-3-270m", None, False, _UNKNOWN),  # Ollama's naming of instruction models
        ("engine", "gemma-3-1b-it", "gemma-3-1b-it", False, _ANSWERS),
        ("engine", "Qwen2.5-0.5B-Instruct", None, False, _ANSWERS),
        ("engine", "qwen2.5-0.5b", None, False, _UNKNOWN),
        ("engine", "my-model", "my-model", False, _UNKNOWN),
        ("engine", "writer", None, True, _UNKNOWN),  # the engine's own models are priced, as machine time
        ("openai", "gpt-4.1-mini", None, True, _ANSWERS),
        ("openai", "gpt-5", None, False, _ANSWERS),
        ("openai", "o4-mini", None, False, _ANSWERS),
        ("openai", "chatgpt-4o-latest", None, False, _ANSWERS),
        ("openai", "gpt-3.5-turbo-instruct", None, True, _ANSWERS),
        ("openai", "davinci-002", None, True, _CONTINUES),
        ("openai", "babbage-002", None, True, _CONTINUES),
        ("azure", "gpt-4o-mini", None, False, _ANSWERS),
        ("azure", "our-deployment", None, False, _UNKNOWN),
        ("compatible", "deepseek-chat", None, False, _ANSWERS),
        ("compatible", "deepseek-ai/DeepSeek-V3-Base", None, False, _CONTINUES),
        ("compatible", "meta-llama/Llama-3.1-8B-Instruct", None, False, _ANSWERS),
        ("compatible", "google/gemma-3-4b-pt", None, False, _CONTINUES),
        ("compatible", "qwen-plus", None, True, _ANSWERS),  # it is in the price list
        ("compatible", "qwen-plus", None, False, _UNKNOWN),
        ("compatible", "qwen-turbo", None, False, _ANSWERS),
        # "it" counts as a separate word of a name, not as part of a word
        ("compatible", "bitnet", None, False, _UNKNOWN),
        ("compatible", "database-7b", None, False, _UNKNOWN),
        ("compatible", "", None, False, _UNKNOWN),
        ("openai", "ft:gpt-4o-mini-2024-07-18:org:x:1", None, True, Purpose("tuned", base="gpt-4o-mini-2024-07-18")),
        ("engine", "ft:gemma-3-270m:fabula:x:1", "gemma-3-270m", False, Purpose("tuned", base="gemma-3-270m")),
        ("engine", "renamed", "gemma-3-270m", False, Purpose("tuned", base="gemma-3-270m")),
    ],
)
def test_a_model_is_for_what_the_facts_say(
    provider: str, model: str, base: str | None, priced: bool, expected: Purpose
) -> None:
    assert purpose_of(ModelInfo(model, provider, base, None, None), priced=priced) == expected


@pytest.mark.parametrize(
    ("provider", "facts", "narrow"),
    [
        ("engine", TrainingFacts("stories", 486, "gemma-3-270m"), True),
        ("engine", TrainingFacts("stories", 486, "storyteller"), True),
        ("engine", TrainingFacts("stories", 486, "qwen2.5-0.5b-instruct"), False),
        ("openai", TrainingFacts("support", None, "gpt-4.1-mini-2025-04-14"), False),
        ("openai", TrainingFacts(None, 12, "davinci-002"), True),
        ("compatible", TrainingFacts("support", 12, "unknown-model"), True),
    ],
)
def test_a_model_of_the_ledger_names_its_data_and_is_narrow_unless_its_base_answers_instructions(
    provider: str, facts: TrainingFacts, narrow: bool
) -> None:
    info = ModelInfo(f"ft:{facts.root}:org:x:1", provider, facts.root, None, None)
    expected = Purpose("tuned", None, facts.dataset, facts.rows, facts.root, narrow=narrow)
    assert purpose_of(info, facts) == expected


def test_every_preset_of_a_language_names_the_writer_that_was_trained_on_it() -> None:
    named = {(preset.language, preset.recipe.model) for preset in presets.load() if preset.language is not None}
    assert named == {(language, writer) for writer, language in packaged_models.WRITERS.items()}
    assert Recipe("x", (), "x").model == packaged_models.writer("zh_CN")


@pytest.mark.parametrize("model", [packaged_models.BASE, *packaged_models.WRITERS])
def test_packaged_models_have_an_adapter_and_a_known_context(model: str) -> None:
    assert job_form.context_size(model) == 4_096
    assert model == packaged_models.BASE or (presets.DATA / "storyteller" / f"{model}.gguf").is_file()


def test_names_of_packaged_models_are_written_in_one_place() -> None:
    """Only as values: sentences, docstrings and file paths may contain them."""
    root = presets.DATA.parent
    names = {packaged_models.BASE, *packaged_models.WRITERS}
    found = {
        path.relative_to(root).as_posix()
        for folder in ("core", "pages", "data/storyteller")
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    folder_users = {"core/engine/api/models.py", "core/tours/composed_stories.py", "data/storyteller/make.py"}
    assert found == {"core/packaged_models.py", *folder_users}
