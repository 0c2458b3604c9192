"""The inventory of an account: jobs and files over pages, shutdown dates, usage, and keys that may not read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal

import pytest

from core.db.store import Store
from core.errors import FabulaError, Refused
from core.migrate import accounts, tunes
from core.migrate.account_views import AccountView
from core.migrate.sources import AccountForm
from core.providers import Provider
from tests.support.openai_account import ADMIN_KEY, KEY, Fault, OpenAIAccount

Move = Callable[..., AccountView]


def test_lists_1200_jobs_over_pages(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in range(1_200):
        account.add_tune(number, rows=1)
    shown = move()
    assert shown.state == "listed"
    assert (shown.tunes, shown.files) == (1_200, 2_400)
    assert account.count("/fine_tuning/jobs") == 12
    listed = tunes.list_tunes(store, shown.id)
    assert len({one.id for one in listed}) == 1_200
    assert listed[0].dark_on == date(2027, 1, 14)
    assert listed[0].dark_source == "api"
    assert listed[0].state == "found"


def test_waits_as_asked_and_continues_after_errors(account: OpenAIAccount, move: Move) -> None:
    for number in range(3):
        account.add_tune(number)
    account.when("/fine_tuning/jobs", Fault(429, {"retry-after": "0"}), Fault(502), Fault(500))
    assert move().tunes == 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_not_read_is_said(account: OpenAIAccount, move: Move, status: int) -> None:
    account.add_tune(1)
    account.when("/fine_tuning/jobs", Fault(status))
    with pytest.raises(Refused) as refused:
        move()
    assert str(status) in refused.value.what
    assert refused.value.next_step


def test_unknown_methods_and_statuses_are_kept(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1, method=None)
    account.add_tune(2, method="dpo")
    account.add_tune(3, method="reinforcement")
    account.add_tune(4, method="telepathy", status="pondering")
    account.add_tune(5, method=None, status=7, trained_tokens="many", result_files=None, fine_tuned_model=None)
    listed = {one.id: one for one in tunes.list_tunes(store, move().id)}
    methods = [listed[f"ftjob-{number}"].method for number in range(1, 6)]
    assert methods == ["supervised", "dpo", "reinforcement", "telepathy", "supervised"]
    assert listed["ftjob-4"].status == "pondering"
    assert (listed["ftjob-5"].status, listed["ftjob-5"].trained_tokens) == ("unknown", None)


def test_dates_come_from_the_list_where_the_api_has_none(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.models = []
    account.add_tune(1)
    account.add_tune(2, model="gpt-9", fine_tuned_model="ft:gpt-9:acme::1")
    dates = {one.id: (one.dark_on, one.dark_source) for one in tunes.list_tunes(store, move().id)}
    assert dates == {"ftjob-1": (date(2027, 1, 14), "list"), "ftjob-2": (None, None)}


def test_usage_needs_an_admin_key(store: Store, account: OpenAIAccount, move: Move) -> None:
    used, idle = account.add_tune(1), account.add_tune(2)
    for days_ago in (3, 40, 100):
        account.use(str(used["fine_tuned_model"]), days_ago, calls=5, tokens=1_000_000)
    without = move()
    assert without.usage_note
    assert tunes.list_tunes(store, without.id)[0].calls is None

    shown = move(admin_key=ADMIN_KEY)
    assert shown.usage_note is None
    by_model = {one.model: one for one in tunes.list_tunes(store, shown.id)}
    seen = by_model[str(used["fine_tuned_model"])]
    assert seen.calls == 5
    assert seen.usd == Decimal("1.5")  # a million tokens in at $0.30, and a million out at $1.20
    assert seen.last_used is not None
    assert by_model[str(idle["fine_tuned_model"])].calls == 0


def test_a_refused_admin_key_hides_only_usage(account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1)
    shown = move(admin_key="sk-admin-wrong-key")
    assert shown.state == "listed"
    assert shown.tunes == 1
    assert "401" in (shown.usage_note or "")


def test_an_interrupted_list_continues_at_its_page(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in range(250):
        account.add_tune(number, rows=1)
    account.close_after = 3  # models, and two pages of jobs
    with pytest.raises(Refused):
        move()
    account.close_after = None
    account.requests.clear()
    assert move().tunes == 250
    assert account.count("/fine_tuning/jobs") == 1


def test_listing_again_keeps_what_is_known(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1)
    first = move()
    account.add_tune(2)
    again = move()
    assert (again.id, again.tunes) == (first.id, 2)


def test_an_account_without_a_key_is_refused(move: Move) -> None:
    with pytest.raises(FabulaError):
        move(provider=Provider("openai", "openai", "OpenAI", accounts.OPENAI_URL, ""))


def test_keys_are_in_no_text_of_the_form() -> None:
    form = AccountForm(Provider("openai", "openai", "OpenAI", accounts.OPENAI_URL, KEY), False, ADMIN_KEY)
    assert KEY not in repr(form)
    assert ADMIN_KEY not in repr(form)
    assert not hasattr(form, "id")  # the audit log records plain arguments, and the ids of things
