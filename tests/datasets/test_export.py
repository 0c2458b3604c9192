"""Exports: written as planned, per split, in bounded memory, with token counts."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sqlalchemy import update

from core.actor import LOCAL
from core.datasets import datasets, export, jsonl, versions
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row
from core.errors import BadTrainingFile, NotFound, Unavailable
from core.pricing import tokens


def load(store: Store, texts: list[str], splits: list[str] | None = None) -> str:
    frame = pd.DataFrame({"topic": [f"t{i}" for i in range(len(texts))], "text": texts})
    frame["split"] = splits or [""] * len(texts)
    return datasets.from_frame(store, LOCAL, "x", frame, ["topic"], "text", split_column="split")


def test_the_parts_of_a_version_are_files_with_one_separator_and_one_stop(store: Store) -> None:
    texts = ["one", "two", "three END"]  # the stop must not occur in the validation part either
    dataset_id = load(store, [*texts, "4. four"], ["train", "train", "val", "held_out"])
    selection = export.Selection(store, dataset_id, versions.freeze(store, LOCAL, dataset_id))
    plan = export.plan(selection)
    assert (plan.separator, plan.stop) == (" ->", ".")
    files = {part: list(export.jsonl_lines(selection, plan, part)) for part in ("train", "validation")}
    assert files["train"][0] == '{"prompt": "t0 ->", "completion": " one."}\n'
    assert [json.loads(line)["completion"] for line in files["validation"]] == [" three END."]
    chat = list(export.jsonl_lines(selection, export.plan(selection, "chat", system="Be brief."), "held_out"))
    assert [turn["content"] for turn in json.loads(chat[0])["messages"]] == ["Be brief.", "t3", "4. four"]


def test_a_stop_that_is_taken_in_the_validation_part_is_not_proposed(store: Store) -> None:
    dataset_id = load(store, ["one", "two", "a. b"], ["train", "train", "val"])
    version_id = versions.freeze(store, LOCAL, dataset_id)
    assert export.plan(export.Selection(store, dataset_id, version_id)).stop == " END"
    assert export.plan(export.Selection(store, dataset_id)).stop == "."  # no rows are kept for validation there


def test_without_a_version_only_what_may_be_learned_is_written(store: Store) -> None:
    dataset_id = load(store, ["a", "b", "c", "d"], ["held_out", "val", "train", ""])
    selection = export.Selection(store, dataset_id)
    assert [prompt for prompt, _ in selection.examples()] == ["t2", "t3"]
    assert list(selection.examples("validation")) == []


def test_rows_that_change_between_looking_and_writing_are_told(store: Store) -> None:
    dataset_id = load(store, ["one", "two"])
    selection = export.Selection(store, dataset_id)
    plan = export.plan(selection)
    with store.session() as session:
        session.query(Row).filter_by(position=1).one().text = "Now. With a stop."
    with pytest.raises(BadTrainingFile, match="changed") as caught:
        list(export.jsonl_lines(selection, plan))
    assert caught.value.next_step


PAIRS = [(f"p{i}", f"Once upon a time, number {i}") for i in range(30)]


@pytest.mark.parametrize("file_format", ["completion", "chat"])
def test_tokens_are_those_of_prompt_and_completion_with_their_marks(file_format: jsonl.Format) -> None:
    plan = jsonl.plan(PAIRS, file_format)
    counted = export.count_tokens(plan, PAIRS, "gpt-4o-mini")
    texts = [a + b for a, b in plan.pairs(PAIRS)]
    bare = tokens.count(texts, "gpt-4o-mini").tokens
    assert counted.exact and counted.tokens == bare + (11 * 30 if file_format == "chat" else 0)
    assert not export.count_tokens(plan, PAIRS, "gemma-3-270m").exact


def test_a_chat_file_begins_with_the_recipes_system_text_or_the_one_that_was_given(store: Store) -> None:
    plan = Recipe("x", (Column("a", ("1",)),), "{a}", system="Be brief.", provider="p", model="m")
    dataset_id = datasets.create(store, LOCAL, plan)
    with store.session() as session:
        session.execute(update(Row).values(state="done", text="One."))
    selection = export.Selection(store, dataset_id)

    def system() -> list[str]:
        plan = export.plan(selection, "chat")
        (line,) = (json.loads(line) for line in export.jsonl_lines(selection, plan))
        return [turn["content"] for turn in line["messages"] if turn["role"] == "system"]

    before = datasets.fingerprint(store, dataset_id), datasets.fingerprint(store, dataset_id, "v1")
    assert system() == ["Be brief."] == [datasets.system_message(store, dataset_id)]
    datasets.set_system_message(store, LOCAL, dataset_id, " Tell it well. ")
    assert system() == ["Tell it well."]
    assert datasets.fingerprint(store, dataset_id) != before[0]
    assert datasets.fingerprint(store, dataset_id, "v1") != before[1]
    datasets.set_system_message(store, LOCAL, dataset_id, "")
    assert system() == [] and export.plan(selection, "chat", system="Mine.").system == "Mine."
    assert export.plan(selection).system == ""  # a file of prompts and completions has none
    with pytest.raises(NotFound):
        datasets.system_message(store, "gone")


def test_a_tokenizer_that_is_a_request_away_counts_some_and_the_rest_in_proportion() -> None:
    plan, counted_texts = jsonl.plan(PAIRS), list[str]()

    def ask(text: str) -> int:
        counted_texts.append(text)
        return len(text)

    all_texts = sum(len(a + b) for a, b in plan.pairs(PAIRS))
    assert export.count_tokens(plan, PAIRS, "gemma", ask) == tokens.TokenCount(all_texts, True)
    assert counted_texts[0] == "p0 -> Once upon a time, number 0."
    counted_texts.clear()
    some = export.count_tokens(plan, PAIRS, "gemma", ask, max_sample=6)
    assert len(counted_texts) == 6 and not some.exact and abs(some.tokens - all_texts) < all_texts * 0.05


def test_a_tokenizer_that_fails_is_not_asked_again() -> None:
    plan, counted_texts = jsonl.plan(PAIRS), list[str]()

    def ask(text: str) -> int:
        counted_texts.append(text)
        raise Unavailable("away", "wait")

    counted = export.count_tokens(plan, PAIRS, "gemma", ask)
    assert counted == replace(export.count_tokens(plan, PAIRS, "gemma"), unanswered=True)
    assert len(counted_texts) == 1


def test_parquet_has_every_finished_row_with_its_part(store: Store, tmp_path: Path) -> None:
    dataset_id = load(store, ["one", "", "=3"], ["train", "", "held_out"])
    assert export.write_parquet(store, dataset_id, tmp_path / "x.parquet") == 2
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(r["prompt"], r["completion"], r["split"]) for r in rows] == [
        ("t0", "one", "train"),
        ("t2", "=3", "held_out"),
    ]
    assert dict(rows[0]["values"]) == {"topic": "t0"}
    with pytest.raises(NotFound):
        export.write_parquet(store, "gone", tmp_path / "y.parquet")


def test_a_large_file_is_written_without_holding_its_texts() -> None:
    class Many:
        def __iter__(self) -> Iterator[tuple[str, str]]:
            return ((f"prompt {i}", f"story {i} " + "x" * 1_000) for i in range(30_000))

    tracemalloc.start()
    plan = jsonl.plan(Many())
    line_count = sum(1 for _ in plan.lines(Many()))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert line_count == 30_000
    assert peak < 4_000_000  # bytes; the texts are 30 MB
