"""The Use tab: checks and changes, versions, price, files, mixes, and starting a training job."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets, presets, versions
from core.db.store import Store
from core.db.tables import Row, TrainingJob, utcnow
from core.errors import BadTrainingFile
from core.finetuning import job_views
from pages.ui import background
from tests.support.app_pages import again, click, next_step, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.waiting import until


def load(store: Store, name: str = "grid", cells: int = 6, repeats: int = 5) -> str:
    rows = [(f"c{c}", f"story {c}-{r}") for c in range(cells) for r in range(repeats)]
    return datasets.from_frame(store, LOCAL, name, pd.DataFrame(rows, columns=["cell", "story"]), ["cell"], "story")


def use(dataset_id: str, **state: Any) -> AppTest:
    return visit("dataset", dataset_part="use", dataset_open=dataset_id, **state)


def test_without_a_data_set_a_first_step_is_offered(server: FaultServer, store: Store) -> None:
    at = visit("dataset", dataset_part="use")
    assert not at.error and at.button(key="dataset_first")


def test_without_finished_rows_the_way_to_the_run_is_shown(server: FaultServer, store: Store) -> None:
    at = use(datasets.create(store, LOCAL, presets.get().recipe))
    assert "This data set has no finished rows yet" in words(at)
    assert at.button(key="dataset_to_run")


def test_the_check_tells_what_it_found_what_it_does_and_why(server: FaultServer, store: Store) -> None:
    at = use(datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27))
    assert "The data has 27 prompt-completion pairs" in words(at)
    assert "'.' is added to every completion" in words(at) and "use it as the stop when you call the model" in words(at)
    assert any('->", "completion": " ' in block.value and block.value.endswith('."}') for block in at.code)
    assert "machine time, not priced" in words(at)
    at.segmented_control(key=f"dataset_format_{at.selectbox(key='dataset_open').value}").set_value("chat").run()
    assert "Chat models use roles" in words(at)


def test_rows_that_are_held_out_are_counted_apart(server: FaultServer, store: Store) -> None:
    table = pd.DataFrame({"a": list("abcd"), "story": list("1234"), "part": ["test", "", "", "val"]})
    dataset_id = datasets.from_frame(store, LOCAL, "x", table, ["a"], "story", split_column="part")
    at = use(dataset_id)
    assert "2 rows to train on · 1 row for validation · 1 row held out" in words(at)
    assert "The data has 2 prompt-completion pairs" in words(at)
    click(at, "dataset_train")
    _confirm(at)
    assert at.button(key="training_submit").label == "Train on 2 rows"


def test_an_edited_row_is_checked_anew(server: FaultServer, store: Store) -> None:
    dataset_id = load(store)
    at = use(dataset_id)
    assert "'.' is added" in words(at)
    with store.session() as session:
        row = session.query(Row).filter_by(position=0).one()
        row.text, row.updated_at = "Now. With a stop.", utcnow()
    assert "' END' is added" in words(again(at)) and "'.' can't be used" in words(at)


def test_a_split_is_kept_as_a_version_and_carried_to_training(server: FaultServer, store: Store) -> None:
    dataset_id = load(store)
    at = use(dataset_id)
    at.select_slider(key="dataset_share").set_value(20)
    at.text_input(key="dataset_version_note").input("first try").run()
    click(at, "dataset_freeze")
    (version,) = versions.list_versions(store, dataset_id)
    assert (version.n_train, version.n_validation, version.note) == (24, 6, "first try")
    assert at.selectbox(key=f"dataset_version_{dataset_id}").value == version.id
    assert "24 rows to train on · 6 rows for validation" in words(
        at
    ) and "The data has 24 prompt-completion pairs" in words(at)
    at.text_input(key=f"dataset_stop_{dataset_id}_{version.id}").input("###").run()
    click(at, "dataset_train")
    assert at.title[0].value == "Training"
    assert at.selectbox(key=f"training_version_{dataset_id}").value == version.id
    _confirm(at)
    assert at.button(key="training_submit").label == "Train on 24 rows"
    click(at, "training_submit")
    (job,) = job_views.list_jobs(store)
    assert (job.dataset_id, job.version_id, job.stop) == (dataset_id, version.id, "###")


def _confirm(at: AppTest) -> None:
    """Go from the first step of a new job to the last."""
    at.switch_page(str(Path(__file__).parents[2] / "pages" / "training.py")).run()
    next_step(next_step(at))


def test_minutes_come_from_jobs_that_have_run(server: FaultServer, store: Store) -> None:
    at = use(load(store))
    assert words(until_counted(at)).count("time: known after the first job") == 1  # not under every file
    with store.session() as session:
        session.add(
            TrainingJob(
                id="j", name="n", provider="engine", base_model="writer", hyperparameters={}, file_format="completion",
                status="succeeded", trained_tokens=600, training_s=600.0, created_at=utcnow() - timedelta(seconds=600),
                finished_at=utcnow(), created_by="local",
            )
        )  # fmt: skip
    assert "min" in words(again(at)).split("time: ")[1][:12]


def until_counted(at: AppTest) -> AppTest:
    """The page after the tokens have been counted."""
    until(lambda: "counting tokens" not in words(again(at)), "the tokens")
    return at


def test_every_format_can_be_taken_away(server: FaultServer, store: Store) -> None:
    dataset_id = load(store)
    versions.freeze(store, LOCAL, dataset_id, validation_share=0.2)
    at = use(dataset_id)
    assert len(at.get("download_button")) == 4
    (version,) = versions.list_versions(store, dataset_id)
    at.selectbox(key=f"dataset_version_{dataset_id}").set_value(version.id).run()
    assert not at.exception and len(at.get("download_button")) == 6  # each JSONL has a file for validation too


def test_a_mix_is_planned_and_made(server: FaultServer, store: Store) -> None:
    a, b = load(store, "a"), load(store, "b", repeats=2)
    at = use(a)
    at.multiselect(key="dataset_mix_others").set_value([b]).run()
    assert "a: 12 rows · 50.0 %" in words(at)
    at.text_input(key=f"dataset_mix_share_{a}").set_value("2.0").run()
    assert "a: 24 rows · 66.7 %" in words(at)
    click(at, "dataset_mix")
    newest = datasets.list_datasets(store)[0]
    assert (newest.name, newest.source, newest.done) == ("a + b", "mix", 36)
    assert at.selectbox(key="dataset_open").value == newest.id
    assert at.multiselect(key="dataset_mix_others").value == []  # another click creates no second mix


def test_what_cannot_be_mixed_or_written_is_told_in_place(server: FaultServer, store: Store) -> None:
    a, b = load(store, "a"), load(store, "b")
    at = use(a)
    at.multiselect(key="dataset_mix_others").set_value([b]).run()
    at.text_input(key=f"dataset_mix_share_{b}").set_value("0").run()
    assert "a share above 0" in words(at)
    at.text_input(key=f"dataset_stop_{a}_30").input("story").run()
    assert not at.exception and "occurs inside 30 completions" in trouble(at)


def test_many_rows_are_looked_at_beside_the_page(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FEW_ROWS", 10)
    monkeypatch.setattr(background, "TASK_WAIT_S", 0.0)
    at = use(load(store))
    until(lambda: "The data has 30 prompt-completion pairs" in words(again(at)), "the check")
    assert not at.exception


def test_an_error_beside_the_page_is_raised_where_it_is_read() -> None:
    def fail(seen: object) -> None:
        raise BadTrainingFile("no", "yes")

    work = background.BackgroundTask(fail, 1_000_000)
    until(lambda: work.done, "the work")
    with pytest.raises(BadTrainingFile):
        work.get()
