"""The Run tab as a visitor sees it: a run in progress, the map of its grid, rows left out, edited and retried."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import streamlit as st
from sqlalchemy import update
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, grid_store
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row, Run, utcnow
from core.generation import executor, run_progress, runs
from core.message import msg, sentences
from core.pricing import spend
from pages.ui import cache, i18n
from pages.ui.dataset import dataset_picker, row_cards
from tests.support import fault_server
from tests.support.app_pages import again, click, field, trouble, visit, words
from tests.support.fault_server import FaultServer

_RECIPE = Recipe(
    "heroes",
    (Column("hero", ("唐", "宋", "元")), Column("mood", ("轻松", "艰难"))),
    "写{hero}{mood}的故事",
    repeats=2,
    model="writer",
)
_STORY = "\n\n从前，有一位英雄。"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """An endpoint that offers the model `writer`, as the studio's engine."""
    with FaultServer(fault_server.text(_STORY)) as server:
        monkeypatch.setenv("FABULA_ENGINE_URL", server.url.removesuffix("/v1"))
        yield server


@pytest.fixture
def written(store: Store) -> str:
    """A grid whose rows are: done, failed, waiting, and nine more that are done."""
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with store.session() as session:
        for row in session.query(Row).order_by(Row.position):
            row.state, row.text = ("pending", None) if row.position == 2 else ("done", _STORY)
            if row.position == 1:
                row.state, row.reason = "failed", "The text was cut off at 2,048 tokens."
        session.add(
            Run(
                id="run-1", dataset_id=dataset_id, state="stopped", provider="engine", model="writer",
                created_by="local", started_at=utcnow(), finished_at=utcnow(),
            )
        )  # fmt: skip
    return dataset_id


def show(**state: Any) -> AppTest:
    return visit("dataset", dataset_part="rows", **state)


def table(at: AppTest) -> pd.DataFrame:
    return at.data_editor[0].value


def type_into(at: AppTest, place: int, **cells: object) -> AppTest:
    """The browser's message when a cell of the table was changed."""
    key = str(at.data_editor[0].key)
    at.session_state[key] = {"edited_rows": {place: cells}, "added_rows": [], "deleted_rows": []}
    # AppTest cannot trigger on_change of an editor, so the registered callback is called directly
    at.run()
    return at


def texts(store: Store, dataset_id: str) -> list[str | None]:
    return [row.text for row in dataset_rows.page(store, dataset_id)]


def states(store: Store, dataset_id: str) -> list[str]:
    return [row.state for row in dataset_rows.page(store, dataset_id)]


def squares(at: AppTest) -> pd.DataFrame:
    """The data of the map."""
    return convert_arrow_bytes_to_pandas_df(at.get("vega_lite_chart")[0].proto.data.data)


# --- panel ----------------------------------------------------------------------------------------------------------


def test_the_sentence_says_how_far_the_run_is(store: Store, written: str) -> None:
    at = show()
    said = words(at)
    assert "**Stopped** · 10 of 12 · 1 failed" in said
    assert at.button(key="dataset_continue").label == "Resume (1 left)"
    assert at.button(key="dataset_retry").label == "Retry 1 failed"
    assert "dataset_stop" not in [button.key for button in at.button]


def test_a_data_set_that_was_loaded_has_no_run_to_go_on_with(store: Store) -> None:
    datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    at = show()
    assert "27 rows, all done" in words(at)
    keys = {button.key for button in at.button}
    assert "dataset_train" in keys and not keys & {"dataset_continue", "dataset_retry", "dataset_more_repeats_go"}


def test_data_sets_that_are_called_alike_are_not_taken_for_each_other(store: Store) -> None:
    ids = [datasets.create(store, LOCAL, _RECIPE) for _ in range(3)]
    with store.session() as session:  # as before unique names were introduced
        session.execute(update(Dataset).values(name="heroes"))
    at = show()
    assert at.selectbox(key="dataset_open").value == ids[-1]
    assert again(at).selectbox(key="dataset_open").value == ids[-1]
    assert again(show(dataset_open=ids[1])).selectbox(key="dataset_open").value == ids[1]
    assert len(set(at.selectbox(key="dataset_open").options)) == 3


