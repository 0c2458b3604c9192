"""Quality of stored rows: which rows are measured, when they are measured again, and the charts."""

from __future__ import annotations

import gc
import json
from datetime import timedelta
from typing import Any

import altair as alt
import pytest
from sqlalchemy import update

from core.actor import LOCAL
from core.charts import dataset
from core.charts.vega_lite import CONFIG, Spec
from core.datasets import dataset_rows, datasets
from core.datasets.quality import quality_store, texts
from core.datasets.quality.report import QualityReport
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row, utcnow
from core.errors import NotFound


def _ids(store: Store, dataset_id: str) -> list[int]:
    return [row.id for row in dataset_rows.page(store, dataset_id, limit=1_000)]


def _later(store: Store, row_id: int, **values: Any) -> None:
    """Change a row as a run would."""
    with store.session() as session:
        session.execute(
            update(Row).where(Row.id == row_id).values(updated_at=utcnow() + timedelta(seconds=1), **values)
        )


def test_a_report_is_made_once_for_each_state_of_the_rows(store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more")
    first = quality_store.dataset_report(store, dataset_id)
    assert first.total == 135
    assert quality_store.dataset_report(store, dataset_id) is first
    dataset_rows.exclude(store, LOCAL, _ids(store, dataset_id)[:2], "Not wanted.")
    second = quality_store.dataset_report(store, dataset_id)
    assert second is not first and second.total == 133
    dataset_rows.restore(store, LOCAL, _ids(store, dataset_id)[:2])
    assert quality_store.dataset_report(store, dataset_id).total == 135


def test_reports_on_earlier_rows_are_not_kept(store: Store) -> None:
    """Rows of a run arrive every second, and a report is as large as all texts together."""
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 5)
    quality_store.dataset_report(store, dataset_id)
    before = _reports_in_memory()
    for row_id in _ids(store, dataset_id):
        _later(store, row_id, text=f"一位英雄，第 {row_id} 位。")
        quality_store.dataset_report(store, dataset_id)
    assert _reports_in_memory() == before


def _reports_in_memory() -> int:
    gc.collect()
    return sum(isinstance(one, QualityReport) for one in gc.get_objects())


def test_one_data_set_does_not_speak_for_another(store: Store) -> None:
    one = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 5)
    other = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 7)
    assert (quality_store.dataset_report(store, one).total, quality_store.dataset_report(store, other).total) == (5, 7)


def test_a_recipes_grid_is_what_is_covered(store: Store) -> None:
    recipe = Recipe("r", (Column("a", ("x", "y")), Column("b", ("1", "2"))), "{a}{b}", repeats=2)
    dataset_id = datasets.create(store, LOCAL, recipe)
    empty = quality_store.dataset_report(store, dataset_id)
    assert empty.total == 0 and empty.verdict.level == "few"
    ids = _ids(store, dataset_id)
    _later(store, ids[0], state="done", text="一位英雄。", finish_reason="stop", completion_tokens=5)
    _later(store, ids[2], state="failed", text="一位", finish_reason="length", reason="The text was cut off.")
    result = quality_store.dataset_report(store, dataset_id)
    assert (result.total, result.coverage.expected, result.coverage.filled, result.coverage.per_cell) == (1, 4, 1, 2)
    assert result.tokens.values.tolist() == [5]
    assert {one.name: one.rows for one in result.endings} == {"stop": (ids[0],), "length": (ids[2],)}


def test_tokens_of_an_edited_text_are_counted_anew(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, Recipe("r", (Column("a", ("x",)),), "{a}"))
    (row_id,) = _ids(store, dataset_id)
    _later(store, row_id, state="done", text="一位英雄。", completion_tokens=500)
    dataset_rows.edit(store, LOCAL, row_id, "hero")
    assert quality_store.dataset_report(store, dataset_id).tokens.total < 5


def test_rows_are_read_page_by_page_in_the_order_of_the_grid(store: Store) -> None:
    recipe = Recipe("r", (Column("a", tuple(f"v{i}" for i in range(700))),), "{a}", repeats=2)
    dataset_id = datasets.create(store, LOCAL, recipe)
    with store.session() as session:
        session.execute(update(Row).where(Row.dataset_id == dataset_id).values(state="done", text="same."))
    told: list[tuple[int, int]] = []
    result = quality_store.dataset_report(store, dataset_id, lambda read, total: told.append((read, total)))
    assert told[-1] == (1_400, 1_400) and result.total == 1_400
    assert result.clusters[0].rows == tuple(_all(store, dataset_id))


def _all(store: Store, dataset_id: str) -> list[int]:
    return [row.id for offset in (0, 1_000) for row in dataset_rows.page(store, dataset_id, limit=1_000, offset=offset)]


def test_a_measurement_that_is_ended_leaves_nothing_behind(store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more")

    def stop(read: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quality_store.dataset_report(store, dataset_id, stop)
    assert quality_store.dataset_report(store, dataset_id).total == 135


def test_a_data_set_that_is_gone_is_told(store: Store) -> None:
    for ask in (quality_store.dataset_report, quality_store.fingerprint):
        with pytest.raises(NotFound):
            ask(store, "nowhere")


def test_rows_behind_a_figure_come_in_its_order(store: Store) -> None:
    ids = _ids(store, datasets.load_sample(store, LOCAL, "ultraman_stories_more"))
    dataset_rows.exclude(store, LOCAL, [ids[4]], "Not wanted.")
    found = quality_store.row_texts(store, [ids[9], 10**9, ids[4]])
    assert [row.id for row in found] == [ids[9], ids[4]]
    assert (found[1].state, found[1].reason) == ("excluded", "Not wanted.")
    assert set(found[0].values) == {"dynasty", "super_power", "story_type"} and found[0].text


# --- charts ---------------------------------------------------------------------------------------------------------

_BARS = dataset.BarLabels("", "Rows")
_CHARTS: list[tuple[str, Spec, int]] = [
    (
        "histogram",
        dataset.histogram(texts.measure_lengths(range(9), range(0, 900, 100)).bins(), "Length", "Rows"),
        2,
    ),
    ("no histogram", dataset.histogram((), "Length", "Rows"), 0),
    ("bars", dataset.bars([("a", 3), ("<b>", 1)], _BARS), 2),
    ("shares", dataset.bars([("a", 0.5)], _BARS, percent=True), 1),
    ("no bars", dataset.bars([], _BARS), 0),
    ("map", dataset.cell_map([("x", "1", 2), ("y", "1", 0)], "a", "b", "Rows"), 2),
    ("empty map", dataset.cell_map([("x", "1", 0)], "a", "b", "Rows"), 1),
]


@pytest.mark.parametrize(("spec", "fewest"), [case[1:] for case in _CHARTS], ids=[case[0] for case in _CHARTS])
def test_a_chart_is_valid_and_can_be_clicked(spec: Spec, fewest: int) -> None:
    plain = json.loads(json.dumps(spec, allow_nan=False))
    (alt.LayerChart if "layer" in plain else alt.Chart).from_dict(plain)
    assert len(plain["data"]["values"]) >= fewest
    assert [param["name"] for param in plain["params"]] == [dataset.PICKED]
    layers = {layer.get("name") for layer in plain.get("layer", [])}
    assert all(view in layers for view in plain["params"][0].get("views", []))
    assert not {"background", "title"} & set(plain) and plain.get("config", CONFIG) == CONFIG
