"""The conformance table: what counts as passed, and what is written into the documentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="requirements-engine.txt is not installed")

from bench._conformance_table import (
    BEGIN,
    END,
    ClientResult,
    MethodResult,
    as_markdown,
    as_text,
    figures,
    in_document,
    own_line,
    restored,
    stored,
)
from bench.conformance import CLIENTS

_ROOT = Path(__file__).parents[2]
_CHAT, _BATCH = MethodResult("chat"), MethodResult("batches", "404 | <none>")
_OWN = MethodResult("audio", "only with OpenAI's own server", own=True)
_GOOD = ClientResult("good", "1.2", (_CHAT, _OWN))
_BAD = ClientResult("bad", "3", (_CHAT, _BATCH), date="2026-11-30")
_STOPPED = ClientResult("stopped", "4", (_CHAT,), "it ended with code 1")
_ABSENT = ClientResult("absent", "", (), "it could not be installed")


@pytest.mark.parametrize(
    ("result", "passed"), [(_GOOD, True), (_BAD, False), (_STOPPED, False), (_ABSENT, False)], ids=lambda one: str(one)
)
def test_a_client_passes_if_only_its_own_limits_stop_it(result: ClientResult, passed: bool) -> None:
    assert result.passed is passed


def test_the_figures_count_every_method() -> None:
    assert figures([_GOOD, _BAD, _ABSENT]) == {
        "clients_passed": 1,
        "clients_tried": 3,
        "methods_passed": 2,
        "methods_tried": 4,
        "methods_passed_share": 0.5,
    }
    assert figures([])["methods_passed_share"] == 0.0


def test_the_table_names_what_failed_and_why() -> None:
    table = as_markdown([_GOOD, _BAD, _ABSENT])
    assert "1 of 3 clients passed, 2 of 4 methods." in table
    assert "| bad 3 | 2026-11-30 | 1 of 2 | chat, **not: batches** (404 \\| &lt;none>) |" in table
    assert "**it could not be installed**" in table
    assert "    batches: 404 | <none>" in as_text([_BAD])


def test_results_can_be_stored() -> None:
    assert restored(stored([_GOOD, _STOPPED])) == [_GOOD, _STOPPED]


def test_methods_can_be_tried_again() -> None:
    again = ClientResult("bad", "3", (MethodResult("batches"), MethodResult("uploads")), date="2026-12-01")
    updated = _BAD.updated(again)
    assert (updated.worked, updated.date) == (["chat", "batches", "uploads"], "2026-12-01")
    assert _BAD.updated(replace(again, version="4")).worked == ["batches", "uploads"]


def test_the_table_replaces_the_one_between_the_markers() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert in_document(document, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="conformance"):
        in_document("no markers", "new")


@pytest.mark.parametrize("line", ["Provider List: …", "", "12", '["method"]', '{"event": "run"}'])
def test_lines_that_a_client_itself_prints_are_skipped(line: str) -> None:
    assert own_line(line) is None
    assert own_line(json.dumps({"version": "1"})) == {"version": "1"}


def test_the_documentation_has_a_row_for_each_client() -> None:
    table = (_ROOT / "docs" / "engine.md").read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert len(CLIENTS) >= 12
    assert [client.name for client in CLIENTS if f"| {client.name} " not in table] == []