def test_what_a_data_set_is_called_in_a_list_stays_when_its_grid_grows(store: Store, written: str) -> None:
    # a browser identifies the option by this label only
    before = dataset_picker.label(datasets.summary(store, written))
    grid_store.grow(store, LOCAL, written, grid_store.more_repeats(_RECIPE, 1))
    cache.refresh()
    assert dataset_picker.label(datasets.summary(store, written)) == before == "heroes"


def test_the_address_says_what_is_open_and_opens_it_again(store: Store, written: str) -> None:
    datasets.create(store, LOCAL, replace(_RECIPE, name="newer"))
    at = show(dataset_open=written)
    assert (at.query_params["part"], at.query_params["set"]) == ("rows", written)
    linked = visit("home")
    linked.query_params["part"], linked.query_params["set"] = "rows", written
    linked.switch_page(str(Path("pages/dataset.py").resolve())).run()
    assert linked.selectbox(key="dataset_open").value == written
    lost = visit("home")
    lost.query_params["part"], lost.query_params["set"] = "nonsense", "gone"
    lost.switch_page(str(Path("pages/dataset.py").resolve())).run()
    assert not lost.exception and "part" not in lost.query_params


def test_rows_that_fail_are_counted_by_their_cause(store: Store, server: FaultServer) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    server.when("唐", fault_server.refusal("No."))
    executor.execute(store, server.registry("engine", "engine"), runs.enqueue(store, LOCAL, dataset_id))
    assert "**4 rows failed** · The model refused to write it" in words(show())


def test_a_run_is_paused_gone_on_with_and_stopped(store: Store, server: FaultServer) -> None:
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, _RECIPE))
    at = show()
    click(at, "dataset_pause")
    assert run_progress.get(store, run_id).state == "paused"
    assert "**Paused**" in words(again(at))
    click(at, "dataset_resume")
    assert run_progress.get(store, run_id).state == "queued"
    click(again(at), "dataset_stop")
    assert run_progress.get(store, run_id).state == "stopped"


def _stopped(store: Store, written: str, reason: str) -> None:
    with store.session() as session:
        session.get_one(Run, "run-1").reason = reason


def test_why_a_run_has_stopped_is_said(store: Store, server: FaultServer, written: str) -> None:
    """A run that stopped at its budget has not failed, but its reason is shown."""
    _stopped(store, written, "The rest of the $0.30 budget may not cover the next row. Raise the budget to continue.")
    why = "The rest of the \\$0.30 budget may not cover the next row. Raise the budget to continue."
    assert f"{why} The 10 finished rows are kept." in [one.value for one in show().info]


def test_why_and_what_to_do_are_both_in_the_visitors_language(store: Store, server: FaultServer, written: str) -> None:
    why = msg(
        "Blocked: this would exceed this month's budget for everyone. ${spent} of ${limit} spent or reserved.",
        spent="0.28",
        limit="0.30",
    )
    next_step = msg("Choose a cheaper model, or ask an admin to raise the budget on the Cost page.")
    _stopped(store, written, sentences(why, next_step))
    (said,) = [one.value for one in show(lang="zh_CN").info]
    assert "0.28" in said and "0.30" in said and not re.search("[A-Za-z]", said)


