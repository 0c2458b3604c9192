"""The open job stays open until this visitor changes it; jobs of other visitors only appear in the list."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Dataset, Tour, utcnow
from core.evaluation import evaluations
from core.finetuning import job_views
from core.tours import tour
from pages.ui import cache
from pages.ui.dataset import dataset_picker
from tests.support.app_pages import FRAME, again, click, next_step, visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import hours_ago, put_job, put_labelled_rows, run_evaluation

_RECIPE = Recipe("heroes", (Column("hero", ("red", "blue")),), "Write about {hero}", model="writer")


def _opened(at: AppTest) -> str:
    """The name of the job whose page is shown: the first item in the line of facts below the verdict."""
    return next(one.value.partition(" · ")[0] for one in at.caption if " · Engine · " in one.value)


def _training_at(*ids: str) -> AppTest:
    """The training page with these jobs in its URL."""
    at = visit("home")
    at.query_params["jobs"] = ",".join(ids)
    return at.switch_page(str(FRAME.with_name("training.py"))).run()


@pytest.mark.parametrize("status", ["preparing", "queued", "running", "succeeded", "failed"])
def test_a_job_of_another_visitor_appears_in_the_list_and_not_in_the_view(
    server: FaultServer, store: Store, status: str
) -> None:
    put_job(store, status="running", name="mine", created_at=hours_ago(1))
    at = visit("training")
    assert _opened(at) == "mine"
    put_job(store, status=status, name="theirs")
    again(at)
    assert list(at.dataframe[0].value["name"]) == ["theirs", "mine"] and _opened(at) == "mine"
    assert _opened(again(at)) == "mine"


@pytest.mark.parametrize("n", [1, 2])
def test_what_an_address_opened_stays_when_others_start_jobs(server: FaultServer, store: Store, n: int) -> None:
    ids = [put_job(store, status="succeeded", name=f"mine {k}", created_at=hours_ago(5 - k)) for k in range(3)]
    at = _training_at(*ids[:n])
    before = at.query_params["jobs"]
    put_job(store, status="running", name="theirs")
    again(at)
    assert at.query_params["jobs"] == before and len(at.dataframe[0].value) == 4
    if n == 1:
        assert _opened(at) == "mine 0"
    else:
        assert {"mine 0", "mine 1"} == set(next(t.value for t in at.table).columns)


def test_a_job_that_this_visitor_starts_is_opened(server: FaultServer, store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 9)
    put_job(store, status="running", name="theirs", created_at=hours_ago(1))
    at = visit("training", training_dataset=dataset_id)
    click(at, "training_new")
    next_step(next_step(at))
    click(at, "training_submit")
    (mine,) = [job.id for job in job_views.list_jobs(store) if job.dataset_id == dataset_id]
    assert at.session_state["training_open"] == (mine,)


def test_a_search_that_hides_what_is_open_does_not_close_it(server: FaultServer, store: Store) -> None:
    ids = [
        put_job(store, status="succeeded", name=f"job {n}", remote_id=f"r{n}", created_at=hours_ago(20 - n))
        for n in range(12)
    ]
    at = _training_at(ids[3])
    for word in ("job 7", "no such job"):
        at.text_input(key="training_search").input(word).run()
        assert _opened(at) == "job 3"
    at.text_input(key="training_search").input("").run()
    assert _opened(at) == "job 3" and at.query_params["jobs"] == ids[3]


def test_the_home_page_leads_to_the_job_that_it_names(server: FaultServer, store: Store) -> None:
    put_job(store, status="succeeded", name="older", created_at=hours_ago(2))
    named = put_job(store, status="succeeded", name="named", created_at=hours_ago(1))
    at = visit("home", training_open=())
    put_job(store, status="running", name="newer")
    click(at, "home_training")
    assert at.session_state["training_open"] == (named,)


@pytest.mark.parametrize("more", [1, 3])
def test_a_data_set_keeps_its_label_when_another_one_gets_its_name(
    server: FaultServer, store: Store, more: int
) -> None:
    mine = datasets.create(store, LOCAL, _RECIPE)
    label = dataset_picker.label(datasets.summary(store, mine))
    at = visit("dataset", dataset_part="quality")
    assert at.selectbox(key="dataset_open").value == mine
    for _n in range(more):
        theirs = datasets.create(store, LOCAL, _RECIPE)
        # imports and older versions of the studio can leave data sets with the same name
        with store.session() as session:
            session.execute(update(Dataset).where(Dataset.id == theirs).values(name="heroes"))
    again(at)
    assert label == "heroes" and label in at.selectbox(key="dataset_open").options
    assert len(set(at.selectbox(key="dataset_open").options)) == more + 1
    assert at.selectbox(key="dataset_open").value == mine


def test_a_tour_of_another_visitor_does_not_take_the_place_of_the_one_shown(server: FaultServer, store: Store) -> None:
    with store.session() as session:
        session.add(
            Tour(
                id="mine", state="failed", step="training", reason="No room left.", created_by="local",
                created_at=utcnow() - timedelta(minutes=5), finished_at=utcnow() - timedelta(minutes=1),
            )
        )  # fmt: skip
    at = visit("home")
    assert "No room left." in words(at)
    theirs = tour.start(store, LOCAL, "en")
    again(at)
    assert "No room left." in words(at) and "home_tour_stop" not in [button.key for button in at.button]
    click(at, "home_tour")  # starts a tour: the running one is shown
    assert at.session_state["home_tour_shown"] == theirs
    assert "home_tour_stop" in [button.key for button in at.button]


def test_an_evaluation_of_another_visitor_is_offered_and_not_shown(server: FaultServer, store: Store) -> None:
    dataset_id, made = put_labelled_rows(store, held_out=12), "ft:writer:fabula:x:1"
    job_id = put_job(store, status="succeeded", fine_tuned_model=made, dataset_id=dataset_id)
    first, _base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id), limit=12)
    run_evaluation(store, first, lambda expected: expected)
    at = visit("training", training_tab="evaluation")
    assert f"training_wrong_{first}" in [toggle.key for toggle in at.toggle]
    second, _base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id), limit=12)
    again(at)
    assert f"training_wrong_{first}" in [toggle.key for toggle in at.toggle]
    click(at, "training_evaluation_newest")
    assert f"training_evaluation_stop_{second}" in [button.key for button in at.button]
    cache.refresh()


def test_a_link_to_a_deleted_data_set_says_that_another_one_is_shown(server: FaultServer, store: Store) -> None:
    first, second = (datasets.create(store, LOCAL, _RECIPE) for _n in range(2))
    at = visit("home")
    at.query_params["part"], at.query_params["set"] = "quality", "deleted"
    at = at.switch_page(str(FRAME.with_name("dataset.py"))).run()
    assert "The data set of this link was deleted" in words(at)
    other = second if at.selectbox(key="dataset_open").value == first else first
    at.selectbox(key="dataset_open").set_value(other).run()
    assert "The data set of this link was deleted" not in words(at)
