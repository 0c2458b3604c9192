"""Azure and Together as sources: their shapes lead to the same archive, data sets and jobs with curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

import pytest

from core.db.store import Store
from core.errors import Refused
from core.finetuning import checkpoints, job_views, results
from core.migrate import account_views, tunes
from core.migrate.account_views import AccountView
from core.migrate.workspace import Workspace
from core.settings import Settings
from tests.support.azure_account import AzureAccount
from tests.support.openai_account import ADMIN_KEY, Fault, OpenAIAccount
from tests.support.together_account import TogetherAccount

Move = Callable[..., AccountView]
BOTH = pytest.mark.parametrize("account", [AzureAccount, TogetherAccount], indirect=True)


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Iterator[OpenAIAccount]:
    """An empty account of another company."""
    with request.param() as server:
        yield server


@BOTH
def test_jobs_become_data_sets_and_jobs_with_curves(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in (1, 2):
        account.add_tune(number, rows=5)
    account.when("/content", Fault(429, {"retry-after": "0"}), Fault(502))
    shown = move("archive", admin_key=ADMIN_KEY)  # which no other company has
    assert (shown.state, shown.stored, shown.gone) == ("archived", 4, 0)
    assert account.provider().name in (shown.usage_note or "")
    for one in tunes.list_tunes(store, shown.id):
        job = job_views.get(store, one.job_id or "")
        assert (one.state, one.trained_rows, one.method) == ("data", 5, "supervised")
        assert (job.status, job.provider, job.hyperparameters["n_epochs"]) == ("succeeded", account.provider().id, 3)
        assert results.parse(job.results_csv or "").first("training_loss") == 2.5
        assert [found.step for found in checkpoints.list_checkpoints(store, job.id)] == [2]
    account.requests.clear()
    assert move("archive").state == "archived"
    assert account.count("/content") == account.count("/metrics") == account.count("/events") == 0


@BOTH
def test_what_is_lost_refused_or_unknown_is_said(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1)
    account.add_tune(2, status="pondering")
    account.add_tune(3, method="telepathy")
    account.add_tune(4)
    account.delete_file("file-train1", listed=True)
    account.when("file-train4/content", Fault(403))
    listed = tunes.list_tunes(store, move("archive").id)
    by_number = {one.id[-1]: one for one in listed}
    assert [by_number[number].state for number in "1234"] == ["archived", "data", "archived", "archived"]
    assert "file-train1" in (by_number["1"].reason or "")
    assert "pondering" in (by_number["2"].reason or "") and by_number["2"].job_id is None
    assert "telepathy" in (by_number["3"].reason or "")
    assert by_number["4"].job_id


@BOTH
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_not_read_is_said(account: OpenAIAccount, move: Move, status: int) -> None:
    account.when("jobs" if isinstance(account, AzureAccount) else "fine-tunes", Fault(status))
    with pytest.raises(Refused, match=str(status)):
        move()


@BOTH
def test_an_account_closed_half_way_keeps_what_is_stored(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in range(1, 7):
        account.add_tune(number)
    account.close_after = 9
    with pytest.raises(Refused):
        move("archive")
    kept = account_views.list_accounts(store)[0]
    assert 0 < kept.stored < kept.files
    account.close_after = None
    assert move("archive").state == "archived"
    assert set(account.sent.values()) == {1}


@pytest.mark.parametrize("account", [AzureAccount], indirect=True)
@pytest.mark.parametrize("lists_deployments", [True, False])
def test_azure_names_the_day_and_the_deployments(
    store: Store, account: AzureAccount, move: Move, lists_deployments: bool
) -> None:
    if not lists_deployments:
        account.deployments = None
    account.add_tune(1)
    account.models.append({"id": "odd", "deprecation": "soon"})
    shown = move("archive")
    (one,) = tunes.list_tunes(store, shown.id)
    assert (one.dark_on, one.dark_source) == (date(2027, 10, 14), "api")
    record = (Workspace(Settings.from_env(), shown.id).job_folder("ftjob-1") / "job.json").read_text()
    assert ("intents-1" in record) == lists_deployments


@pytest.mark.parametrize("account", [TogetherAccount], indirect=True)
def test_togethers_own_words_are_kept(store: Store, account: TogetherAccount, move: Move) -> None:
    failed = {"created_at": "2026-05-17T17:00:00Z", "level": "legacy_ierror", "message": "Out of memory"}
    account.add_tune(1, status="error", events=[failed], model_output_name=None, created_at="yesterday", seed="x")
    account.add_tune(2, method="dpo")
    shown = move("archive")
    listed = {one.id: one for one in tunes.list_tunes(store, shown.id)}
    assert (listed["ft-0001"].status, listed["ft-0001"].model, listed["ft-0001"].dark_on) == ("failed", None, None)
    assert "Out of memory" in (job_views.get(store, listed["ft-0001"].job_id or "").error or "")
    assert listed["ft-0002"].method == "dpo"
    record = (Workspace(Settings.from_env(), shown.id).job_folder("ft-0001") / "job.json").read_text()
    assert "owner@example.com" in record