def test_the_budget_of_a_run_is_shown_and_can_be_raised(store: Store, server: FaultServer) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    run_id = runs.enqueue(store, LOCAL, dataset_id, budget_usd=Decimal("2.00"))
    with store.session() as session:
        session.get_one(Run, run_id).provider = "openai"  # the engine sends no bill
    at = show(dataset_raise=True)
    assert "of at most $2.00" in words(at)
    for unclear in ("3,5", "", "1.50"):  # ambiguous, empty, and below the current budget
        amount_to_raise(at).set_value(unclear).run()
        click(at, "dataset_set_budget")
        assert run_progress.get(store, run_id).budget_usd == Decimal("2.00") and trouble(at)
    amount_to_raise(at).set_value("3.5").run()
    click(at, "dataset_set_budget")
    assert run_progress.get(store, run_id).budget_usd == Decimal("3.5")
    runs.raise_budget(store, LOCAL, run_id, Decimal("4.25"))  # in another tab
    at.session_state["dataset_raise"] = True
    assert amount_to_raise(again(at)).value == "4.25"


def amount_to_raise(at: AppTest) -> Any:
    """The amount in the popover that raises a budget."""
    return next(box for box in at.text_input if str(box.key).startswith("dataset_more_budget"))


def test_a_run_that_has_stopped_at_its_budget_says_so_and_goes_on_with_more(
    store: Store, server: FaultServer, written: str
) -> None:
    """Ten rows have cost $1.90, and the remaining one would cost a tenth of that: $0.10 would not be enough."""
    with store.session() as session:
        run = session.get_one(Run, "run-1")
        run.budget_usd, run.reason = Decimal("2.00"), "Too little is left of $2.00. Raise it to go on."
        run.provider = "openai"  # the engine sends no bill
        session.query(Row).filter_by(state="done").update({"run_id": "run-1"})
        spend.record(
            session, LOCAL, "dataset", provider="engine", model="writer", reference="run-1",
            cost_usd=Decimal("1.90"), prompt_tokens=1, completion_tokens=1,
        )  # fmt: skip
    at = show(dataset_raise=True)
    assert "Too little is left of $2.00." in words(at)
    assert "$1.90 of at most $2.00, about $2.09 in total" in words(at)
    assert "dataset_continue" not in [button.key for button in at.button]
    assert amount_to_raise(at).value == "2.50"
    click(at, "dataset_set_budget")
    run_now = run_progress.get(store, "run-1")
    assert (run_now.state, run_now.budget_usd, run_now.cost_usd) == ("queued", Decimal("2.50"), Decimal("1.90"))
    assert run_progress.latest(store, written).run_id == "run-1"  # type: ignore[union-attr]  # the same run, the same bill


def test_failed_rows_alone_are_written_again_once_nothing_else_is_missing(
    store: Store, server: FaultServer, written: str
) -> None:
    with store.session() as session:
        session.query(Row).filter_by(state="pending").update({"state": "done", "text": _STORY})
    at = show()
    assert "dataset_continue" not in [button.key for button in at.button]
    click(at, "dataset_retry")
    run_id = run_progress.latest(store, written).run_id  # type: ignore[union-attr]  # there is one
    executor.execute(store, server.registry("engine", "engine"), run_id)
    assert server.prompts() == ["写唐轻松的故事"]
    assert set(states(store, written)) == {"done"}


def test_a_run_that_costs_nothing_says_no_price(store: Store, server: FaultServer) -> None:
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, _RECIPE))
    executor.execute(store, server.registry("engine", "engine"), run_id)
    said = words(show())
    assert "**Finished** · 12 of 12" in said and "tokens" in said
    assert "\\$0" not in said


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_part_opens_in_both_languages_in_the_middle_of_a_run(
    store: Store, server: FaultServer, written: str, locale: str
) -> None:
    runs.enqueue(store, LOCAL, written)
    at = visit("dataset", locale, dataset_part="rows")
    assert not at.error
    assert at.progress[0].value == 83  # 10 of 12


def test_before_the_first_story_there_is_no_heading_over_nothing(store: Store) -> None:
    datasets.create(store, LOCAL, _RECIPE)
    said = words(show())
    assert "Newest texts" not in said and "Click a square" in said


# --- top-up ---------------------------------------------------------------------------------------------------------


