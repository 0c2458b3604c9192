"""`data/bases.csv`: every suggestion is complete, dated, and consistent in itself."""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from core import packaged_models
from core.engine.bases import suggestions

_FILE = Path(__file__).parents[2] / "data" / "bases.csv"
_COLUMNS = [
    "repo", "parameters", "layers", "width", "key_width", "context", "download_bytes", "licence", "gated", "source",
    "as_of",
]  # fmt: skip
_ROWS = list(csv.DictReader(_FILE.open(encoding="utf-8", newline="")))
# max_position_embeddings in each model's config.json
_CONTEXTS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 8_192,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 8_192,
    "Qwen/Qwen2.5-0.5B-Instruct": 32_768,
    "Qwen/Qwen3-0.6B": 40_960,
    "google/gemma-3-1b-it": 32_768,
    "meta-llama/Llama-3.2-1B-Instruct": 131_072,
    "Qwen/Qwen3-1.7B": 40_960,
    "HuggingFaceTB/SmolLM3-3B": 65_536,  # 128K with YaRN
    "microsoft/Phi-4-mini-instruct": 131_072,
    "Qwen/Qwen3-4B": 40_960,
}


def test_the_columns_are_the_documented_ones_and_no_model_is_listed_twice() -> None:
    assert list(_ROWS[0]) == _COLUMNS
    assert len({row["repo"] for row in _ROWS}) == len(_ROWS) == len(suggestions.every())


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row["repo"])
def test_every_row_is_complete_dated_and_has_its_source(row: dict[str, str]) -> None:
    assert all(row[column] for column in _COLUMNS) and None not in row
    assert row["source"] == f"https://huggingface.co/{row['repo']}"
    assert date(2025, 1, 1) <= date.fromisoformat(row["as_of"]) <= datetime.now(UTC).date()
    assert row["gated"] == ("yes" if row["licence"] in ("gemma", "llama3.2") else "no")


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row["repo"])
def test_the_figures_of_a_row_agree(row: dict[str, str]) -> None:
    parameters, layers, width = int(row["parameters"]), int(row["layers"]), int(row["width"])
    assert _CONTEXTS[row["repo"]] == int(row["context"])
    assert 2.0 <= int(row["download_bytes"]) / parameters < 2.6  # bfloat16; Qwen3 also stores its tied output layer
    assert layers * 4 * width * int(row["key_width"]) < parameters
    assert int(row["key_width"]) % 64 == 0 and width % 64 == 0


def test_the_packaged_base_is_not_suggested() -> None:
    assert packaged_models.BASE not in [one.repo.rpartition("/")[2] for one in suggestions.every()]


def test_suggestions_are_listed_by_size() -> None:
    sizes = [one.shape.parameters for one in suggestions.every()]
    assert sizes == sorted(sizes)
