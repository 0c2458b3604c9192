"""Budgets of a team on the pages: warnings, blocked requests, asking for more, and what admins answer."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.pricing import budget, budget_requests, spend
from core.settings import Settings
from pages.ui import open_tabs
from tests.support import team
from tests.support.app_pages import click, field, labels, opened, trouble, visit, visitor, words
from tests.support.team import arrive, member

_BOB = "bob@example.org"


@pytest.fixture
def team_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in team.TEAM_VARIABLES.items():
        monkeypatch.setenv(name, value)
    yield
    open_tabs._tabs.clear()


@pytest.fixture
def settings(home: object) -> Settings:
    return Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})


@pytest.fixture
def admin(store: Store, settings: Settings, team_mode: None) -> Actor:
    return arrive(store, settings).actor(store)


@pytest.fixture
def bob(store: Store, settings: Settings, admin: Actor) -> Actor:
    return member(store, settings, admin, _BOB, "editor").actor(store)


def _open(email: str, page: str, locale: str = "en-US", **state: Any) -> AppTest:
    """The tab of someone who signs in."""
    at = visitor(locale)
    at.secrets["auth"] = {"google": {"client_id": "c"}}
    at.user = {"is_logged_in": True, **team.claims(email)}
    return opened(at, page, **state)


def _spend(store: Store, actor: Actor, usd: str) -> None:
    with store.session() as session:
        spend.record(session, actor, "story", provider="p", model="m", reference="s", cost_usd=Decimal(usd))


def _keys(at: AppTest) -> list[str]:
    return [str(button.key) for button in at.button]


@pytest.mark.parametrize(
    ("page", "state"),
    [
        ("dataset", {"dataset_part": "design"}),
        ("dataset", {"dataset_part": "rows"}),
        ("training", {}),
        ("story", {}),
        ("settings", {}),
    ],
)
def test_a_person_is_warned_where_they_spend_from_80_percent_on(
    store: Store, admin: Actor, bob: Actor, page: str, state: dict[str, Any]
) -> None:
    budget.set_budget(store, admin, "each", Decimal(10))
    _spend(store, bob, "7.99")
    assert "Ask an admin for more" not in labels(_open(_BOB, page, **state))
    _spend(store, bob, "0.5")
    at = _open(_BOB, page, **state)
    assert "nearly used up" in words(at) and "$8.49 of $10.00" in words(at)
    assert "Ask an admin for more" in labels(at)


def test_a_budget_that_is_used_up_says_that_paid_requests_are_blocked(store: Store, admin: Actor, bob: Actor) -> None:
    budget.set_budget(store, admin, "month", Decimal(2))
    _spend(store, admin, "2")
    said = trouble(_open(_BOB, "story"))
    assert "This month's budget for everyone is used up: $2.00 of $2.00. Paid requests are blocked." in said
    assert "所有人本月的预算已用完" in trouble(_open(_BOB, "story", "zh-CN"))


def test_one_click_asks_and_an_admin_grants(store: Store, admin: Actor, bob: Actor) -> None:
    budget.set_budget(store, admin, "person", Decimal(10), bob.id)
    _spend(store, bob, "9")
    at = click(_open(_BOB, "story"), "budget_ask_person")
    assert "You asked for more just now" in words(at) and "budget_ask_person" not in _keys(at)
    (request,) = budget_requests.open_requests(store, admin)
    seen = _open(team.ADMIN_EMAIL, "settings")
    assert "**Bob** asks for a higher monthly budget. Now: $10.00." in words(seen)
    assert "Bob: $9.00 of $10.00" in words(seen)
    click(seen, f"settings_budget_grant_{request.id}")
    assert budget.remaining(store, bob) == 6 and "asks for" not in words(seen)  # 15 was proposed
    at.run()
    assert "nearly used up" not in words(at)


def test_an_admin_declines_and_the_person_sees_it(store: Store, admin: Actor, bob: Actor) -> None:
    budget.set_budget(store, admin, "each", Decimal(10))
    _spend(store, bob, "9")
    asked = budget_requests.ask(store, bob, "person")
    click(_open(team.ADMIN_EMAIL, "settings"), f"settings_budget_decline_{asked}")
    at = _open(_BOB, "settings")
    assert "Ann declined your request just now" in words(at)
    click(at, "settings_budget_ask_person")
    assert len(budget_requests.open_requests(store, admin)) == 1


def test_an_admin_can_grant_another_amount_but_not_less(store: Store, admin: Actor, bob: Actor) -> None:
    budget.set_budget(store, admin, "each", Decimal(10))
    asked = budget_requests.ask(store, bob, "person")
    at = _open(team.ADMIN_EMAIL, "settings")
    field(at, f"settings_budget_amount_{asked}").set_value("9").run()
    click(at, f"settings_budget_grant_{asked}")
    assert "is not more than the budget has now" in trouble(at)
    field(at, f"settings_budget_amount_{asked}").set_value("11.5").run()
    click(at, f"settings_budget_grant_{asked}")
    assert budget.remaining(store, bob) == Decimal("11.5") and not trouble(at)


def test_admins_are_not_offered_to_ask(store: Store, admin: Actor) -> None:
    budget.set_budget(store, admin, "month", Decimal(1))
    _spend(store, admin, "1")
    at = _open(team.ADMIN_EMAIL, "story")
    assert "is used up" in trouble(at) and "Ask an admin for more" not in labels(at)


def test_the_budget_of_a_person_is_chosen_among_the_people(store: Store, admin: Actor, bob: Actor) -> None:
    at = _open(team.ADMIN_EMAIL, "cost", cost_part="spent", cost_budgets=True, cost_budget_scope="person")
    field(at, "cost_budget_person").select(bob.id).run()
    field(at, "cost_budget_amount").set_value("5").run()
    click(at, "cost_budget_set")
    assert budget.remaining(store, bob) == 5 and "One person, per month · Bob" in words(at)


def test_others_budgets_are_not_shown_to_a_person_who_is_no_admin(store: Store, admin: Actor, bob: Actor) -> None:
    for scope, subject in (("person", admin.id), ("person", bob.id), ("each", "")):
        budget.set_budget(store, admin, scope, Decimal(5), subject)  # type: ignore[arg-type]  # a table's column
    at = _open(_BOB, "cost", cost_part="spent", cost_budgets=True)
    assert "· Bob" in words(at) and "· Ann" not in words(at) and "Each person, per month" in words(at)
    assert not [key for key in _keys(at) if key.startswith("cost_budget")]


@pytest.mark.parametrize("page", ["dataset", "training", "story", "settings"])
def test_nothing_of_it_appears_in_local_mode(store: Store, page: str) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    _spend(store, LOCAL, "1")
    at = visit(page)
    assert "used up" not in words(at) and "Ask an admin for more" not in labels(at)


def test_the_form_has_no_budget_of_each_person_in_local_mode(store: Store) -> None:
    at = visit("cost", cost_part="spent", cost_budgets=True)
    assert "Each person, per month" not in field(at, "cost_budget_scope").options


def test_the_cost_page_names_people_and_keeps_those_of_one_name_apart(
    store: Store, settings: Settings, admin: Actor, bob: Actor
) -> None:
    other = member(store, settings, admin, "bob@example.net", "editor").actor(store)
    assert other.name == bob.name and other.id != bob.id
    _spend(store, bob, "1")
    _spend(store, other, "3")
    by_model, by_work = (table.value for table in _open(team.ADMIN_EMAIL, "cost", cost_part="spent").dataframe)
    assert [tuple(row) for row in by_model[["person", "spent"]].to_numpy()] == [(bob.name, 3), (bob.name, 1)]
    assert "id" not in by_model and set(by_work["person"]) == {bob.name}