def test_two_more_repeats_write_only_what_is_missing(store: Store, server: FaultServer, written: str) -> None:
    at = show(dataset_top_up_0=True)
    assert at.button(key="dataset_more_repeats_go").label == "Write 12 more"
    click(at, "dataset_more_repeats_go")
    assert "dataset_more_values" not in [field.key for field in at.text_area]  # closed: its rows appear below it
    run = run_progress.latest(store, written)
    assert run is not None and (run.total, run.done, run.failed, run.pending) == (24, 10, 1, 13)
    server.default = fault_server.text("很久以前。")
    executor.execute(store, server.registry("engine", "engine"), run.run_id)
    assert sorted(Counter(texts(store, written)).items()) == [(_STORY, 11), ("很久以前。", 13)]


def test_a_value_that_is_added_writes_its_cells_only(store: Store, server: FaultServer, written: str) -> None:
    at = show(dataset_top_up_0=True)
    assert at.button(key="dataset_more_values_go").disabled
    at.selectbox(key="dataset_more_column").set_value("mood").run()
    at.text_area(key="dataset_more_values").input("勇敢，轻松，辛苦").run()
    assert at.button(key="dataset_more_values_go").label == "Write 12 more"  # two new values; 轻松 exists already
    click(at, "dataset_more_values_go")
    run = run_progress.latest(store, written)
    assert run is not None and (run.total, run.pending) == (24, 13)
    at.session_state["dataset_top_up_1"] = True
    assert again(at).text_area(key="dataset_more_values").value == ""


def test_new_values_in_several_lines_keep_their_commas(store: Store, server: FaultServer, written: str) -> None:
    at = show(dataset_top_up_0=True)
    at.text_area(key="dataset_more_values").input("周，和平\n秦").run()
    click(at, "dataset_more_values_go")
    recipe = datasets.recipe(store, written)
    assert recipe is not None and recipe.columns[0].values == ("唐", "宋", "元", "周，和平", "秦")


def test_a_value_that_is_there_already_is_told(store: Store, server: FaultServer, written: str) -> None:
    at = show(dataset_top_up_0=True)
    at.text_area(key="dataset_more_values").input("唐").run()
    assert "There is no new value to add." in words(at)
    assert at.button(key="dataset_more_values_go").disabled


# --- map ------------------------------------------------------------------------------------------------------------


def test_the_map_has_a_square_for_each_row(store: Store, written: str) -> None:
    drawn = squares(show())
    assert list(drawn["state"])[:4] == ["done", "failed", "waiting", "done"]
    assert len(drawn) == 12


def test_a_square_that_is_clicked_shows_its_rows_and_narrows_the_table(store: Store, written: str) -> None:
    key = f"dataset_map_{written}"
    at = show(**{key: {"selection": {"cell": [{"place": 0}]}}})
    assert "**唐 · 轻松**" in words(at) and "The text was cut off at 2,048 tokens." in words(at)
    assert at.button(key="dataset_narrow").label == "2 rows in the table"
    click(at, "dataset_narrow")
    assert len(table(at)) == 2 and "Only **唐 · 轻松**" in words(at)
    click(at, "dataset_widen")
    assert len(table(at)) == 12


def test_a_card_leaves_its_row_out_and_undo_takes_it_back(store: Store, written: str) -> None:
    at = show(**{f"dataset_map_{written}": {"selection": {"cell": [{"place": 0}]}}})
    first = dataset_rows.page(store, written)[0].id
    click(at, f"dataset_out_{first}")
    assert states(store, written)[0] == "excluded"
    assert at.button(key="dataset_undo").label == "Undo: 1 row left out"
    click(at, "dataset_undo")
    assert states(store, written)[0] == "done"
    assert "dataset_undo" not in [button.key for button in at.button]


