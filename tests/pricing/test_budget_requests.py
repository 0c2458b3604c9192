"""Budgets of each person, warnings at 80 %, and requests to the admins for more."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from core.actor import Actor
from core.db.store import Store
from core.db.tables import BudgetRequest, Person, Spend
from core.errors import FabulaError, NotAllowed, NotFound, OverBudget
from core.pricing import budget, budget_requests, spend
from core.pricing.budget import Scope
from tests.support.waiting import at_once

_ADMIN = Actor("ann", "Ann", "admin")
_BOB = Actor("bob", "Bob", "editor")
_VIC = Actor("vic", "Vic", "viewer")


@pytest.fixture(autouse=True)
def people(store: Store) -> None:
    with store.session() as session:
        for one in (_ADMIN, _BOB, _VIC):
            session.add(Person(id=one.id, email=f"{one.id}@example.com", name=one.name, role=one.role))


def _spend(store: Store, usd: str, actor: Actor = _BOB, reference: str = "run-1") -> int:
    with store.session() as session:
        return spend.record(
            session, actor, "story", provider="p", model="m", reference=reference, cost_usd=Decimal(usd)
        )


def _set(store: Store, scope: Scope, usd: str | None, subject: str = "") -> None:
    budget.set_budget(store, _ADMIN, scope, None if usd is None else Decimal(usd), subject)


# --- a budget of each person -----------------------------------------------------------------------------------------


def test_a_budget_of_each_person_applies_to_those_without_their_own(store: Store) -> None:
    _set(store, "each", "5")
    _set(store, "person", "8", "bob")
    assert (budget.remaining(store, _BOB), budget.remaining(store, _VIC)) == (8, 5)
    _spend(store, "5", _VIC)
    with pytest.raises(OverBudget, match="your budget for this month"):
        _spend(store, "0.01", _VIC)
    assert budget.remaining(store, _BOB) == 8
    _set(store, "person", None, "bob")
    assert budget.remaining(store, _BOB) == 5


def test_a_persons_budgets_and_their_rest(store: Store) -> None:
    assert budget.of_person(store, _BOB) == []
    _set(store, "month", "20")
    _set(store, "each", "5")
    _set(store, "run", "5")
    _set(store, "person", "3", "vic")
    _spend(store, "2", _ADMIN, "r")
    assert [(one.scope, one.amount_usd, one.spent_usd, one.left_usd) for one in budget.of_person(store, _BOB)] == [
        ("month", 20, 2, 18),
        ("person", 5, 0, 5),
    ]


@pytest.mark.parametrize(
    ("spent", "limit", "nearly", "used_up"),
    [
        ("7.99", "10", False, False),
        ("8", "10", True, False),
        ("9.99", "10", True, False),
        ("10", "10", True, True),
        (None, "0", True, True),
    ],
)
def test_the_warning_begins_at_80_percent(
    store: Store, spent: str | None, limit: str, nearly: bool, used_up: bool
) -> None:
    _set(store, "each", limit)
    if spent:
        _spend(store, spent)
    (view,) = budget.of_person(store, _BOB)
    assert (view.nearly_used_up, view.used_up) == (nearly, used_up)
    listed = [one.name for one in budget.nearly_used_up(store, _ADMIN)]
    assert listed == (["Bob"] if spent and nearly else [])


def test_admins_see_whose_budgets_are_nearly_used_up(store: Store) -> None:
    _set(store, "month", "10")
    _set(store, "each", "4")
    _set(store, "person", "9", "bob")
    for actor, usd in ((_BOB, "5"), (_VIC, "3.5")):
        _spend(store, usd, actor)
    assert [(one.scope, one.name, one.left_usd) for one in budget.nearly_used_up(store, _ADMIN)] == [
        ("month", "", Decimal("1.5")),
        ("person", "Vic", Decimal("0.5")),
    ]
    with pytest.raises(NotAllowed):
        budget.nearly_used_up(store, _BOB)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spent", "asked", "says"),
    [
        ("6", "4.01", "The request can cost up to $4.01, which is $0.01 more than is left."),
        ("6", "7", "The request can cost up to $7.00, which is $3.00 more than is left."),
        ("9.9996", "0.0006", "The request can cost up to $0.0006, which is $0.0002 more than is left."),
        ("10", "0.00001", "Blocked: this would exceed your budget for this month. $10.00 of $10.00 spent or reserved."),
    ],
)
def test_a_refusal_says_by_how_much_the_request_exceeds_the_rest(
    store: Store, spent: str, asked: str, says: str
) -> None:
    _set(store, "each", "10")
    _spend(store, spent)
    with pytest.raises(OverBudget) as refused:
        _spend(store, asked)
    assert says in refused.value.what and "your budget for this month" in refused.value.what
    assert (refused.value.scope, refused.value.missing_usd) == (
        "person",
        Decimal(spent) + Decimal(asked) - 10,
    )


def test_a_refusal_names_the_budget_that_leaves_the_least(store: Store) -> None:
    _set(store, "month", "3")
    _set(store, "each", "2")
    _set(store, "run", "2.5")
    with pytest.raises(OverBudget, match="your budget for this month"):
        _spend(store, "4")
    _spend(store, "1.5", _VIC, "other")
    with pytest.raises(OverBudget, match="this month's budget for everyone"):
        _spend(store, "4")


# --- requests --------------------------------------------------------------------------------------------------------


def test_an_admin_grants_a_request_for_a_persons_budget(store: Store) -> None:
    _set(store, "each", "10")
    asked = budget_requests.ask(store, _BOB, "person", missing_usd=Decimal("7.5"))
    (request,) = budget_requests.open_requests(store, _ADMIN)
    assert (request.id, request.name, request.scope, request.limit_usd) == (asked, "Bob", "person", 10)
    assert request.proposed_usd == 18  # covers the blocked request, in whole dollars
    budget_requests.grant(store, _ADMIN, asked, Decimal(20))
    assert (budget.remaining(store, _BOB), budget.remaining(store, _VIC)) == (20, 10)
    assert budget_requests.open_requests(store, _ADMIN) == []
    answer = budget_requests.own(store, _BOB)["person"]
    assert (answer.state, answer.decided_by) == ("granted", "Ann")


@pytest.mark.parametrize(("scope", "subject"), [("month", ""), ("run", "")])
def test_a_granted_request_raises_the_budget_that_everyone_has(store: Store, scope: Scope, subject: str) -> None:
    _set(store, scope, "1")
    budget_requests.grant(store, _ADMIN, budget_requests.ask(store, _VIC, scope), Decimal("1.5"))
    assert [(one.scope, one.subject, one.amount_usd) for one in budget.budgets(store)] == [
        (scope, subject, Decimal("1.5"))
    ]


def test_a_declined_request_changes_nothing_and_may_be_repeated(store: Store) -> None:
    _set(store, "each", "10")
    first = budget_requests.ask(store, _BOB, "person")
    budget_requests.decline(store, _ADMIN, first)
    assert budget.remaining(store, _BOB) == 10
    assert budget_requests.own(store, _BOB)["person"].state == "declined"
    assert budget_requests.ask(store, _BOB, "person") != first
    assert budget_requests.own(store, _BOB)["person"].state == "open"


def test_asking_often_is_one_request(store: Store) -> None:
    _set(store, "month", "10")
    assert len(set(at_once(8, lambda: budget_requests.ask(store, _BOB, "month")))) == 1
    budget_requests.ask(store, _VIC, "month")
    assert [one.name for one in budget_requests.open_requests(store, _ADMIN)] == ["Bob", "Vic"]


def test_without_a_scope_the_budget_that_leaves_the_least_is_asked_about(store: Store) -> None:
    _set(store, "month", "3")
    _set(store, "each", "2")
    _set(store, "run", "1")
    budget_requests.ask(store, _BOB)
    assert set(budget_requests.own(store, _BOB)) == {"person"}
    budget_requests.ask(store, _BOB, reference="run-1")
    assert set(budget_requests.own(store, _BOB)) == {"person", "run"}


@pytest.mark.parametrize("change", ["10.01", None])
def test_a_budget_that_is_raised_or_removed_otherwise_answers_its_requests(store: Store, change: str | None) -> None:
    _set(store, "month", "10")
    asked = budget_requests.ask(store, _BOB, "month")
    _set(store, "month", "9")
    assert len(budget_requests.open_requests(store, _ADMIN)) == 1
    _set(store, "month", change)
    assert budget_requests.open_requests(store, _ADMIN) == []
    assert budget_requests.own(store, _BOB)["month"].state == "granted"
    with pytest.raises(NotFound):
        budget_requests.grant(store, _ADMIN, asked, Decimal(20))


def test_a_request_for_a_monthly_budget_ends_with_the_month(store: Store) -> None:
    for scope in ("month", "run"):
        _set(store, scope, "10")
        asked = budget_requests.ask(store, _BOB, scope)
        with store.session() as session:
            session.get_one(BudgetRequest, asked).created_at -= timedelta(days=31)
    assert [one.scope for one in budget_requests.open_requests(store, _ADMIN)] == ["run"]
    assert budget_requests.ask(store, _BOB, "month") and "month" in budget_requests.own(store, _BOB)


@pytest.mark.parametrize("amount", ["10", "9", "1e10", "NaN"])
def test_a_request_is_granted_only_with_a_higher_budget(store: Store, amount: str) -> None:
    _set(store, "each", "10")
    asked = budget_requests.ask(store, _BOB, "person")
    with pytest.raises(FabulaError):
        budget_requests.grant(store, _ADMIN, asked, Decimal(amount))
    assert budget.remaining(store, _BOB) == 10 and len(budget_requests.open_requests(store, _ADMIN)) == 1


def test_only_admins_see_and_answer_requests(store: Store) -> None:
    _set(store, "each", "10")
    asked = budget_requests.ask(store, _BOB, "person")
    for action in (
        lambda: budget_requests.open_requests(store, _BOB),
        lambda: budget_requests.grant(store, _BOB, asked, Decimal(20)),
        lambda: budget_requests.decline(store, _BOB, asked),
    ):
        with pytest.raises(NotAllowed):
            action()
    assert budget_requests.own(store, _VIC) == {}


def test_there_is_nothing_to_ask_for_without_a_budget(store: Store) -> None:
    for scope in (None, "month"):
        with pytest.raises(FabulaError, match="no such budget"):
            budget_requests.ask(store, _BOB, scope)
    with pytest.raises(NotFound):
        budget_requests.decline(store, _ADMIN, "gone")


@pytest.mark.parametrize(
    ("limit", "missing", "proposed"),
    [("10", "0", "15"), ("10", "30.2", "41"), ("0", "0", "0.01"), ("0.3", "0.02", "0.45"), ("7", "0", "11")],
)
def test_the_proposed_budget(limit: str, missing: str, proposed: str) -> None:
    assert budget_requests.proposed(Decimal(limit), Decimal(missing)) == Decimal(proposed)


def test_last_months_spending_is_no_warning(store: Store) -> None:
    _set(store, "each", "10")
    spend_id = _spend(store, "9")
    with store.session() as session:
        session.get_one(Spend, spend_id).created_at -= timedelta(days=31)
    (view,) = budget.of_person(store, _BOB)
    assert view.spent_usd == 0 and not view.nearly_used_up
