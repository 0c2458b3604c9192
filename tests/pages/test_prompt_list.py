"""The list of prompts on the data-set page: what is recognised, named as unusable, priced and generated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from core.db.store import Store
from core.db.tables import Dataset, Row, Run
from tests.support.app_pages import click, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

SYSTEM = {"role": "system", "content": "You sort tickets."}
USER, ANSWER = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "track"}


def brought(name: str, data: bytes, locale: str = "en-US") -> AppTest:
    """The design tab after a visitor has chosen a list."""
    at = visit("dataset", locale, dataset_source="list")
    at.file_uploader(key="dataset_prompts_file").upload(name, data).run()
    assert not at.exception
    return at


def lines(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def test_without_a_file_the_page_says_what_to_do(server: FaultServer) -> None:
    for locale, sentence in (("en-US", "Choose a file with prompts or conversations."), ("zh-CN", "请选择")):
        assert sentence in words(visit("dataset", locale, dataset_source="list"))


def test_a_training_file_is_answered_anew_with_its_system_text(store: Store, server: FaultServer) -> None:
    body = {"messages": [SYSTEM, USER, ANSWER]}
    image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
    at = brought("tickets.jsonl", lines(body, body, "{broken", {"messages": [SYSTEM]}, image))
    shown = words(at)
    assert "1 prompt · 1 duplicate, asked once · 2 answers dropped" in shown
    assert "3 rows can't be asked and are left out" in shown
    for fault in ("Line 3: It is not JSON", "Line 4: It has no user message.", "Line 5: Message 1 has an image"):
        assert fault in shown
    assert at.text_area(key="dataset_prompts_system").value == "You sort tickets."
    at.number_input(key="dataset_prompts_answers").set_value(3).run()
    assert "**1 prompt** × 3 answers = **3 rows**" in words(at)
    click(at, "dataset_prompts_generate")
    assert at.session_state["dataset_part"] == "rows"
    with store.reading() as session:
        (dataset,) = session.scalars(select(Dataset))
        assert (dataset.name, dataset.source) == ("tickets", "prompts")
        assert dataset.recipe is not None and dataset.recipe["system"] == "You sort tickets."
        assert session.scalars(select(Run.state)).all() == ["queued"]
        assert session.scalars(select(Row.prompt)).all() == ["Where is it?"] * 3


def test_a_table_is_asked_through_its_template(server: FaultServer) -> None:
    at = brought("tickets.csv", "id,ticket\n1,My card is lost\n2,\n3,我要退款\n".encode())
    template = next(area for area in at.text_area if str(area.key).startswith("dataset_prompts_template"))
    assert template.value == "{ticket}" and "2 prompts" in words(at) and "Line 3: The prompt is empty." in words(at)
    template.set_value("Sort: {ticket}").run()
    assert "Sort: My card is lost" in words(at)
    template.set_value("Sort: {colour}").run()
    assert "colour" in trouble(at) and not at.exception


def test_parameters_in_the_file_fill_the_form(server: FaultServer) -> None:
    body = {"model": "writer", "temperature": 0.25, "max_tokens": 40, "stop": ["\n"], "messages": [USER]}
    at = brought("batch.jsonl", lines({"custom_id": "1", "method": "POST", "url": "/v1/x", "body": body}))
    at.session_state["dataset_prompts_more"] = True
    at.run()
    assert at.slider(key="dataset_prompts_temperature").value == 0.25
    assert at.number_input(key="dataset_prompts_max_tokens").value == 40
    assert at.text_area(key="dataset_prompts_stop").value == "\\n"
    at.text_area(key="dataset_prompts_response_format").set_value("[1").run()
    assert "The response format is not a JSON object." in words(at)
    assert at.button(key="dataset_prompts_generate").disabled


def test_another_file_does_not_keep_the_parameters_of_the_one_before(server: FaultServer) -> None:
    at = brought("one.jsonl", lines({"messages": [SYSTEM, USER], "temperature": 0.25, "stop": ["END"]}))
    at.session_state["dataset_prompts_more"] = True
    at.file_uploader(key="dataset_prompts_file").upload("two.csv", b"prompt\nHello\n").run()
    assert at.slider(key="dataset_prompts_temperature").value == 1.0
    assert at.text_area(key="dataset_prompts_stop").value == at.text_area(key="dataset_prompts_system").value == ""


def test_a_list_that_is_too_long_says_that_its_end_is_missing(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.datasets.importers.table.MAX_ROWS", 2)
    assert "Only the first 2 rows were read" in words(brought("long.csv", b"prompt\na\nb\nc\n"))


def test_a_preview_asks_the_prompts_of_the_list(server: FaultServer) -> None:
    at = brought("two.csv", b"prompt\nfirst\nsecond\n")
    click(at, "dataset_preview")
    until(lambda: {"first", "second"} <= set(server.prompts()) or not at.run(), "a request for each")