def test_a_large_grid_is_seen_by_two_columns_that_one_chooses(store: Store) -> None:
    columns = (*_RECIPE.columns, Column("power", ("隐形", "飞行")))
    dataset_id = datasets.create(store, LOCAL, replace(_RECIPE, columns=columns, repeats=1_000))
    at = show()
    assert "a pair of values with 2,000 rows" in words(at)
    at.selectbox(key=f"dataset_across_{dataset_id}").set_value(1).run()
    assert not at.exception and "with 2,000 rows" in words(at)


def test_the_default_grid_is_seen_whole_and_a_longer_map_says_how_long_it_is(store: Store) -> None:
    heroes = Column("hero", tuple(f"v{n}" for n in range(54)))
    datasets.create(store, LOCAL, replace(_RECIPE, columns=(heroes, _RECIPE.columns[1])))
    assert "scroll" not in words(show())
    heroes = Column("hero", tuple(f"v{n}" for n in range(80)))
    open_ = datasets.create(store, LOCAL, replace(_RECIPE, columns=(heroes, _RECIPE.columns[1])))
    assert "80 lines: scroll in the map to see the others." in words(show(dataset_open=open_))


def test_the_newest_stories_are_of_different_cells(store: Store, written: str) -> None:
    with store.session() as session:  # one answer wrote all rows of a cell, in order
        for row in session.query(Row):
            row.updated_at = utcnow()
    cards = [row.values for row in row_cards.latest(store, written)]
    assert len(cards) == 3 and len({tuple(values.values()) for values in cards}) == 3


def test_the_newest_stories_of_a_data_set_of_one_cell_are_its_rows(store: Store) -> None:
    frame = pd.DataFrame({"prompt": ["讲个故事"] * 4, "story": ["从前", "很久以前", "有一天", "后来"]})
    dataset_id = datasets.from_frame(store, LOCAL, "loaded", frame, ["prompt"], "story")
    assert len(row_cards.latest(store, dataset_id)) == 3
    assert len(row_cards.latest(store, dataset_id, more_to_come=True)) == 1


# --- table ----------------------------------------------------------------------------------------------------------


def test_a_tick_leaves_a_row_out_and_keeps_all_it_had(store: Store, written: str) -> None:
    at = type_into(show(), 0, out=True)
    assert states(store, written)[0] == "excluded"
    assert dataset_rows.page(store, written)[0].text == _STORY
    assert bool(table(at)["out"].iloc[0])
    click(at, "dataset_undo")
    assert states(store, written)[0] == "done"
    assert not bool(table(at)["out"].iloc[0])


def test_text_is_edited_in_place_and_the_original_is_kept(store: Store, written: str) -> None:
    at = type_into(show(), 0, text="很久以前，有一位英雄。")
    assert texts(store, written)[0] == "\n\n很久以前，有一位英雄。"  # the white space of the story is kept
    assert table(at)["state"].iloc[0] == "done, edited"
    with store.reading() as session:
        assert session.query(Row).order_by(Row.position).first().original_text == _STORY  # type: ignore[union-attr]
    click(at, "dataset_undo")
    assert texts(store, written)[0] == _STORY
    assert table(at)["state"].iloc[0] == "done"


def test_an_edit_that_cannot_be_is_told_and_not_shown(store: Store, written: str) -> None:
    at = type_into(show(), 2, text="a text for a row that is not written")
    assert "This row is not written yet." in trouble(at)
    assert texts(store, written)[2] is None and table(at)["text"].iloc[2] == ""
    at = type_into(at, 0, text="  ")
    assert "A model learns nothing from a row without text." in trouble(at)
    assert texts(store, written)[0] == _STORY


def test_a_row_that_came_empty_is_told_when_it_is_put_back(store: Store) -> None:
    frame = pd.DataFrame({"hero": ["唐", "宋"], "story": ["从前", ""]})
    dataset_id = datasets.from_frame(store, LOCAL, "loaded", frame, ["hero"], "story")
    type_into(show(), 1, out=False)
    assert states(store, dataset_id) == ["done", "excluded"]


