"""A failed run, job or story as a visitor sees it: its cause, and a button for the next step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Batch, Row, Run, utcnow
from core.errors import EngineMissing, ModelNotFound, PromptTooLong, RateLimited, Refused, Unavailable
from core.finetuning import jobs
from core.finetuning.job_views import UNKNOWN_AT_PROVIDER
from core.generation import executor, run_progress, runs
from core.message import msg, sentences, with_cause
from core.stories import library
from pages.ui.story import story_remedies
from tests.support import fault_server
from tests.support.app_pages import again, click, labels, next_step, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_job

_RECIPE = Recipe(
    "heroes", (Column("hero", ("唐", "宋", "元", "明")), Column("mood", ("轻松", "艰难"))), "写{hero}{mood}的故事",
    model="writer", max_tokens=100,
)  # fmt: skip
_CUT = fault_server.text("从前", finish_reason="length")
_WHOLE = fault_server.text("从前，有一位英雄。")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """An engine with two models."""
    with FaultServer(_WHOLE) as running:
        running.models.append({**running.models[0], "id": "second"})
        monkeypatch.setenv("FABULA_ENGINE_URL", running.url.removesuffix("/v1"))
        yield running


def show(**state: Any) -> AppTest:
    return visit("dataset", dataset_part="rows", **state)


def keys(at: AppTest) -> set[str | None]:
    return {button.key for button in at.button}


def executed(store: Store, server: FaultServer, run_id: str | None = None) -> str:
    """A run that has ended; its data set."""
    run_id = run_id or runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, _RECIPE))
    executor.execute(store, server.registry("engine", "engine"), run_id)
    return run_progress.get(store, run_id).dataset_id


def bought(server: FaultServer) -> list[dict[str, Any]]:
    """Bodies of all text requests so far."""
    return [request.body for request in server.requests if request.path.endswith("/completions")]


def newest(store: Store, dataset_id: str) -> str:
    found = run_progress.latest(store, dataset_id)
    assert found is not None
    return found.run_id


def ended(store: Store, reason: str, state: str = "failed", **values: object) -> str:
    """A data set whose run has ended for this reason, before its first row."""
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    given = {"provider": "engine", "model": "writer", "created_by": "local", "finished_at": utcnow()}
    with store.session() as session:
        session.add(Run(id="run-1", dataset_id=dataset_id, state=state, reason=reason, **given | values))
    return dataset_id


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_that_were_cut_off_are_written_with_a_higher_limit_in_one_click(store: Store, server: FaultServer) -> None:
    server.when("唐", _CUT, _CUT, _WHOLE)
    dataset_id = executed(store, server)
    at = show()
    assert "**2 rows failed** · Cut off at the token limit" in words(at)
    assert at.button(key="dataset_fix_token_limit_raise_limit").label == "Raise the limit to 256 tokens and retry"
    before = len(bought(server))
    click(at, "dataset_fix_token_limit_raise_limit")
    executed(store, server, newest(store, dataset_id))
    assert [body["max_tokens"] for body in bought(server)[before:]] == [256, 256]
    assert datasets.summary(store, dataset_id).done == 8
    assert "rows failed" not in words(again(at))


def test_each_cause_has_its_own_line_what_the_provider_said_and_its_buttons(store: Store, server: FaultServer) -> None:
    server.when("唐", _CUT)
    server.when("宋轻松", fault_server.refusal("No."))
    server.when("宋艰难", fault_server.text(""))
    server.when("元轻松", fault_server.error(400, "temperature must be at most 1"))
    server.when("元艰难", fault_server.text("从前", finish_reason="content_filter"))
    server.when("明轻松", fault_server.error(400, "This model's maximum context length is 4096 tokens."))
    executed(store, server)
    at = show()
    said = words(at)
    for line in (
        "**2 rows failed** · Cut off at the token limit",
        "**1 row failed** · The model refused to write it",
        "**1 row failed** · The answer was empty",
        "**1 row failed** · The provider could not process this request",
        "The provider said: “temperature must be at most 1”",
        "**1 row failed** · Blocked by the content filter",
        "**1 row failed** · Too long for the model",
        "The provider said: “This model's maximum context length is 4096 tokens.”",
    ):
        assert line in said
    assert keys(at) >= {
        "dataset_fix_token_limit_raise_limit",
        "dataset_fix_empty_answer_lower_temperature",
        "dataset_fix_refused_recipe",
        "dataset_fix_content_filter_recipe",
        "dataset_fix_bad_request_recipe",
        "dataset_fix_too_long_recipe",
    }


def test_answers_that_were_empty_are_asked_for_at_a_lower_temperature(store: Store, server: FaultServer) -> None:
    server.when("宋艰难", fault_server.text(""), _WHOLE)
    dataset_id = executed(store, server)
    at = show()
    assert at.button(key="dataset_fix_empty_answer_lower_temperature").label == (
        "Lower the temperature to 0.20 and retry"
    )
    click(at, "dataset_fix_empty_answer_lower_temperature")
    executed(store, server, newest(store, dataset_id))
    assert bought(server)[-1]["temperature"] == 0.2 and datasets.summary(store, dataset_id).done == 8


def test_rows_that_were_refused_are_written_by_another_model(store: Store, server: FaultServer) -> None:
    server.when("唐", fault_server.refusal("No."), fault_server.refusal("No."), _WHOLE)
    dataset_id = executed(store, server)
    at = show(dataset_fix_refused_writer=True)
    assert at.selectbox(key="dataset_fix_refused_writer_model").value == "engine/second"
    assert "Written on this machine." in words(at)
    assert at.button(key="dataset_fix_refused_writer_go").label == "Write 2 rows with it"
    before = len(bought(server))
    click(at, "dataset_fix_refused_writer_go")
    executed(store, server, newest(store, dataset_id))
    assert [body["model"] for body in bought(server)[before:]] == ["second", "second"]
    assert datasets.summary(store, dataset_id).done == 8


def test_the_recipe_of_a_row_that_was_refused_is_opened_in_the_form(store: Store, server: FaultServer) -> None:
    server.when("唐", fault_server.error(400, "no stories about dynasties"))
    executed(store, server)
    at = click(show(), "dataset_fix_bad_request_recipe")
    assert at.text_area(key="dataset_template").value == _RECIPE.template
    assert at.session_state["dataset_max_tokens"] == 100


def test_while_a_run_is_at_work_causes_are_told_and_nothing_is_offered(store: Store, server: FaultServer) -> None:
    server.when("唐", _CUT)
    dataset_id = executed(store, server)
    with store.session() as session:
        session.get_one(Run, newest(store, dataset_id)).state = "running"
    at = show()
    assert "Cut off at the token limit" in words(at)
    assert not any(str(key).startswith("dataset_fix_") for key in keys(at))


def test_what_is_left_of_the_last_budget_is_what_a_remedy_may_spend(store: Store, server: FaultServer) -> None:
    server.when("唐", _CUT)
    dataset_id = executed(store, server)
    with store.session() as session:
        session.get_one(Run, newest(store, dataset_id)).budget_usd = Decimal("2.00")
    click(show(), "dataset_fix_token_limit_raise_limit")
    assert run_progress.get(store, newest(store, dataset_id)).budget_usd == Decimal("2.00")  # the engine costs nothing


# --- runs -------------------------------------------------------------------------------------------------------------


def test_before_the_first_row_nothing_is_resumed(store: Store, server: FaultServer) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    assert show().button(key="dataset_continue").label == "Write 8 rows"
    with store.session() as session:
        session.query(Row).filter_by(dataset_id=dataset_id, position=0).update({"state": "done", "text": "x"})
    assert show().button(key="dataset_continue").label == "Resume (7 left)"


RUNS = [  # why a run has ended, and the code of its cause → the buttons next to it
    ("The test server does not have this model: gone", "model_not_found", {"Another model"}),
    ("The test server refused the key (401): no", "bad_key", {"Open settings", "Another model"}),
    ("There is no server named x.", "setup", {"Open settings", "Another model"}),
    ("The test server cannot be reached at x.", "unreachable", {"Open settings", "Another model"}),
    ("The test server could not use the request (400): no", "bad_request", {"Open the recipe"}),
    ("The engine needs packages: torch.", "engine_missing", {"Install the engine", "Another model"}),
    ("Blocked: this would exceed this month's budget.", "shared_budget", {"Open budgets"}),
    ("The price of writer is unknown.", "unknown_price", {"Set its price"}),
    ("The test server: the account has no credit left: pay", "no_credit", {"Another model"}),
]


@pytest.mark.parametrize(("reason", "cause", "offered"), RUNS)
def test_a_run_that_has_ended_early_says_why_and_what_helps(
    store: Store, server: FaultServer, reason: str, cause: str, offered: set[str]
) -> None:
    ended(store, sentences(with_cause(reason, cause), msg("Try again.")))
    at = show()
    popovers = {popover.proto.popover.label for popover in at.get("popover")}
    assert reason.partition(":")[0] in trouble(at)
    assert offered <= popovers | set(labels(at))
    assert at.button(key="dataset_continue").label == "Write 8 rows"


def test_a_run_whose_model_is_gone_goes_on_with_another(store: Store, server: FaultServer) -> None:
    dataset_id = ended(store, ModelNotFound("The test server does not have this model: gone").what)
    at = show(dataset_fix_run_writer=True)
    click(at, "dataset_fix_run_writer_go")
    executed(store, server, newest(store, dataset_id))
    assert {body["model"] for body in bought(server)} == {"second"}
    assert datasets.summary(store, dataset_id).done == 8


def test_a_batch_at_an_earlier_account_is_given_up_with_one_click(store: Store, server: FaultServer) -> None:
    reason = with_cause(msg("A batch of 8 rows is at another account."), "provider_changed")
    dataset_id = ended(store, reason, mode="batch")
    at = show()
    assert {"Open settings"} <= set(labels(at)) and not [one for one in at.button if one.key == "dataset_fix_give_up"]
    with store.session() as session:
        session.add(Batch(id="b", run_id="run-1", state="waiting", total=8, stranded_at=utcnow()))
    at = show()
    assert at.button(key="dataset_fix_give_up").label == "Give up the batch and write 8 rows again"
    click(at, "dataset_fix_give_up")
    assert run_progress.get(store, "run-1").state == "queued"
    with store.reading() as session:
        assert session.get_one(Batch, "b").state == "failed"
    assert newest(store, dataset_id) == "run-1"


def waiting(store: Store) -> str:
    """A run whose provider asked for a pause until 2033; returns its data set."""
    until = datetime(2033, 1, 2, 3, 4, 5, tzinfo=UTC)
    return ended(store, RateLimited("The test server asks to slow down: no").what, "waiting", not_before=until)


def test_a_run_that_waits_says_until_when_and_for_how_long(store: Store, server: FaultServer) -> None:
    waiting(store)
    at = show()
    assert "The test server asks to slow down" in "".join(one.value for one in at.info)
    said = next(line for line in words(at).splitlines() if "Resumes automatically" in line)
    # displayed in Shanghai's time zone
    assert re.search(r"at 2033-01-02 11:04:05, in [\d,]+ days\. You can close this page", said)
    assert "**Waiting for the provider**" in words(at)
    assert {"dataset_resume", "dataset_stop"} <= keys(at) and "dataset_pause" not in keys(at)


def test_resume_now_queues_a_run_that_waits(store: Store, server: FaultServer) -> None:
    dataset_id = waiting(store)
    click(show(), "dataset_resume")
    found = run_progress.get(store, newest(store, dataset_id))
    assert (found.state, found.not_before, found.reason) == ("queued", None, None)


def test_a_run_that_shall_not_wait_can_go_on_with_another_model(store: Store, server: FaultServer) -> None:
    dataset_id = waiting(store)
    click(show(), "dataset_stop")
    assert run_progress.get(store, newest(store, dataset_id)).state == "stopped"
    click(show(dataset_fix_run_writer=True), "dataset_fix_run_writer_go")
    executed(store, server, newest(store, dataset_id))
    assert {body["model"] for body in bought(server)} == {"second"}


def test_a_run_without_a_price_goes_on_without_its_budget(store: Store, server: FaultServer) -> None:
    reason = "The price of writer is unknown, so a budget can't be enforced. Start without one."
    dataset_id = ended(store, with_cause(reason, "unknown_price"), budget_usd=Decimal(2))
    click(show(), "dataset_fix_run_free")
    run = run_progress.get(store, newest(store, dataset_id))
    assert (run.state, run.budget_usd) == ("queued", None)


EARLIER = [  # sentences that no catalogue translates (any more)
    "The test server has had enough and asks to slow down.",
    "Too little is left of $2.00. Raise it to go on.",
    "This month's budget is used up: $0.28 of $0.30 spent or reserved.",
    "The provider wants to be left alone for 90 minutes. Go on after that.",
    "The test server has a server error and does not say which",
]


@pytest.mark.parametrize("reason", EARLIER)
def test_a_reason_that_was_stored_earlier_is_told_in_the_visitors_language(
    store: Store, server: FaultServer, reason: str
) -> None:
    ended(store, reason)
    (said,) = [one.value for one in show(lang="zh_CN").error]
    before, quote, _words = said.partition("“")
    assert quote and not re.search("[A-Za-z]", before)


def test_a_row_whose_reason_was_stored_earlier_is_told_so_too(store: Store, server: FaultServer) -> None:
    dataset_id = executed(store, server)
    with store.session() as session:
        row = session.query(Row).filter_by(dataset_id=dataset_id, position=0).one()
        row.state, row.reason, row.finish_reason = "failed", "It was longer than it may be.", "length"
    at = show(lang="zh_CN")
    assert at.data_editor[0].value["reason"].iloc[0] == (
        "达到 token 上限，文本被截断 · 原因：“It was longer than it may be.”"
    )


@pytest.mark.parametrize(
    ("finish_reason", "reason", "line"),
    [
        (None, "The cat sat on the keyboard.", "Reason: “The cat sat on the keyboard.”"),
        (None, "Something with a quota went wrong", "Reason: “Something with a quota went wrong”"),
        ("length", "It was longer than it may be.", ""),
    ],
)
def test_words_that_may_be_anyones_are_not_said_to_be_the_providers(
    store: Store, server: FaultServer, finish_reason: str | None, reason: str, line: str
) -> None:
    dataset_id = executed(store, server)
    with store.session() as session:
        row = session.query(Row).filter_by(dataset_id=dataset_id, position=0).one()
        row.state, row.reason, row.finish_reason = "failed", reason, finish_reason
    said = words(show())
    assert line in said and "The provider said" not in said


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sample(store: Store) -> str:
    return datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)


def _keys(at: AppTest) -> set[str]:
    return {str(key) for key in keys(at)}


def test_a_job_that_ran_out_of_memory_is_tried_with_a_smaller_batch(
    server: FaultServer, store: Store, sample: str
) -> None:
    put_job(
        store, status="failed", dataset_id=sample, hyperparameters={"batch_size": 8, "n_epochs": 2},
        error="The trainer ended 3 times: memory ran out: use a smaller batch_size or shorter examples.",
    )  # fmt: skip
    at = visit("training")
    assert "**Out of memory**" in words(at)
    at = click(at, "training_fix_smaller_batch")
    assert at.selectbox(key="training_dataset").value == sample
    at = next_step(at)
    assert at.number_input(key="training_batch").value == 4 and not at.toggle(key="training_batch_auto").value
    assert at.number_input(key="training_epochs").value == 2


def test_a_job_that_diverged_is_tried_with_a_lower_rate(server: FaultServer, store: Store, sample: str) -> None:
    put_job(store, status="failed", dataset_id=sample, error="Training diverged: the loss is not a number.")
    at = next_step(click(visit("training"), "training_fix_lower_rate"))
    assert at.text_input(key="training_rate").value == "0.5"


JOBS = [  # the error of the job, the words for its cause, the buttons
    ("Line 3: Its completion is empty.", "The training file was rejected", {"training_fix_check_file"}),
    (PromptTooLong("An example can have 512 tokens.").what, "Too long for the model", {"training_fix_check_file"}),
    (ModelNotFound("The model is gone.").what, "Model not found", {"training_fix_another_model"}),
    (
        Unavailable("The test server cannot be reached at http://x.").what,
        "The provider is not responding",
        {"training_fix_try_again", "training_fix_open_settings"},
    ),
    (
        EngineMissing("The engine needs packages that are not installed: torch.").what,
        "The engine is not installed",
        {"training_fix_install_engine"},
    ),
    (UNKNOWN_AT_PROVIDER, "The provider no longer has it", {"training_fix_try_again"}),
    ("Exceeded billing hard limit", "No credit left at the provider", {"training_fix_try_again"}),
    (
        Refused("The test server refused the key (401): no").what,
        "The provider refused the key",
        {"training_fix_open_settings"},
    ),
    ("Nothing that anybody knows.", "", {"training_fix_try_again"}),
]


@pytest.mark.parametrize(("error", "cause", "buttons"), JOBS)
def test_a_failed_job_has_a_button_that_does_the_next_step(
    server: FaultServer, store: Store, sample: str, error: str, cause: str, buttons: set[str]
) -> None:
    put_job(store, status="failed", dataset_id=sample, error=error)
    at = visit("training")
    assert cause in words(at) and buttons <= _keys(at)
    pressed = next(iter(sorted(buttons)))
    if pressed in ("training_fix_check_file", "training_fix_try_again", "training_fix_another_model"):
        at = click(at, pressed)
        base = "engine/second" if "another_model" in pressed else "engine/writer"
        assert at.selectbox(key="training_base").value == base and "**1 · Check**" in words(at)


def test_a_job_that_has_not_failed_offers_no_remedy(server: FaultServer, store: Store, sample: str) -> None:
    put_job(store, status="succeeded", dataset_id=sample, fine_tuned_model="ft:writer:fabula:x:1")
    assert not any(key.startswith("training_fix_") for key in _keys(visit("training")))


def test_a_job_that_waits_says_until_when_and_is_retried_at_once(
    server: FaultServer, store: Store, sample: str
) -> None:
    until = datetime(2033, 1, 2, 3, 4, 5, tzinfo=UTC)
    job_id = put_job(
        store, status="submitting", dataset_id=sample, remote_id=None, error="Quota.", not_before=until
    )  # fmt: skip
    at = visit("training")
    assert "Resumes automatically at 2033-01-02 11:04:05" in words(at)  # displayed in Shanghai's time zone
    click(at, "training_retry_now")
    assert list(jobs.pending_requests(store)) == [job_id]  # the worker picks it up
    assert "training_retry_now" not in _keys(visit("training"))


# --- stories ----------------------------------------------------------------------------------------------------------


def test_a_story_that_was_cut_off_is_written_with_a_higher_limit(server: FaultServer, store: Store) -> None:
    server.default = _CUT
    at = click(visit("story", story_max_tokens=100), "story_button")
    assert "story_go_on_0" in _keys(at)
    assert at.button(key="story_fix_0_limit").label == "Raise the limit to 256 tokens and write again"
    server.default = _WHOLE
    at = click(at, "story_fix_0_limit")
    assert bought(server)[-1]["max_tokens"] == 256 == at.session_state["story_max_tokens"]
    assert "从前，有一位英雄。" in [text.value for text in at.text]
    assert not any(key.startswith("story_fix_") for key in _keys(at))


def test_of_several_stories_only_the_one_that_was_cut_off_is_written_again(server: FaultServer, store: Store) -> None:
    server.judge = lambda body: _CUT if body["model"] == "second" and body["max_tokens"] < 256 else _WHOLE
    at = visit("story", story_compare=True, story_others=["engine/second"], story_max_tokens=100)
    at = click(at, "story_button")
    assert {key for key in _keys(at) if key.startswith("story_fix_")} == {"story_fix_1_limit"}
    at = click(at, "story_fix_1_limit")
    assert [body["model"] for body in bought(server)].count("writer") == 1
    assert [text.value for text in at.text].count("从前，有一位英雄。") == 2


def test_a_story_whose_model_is_gone_is_written_by_another(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error(404, "The model does not exist", "model_not_found")
    at = click(visit("story"), "story_button")
    assert at.button(key="story_fix_0_model").label == "Write with second"
    server.default = _WHOLE
    at = click(at, "story_fix_0_model")
    assert bought(server)[-1]["model"] == "second" and not at.error
    assert [story.model for story in library.recent(store)] == ["second"]


STORIES = [
    (fault_server.quota(), {"story_fix_0_again", "story_fix_0_model"}),
    (fault_server.unauthorized(), {"story_fix_0_open_settings", "story_fix_0_again"}),
    (fault_server.html(), {"story_fix_0_open_settings", "story_fix_0_again"}),
    (fault_server.error_in_stream("从前"), {"story_fix_0_again", "story_fix_0_model"}),
    (fault_server.error(400, "content management policy", "content_filter"), {"story_fix_0_model"}),
    (fault_server.text("从前", finish_reason="content_filter"), {"story_fix_0_model"}),
    (fault_server.text(""), {"story_fix_0_cooler", "story_fix_0_model"}),
]


@pytest.mark.parametrize(("answer", "buttons"), STORIES)
def test_a_story_that_failed_has_a_button_that_does_the_next_step(
    server: FaultServer, store: Store, answer: fault_server.Answer, buttons: set[str]
) -> None:
    server.default = answer
    at = click(visit("story"), "story_button")
    assert buttons <= _keys(at)
    server.default = _WHOLE
    again_key = sorted(buttons)[-1] if "story_fix_0_again" not in buttons else "story_fix_0_again"
    at = click(at, again_key)
    assert "从前，有一位英雄。" in [text.value for text in at.text] and not at.error


def test_a_story_that_is_whole_offers_no_remedy(server: FaultServer, store: Store) -> None:
    at = click(visit("story"), "story_button")
    assert not any(key.startswith("story_fix_") for key in _keys(at))


_CHAIN: dict[str, Any] = {"story_chain": True, "story_mode": "free", "story_prompt": "一个想法"}
_STEP = "写一个完整的故事"


def _chain(server: FaultServer, *answers: fault_server.Answer, **state: Any) -> AppTest:
    """A chain whose story step gets these answers, one per request."""
    server.when("提纲，三到五句话", fault_server.text("先遇见，后分别。"))
    server.when("起一个题目", fault_server.text("光"))
    server.when(_STEP, *answers)
    return click(visit("story", **_CHAIN, **state), "story_button")


@pytest.mark.parametrize(("answer", "buttons"), STORIES)
def test_a_step_of_a_chain_that_failed_has_the_same_buttons_and_the_chain_goes_on_from_there(
    server: FaultServer, store: Store, answer: fault_server.Answer, buttons: set[str]
) -> None:
    broken = True
    server.judge = lambda body: (
        (answer if broken else _WHOLE)
        if _STEP in (prompt := fault_server.prompt_of(body))
        else fault_server.text("光" if "起一个题目" in prompt else "先遇见，后分别。")
    )
    at = click(visit("story", **_CHAIN), "story_button")
    here = {key.replace("_fix_0_", "_fix_story_") for key in buttons}
    assert here <= _keys(at) and not any("_fix_outline_" in key for key in _keys(at))
    broken = False
    at = click(at, next((key for key in here if key.endswith("_again")), sorted(here)[-1]))
    assert {"先遇见，后分别。", "从前，有一位英雄。", "光"} <= {text.value for text in at.text} and not at.error
    # completed steps are not requested again
    assert sum("提纲，三到五句话" in prompt for prompt in server.prompts()) == 1
    assert not any(key.startswith("story_fix_") for key in _keys(at))


def test_the_steps_after_one_that_another_model_wrote_are_written_by_it_too(server: FaultServer, store: Store) -> None:
    at = click(_chain(server, fault_server.quota(), _WHOLE), "story_fix_story_model")
    assert [body["model"] for body in bought(server)] == ["writer", "writer", "second", "second"] and not at.error


def test_a_story_of_a_chain_that_was_cut_off_gets_a_higher_limit(server: FaultServer, store: Store) -> None:
    at = click(_chain(server, _CUT, _WHOLE, story_max_tokens=100), "story_fix_story_limit")
    assert [body["max_tokens"] for body in bought(server) if _STEP in str(body)] == [100, 256]
    assert at.session_state["story_max_tokens"] == 256


@pytest.mark.parametrize("chain", [False, True])
def test_a_story_that_its_provider_puts_off_is_tried_again_at_that_time_unless_it_is_not_waited_for(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, chain: bool
) -> None:
    later = fault_server.rate_limit(retry_after="3600"), fault_server.rate_limit(retry_after="86400")
    if chain:
        at = _chain(server, *later)
    else:
        server.when("一个想法", *later)
        at = click(visit("story", **_CHAIN | {"story_chain": False}), "story_button")
    assert "in 60 min, while this page is open" in words(at)
    asked = len(bought(server))
    key = f"story_fix_{'story' if chain else 0}_no_wait"
    passed = timedelta(hours=2)
    monkeypatch.setattr(story_remedies, "utcnow", lambda: utcnow() + passed)
    again(at)  # the fragment redraws once per second
    assert len(bought(server)) == asked + 1
    click(at, key)
    assert "while this page is open" not in words(at)
    passed = timedelta(hours=48)
    again(at)
    assert len(bought(server)) == asked + 1
