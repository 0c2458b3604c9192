"""The last day of a model wherever one is shown or chosen: pickers, jobs, saved forms, and what a non-admin sees."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL, Actor
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import Evaluation, Spend, Story, Vote, utcnow
from core.jobs.provider_probe import Finding, ProbeReport
from core.pricing import custom_prices
from core.providers.engine_aliases import EngineAlias
from pages.ui.components import shutdown_notes
from pages.ui.home import stopping_card
from pages.ui.settings import aliases
from tests.support import fault_server
from tests.support.app_pages import again, click, field, opened, visit, visitor, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_archived_tune, put_comparison, put_comparison_answer, put_job

_TUNED = "ft:gpt-99:acme:intents:A1"
_FAR = "ft:gpt-99:acme:far:B2"
_BASE = "gpt-98"
_GONE = "ft:gpt-99:acme:gone:C3"
_PROBED: tuple[SimpleNamespace, list[str]] = (
    SimpleNamespace(done=True, get=lambda: ProbeReport((Finding("chat", "yes"),), 3, _TUNED, utcnow())),
    [],
)  # the test of a provider that has just ended


def _day(days: int) -> str:
    return (utcnow().date() + timedelta(days=days)).isoformat()


@pytest.fixture(autouse=True)
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A provider whose list names the last days of three of its models."""
    with FaultServer() as server:
        one = {**server.models[0], "fabula": {}}
        server.models[:] = [
            {**one, "id": _TUNED, "shutdown_date": _day(12)},
            {**one, "id": _FAR, "shutdown_date": _day(61)},
            {**one, "id": _BASE, "shutdown_date": _day(12)},
            {**one, "id": "gpt-99", "shutdown_date": None},
        ]
        monkeypatch.setenv("OPENAI_API_KEY", fault_server.KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        shutdown_notes._announced.clear()
        stopping_card._in_use.clear()
        yield server


def _links(at: AppTest) -> list[str]:
    return [str(one.proto.label) for one in at.get("page_link")]


@pytest.mark.parametrize(
    ("page", "state", "picker"),
    [
        ("story", {}, "story_model"),
        ("dataset", {"dataset_part": "design"}, "dataset_model"),
        ("dataset", {"dataset_part": "design", "dataset_start": "prompts"}, "dataset_model"),
    ],
)
def test_a_picker_names_the_day_and_leads_to_move(page: str, state: dict[str, object], picker: str) -> None:
    at = visit(page, "en-US", **state, **{picker: f"compatible/{_TUNED}"})
    chosen = field(at, picker)
    assert chosen.value == f"compatible/{_TUNED}"
    dated = [option for option in chosen.options if "stops" in option]
    assert {option.split(" · ")[1] for option in dated} == {f"stops {_day(12)}"} and len(dated) == 2
    assert f"Stops on {_day(12)}, 12 days left." in words(at) and "Open Move" in _links(at)
    chosen.set_value(f"compatible/{_FAR}").run()
    assert "Stops on" not in words(at) and "Open Move" not in _links(at)


def _fill(store: Store) -> None:
    """Stories, a vote, jobs, spending and an archived account that name the model, and rows to train a base on."""
    datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    custom_prices.set_price(store, LOCAL, provider="compatible", model=_BASE, kind="training", amount="1")
    put_archived_tune(store, _TUNED, utcnow().date() + timedelta(days=12))
    named = {"provider": "compatible", "model": _TUNED}
    jobs = {"status": "succeeded", "base_model": "gpt-99", "provider": "compatible"}
    put_job(store, id="tuned", fine_tuned_model=_TUNED, **jobs)
    put_job(store, id="other", fine_tuned_model=_FAR, **jobs)
    with store.session() as session:
        for story_id in ("a", "b"):
            model = _TUNED if story_id == "a" else "gpt-99"
            session.add(
                Story(id=story_id, actor="local", prompt="p", parameters={}, text="t", **named | {"model": model})
            )
        vote = {"actor": "local", "round_id": "r", "blind": True, "story_ids": ["a", "b"], "winner_id": "a"}
        session.add(Vote(id="v", **vote))
        session.add(Spend(actor="local", page="story", reference="a", cost_usd=Decimal(1), **named))
        evaluated = {"job_id": "tuned", "dataset_id": "d", "kind": "label", "state": "done", "settings": {}}
        for number in range(2):
            session.add(Evaluation(id=f"e{number}", created_by="local", **evaluated, **named))


def _everything(at: AppTest) -> str:
    """All texts, the cells of tables and data frames, and the options of lists."""
    tables = (str(one.value.to_csv()) for kind in (at.dataframe, at.table) for one in kind)
    return "\n".join([words(at), *tables, *(option for one in at.selectbox for option in one.options)])


@pytest.mark.parametrize(
    ("page", "state"),
    [
        pytest.param("story", {"story_model": f"compatible/{_TUNED}"}, id="model of a story"),
        pytest.param("story", {"story_part": "shelf"}, id="story library"),
        pytest.param("story", {"story_part": "votes"}, id="votes"),
        pytest.param("training", {"training_part": "jobs"}, id="jobs"),
        pytest.param("training?jobs=tuned", {"training_tab": "family"}, id="family tree"),
        pytest.param("training?jobs=tuned", {"training_tab": "evaluation"}, id="evaluations"),
        pytest.param("training?jobs=tuned,other", {}, id="comparison of jobs"),
        pytest.param("training", {"training_dialog": 2, "training_base": f"compatible/{_BASE}"}, id="before a job"),
        pytest.param("cost", {"cost_lists": ["compatible"]}, id="prices"),
        pytest.param("cost", {"cost_part": "spent"}, id="spending"),
        pytest.param("settings", {"settings_probe_compatible": _PROBED}, id="another model to test"),
        pytest.param("settings", {"aliases": True}, id="aliases"),
        pytest.param("home", {}, id="home"),
    ],
)
def test_every_place_that_names_a_model_has_its_date_and_the_way_to_move(
    page: str, state: dict[str, object], store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(store)
    monkeypatch.setattr(aliases, "listed", lambda: (EngineAlias(_TUNED, "ft:writer", "active"),) if state else ())
    page, _mark, jobs = page.partition("?jobs=")
    at = visitor("en-US")
    if jobs:
        at.query_params["jobs"] = jobs
    shown = _everything(opened(at, page, **state))
    assert any(name in shown for name in (_TUNED, "intents A1", _BASE))
    assert _day(12) in shown
    assert "Open Move" in _links(at)


def test_the_fact_line_of_a_story_and_the_filter_of_the_library_have_the_date() -> None:
    at = click(visit("story", story_model=f"compatible/{_TUNED}", story_mode="free", story_prompt="A"), "story_button")
    facts = next(one.value for one in at.caption if "tokens/s" in one.value or "complete" in one.value)
    assert f"stops {_day(12)}" in facts
    at = visit("story", story_part="shelf")
    assert f"{_TUNED} · stops {_day(12)}" in field(at, "story_filter_model").options


def test_before_and_after_name_the_date_of_each_model(store: Store) -> None:
    jobs = {"status": "succeeded", "base_model": _BASE, "provider": "compatible", "fine_tuned_model": _TUNED}
    put_comparison(store, put_job(store, dataset_id="d", **jobs), "done")
    for side in ("base", "tuned"):
        put_comparison_answer(store, 0, side, "done", "text")
    shown = words(visit("training"))
    assert f"**Before** · {_BASE} · stops {_day(12)}" in shown
    assert f"**After** · intents A1 · stops {_day(12)} · gpt-99" in shown


def test_your_own_prices_have_one_line_for_each_day(store: Store) -> None:
    custom_prices.set_price(store, LOCAL, provider="compatible", model=_BASE, kind="training", amount="1")
    notes = [one.value for one in visit("cost", cost_own=True).caption if one.value.endswith("12 days left.")]
    assert notes == [f":material/event_busy: `{_BASE}` · Stops on {_day(12)}, 12 days left."]


def test_in_chinese() -> None:
    at = visit("story", "zh-CN", story_model=f"compatible/{_TUNED}")
    assert f"将于 {_day(12)} 停用，还剩 12 天。" in words(at) and "打开“迁移”" in _links(at)


def test_a_saved_choice_that_has_stopped_is_explained(store: Store) -> None:
    put_archived_tune(store, _GONE, utcnow().date() - timedelta(days=3))
    at = visit("story", story_model=f"compatible/{_GONE}")
    shown = words(at)
    assert _GONE in shown and f"Stopped on {_day(-3)}. Its answers, curves and data here are kept." in shown
    field(at, "story_model").set_value(f"compatible/{_TUNED}").run()
    assert _GONE not in words(at)


def test_a_job_says_that_its_model_has_stopped_and_what_to_use_instead(store: Store) -> None:
    put_archived_tune(store, _GONE, utcnow().date() - timedelta(days=3))
    put_job(store, status="succeeded", provider="engine", fine_tuned_model="ft:writer:fabula:new:1", dataset_id="d")
    put_job(
        store, status="succeeded", provider="compatible", base_model="gpt-99", fine_tuned_model=_GONE, dataset_id="d"
    )
    at = visit("training", training_part="jobs")
    shown = words(at)
    assert f"Stopped on {_day(-3)}." in shown and "Use ft:writer:fabula:new:1" in shown
    assert "The model is ready" not in shown and "training_try" not in [one.key for one in at.button]
    assert "Open Move" in _links(at)
    assert f"stopped {_day(-3)}" in " ".join(str(base) for base in at.dataframe[0].value["base"])


def test_without_the_role_there_is_a_sentence_and_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown_notes, "current_actor", lambda: Actor("vic", "Vic", "viewer"))
    at = visit("story", story_model=f"compatible/{_TUNED}")
    assert f"Stops on {_day(12)}" in words(at) and "Admins can archive" in words(at)
    assert "Open Move" not in _links(at)


def test_home_names_the_models_in_use_by_day(store: Store) -> None:
    at = visit("home")
    assert "Open Move" not in _links(at)
    archive = put_archived_tune(store, "ft:gpt-99:acme::0", utcnow().date() + timedelta(days=20))
    for number in range(1, 5):
        put_archived_tune(store, f"ft:gpt-99:acme::{number}", utcnow().date() + timedelta(days=20), archive_id=archive)
    put_archived_tune(store, _FAR, utcnow().date() + timedelta(days=61), archive_id=archive)
    stopping_card._in_use.clear()
    at = again(at)
    assert f"**5 models in use stop** in 20 days, on {_day(20)}: " in words(at) and "and 2 more" in words(at)
    assert "Open Move" in _links(at) and _FAR not in words(at)