@pytest.mark.parametrize(("chosen", "n"), [("all", 12), ("done", 10), ("failed", 1), ("waiting", 1)])
def test_the_table_is_filtered_by_state(store: Store, written: str, chosen: str, n: int) -> None:
    at = show()
    field(at, "dataset_filter").set_value(chosen).run()
    assert len(table(at)) == n


def test_the_table_is_searched_and_nothing_found_is_told(store: Store, written: str) -> None:
    at = show()
    at.text_input(key="dataset_words").input("宋").run()
    assert len(table(at)) == 4
    at.text_input(key="dataset_words").input("%").run()
    assert not at.data_editor and "No rows match." in words(at)


def test_a_long_table_comes_in_pages(store: Store) -> None:
    datasets.create(store, LOCAL, replace(_RECIPE, repeats=20))  # 120 rows
    at = show(dataset_rows_shown="x")
    assert len(table(at)) == 50 and "120 rows" in words(at)
    next_page: Any = at.get("pagination")[0]
    next_page.set_value(3).run()
    assert len(table(at)) == 20
    at.text_input(key="dataset_words").input("唐").run()
    assert len(table(at)) == 40  # another filter begins on its first page


def test_rows_as_cards_can_be_read_left_out_and_opened(store: Store, written: str) -> None:
    at = show(dataset_view="cards")  # the newest texts next to the map are among them
    assert not at.exception and not at.get("arrow_data_frame")
    first = dataset_rows.page(store, written)[0].id
    click(at, f"dataset_listed_out_{first}")
    assert states(store, written)[0] == "excluded"
    click(at, f"dataset_listed_open_{first}")
    assert at.button(key="dataset_row_back").label == "Put back"


@pytest.mark.parametrize(
    ("rate", "said"),
    [(None, ""), (0.0, ""), (120.4, "120 rows/s"), (3.14, "3.1 rows/s"), (0.5, "30 rows/min"), (0.03, "1.8 rows/min"),
     (0.004, "14 rows/h")],
)  # fmt: skip
def test_a_rate_has_the_digits_that_matter(rate: float | None, said: str) -> None:
    assert i18n.row_speed(rate) == said


@pytest.mark.parametrize(
    ("cost", "estimate", "budget", "said"),
    [
        ("0.25", "0.30", None, "\\$0.2500"),
        (None, "0.30", None, "up to \\$0.3000"),
        (None, None, None, "cost unknown"),
        ("0.25", "0.30", "5", "\\$0.2500 of at most \\$5.00"),
        (None, "0.30", "5", "up to \\$0.3000 of at most \\$5.00"),
        (None, None, "5", "cost unknown, limit \\$5.00"),
    ],
)
def test_what_a_run_cost_is_said_as_far_as_it_is_known(
    store: Store, written: str, cost: str | None, estimate: str | None, budget: str | None, said: str
) -> None:
    with store.session() as session:
        run = session.get_one(Run, "run-1")
        run.provider, run.budget_usd = "openai", Decimal(budget) if budget else None  # the engine sends no bill
        spend.record(
            session, LOCAL, "dataset", provider="openai", model="m", reference="run-1",
            prompt_tokens=1, completion_tokens=None if cost is None else 1,
            cost_usd=Decimal(cost) if cost else None, estimated_usd=Decimal(estimate) if estimate else None,
        )  # fmt: skip
    assert said in str(show().get("progress")[0].proto.text)


@pytest.mark.parametrize(
    ("headers", "view"),
    [
        ({"User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Mobile/15E148"}, "cards"),
        ({"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Sec-Ch-Ua-Mobile": "?1"}, "cards"),
        ({"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Sec-Ch-Ua-Mobile": "?0"}, "table"),
        ({}, "table"),
    ],
)
def test_a_phone_begins_with_cards(
    store: Store, written: str, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], view: str
) -> None:
    monkeypatch.setattr(type(st.context), "headers", property(lambda self: headers))
    assert show().segmented_control(key="dataset_view").value == view


