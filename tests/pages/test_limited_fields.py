"""A number or text outside the limits of its field: adjusted, with a message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from core.db.store import Store
from core.pricing import budget
from tests.support.app_pages import click, visit, words

_PAGES = Path(__file__).parents[2] / "pages"


@pytest.mark.parametrize(
    ("page", "before", "key", "typed", "used", "sentence"),
    [
        ("dataset", {}, "dataset_repeats", 0, 1, "Allowed: 1 to 10,000. Using 1."),
        ("dataset", {}, "dataset_repeats", 20_000, 10_000, "Allowed: 1 to 10,000. Using 10,000."),
        ("dataset", {"dataset_more": True}, "dataset_max_tokens", -5, 1, "Allowed: 1 to 1,000,000. Using 1."),
        ("cost", {"cost_part": "workload"}, "work_epochs", 5_000, 1_000, "Allowed: 0 to 1,000. Using 1,000."),
    ],
)
def test_a_number_out_of_range_becomes_the_nearest_one_and_a_sentence_says_so(
    store: Store, page: str, before: dict[str, Any], key: str, typed: int, used: int, sentence: str
) -> None:
    at = visit(page, **before)
    at.number_input(key=key).set_value(typed).run()
    assert at.number_input(key=key).value == used and sentence in words(at)
    at.number_input(key=key).set_value(2).run()
    assert at.number_input(key=key).value == 2 and "Allowed:" not in words(at)


def test_a_note_that_is_too_long_is_cut_and_a_sentence_says_so(store: Store) -> None:
    at = visit("cost", cost_own=True)
    at.text_input(key="cost_own_note").input("n" * 250).run()
    assert at.text_input(key="cost_own_note").value == "n" * 200
    assert "The limit is 200 characters. The rest was cut off." in words(at)
    at.text_input(key="cost_own_note").input("from the invoice").run()
    assert "The rest was cut off." not in words(at)


def test_a_name_that_must_not_be_cut_is_refused_in_a_sentence(store: Store) -> None:
    at = visit("cost", cost_part="spent", cost_budgets=True, cost_budget_scope="person", cost_budget_amount="5")
    at.text_input(key="cost_budget_person").input("p" * 101).run()
    assert "The text has 101 characters; the limit is 100. Shorten it." in words(at)
    click(at, "cost_budget_set")
    assert "The person's name has 101 characters; the limit is 100." in words(at) and budget.budgets(store) == []


@pytest.mark.parametrize("path", sorted(_PAGES.rglob("*.py")), ids=lambda path: path.name)
def test_no_field_has_a_limit_that_only_the_browser_knows(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "max_chars" not in re.sub(r'""".*?"""', "", source, flags=re.DOTALL)
    limited = re.findall(r"number_input\((?:[^()]|\([^()]*\))*?(?:min_value|max_value|, -?\d)", source)
    assert not limited, "pages.ui.components.fields.number_field says what is allowed"
