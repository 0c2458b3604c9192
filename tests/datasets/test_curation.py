"""Leave out, restore, edit: each can be undone exactly and is idempotent."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets
from core.datasets.dataset_rows import RowFilter
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row
from core.errors import BadRecipe, FabulaError, NotFound
from core.generation import executor, runs
from tests.support import fault_server
from tests.support.fault_server import FaultServer

_CUT = "The text was cut off at 2,048 tokens."
_OUT = "It is a near-duplicate."
_RECIPE = Recipe(
    "heroes",
    (Column("hero", ("唐", "宋", "元")),),
    "{hero}",
    repeats=2,
    provider="fault",
    model="writer",
)


@pytest.fixture
def ids(store: Store) -> list[int]:
    """Rows: done, failed with a cut text, pending, sent, done, pending."""
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with store.session() as session:
        rows = session.query(Row).filter_by(dataset_id=dataset_id).order_by(Row.position).all()
        for row, state in zip(rows, ("done", "failed", "pending", "sent", "done", "pending"), strict=True):
            row.state = state
            row.text = {"done": "从前", "failed": "从前有"}.get(state)
            row.reason = _CUT if state == "failed" else None
        return [row.id for row in rows]


def look(store: Store, row_id: int) -> tuple[str, str | None, str | None, str | None]:
    """State, reason, text and what the model wrote."""
    with store.reading() as session:
        row = session.get_one(Row, row_id)
        return row.state, row.reason, row.text, row.original_text


def everything(store: Store, ids: list[int]) -> list[tuple[object, ...]]:
    with store.reading() as session:
        rows = [session.get_one(Row, row_id) for row_id in ids]
        return [(r.state, r.reason, r.text, r.original_text, r.previous_state) for r in rows]


def test_a_row_left_out_is_restored_exactly(store: Store, ids: list[int]) -> None:
    before = everything(store, ids)
    changed = dataset_rows.exclude(store, LOCAL, ids, _OUT)
    assert changed == (ids[0], ids[1], ids[2], ids[4], ids[5])  # not the row in flight
    assert look(store, ids[0]) == ("excluded", _OUT, "从前", None)
    assert look(store, ids[1])[1] == f"It had failed: {_CUT} Left out: {_OUT}"
    assert dataset_rows.restore(store, LOCAL, changed) == changed
    assert everything(store, ids) == before


def test_an_action_that_is_repeated_changes_nothing(store: Store, ids: list[int]) -> None:
    assert dataset_rows.exclude(store, LOCAL, [ids[0], ids[0]], _OUT) == (ids[0],)
    assert dataset_rows.exclude(store, LOCAL, [ids[0]], "Another reason.") == ()
    assert look(store, ids[0])[1] == _OUT
    assert dataset_rows.restore(store, LOCAL, [ids[0]]) == (ids[0],)
    assert dataset_rows.restore(store, LOCAL, [ids[0]]) == ()
    assert dataset_rows.edit(store, LOCAL, ids[0], "很久以前") and not dataset_rows.edit(
        store, LOCAL, ids[0], "很久以前"
    )


def test_thousands_of_rows_are_left_out_and_put_back_in_parts(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, replace(_RECIPE, repeats=500))
    with store.reading() as session:
        found = [row_id for (row_id,) in session.query(Row.id).filter_by(dataset_id=dataset_id)]
    assert len(dataset_rows.exclude(store, LOCAL, found, _OUT)) == 1_500
    assert datasets.summary(store, dataset_id).excluded == 1_500
    assert len(dataset_rows.restore(store, LOCAL, found)) == 1_500
    assert datasets.summary(store, dataset_id).pending == 1_500


def test_the_model_text_is_kept_after_several_edits(store: Store, ids: list[int]) -> None:
    assert dataset_rows.edit(store, LOCAL, ids[0], "很久以前")
    assert dataset_rows.edit(store, LOCAL, ids[0], "很久很久以前")
    assert look(store, ids[0]) == ("done", None, "很久很久以前", "从前")
    assert dataset_rows.revert(store, LOCAL, ids[0])
    assert look(store, ids[0]) == ("done", None, "从前", None)
    assert not dataset_rows.revert(store, LOCAL, ids[0])


def test_the_models_own_words_again_make_a_row_unedited(store: Store, ids: list[int]) -> None:
    dataset_rows.edit(store, LOCAL, ids[0], "很久以前")
    assert dataset_rows.edit(store, LOCAL, ids[0], "从前")
    assert look(store, ids[0]) == ("done", None, "从前", None)


def test_a_failed_row_with_a_new_text_is_done_until_that_is_taken_back(store: Store, ids: list[int]) -> None:
    row = ids[1]
    dataset_rows.edit(store, LOCAL, row, "从前有一位英雄。")
    assert look(store, row)[0] == "done"
    dataset_rows.exclude(store, LOCAL, [row], _OUT)
    dataset_rows.restore(store, LOCAL, [row])
    assert look(store, row) == ("done", _CUT, "从前有一位英雄。", "从前有")
    dataset_rows.revert(store, LOCAL, row)
    assert look(store, row) == ("failed", _CUT, "从前有", None)


def test_an_edit_taken_back_while_left_out_leaves_a_failed_row(store: Store, ids: list[int]) -> None:
    row = ids[1]
    dataset_rows.edit(store, LOCAL, row, "从前有一位英雄。")
    dataset_rows.exclude(store, LOCAL, [row], _OUT)
    dataset_rows.revert(store, LOCAL, row)
    assert look(store, row)[0] == "excluded"
    dataset_rows.restore(store, LOCAL, [row])
    assert look(store, row) == ("failed", _CUT, "从前有", None)


@pytest.mark.parametrize(
    ("index", "text", "told"),
    [
        (2, "x", "not written yet"),
        (3, "x", "being written"),
        (0, " \n", "without text"),
        (0, "\0", "without text"),
        (0, "x" * 100_001, "longer than 100,000"),
    ],
)
def test_an_invalid_edit_is_refused_and_changes_nothing(
    store: Store, ids: list[int], index: int, text: str, told: str
) -> None:
    before = everything(store, ids)
    with pytest.raises(FabulaError, match=told) as caught:
        dataset_rows.edit(store, LOCAL, ids[index], text)
    assert caught.value.next_step
    assert everything(store, ids) == before


def test_a_pending_row_that_is_left_out_cannot_be_edited_either(store: Store, ids: list[int]) -> None:
    dataset_rows.exclude(store, LOCAL, [ids[2]], _OUT)
    with pytest.raises(FabulaError, match="not written yet"):
        dataset_rows.edit(store, LOCAL, ids[2], "x")


def test_a_missing_row_is_reported(store: Store) -> None:
    with pytest.raises(NotFound):
        dataset_rows.edit(store, LOCAL, 7, "x")
    with pytest.raises(NotFound):
        dataset_rows.revert(store, LOCAL, 7)
    assert dataset_rows.exclude(store, LOCAL, [7], _OUT) == () == dataset_rows.restore(store, LOCAL, [7])


def test_a_row_loaded_without_a_text_needs_one_before_it_is_restored(store: Store) -> None:
    frame = pd.DataFrame({"hero": ["唐"], "story": [""]})
    dataset_id = datasets.from_frame(store, LOCAL, "loaded", frame, ["hero"], "story")
    (row,) = dataset_rows.page(store, dataset_id)
    assert dataset_rows.restore(store, LOCAL, [row.id]) == ()
    dataset_rows.edit(store, LOCAL, row.id, "从前")
    assert dataset_rows.restore(store, LOCAL, [row.id]) == (row.id,)
    assert look(store, row.id) == ("done", None, "从前", "")
    dataset_rows.revert(store, LOCAL, row.id)
    assert look(store, row.id)[:2] == ("excluded", "The completion is empty.")
    assert dataset_rows.restore(store, LOCAL, [row.id]) == ()


def test_only_the_failed_rows_that_were_chosen_are_written_again(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with FaultServer(fault_server.refusal("No.")) as server:
        executor.execute(store, server.registry(), runs.enqueue(store, LOCAL, dataset_id))
        first, second, *_others = dataset_rows.page(store, dataset_id, RowFilter(states=("failed",)))
        server.default = fault_server.text("从前")
        run_id = runs.retry_failed(store, LOCAL, dataset_id, [first.id])
        assert runs.retry_failed(store, LOCAL, dataset_id, [second.id]) == run_id  # the same run
        executor.execute(store, server.registry(), run_id)
        assert datasets.summary(store, dataset_id).done == 2
        executor.execute(store, server.registry(), runs.retry_failed(store, LOCAL, dataset_id))
    found = datasets.summary(store, dataset_id)
    assert (found.done, found.failed) == (6, 0)


def test_a_refused_retry_is_reported_and_changes_nothing(store: Store, ids: list[int]) -> None:
    with store.session() as session:
        session.query(Row).filter(Row.id.in_(ids)).update({"state": "done"})
        dataset_id = session.get_one(Row, ids[0]).dataset_id
    with pytest.raises(BadRecipe, match="No row has failed"):
        runs.retry_failed(store, LOCAL, dataset_id)
