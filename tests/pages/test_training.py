"""The training page as a visitor sees it: a new job in three steps, job progress, curves, comparison, family tree,
evaluation.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.charts import training_curve
from core.charts.training_curve import CurveLabels
from core.charts.vega_lite import CurveView, RenderedChart
from core.datasets import datasets
from core.datasets.importers import table_reader
from core.db.store import Store
from core.db.tables import Checkpoint, Dataset, Row, TrainingEvent, TrainingJob, utcnow
from core.evaluation import evaluations
from core.finetuning import job_views, results
from pages.ui import cache
from pages.ui.dataset import quality_report
from pages.ui.training import cached_training, job_actions
from tests.support.app_pages import again, click, field, labels, next_step, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import _RESULTS, hours_ago, put_job, put_labelled_rows, run_evaluation
from tests.support.scripted_evaluation import ScriptedModel, go
from tests.support.waiting import until

_STORY = Path(__file__).parents[2] / "pages" / "story.py"
_HEADER = "step,train_loss,train_accuracy"


@pytest.fixture
def sample(store: Store) -> str:
    """27 training rows."""
    return datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)


def _new_job(at: AppTest | None = None) -> AppTest:
    """The dialog at its first step, opened as from other pages."""
    return visit("training", training_part="new") if at is None else click(at, "training_new")


def _to_the_end(at: AppTest) -> AppTest:
    return next_step(next_step(at))


# --- a new job ------------------------------------------------------------------------------------------------------


def test_the_first_step_tells_what_preparation_and_the_check_found(server: FaultServer, sample: str) -> None:
    at = _new_job()
    until(lambda: not at.button(key="training_next").disabled or not again(at), "the check")
    assert "**1 · Check**" in words(at)
    assert "The data has 27 prompt-completion pairs" in words(at)
    assert any('->", "completion": " ' in block.value and block.value.endswith('."}') for block in at.code)
    assert "The format of all 27 examples is valid" in words(at)
    assert "longest example" in words(at) and "moderation" not in words(at)  # which is a provider's
    assert not at.button(key="training_next").disabled


def test_the_second_step_tells_what_it_takes_and_asks_the_few_numbers(server: FaultServer, sample: str) -> None:
    at = next_step(_new_job())
    shown = {metric.label: metric.value for metric in at.metric}
    assert shown["Price"] == "not priced" and any(title.startswith("Tokens, ") for title in shown)
    assert "1.0 is a good default for the built-in engine" in words(at)
    assert at.toggle(key="training_epochs_auto").value and at.toggle(key="training_rate_auto").value
    assert click(at, "training_back").button(key="training_next").label == "Next: estimate"


def test_a_job_is_submitted_once_however_often_one_clicks(server: FaultServer, store: Store, sample: str) -> None:
    for _press in range(2):
        at = next_step(_new_job())
        at.text_input(key="training_suffix").input("ultraman").run()
        at.toggle(key="training_epochs_auto").set_value(False).run()
        at.number_input(key="training_epochs").set_value(2).run()
        next_step(at)
        assert "epochs: 2" in words(at) and "suffix: ultraman" in words(at)
        assert at.button(key="training_submit").label == "Train on 24 rows"  # 3 of 27 are kept for validation
        click(at, "training_submit")
    (job,) = job_views.list_jobs(store)
    assert (job.suffix, job.hyperparameters, job.base_model) == ("ultraman", {"n_epochs": 2}, "writer")
    assert "The training file is being prepared" in words(again(at))
    assert not any(button.key == "training_submit" for button in at.button)  # the dialog is closed


def test_a_learning_rate_multiplier_is_read_as_it_was_meant(server: FaultServer, store: Store, sample: str) -> None:
    at = next_step(_new_job())
    at.toggle(key="training_rate_auto").set_value(False).run()
    assert at.text_input(key="training_rate").value == "1"
    at.text_input(key="training_rate").set_value("1,5").run()
    assert "is ambiguous" in words(at) and at.button(key="training_next").disabled
    at.text_input(key="training_rate").set_value("1.5").run()
    click(next_step(at), "training_submit")
    (job,) = job_views.list_jobs(store)
    assert job.hyperparameters == {"learning_rate_multiplier": 1.5}


@pytest.mark.parametrize(
    ("suffix", "says"),
    [
        ("first try!", "letters"),
        ("奥特曼", "letters"),
        ("a/b", "letters"),
        ("first-try", ""),
        (" ultraman ", ""),
        ("", ""),
    ],
)
def test_a_suffix_that_the_engine_refuses_is_told_before_the_button(
    server: FaultServer, sample: str, suffix: str, says: str
) -> None:
    at = next_step(_new_job())
    at.text_input(key="training_suffix").set_value(suffix).run()
    assert at.button(key="training_next").disabled is bool(says)
    assert ("The suffix can" in words(at)) is bool(says) and says in words(at)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"not_trainable": "general.architecture is 'llama'"}, "can't train it: general.architecture is"),
        ({"not_trainable": None}, "trains on this machine"),
    ],
)
def test_a_base_that_is_only_served_is_told_before_the_button(
    server: FaultServer, sample: str, told: dict[str, Any], says: str
) -> None:
    server.models[0]["fabula"] = {"base": "writer", "format": "both", **told}
    at = next_step(_new_job())
    until(lambda: says in words(at) or not again(at), "what the engine says of the base")
    assert at.button(key="training_next").disabled is (told["not_trainable"] is not None)


def test_a_base_that_is_gone_is_told_before_the_button(server: FaultServer, store: Store, sample: str) -> None:
    """Duplicate a job whose base the engine no longer has."""
    job_id = put_job(store, status="failed", dataset_id=sample, base_model="old-base")
    assert job_id
    at = next_step(click(visit("training"), "training_again"))
    until(lambda: "has no model" in words(at) or not again(at), "what the engine says of the base")
    assert "Choose another one." in words(at)
    assert at.button(key="training_next").disabled


def test_a_separator_and_a_stop_of_ones_own_go_into_the_job(server: FaultServer, store: Store, sample: str) -> None:
    at = _new_job()
    assert at.text_input(key=f"training_separator_{sample}_27").value == " ->"
    at.text_input(key=f"training_stop_{sample}_27").input("\\n###").run()
    assert any(block.value.endswith('\\n###"}') for block in at.code)
    click(_to_the_end(at), "training_submit")
    (job,) = job_views.list_jobs(store)
    assert (job.file_format, job.separator, job.stop) == ("completion", None, "\n###")


def test_going_back_keeps_what_was_typed(server: FaultServer, sample: str) -> None:
    at = _new_job()
    at.text_input(key=f"training_stop_{sample}_27").input("\\n###").run()
    at.select_slider(key=f"training_share_{sample}").set_value(15).run()
    _to_the_end(at)
    assert "15 % of them kept for validation" in words(at)
    click(click(at, "training_back"), "training_back")
    assert at.text_input(key=f"training_stop_{sample}_27").value == "\\n###"
    assert at.select_slider(key=f"training_share_{sample}").value == 15


def test_a_share_of_the_rows_is_kept_for_validation(server: FaultServer, store: Store, sample: str) -> None:
    at = _new_job()
    at.select_slider(key=f"training_share_{sample}").set_value(25).run()
    click(_to_the_end(at), "training_submit")
    (job,) = job_views.list_jobs(store)
    assert job.validation_share is not None and 0 < job.validation_share < 0.5


@pytest.mark.parametrize(("rows", "share"), [(9, 0), (19, 0), (20, 10), (27, 10)])
def test_a_tenth_is_kept_for_validation_where_there_are_twenty_rows(
    server: FaultServer, store: Store, rows: int, share: int
) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", rows)
    at = _new_job()
    assert at.select_slider(key=f"training_share_{dataset_id}").value == share
    click(_to_the_end(at), "training_submit")
    (job,) = job_views.list_jobs(store)
    assert (job.validation_share or 0) == pytest.approx(share / 100, abs=0.05)
    assert (job.version_id is not None) is (share > 0)


def test_each_data_set_has_its_own_default_share(server: FaultServer, store: Store) -> None:
    small = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 9)
    large = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    at = _new_job()
    at.selectbox(key="training_dataset").set_value(large).run()
    assert at.select_slider(key=f"training_share_{large}").value == 10
    at.selectbox(key="training_dataset").set_value(small).run()
    assert at.select_slider(key=f"training_share_{small}").value == 0


def _waves(store: Store, *, rows: int, unfilled: int) -> str:
    """Rows with different texts; the first `unfilled` still contain a part of their template."""
    text = [f"{n},{_SENTENCES[n % 7]} {n * n}{' {hero}' if n < unfilled else ''}." for n in range(rows)]
    read = table_reader.read_table("\n".join(["topic,text", *text]).encode(), "waves.csv")
    dataset_id = datasets.from_frame(store, LOCAL, "waves", read.frame, ["topic"], "text", read.source)
    cache.refresh()
    return dataset_id


_SENTENCES = (
    "A fisherman counted his nets at dawn", "Nobody had asked the lighthouse for its name", "Rain fell on tin roofs",
    "The last bus carried only a sleeping drummer", "Two maps disagreed about the river", "Snow reached the third step",
    "Her letters smelled of engine oil",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "unfilled", "says", "behind"),
    [
        (25, 23, "Needs work:", "23 of them should not be trained on (92.0 %)"),
        (40, 3, "Worth a look:", "3 of them should not be trained on (7.5 %)"),
        (9, 0, "Too few rows to judge:", "9 finished rows"),
    ],
)
def test_the_first_step_shows_the_verdict_on_the_rows(
    server: FaultServer, store: Store, rows: int, unfilled: int, says: str, behind: str
) -> None:
    dataset_id = _waves(store, rows=rows, unfilled=unfilled)
    at = _new_job()
    until(lambda: not quality_report.quality_of(dataset_id)[0].running, "the measurement")
    shown = words(at.run())
    assert says in shown and behind in shown and "good" not in shown.lower()
    if unfilled:
        click(at, "training_quality")
        assert at.session_state["dataset_part"] == "quality" and at.session_state["dataset_open"] == dataset_id


def test_a_data_set_of_a_chat_file_trains_as_chat(server: FaultServer, store: Store) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    imported = table_reader.read_table(json.dumps({"messages": turns}).encode(), "chat.jsonl")
    datasets.from_frame(store, LOCAL, "talk", imported.frame, ["prompt"], "completion", imported.source)
    at = _new_job()
    assert any('"role": "assistant"' in block.value for block in at.code)
    click(_to_the_end(at), "training_submit")
    (job,) = job_views.list_jobs(store)
    assert job.file_format == "chat"


def test_a_base_that_takes_one_format_only_gets_it(
    server: FaultServer, store: Store, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pages.ui.training.job_check.required_format", lambda provider, model: "chat")
    at = _new_job()
    assert any('"role": "assistant"' in block.value for block in at.code)
    click(_to_the_end(at), "training_submit")
    (job,) = job_views.list_jobs(store)
    assert job.file_format == "chat"


def test_a_job_on_a_data_set_that_is_gone_is_told_in_the_dialog(server: FaultServer, store: Store, sample: str) -> None:
    at = _to_the_end(_new_job())
    with store.session() as session:
        session.query(Row).delete()
        session.query(Dataset).delete()
    at.button(key="training_submit").click().run()
    assert not at.exception
    assert "No longer available" in trouble(at)
    assert job_views.list_jobs(store) == []


def test_a_file_can_be_uploaded_on_the_training_page_too(server: FaultServer, store: Store) -> None:
    at = _new_job()
    at.file_uploader(key="training_file").upload("a.csv", b"topic,text\nsea,A wave.\n").run()
    click(at, "training_keep")
    assert '{"prompt": "sea ->", "completion": " A wave."}' in words(at)


def test_without_rows_one_cannot_go_on(server: FaultServer, store: Store) -> None:
    at = _new_job()
    assert "No data set has rows yet" in words(at)
    assert at.button(key="training_next").disabled


def test_a_file_that_no_model_takes_is_told_by_line_and_cannot_go_on(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = table_reader.read_table(f"topic,text\nsea,A wave.\nsun,{'very long ' * 900}\n".encode(), "a.csv")
    datasets.from_frame(store, LOCAL, "long", frame.frame, ["topic"], "text", frame.source)
    monkeypatch.setattr("core.finetuning.file_checker.context_size", lambda model: 64)
    at = _new_job()
    until(lambda: "longer than the model can read: 1" in words(at) or not again(at), "the check")
    (table,) = [one.value for one in at.dataframe if "begins" in one.value]
    assert table["line"][0] == 2 and table["begins"][0].startswith('{"prompt"')
    assert at.button(key="training_next").disabled


def test_a_finished_job_can_be_trained_further_and_done_again(server: FaultServer, store: Store, sample: str) -> None:
    made = "ft:writer:fabula:x:1"
    server.models.append({"id": made, "object": "model", "created": 1_800_000_000, "owned_by": "t"})
    put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=sample, hyperparameters={"n_epochs": 2})
    at = click(visit("training"), "training_further")
    assert at.selectbox(key="training_base").value == f"engine/{made}"
    at = click(visit("training"), "training_again")
    assert at.selectbox(key="training_base").value == "engine/writer"
    assert at.selectbox(key="training_dataset").value == sample
    assert next_step(at).number_input(key="training_epochs").value == 2


def test_a_job_that_was_logged_elsewhere_is_done_again_so(
    server: FaultServer, store: Store, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.finetuning.trackers.unavailable", lambda name, environ=None, provider="": None)
    put_job(store, status="succeeded", dataset_id=sample, trackers={"trackio": {"project": "fabula"}})
    at = next_step(click(visit("training"), "training_again"))
    assert at.checkbox(key="training_tracker_trackio").value and not at.checkbox(key="training_tracker_wandb").value


def test_a_checkpoint_that_no_list_names_can_be_trained_further(server: FaultServer, store: Store, sample: str) -> None:
    job_id = put_job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1", dataset_id=sample)
    _checkpoint(store, job_id, 2, "ft:writer:fabula:x:1:ckpt-step-2")
    at = click(visit("training"), "training_checkpoint_further")
    assert at.selectbox(key="training_base").value == "engine/ft:writer:fabula:x:1:ckpt-step-2"


# --- job progress ----------------------------------------------------------------------------------------------------


def test_a_running_job_shows_verdict_progress_curve_and_events(server: FaultServer, store: Store) -> None:
    put_job(store, status="running", estimated_finish=utcnow() + timedelta(minutes=5))
    at = visit("training")
    assert "Training · about 5 min left" in words(at)
    assert {m.label: m.value for m in at.metric}["Token accuracy, last step"] == "95.0 %"
    assert len(at.get("vega_lite_chart")) == 2
    assert "1 line could not be read" in words(at)
    assert "Training started" in words(at)
    assert {"Pause", "Cancel"} <= set(labels(at))


def test_tokens_that_the_file_does_not_count_are_the_providers(server: FaultServer, store: Store) -> None:
    put_job(store, status="succeeded", results_csv=f"{_HEADER}\n1,1,0.5\n", trained_tokens=300_000)
    assert {m.label: m.value for m in visit("training").metric}["Tokens trained on"] == "300,000"


def test_an_upload_shows_how_much_has_been_sent(server: FaultServer, store: Store) -> None:
    put_job(store, status="preparing", remote_id=None, results_csv=None, file_bytes=4_000_000, uploaded_bytes=1_000_000)
    at = visit("training")
    assert "1.0 of 4.0 MB sent" in words(at)
    assert "No step has been measured yet" in words(at)


@pytest.mark.parametrize(
    ("status", "action"), [("running", "pause"), ("paused", "resume"), ("running", "cancel"), ("queued", "cancel")]
)
def test_a_job_can_be_paused_resumed_and_cancelled(server: FaultServer, store: Store, status: str, action: str) -> None:
    job_id = put_job(store, status=status)
    at = click(visit("training"), f"training_{action}")
    assert job_views.get(store, job_id).request == action
    assert at.button(key=f"training_{action}").disabled


def test_a_job_that_failed_at_the_engine_can_go_on_where_it_was(server: FaultServer, store: Store) -> None:
    early = put_job(store, status="failed", results_csv=None, error="Line 3.")
    assert "training_resume" not in _keys(visit("training", training_open=(early,)))
    assert "training_resume" not in _keys(visit("training", training_open=(put_job(store, status="cancelled"),)))
    job_id = put_job(store, status="failed", error="The trainer ended.", next_step="Submit it again.")
    at = click(visit("training", training_open=(job_id,)), "training_resume")
    job = job_views.get(store, job_id)
    assert (job.status, job.request, job.error, job.finished_at) == ("queued", "resume", None, None)
    assert "Waiting in the queue" in words(at)


def test_a_job_that_ended_meanwhile_says_so_when_one_cancels_it(server: FaultServer, store: Store) -> None:
    job_id = put_job(store, status="running")
    at = visit("training")
    with store.session() as session:
        session.get_one(TrainingJob, job_id).status = "succeeded"
    click(at, "training_cancel")
    assert "The job has already ended" in trouble(at)


def test_a_job_whose_provider_falls_silent_says_so(server: FaultServer, store: Store) -> None:
    put_job(store, status="running", events_at=utcnow() - timedelta(minutes=40))
    assert "No event for 40 min; the provider still reports running" in words(visit("training"))


@pytest.mark.parametrize(
    ("status", "results", "says"),
    [
        ("succeeded", None, "gave no results file for this job"),
        ("succeeded", "", "gave no results file for this job"),
        ("succeeded", "step,train_loss\n", "has a header but no steps yet"),
        ("succeeded", "<html>Not found</html>", "has no step column"),
        ("failed", None, "The job ended before the first step was measured"),
        ("running", None, "the curve starts with the first one"),
    ],
)
def test_a_job_without_a_curve_says_why(
    server: FaultServer, store: Store, status: str, results: str | None, says: str
) -> None:
    put_job(store, status=status, results_csv=results)
    at = visit("training")
    assert says in words(at) and not at.get("vega_lite_chart")


def test_a_failed_job_says_why_and_what_to_do(server: FaultServer, store: Store) -> None:
    put_job(store, status="failed", error="The file has no examples.", next_step="Choose another data set.")
    at = visit("training")
    assert "Failed: The file has no examples" in words(at)
    assert "Choose another data set" in words(at)


def test_a_job_that_waits_says_what_to_do(server: FaultServer, store: Store) -> None:
    put_job(store, status="running", error="OpenAI refused the key (401).", next_step="Check the key.")
    at = visit("training")
    assert "Waiting to retry: OpenAI refused the key" in words(at)
    assert "Check the key." in words(at)


def test_a_state_that_nobody_knows_is_shown_as_it_is(server: FaultServer, store: Store) -> None:
    put_job(store, status="pondering")
    at = visit("training")
    assert list(at.dataframe[0].value["status"]) == ["pondering"] and "pondering" in words(at)


def test_an_event_of_a_type_that_nobody_knows_is_shown_as_it_is(server: FaultServer, store: Store) -> None:
    job_id = put_job(store, status="running")
    with store.session() as session:
        session.add(
            TrainingEvent(
                job_id=job_id, remote_id="e2", created_at=utcnow(), level="info", type="moon", message="It waxes."
            )
        )
    shown = words(visit("training"))
    assert "· moon: It waxes." in shown and "message: " not in shown


def test_a_finished_job_leads_to_a_story_with_its_model(server: FaultServer, store: Store, sample: str) -> None:
    server.models.append({"id": "ft:writer:fabula:x:1", "object": "model", "created": 1_800_000_000, "owned_by": "t"})
    put_job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1", dataset_id=sample)
    at = visit("training")
    at.button(key="training_try").click().run()
    at.switch_page(str(_STORY)).run()
    assert at.selectbox(key="story_model").value == "engine/ft:writer:fabula:x:1"


def test_the_list_has_figures_sparkline_and_what_it_cost(server: FaultServer, store: Store, sample: str) -> None:
    made = {
        "fine_tuned_model": "ft:writer:fabula:x:1",
        "provider": "openai",
        "cost_usd": Decimal("1.05"),
        "trained_tokens": 1859,
        "training_s": 80.0,
    }
    put_job(store, status="succeeded", dataset_id=sample, **made)
    row = visit("training").dataframe[0].value.iloc[0]
    assert (row["dataset"], row["status"], row["cost"]) == ("ultraman_stories_more", "finished", 1.05)
    assert (row["loss"], row["accuracy"], list(row["curve"])) == (0.40, 95.0, [0.88, 0.81, 0.40])
    assert (row["tokens"], row["base"], row["provider"]) == (1859, "writer", "openai")
    assert row["verdict"].startswith("Done after 80 s of training") and row["eta"] is None and row["took"] == "80 s"


def test_the_list_tells_when_a_job_is_done_and_what_it_came_from(server: FaultServer, store: Store) -> None:
    made = "ft:writer:fabula:x:1"
    first = put_job(store, status="succeeded", name="First", fine_tuned_model=made, created_at=hours_ago(2))
    ends = utcnow() + timedelta(minutes=20)
    put_job(store, status="running", name="Second", base_model=made, parent_id=first, estimated_finish=ends)
    at = visit("training")
    row = at.dataframe[0].value.iloc[0]
    assert (row["name"], row["eta"], row["base"]) == ("Second", "20 min", "writer → First")
    assert row["verdict"] == "Training · about 20 min left."
    assert row["tokens"] == 1859 and pd.isna(row["cost"])
    assert "writer → First" in words(at) and "1,859 tokens" in words(at)


@pytest.mark.parametrize(
    ("locale", "place", "waited"),
    [
        ("en-US", "2nd in line, starts in about 9 min.", "waiting for 30 min"),
        ("zh-CN", "排在第 2 位，约 9 分钟后开始。", "已等待 30 分钟"),
    ],
)
def test_a_job_behind_another_shows_its_place_and_no_training_time(
    server: FaultServer, store: Store, locale: str, place: str, waited: str
) -> None:
    now = utcnow()
    put_job(
        store, status="queued", queue_position=2, estimated_start=now + timedelta(minutes=9), estimated_s=300.0,
        training_s=0.0, created_at=now - timedelta(minutes=30), results_csv=None,
    )  # fmt: skip
    at = visit("training", locale)
    shown = words(at)
    assert place in shown and waited in shown
    (bar,) = at.progress
    assert bar.value == 0
    row = at.dataframe[0].value.iloc[0]
    assert row["verdict"] == place and row["took"] in ("0 s", "0 秒")
    assert row["eta"] in ("14 min", "14 分钟")


def test_a_job_near_its_end_says_the_same_everywhere_and_never_0_s(server: FaultServer, store: Store) -> None:
    now = utcnow()
    put_job(store, status="running", training_s=600.0, estimated_finish=now, created_at=now - timedelta(hours=1))
    at = visit("training")
    assert words(at).count("about 1 min left") >= 1 and at.progress[0].proto.text.startswith("about 1 min left")
    assert at.dataframe[0].value.iloc[0]["eta"] == "1 min" and "in 0 s" not in words(at)
    assert "about 1 min left" in words(visit("home"))


def test_a_running_job_counts_only_its_training(server: FaultServer, store: Store) -> None:
    now = utcnow()
    put_job(store, status="running", training_s=60.0, estimated_s=240.0, created_at=now - timedelta(hours=2))
    at = visit("training")
    assert "about 3 min left" in words(at) and "trained for 60 s" in words(at)
    (bar,) = at.progress
    assert bar.value == 25


def test_many_jobs_can_be_searched(server: FaultServer, store: Store) -> None:
    for number in range(12):
        put_job(store, status="succeeded", name=f"job {number}", remote_id=f"r{number}")
    at = visit("training")
    assert len(at.dataframe[0].value) == 12
    at.text_input(key="training_search").input("JOB 11").run()
    assert list(at.dataframe[0].value["name"]) == ["job 11"]
    at.text_input(key="training_search").input("no such").run()
    assert not at.exception and "No job matches" in words(at)


def test_a_job_is_read_once_however_often_its_page_is_drawn(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_job(store, status="succeeded")
    at = visit("training")
    monkeypatch.setattr("core.finetuning.results.parse", lambda text: pytest.fail("the results are read again"))
    assert len(again(at).get("vega_lite_chart")) == 2


def test_a_running_job_is_read_again_only_when_its_results_have_changed(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = put_job(store, status="running")
    at, read, parse = visit("training"), list[str](), results.parse

    def parsed(text: str) -> results.Results:
        read.append(text)
        return parse(text)

    monkeypatch.setattr("core.finetuning.results.parse", parsed)
    for more, steps, times in (("", "3", 0), ("4,2400,4,0.30,0.0,0.96\n", "4", 1)):
        with store.session() as session:
            job = session.get_one(TrainingJob, job_id)
            job.results_csv, job.updated_at = (job.results_csv or "") + more, utcnow()
        cache.refresh()
        assert {m.label: m.value for m in again(at).metric}["Steps"] == steps
        assert len(read) == times


def test_names_and_events_of_others_are_text(server: FaultServer, store: Store) -> None:
    nasty = "![x](http://example.com/x.png)"
    job_id = put_job(store, status="succeeded", name=nasty, fine_tuned_model=nasty, base_model=nasty)
    with store.session() as session:
        session.add(
            TrainingEvent(job_id=job_id, remote_id="e2", created_at=utcnow(), level="warn", type="x", message=nasty)
        )
    for tab in ("events", "settings", "family", "evaluation"):
        at = visit("training", training_tab=tab)
        assert not any(nasty in str(element.value) for element in [*at.caption, *at.markdown])


# --- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_can_be_drawn_over_tokens_and_on_a_log_scale(server: FaultServer, store: Store) -> None:
    put_job(store, status="succeeded", trained_tokens=1859)
    at = visit("training")
    field(at, "training_job_axis").set_value("tokens").run()
    at.toggle(key="training_job_log").set_value(True).run()
    assert not at.exception
    specs = [json.loads(chart.proto.spec) for chart in at.get("vega_lite_chart")]
    assert all('"title": "Tokens"' in json.dumps(spec) for spec in specs)
    assert ['"type": "log"' in json.dumps(spec) for spec in specs] == [True, False]


def test_checkpoints_are_marked_and_can_be_tried(server: FaultServer, store: Store, sample: str) -> None:
    made = "ft:writer:fabula:x:1"
    server.models.append({"id": f"{made}:ckpt-step-2", "object": "model", "created": 1, "owned_by": "t"})
    job_id = put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=sample)
    _checkpoint(store, job_id, 2, f"{made}:ckpt-step-2", valid_loss=0.7)
    at = visit("training")
    chosen = at.selectbox(key=f"training_checkpoint_{job_id}")
    assert chosen.options == ["step 2 · loss 0.700, held-out"]
    assert all("checkpoint" in chart.proto.spec for chart in at.get("vega_lite_chart"))
    at.button(key="training_checkpoint_try").click().run()
    at.switch_page(str(_STORY)).run()
    assert at.selectbox(key="story_model").value == f"engine/{made}:ckpt-step-2"


def test_a_checkpoint_of_a_job_that_still_runs_can_be_tried_though_no_list_names_it(
    server: FaultServer, store: Store, sample: str
) -> None:
    point = "ft:writer:fabula:x:1:ckpt-step-2"
    job_id = put_job(store, status="running", dataset_id=sample, separator=" =>")
    _checkpoint(store, job_id, 2, point)
    at = visit("training")
    at.button(key="training_checkpoint_try").click().run()
    at.switch_page(str(_STORY)).run()
    assert at.selectbox(key="story_model").value == f"engine/{point}"
    at.selectbox(key="story_model").select("engine/writer").run()
    at.selectbox(key="story_model").select(f"engine/{point}").run()
    assert "Checkpoint of step 2" in words(at)
    click(at, "story_outside_0")
    assert any(text.value.endswith(" =>") for text in at.text)


def test_a_curve_that_overfits_says_so(server: FaultServer, store: Store) -> None:
    lines = [f"{n},{2 - n / 60:.3f},{max(1.0, 2 - n / 30) if n < 40 else 1 + (n - 40) / 40:.3f}" for n in range(1, 101)]
    put_job(store, status="succeeded", results_csv="\n".join(["step,train_loss,valid_loss", *lines]))
    shown = words(visit("training")).casefold()
    assert ":red[:material/warning:]" in shown or ":orange[:material/visibility:]" in shown


def test_any_results_file_is_charted(server: FaultServer) -> None:
    at = visit("training", training_part="read")
    at.file_uploader(key="training_results_file").upload("results.csv", _RESULTS.encode()).run()
    assert not at.exception and len(at.get("vega_lite_chart")) == 2
    assert {m.label: m.value for m in at.metric}["Steps"] == "3"


def test_the_articles_own_results_are_charted(server: FaultServer) -> None:
    path = Path(__file__).parents[3] / "shared" / "fixtures" / "curie_results.csv"
    if not path.is_file():
        pytest.skip("the article's results file is not on this machine")
    at = visit("training", training_part="read")
    at.file_uploader(key="training_results_file").upload(path.name, path.read_bytes()).run()
    shown = {m.label: m.value for m in at.metric}
    assert (shown["Steps"], shown["Tokens trained on"]) == ("1,857", "1,229,945")
    assert shown["Token accuracy, smoothed"] == "94.3 %"


@pytest.mark.parametrize(("body", "says"), [(b"a,b\n1,2\n", "not a results file"), (b" \n", "is empty")])
def test_a_file_that_holds_no_results_is_told(server: FaultServer, body: bytes, says: str) -> None:
    at = visit("training", training_part="read")
    at.file_uploader(key="training_results_file").upload("a.csv", body).run()
    assert says in trouble(at)


def test_lines_that_cannot_be_read_are_told_once(server: FaultServer) -> None:
    at = visit("training", training_part="read")
    at.file_uploader(key="training_results_file").upload("results.csv", _RESULTS.encode()).run()
    assert words(at).count("could not be read") == 1


def test_a_results_file_in_utf_16_or_without_lines_is_no_other_file(server: FaultServer) -> None:
    at = visit("training", training_part="read")
    at.file_uploader(key="training_results_file").upload("a.csv", _RESULTS.encode("utf-16")).run()
    assert not at.error and not at.info
    at = visit("training", training_part="read")
    at.file_uploader(key="training_results_file").upload("b.csv", _RESULTS.splitlines()[0].encode()).run()
    assert not at.error and "no step that can be read" in at.info[0].value


def test_a_long_curve_is_sent_as_two_thousand_points() -> None:
    lines = "\n".join(f"{n},{2 + 1 / n:.5f},0.5" for n in range(1, 20_001))
    source = cached_training.read_file("x", f"step,train_loss,train_accuracy\n{lines}\n")
    drawn = RenderedChart.of(training_curve.loss_chart(source.frame, CurveView(), _labels()))
    assert len(drawn.rows) <= 2_001
    assert len(drawn.whole()["data"]["values"]) == len(drawn.rows) and "data" not in drawn.spec


# --- several jobs ---------------------------------------------------------------------------------------------------


def test_an_address_opens_a_comparison(server: FaultServer, store: Store) -> None:
    first = put_job(store, status="succeeded", name="slow", hyperparameters={"n_epochs": 2}, created_at=hours_ago(2))
    second = put_job(store, status="succeeded", name="fast", hyperparameters={"n_epochs": 4}, created_at=hours_ago(1))
    at = visit("home")
    at.query_params["jobs"] = f"{first},{second},gone"
    at.switch_page(str(_STORY.with_name("training.py"))).run()
    assert not at.exception
    assert "Share this page's address" in words(at)
    assert len(at.get("vega_lite_chart")) == 2
    settings = next(table.value for table in at.table if any("≠" in str(name) for name in table.value.index))
    epochs = next(name for name in settings.index if "Epochs" in str(name))
    assert "≠" in epochs and sorted(settings.loc[epochs]) == ["2", "4"]
    assert list(settings.columns) == ["fast", "slow"]


def test_jobs_of_one_name_are_told_apart_in_the_sentence_too(server: FaultServer, store: Store) -> None:
    ids = [
        put_job(
            store,
            status="succeeded",
            dataset_id="d",
            hyperparameters={"n_epochs": n},
            results_csv=f"{_HEADER}\n1,1,0.{n}\n",
        )
        for n in (2, 4)
    ]
    at = visit("home")
    at.query_params["jobs"] = ",".join(ids)
    at.switch_page(str(_STORY.with_name("training.py"))).run()
    assert f"'ultraman · {ids[1][-4:]}' has the highest training accuracy: 40.0 % (last step)." in words(at)


def test_a_link_to_a_job_that_is_gone_opens_the_newest(server: FaultServer, store: Store) -> None:
    put_job(store, status="failed", error="No room.")
    at = visit("home")
    at.query_params["jobs"] = "gone"
    at.switch_page(str(_STORY.with_name("training.py"))).run()
    assert "Failed: No room" in words(at)


# --- the other tabs -------------------------------------------------------------------------------------------------


def test_settings_show_what_was_told_and_what_it_took(server: FaultServer, store: Store) -> None:
    put_job(
        store, status="succeeded", provider="openai", cost_usd=Decimal("1.05"), estimated_usd=Decimal("1.20"),
        estimated_s=120.0, hyperparameters={"learning_rate_multiplier": 0.2},
    )  # fmt: skip
    tables = "\n".join(table.value.to_string() for table in visit("training", training_tab="settings").table)
    assert "0.2" in tables and "expected: \\$1.20" in tables and "expected: 2 min" in tables


_MOMENT = datetime(2026, 11, 20, 8, tzinfo=UTC)
_SUBMITTED, _BEGAN, _ENDED = (f"2026-11-20 {time}" for time in ("16:00:00", "18:00:00", "18:05:00"))  # Shanghai


@pytest.mark.parametrize(
    ("values", "began", "ended", "trained"),
    [
        ({"status": "preparing", "remote_id": None}, "not yet", "not yet", "0 s"),
        ({"status": "queued", "training_s": 0.0, "queue_position": 2}, "not yet", "not yet", "0 s"),
        ({"status": "running", "training_s": 60.0}, _BEGAN, "not yet", "60 s"),
        ({"status": "running", "provider": "openai", "running_since": _MOMENT}, _SUBMITTED, "not yet", None),
        ({"status": "paused", "training_s": 90.0}, _BEGAN, "not yet", "2 min"),
        ({"status": "succeeded", "training_s": 300.0}, _BEGAN, _ENDED, "5 min"),
        ({"status": "failed", "training_s": 60.0}, _BEGAN, _ENDED, "60 s"),
        ({"status": "failed", "training_s": 0.0}, "not started", _ENDED, "0 s"),
        ({"status": "failed", "remote_id": None}, "not started", _ENDED, "0 s"),
        ({"status": "cancelled", "training_s": 30.0}, _BEGAN, _ENDED, "30 s"),
        ({"status": "cancelled", "remote_id": None}, "not started", _ENDED, "0 s"),
        ({"status": "succeeded", "provider": "together"}, "unknown", _ENDED, "unknown"),
    ],
)
def test_the_outcome_says_when_a_job_was_submitted_began_and_ended(
    server: FaultServer,
    store: Store,
    values: dict[str, Any],
    began: str,
    ended: str,
    trained: str | None,
) -> None:
    """Two hours in the queue lie between the first two, and do not count as training."""
    job_id = put_job(store, created_at=_MOMENT, **values)
    with store.session() as session:
        if began == _BEGAN:
            session.add(TrainingEvent(
                job_id=job_id, remote_id="e2", created_at=_MOMENT + timedelta(hours=2), level="info", type="message",
                message="Fine-tuning job started",
            ))  # fmt: skip
        if ended == _ENDED:
            session.get_one(TrainingJob, job_id).finished_at = _MOMENT + timedelta(hours=2, minutes=5)
    at = visit("training", training_tab="settings", training_open=(job_id,))
    outcome = at.table[1].value.iloc[:, 0]
    assert (outcome["Submitted"], outcome["Training began"], outcome["Ended"]) == (_SUBMITTED, began, ended)
    assert trained is None or outcome["Training time"] == trained


def test_an_event_of_another_day_has_its_date(server: FaultServer, store: Store) -> None:
    put_job(store, status="running", events_at=_MOMENT)
    assert f"{_SUBMITTED} · Training started" in words(visit("training"))


def test_a_chain_shows_its_family_its_one_curve_and_its_cost(server: FaultServer, store: Store, sample: str) -> None:
    made = "ft:writer:fabula:x:1"
    first = put_job(
        store, status="succeeded", name="first", fine_tuned_model=made, dataset_id=sample, created_at=hours_ago(2),
        provider="openai", cost_usd=Decimal("3.69"), trained_tokens=1859,
    )  # fmt: skip
    put_job(
        store, status="succeeded", name="second", base_model=made, parent_id=first, dataset_id=sample,
        created_at=hours_ago(1), provider="openai", cost_usd=Decimal("1.05"), trained_tokens=1859,
    )  # fmt: skip
    at = visit("training", training_tab="family")
    assert {m.label: m.value for m in at.metric}["Total cost"] == "\\$4.74"
    assert len(at.get("vega_lite_chart")) == 2 + 1 + 2


def test_a_chain_of_which_no_price_is_known_did_not_cost_nothing(server: FaultServer, store: Store) -> None:
    made = "ft:writer:fabula:x:1"
    first = put_job(store, status="succeeded", fine_tuned_model=made, created_at=hours_ago(2))
    put_job(store, status="succeeded", base_model=made, parent_id=first, created_at=hours_ago(1))
    at = visit("training", training_tab="family")
    assert {m.label: m.value for m in at.metric}["Total cost"] == "not priced"


def test_a_model_is_judged_beside_its_base(server: FaultServer, store: Store) -> None:
    dataset_id = put_labelled_rows(store, held_out=12)
    made = "ft:writer:fabula:x:1"
    job_id = put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=dataset_id)
    at = visit("training", training_tab="evaluation")
    assert "12 rows were not used for training" in words(at) and "labels" in words(at)
    click(at, "training_evaluation_start")
    found = evaluations.list_for_job(store, job_views.get(store, job_id))
    assert {one.model for one in found} == {made, "writer"} and {one.total for one in found} == {12}
    assert at.button(key="training_evaluation_start").disabled
    assert "0 of 12 answers" in words(at)
    (tuned,) = [one for one in found if one.model == made]
    click(at, f"training_evaluation_stop_{tuned.id}")
    assert evaluations.get(store, tuned.id).state == "stopped"


def test_a_finished_evaluation_shows_both_with_intervals_and_every_answer(server: FaultServer, store: Store) -> None:
    """120 short rows: the tuned model predicts two of three labels correctly, its base one."""
    dataset_id, made = put_labelled_rows(store, held_out=120, rows=150), "ft:writer:fabula:x:1"
    job_id = put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=dataset_id)
    tuned, base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id), limit=120)
    run_evaluation(store, tuned, lambda expected: "green" if expected == "blue" else expected)
    run_evaluation(store, base, lambda expected: "red")
    at = visit("training", training_tab="evaluation")
    shown = words(at)
    assert "66.7 %" in shown and "33.3 %" in shown and "120 rows" in shown
    assert "p below 0.0001, McNemar's exact test" in shown
    (chart,) = [one for one in at.get("vega_lite_chart") if "95 % interval" in one.proto.spec]
    assert chart.proto.alt == "x 1 · writer: 66.7 %; writer: 33.3 %"
    scores = next(one.value for one in at.dataframe if "recall" in one.value)
    assert dict(zip(scores["label"], scores["recall"], strict=True)) == {"blue": 0.0, "green": 100.0, "red": 100.0}
    answers = next(one.value for one in at.dataframe if "expected" in one.value)
    assert set(answers["expected"]) == {"blue"} and set(answers["answer"]) == {" green."}
    at.toggle(key=f"training_wrong_{tuned}").set_value(False).run()
    assert len(next(one.value for one in at.dataframe if "expected" in one.value)) == 100
    assert not at.button(key="training_evaluation_start").disabled


def test_a_new_job_leads_to_the_candidates_for_its_rows(server: FaultServer, sample: str) -> None:
    at = click(visit("training", training_part="new"), "training_candidates")
    assert at.session_state["training_part"] == "candidates" and field(at, "training_dataset").value == sample
    until(lambda: any("calls" in one.value for one in at.dataframe) or not again(at), "the candidates")
    assert "candidates_train" in [one.key for one in at.button]


def test_without_an_evaluation_both_models_are_asked_with_one_click(server: FaultServer, store: Store) -> None:
    server.models += [{**server.models[0], "id": "third"}]
    dataset_id = put_labelled_rows(store, held_out=30, rows=40)
    put_job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1", dataset_id=dataset_id)
    at = visit("training", training_tab="evaluation", training_parity_model="engine/third")
    click(at, "training_parity_start")
    asked = evaluations.list_evaluations(store)
    assert {(one.model, one.total) for one in asked} == {("third", 30), ("ft:writer:fabula:x:1", 30)}


def test_a_model_is_compared_with_the_one_that_it_replaces(server: FaultServer, store: Store) -> None:
    server.models += [{**server.models[0], "id": "third"}]
    dataset_id, made = put_labelled_rows(store, held_out=120, rows=150), "ft:writer:fabula:x:1"
    job_id = put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=dataset_id)
    tuned, _base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id), limit=120)
    run_evaluation(store, tuned, lambda expected: expected)
    at = visit("training", training_tab="evaluation", training_parity_model="engine/third")
    assert at.button(key="training_parity_start").label == "Compare on 120 rows"
    click(at, "training_parity_start")
    old = next(one for one in evaluations.list_evaluations(store) if one.model == "third")
    assert old.active and "0 of 120 answers" in words(at)
    run_evaluation(store, old.id, lambda expected: "green" if expected == "blue" else expected)
    at = again(at)
    assert "Better by 25 to 43 points on 120 rows" in words(at)
    assert "training_parity_start" not in [one.key for one in at.button]
    (parts,) = [table.value for table in at.dataframe if "new" in table.value and "old" in table.value]
    assert parts.set_index("name")["old"].to_dict() == {"red": 40, "green": 40, "blue": 0}
    assert "A model reads each row with both answers, twice" in words(at)
    click(at, "training_parity_judge_start")
    (judged,) = evaluations.list_evaluations(store, judges=True)
    go(store, judged.id, ScriptedModel(lambda request: '{"reason": "the first", "winner": "A"}'))
    at = again(at)
    assert "As good within 4 points: 0 of 100 rows won, 100 ties, 0 lost." in words(at)
    assert "the answer shown first won 100 % (50 % without bias)" in words(at)
    vote = visit("training")
    vote.query_params["vote"] = f"{old.id}.{tuned}"
    vote.run()
    assert "Which answer is better?" in words(vote) and "third" not in words(vote) and made not in words(vote)
    click(vote, "training_vote_tie")
    assert "1 vote · 1 person" in words(again(at))
    server.models[:] = [one for one in server.models if one["id"] != "third"]
    cache.models.clear()
    at = visit("training", training_tab="evaluation", training_parity_model="engine/third")
    assert "Better by 25 to 43 points on 120 rows" in words(at)  # its answers are stored


def test_an_evaluation_with_rows_that_failed_can_be_asked_again(server: FaultServer, store: Store) -> None:
    dataset_id, made = put_labelled_rows(store, held_out=12), "ft:writer:fabula:x:1"
    job_id = put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=dataset_id)
    tuned, _base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id), limit=12)
    run_evaluation(store, tuned, lambda expected: None if expected == "red" else expected)
    at = visit("training", training_tab="evaluation")
    assert "4 rows have no answer" in words(at)
    click(at, f"training_evaluation_retry_{tuned}")
    assert evaluations.get(store, tuned).state == "queued"


def test_everything_about_a_run_comes_as_a_zip_with_its_charts(
    server: FaultServer, store: Store, sample: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vl_convert")
    put_job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1", dataset_id=sample, seed=7)
    offered: list[Callable[[], bytes]] = []
    zipped = job_actions._zipped
    monkeypatch.setattr(job_actions, "_zipped", lambda job: offered.append(zipped(job)) or offered[-1])
    at = visit("training")
    assert "the before-and-after comparison, a model card and the charts" in words(at)
    with zipfile.ZipFile(io.BytesIO(offered[-1]())) as file:
        names = set(file.namelist())
        assert {"README.md", "settings.json", "results.csv", "events.csv", "checkpoints.csv", "lineage.json"} <= names
        for chart in ("loss", "accuracy"):
            assert file.read(f"charts/{chart}.svg").startswith(b"<svg")
            assert file.read(f"charts/{chart}.png").startswith(b"\x89PNG")
            assert b"<path" in file.read(f"charts/{chart}.svg")
        assert file.read("results.csv").decode() == _RESULTS
        assert json.loads(file.read("settings.json"))["seed"] == 7


def test_without_rows_kept_from_training_nothing_is_judged(server: FaultServer, store: Store, sample: str) -> None:
    put_job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1", dataset_id=sample)
    at = visit("training", training_tab="evaluation")
    assert any("All rows were used for training" in info.value for info in at.info)


@pytest.mark.parametrize("tab", ["events", "settings", "evaluation", "family"])
def test_every_tab_opens_in_chinese(server: FaultServer, store: Store, sample: str, tab: str) -> None:
    job_id = put_job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1", dataset_id=sample)
    _checkpoint(store, job_id, 2, "ft:writer:fabula:x:1:ckpt-step-2")
    assert not visit("training", "zh-CN", training_tab=tab).error


# --- helpers --------------------------------------------------------------------------------------------------------


def _keys(at: AppTest) -> list[str | None]:
    return [button.key for button in at.button]


def _labels() -> CurveLabels:
    return CurveLabels("Step", "Loss", "Training", "Smoothed", "Validation", "Step")


def _checkpoint(store: Store, job_id: str, step: int, model: str, **metrics: float) -> None:
    with store.session() as session:
        session.add(Checkpoint(job_id=job_id, remote_id=f"c{step}", step=step, model=model, metrics=metrics))
