"""From a tuned model of an account to what it would be trained on again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.actor import LOCAL
from core.datasets import versions
from core.db.store import Store
from core.errors import NotFound
from core.finetuning.hyperparameter_translation import AUTO, OldJob
from core.migrate import retraining, tunes
from core.migrate.account_views import AccountView
from tests.support.openai_account import OpenAIAccount, training_lines

Move = Callable[..., AccountView]


def _supervised(**values: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": values}}


def test_a_tune_s_data_set_version_and_settings(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1, seed=7, user_provided_suffix="intents")
    account.add_tune(2, method=None, model="ft:gpt-4o-mini-2024-07-18:acme::1", fine_tuned_model="ft:gpt-4o:acme::2")
    account.add_tune(3, method="dpo")
    account.add_tune(4)["method"] = _supervised(n_epochs=AUTO, batch_size=8)
    archive_id = move("archive").id
    listed = {one.id: one for one in tunes.list_tunes(store, archive_id)}
    first = retraining.data_of(store, archive_id, "ftjob-1")
    assert (first.dataset_id, first.name) == (listed["ftjob-1"].dataset_id, "intents")
    assert first == retraining.data_of(store, archive_id, listed["ftjob-1"].model or "")
    used = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
    assert first.old == OldJob("supervised", used, 7, "intents")
    second = retraining.data_of(store, archive_id, "ftjob-2")
    assert second.name == "ft:gpt-4o:acme::2" and second.old is not None and second.old.seed is not None
    third, fourth = (retraining.data_of(store, archive_id, f"ftjob-{number}").old for number in (3, 4))
    assert third is not None and third.method == "dpo"
    assert fourth is not None and fourth.hyperparameters == {**used, "batch_size": 8}  # what `auto` became


def test_a_job_without_validation_rows_is_repeated_with_some(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_file("file-validation", training_lines(9, 5))
    account.add_tune(1, rows=40)
    account.add_tune(2, rows=40, validation_file="file-validation")
    account.add_tune(3, rows=4)  # too few to keep any
    archive_id = move("archive").id
    data = [retraining.data_of(store, archive_id, f"ftjob-{number}") for number in (1, 2, 3)]
    assert [one.validation_share for one in data] == [0.1, None, None]
    assert [one.version_id is None for one in data] == [True, False, False]
    kept = versions.get(store, versions.freeze(store, LOCAL, data[0].dataset_id, validation_share=0.1))
    assert (kept.n_train, kept.n_validation) == (36, 4)


def test_a_tune_without_a_data_set_says_what_can_be_done(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1)
    account.delete_file("file-train1")
    archive_id = move("archive").id
    with pytest.raises(NotFound) as lost:
        retraining.data_of(store, archive_id, "ftjob-1")
    assert "no data set" in lost.value.what and "file-train1" in lost.value.next_step
    with pytest.raises(NotFound) as unknown:
        retraining.data_of(store, archive_id, "ftjob-9")
    assert "ftjob-9" in unknown.value.what