def test_a_row_in_full_is_read_edited_and_given_back(store: Store, written: str) -> None:
    at = show(**{f"dataset_map_{written}": {"selection": {"cell": [{"place": 0}]}}})
    first = dataset_rows.page(store, written)[0].id
    click(at, f"dataset_open_{first}")
    box = at.text_area(key=f"dataset_text_{first}")
    assert box.value == "从前，有一位英雄。"
    box.input("很久以前。").run()
    click(at, "dataset_row_save")
    assert texts(store, written)[0] == "\n\n很久以前。"
    click(at, f"dataset_open_{first}")
    click(at, "dataset_row_revert")
    assert texts(store, written)[0] == _STORY


def test_a_failed_row_in_full_says_why_and_is_written_again_alone(
    store: Store, server: FaultServer, written: str
) -> None:
    at = show(**{f"dataset_map_{written}": {"selection": {"cell": [{"place": 0}]}}})
    second = dataset_rows.page(store, written)[1].id
    click(at, f"dataset_open_{second}")
    assert any("cut off at 2,048 tokens" in warning.value for warning in at.warning)
    click(at, "dataset_row_again")
    assert states(store, written)[1] == "pending"
    assert run_progress.latest(store, written).state == "queued"  # type: ignore[union-attr]


def test_words_of_models_and_files_are_text_only(store: Store) -> None:
    nasty = "![x](http://example.com/x.png)"
    frame = pd.DataFrame({"text": [nasty], nasty: [nasty], "story": [nasty]})
    dataset_id = datasets.from_frame(store, LOCAL, nasty, frame, ["text", nasty], "story")
    dataset_rows.exclude(store, LOCAL, [dataset_rows.page(store, dataset_id)[0].id], f"{nasty}.")
    at = show(**{f"dataset_map_{dataset_id}": {"selection": {"cell": [{"place": 0}]}}})
    shown = [*at.markdown, *at.caption, *at.warning]
    assert any("example.com" in element.value for element in shown)
    assert not any(nasty in element.value for element in shown)


def test_what_was_open_of_one_data_set_is_closed_with_the_next(store: Store, written: str) -> None:
    other = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    at = show(dataset_open=written)
    field(at, "dataset_filter").set_value("failed").run()
    type_into(at, 0, out=True)
    at.selectbox(key="dataset_open").set_value(other).run()
    assert len(table(at)) == 27
    assert "dataset_undo" not in [button.key for button in at.button]


@pytest.mark.parametrize(("spent", "left"), [("0.50", "1.50"), ("2.00", "0.01")])
def test_what_is_written_again_stays_within_what_the_budget_has_left(
    store: Store, server: FaultServer, written: str, spent: str, left: str
) -> None:
    with store.session() as session:
        session.get_one(Run, "run-1").budget_usd = Decimal("2.00")
        spend.record(
            session, LOCAL, "dataset", provider="engine", model="writer", reference="run-1",
            cost_usd=Decimal(spent), prompt_tokens=1, completion_tokens=1,
        )  # fmt: skip
    at = show(**{f"dataset_map_{written}": {"selection": {"cell": [{"place": 0}]}}})
    click(at, f"dataset_open_{dataset_rows.page(store, written)[1].id}")
    click(at, "dataset_row_again")
    assert run_progress.latest(store, written).budget_usd == Decimal(left)  # type: ignore[union-attr]


def test_a_new_run_after_one_with_a_budget_asks_for_its_own(store: Store, server: FaultServer, written: str) -> None:
    with store.session() as session:
        session.get_one(Run, "run-1").budget_usd = Decimal("2.00")
    at = show()
    assert at.text_input(key="dataset_continue_budget_run-1").value == "2.00"
    at.text_input(key="dataset_continue_budget_run-1").set_value("0.75").run()
    click(at, "dataset_continue")
    run = run_progress.latest(store, written)
    assert run is not None and (run.budget_usd, run.failed, run.pending) == (Decimal("0.75"), 1, 1)
