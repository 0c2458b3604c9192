"""Jobs that learn from votes (DPO): what is sent, what is said before, and what can't be trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.errors import BadTrainingFile, FabulaError
from core.finetuning import candidates, file_checker, job_views, jobs, preference_training, results, submit
from core.finetuning.hyperparameter_translation import OldJob
from core.finetuning.job_form import JobForm
from core.finetuning.preference_training import PreferenceMarks
from core.finetuning.training_offers import Offer
from core.pricing.price_book import PriceBook
from core.providers import ModelInfo
from core.providers.capabilities import BY_KIND
from tests.support.ledger_rows import put_job

_TUNED, _BASE = "ft:gemma-3-270m:fabula:votes:Ab1", "gemma-3-270m"


def _votes(store: Store, rows: list[tuple[str, str, str]]) -> str:
    frame = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    return datasets.from_frame(store, LOCAL, "v", frame, ["prompt"], "chosen", "votes", rejected_column="rejected")


def _form(store: Store, rows: list[tuple[str, str, str]], **values: Any) -> JobForm:
    return JobForm(_votes(store, rows), "v", "engine", _TUNED, method="dpo", file_format="chat", **values)


_ROWS = [(f"p{n}", f"good {n}", "bad") for n in range(12)]


def test_the_file_has_both_answers_and_the_version_s_rows_for_validation(store: Store, tmp_path: Path) -> None:
    form = _form(store, _ROWS, beta=0.2, n_epochs=2, validation_share=0.25)
    job_id = jobs.submit(store, LOCAL, form)
    job = job_views.get(store, job_id)
    assert (job.method, job.hyperparameters) == ("dpo", {"n_epochs": 2, "beta": 0.2})
    assert jobs.submit(store, LOCAL, form) == job_id
    file = submit.write_training_file(store, job, tmp_path)
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert (file.n_examples, len(lines), file.separator, file.stop) == (9, 9, None, None)
    assert file.validation is not None and len(file.validation.read_text().splitlines()) == 3
    assert lines[0]["preferred_output"][0]["content"].startswith("good")
    again = jobs.clone(store, job_id)
    assert (again.method, again.beta, again.version_id) == ("dpo", 0.2, job.version_id)


def test_a_completion_model_is_trained_with_its_own_marks(store: Store, tmp_path: Path) -> None:
    put_job(store, status="succeeded", fine_tuned_model=_TUNED, separator=" =>", stop=" END")
    base = ModelInfo(_TUNED, "engine", _BASE, "completion", None)
    marks = preference_training.marks_of(store, base)
    assert marks == PreferenceMarks("completion", " =>", " END")
    form = JobForm(
        _votes(store, _ROWS[:2]), "v", "engine", _TUNED, method="dpo",
        file_format=marks.file_format, separator=marks.separator, stop=marks.stop,
    )  # fmt: skip
    file = submit.write_training_file(store, job_views.get(store, jobs.submit(store, LOCAL, form)), tmp_path)
    assert json.loads(file.path.read_text().splitlines()[0]) == {
        "prompt": "p0 =>", "chosen": " good 0 END", "rejected": " bad END",
    }  # fmt: skip
    assert (file.separator, file.stop) == (" =>", " END")


@pytest.mark.parametrize(
    ("base", "marks"),
    [
        (ModelInfo(_BASE, "engine", None, "both", None), PreferenceMarks("chat")),
        (ModelInfo("writer", "engine", None, "completion", None), PreferenceMarks("completion")),
        (ModelInfo("gpt-4.1-mini-2025-04-14", "openai", None, None, None), PreferenceMarks("chat")),
    ],
)
def test_other_models_read_chats_where_they_can(store: Store, base: ModelInfo, marks: PreferenceMarks) -> None:
    assert preference_training.marks_of(store, base) == marks


def test_the_check_counts_both_answers_and_names_the_rejected_one_that_is_too_long(store: Store) -> None:
    long = "word " * 400
    found = file_checker.check_form(store, _form(store, [*_ROWS, ("p", "short", long)]), context=300)
    (problem,) = [one for one in found.problems if one.level == "error"]
    assert (found.file_format, found.examples, problem.line, problem.kind) == ("preference", 13, 13, "over_context")
    assert "With its rejected answer" in problem.sentence and found.longest_line == 13
    single = file_checker.check_form(store, _form(store, _ROWS), context=300)
    assert single.ok and single.tokens > 2 * 12 * 3


@pytest.mark.parametrize("rows", [[("p", "same", "same ")], [("p", "a", "b"), ("p", "b", "a")], [("p", "a", "")]])
def test_data_without_a_preference_is_refused_before_the_job(store: Store, rows: list[tuple[str, str, str]]) -> None:
    with pytest.raises(BadTrainingFile, match="no pair of answers"):
        file_checker.check_form(store, _form(store, rows))


@pytest.mark.parametrize("beta", [0.0, -1.0, 2.5])
def test_a_beta_that_no_provider_accepts_is_refused(store: Store, beta: float) -> None:
    with pytest.raises(FabulaError, match="Beta must be"):
        _form(store, _ROWS, beta=beta).validate()


def test_providers_that_can_t_train_on_preferences_say_so() -> None:
    able = {kind for kind, one in BY_KIND.items() if preference_training.unsupported(one, "X") is None}
    assert able == {"engine", "openai"}
    assert "at Together" in str(preference_training.unsupported(BY_KIND["together"], "Together"))


def test_an_old_preference_job_is_a_candidate_for_the_engine_with_both_answers(store: Store) -> None:
    dataset_id = _votes(store, _ROWS)
    version_id = versions.freeze(store, LOCAL, dataset_id)
    data = candidates.TrainingData(dataset_id, version_id, "old", OldJob("dpo", {"beta": 0.3}))
    offers = [
        Offer("engine", "The engine", _BASE, "ready", "", context=4096),
        Offer("together", "Together", "llama", "ready", "", trainer="together"),
    ]
    engine, other = sorted(
        candidates.compare(store, PriceBook.load(), data, offers), key=lambda one: one.offer.provider
    )
    form = candidates.job_form(data, engine)
    assert (form.method, form.beta, engine.rows) == ("dpo", 0.3, 12)
    assert engine.tokens > other.tokens and candidates.job_form(data, other).method == "supervised"


@pytest.mark.parametrize("repeats", [1, 5_000])  # read line by line, and by pandas
def test_rewards_of_a_curve_are_read_and_may_be_negative(repeats: int) -> None:
    names = "step,training_loss,training_reward_accuracy,training_reward_margin,validation_reward_margin"
    lines = [f"{n},0.6,0.25,-0.5,-1.0" for n in range(1, repeats + 2)]
    found = results.parse("\n".join([names, *lines]) + "\n")
    assert found.has_rewards and found.skipped == 0
    assert (found.last("training_reward_margin"), found.last("validation_reward_margin")) == (-0.5, -1.0)
    assert found.last("training_reward_accuracy") == 0.25
    assert not results.parse("step,training_loss\n1,0.5\n").has_rewards
