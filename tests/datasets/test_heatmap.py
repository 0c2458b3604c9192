"""The heat map: every row belongs to one square, and every square links to its rows, in small and large grids."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from sqlalchemy import update

from core.actor import LOCAL
from core.charts import dataset
from core.charts.dataset import MapLabels
from core.datasets import dataset_rows, datasets, heatmap
from core.datasets.dataset_rows import RowFilter
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound

_RECIPE = Recipe(
    "heroes",
    (Column("hero", ("唐", "宋", "元")), Column("power", ("隐形", "飞行")), Column("mood", ("轻松", "艰难"))),
    "{hero}",
    repeats=2,
)
_WORDS = MapLabels({"done": "fertig"}, "state", "cell", "repeat", "done", "failed")


def _many(n: int) -> Recipe:
    heroes = Column("hero", tuple(f"hero {i}" for i in range(n)))
    return replace(_RECIPE, columns=(heroes, *_RECIPE.columns[1:]))


@pytest.mark.parametrize(
    ("recipe", "kind", "squares"),
    [
        (_RECIPE, "cells", 24),
        (replace(_RECIPE, repeats=200), "pairs", 6),  # 2,400 rows, but 400 across
        (replace(_RECIPE, repeats=100), "strip", 1_200),
        (_many(46), "strip", 368),  # 92 lines
        (replace(_RECIPE, columns=(Column("hero", ("唐",)),)), "cells", 2),
        (replace(_RECIPE, columns=(Column("hero", tuple(map(str, range(3_000)))),), repeats=2), "blocks", 1_000),
    ],
)
def test_the_kind_fits_the_grid_and_all_rows_are_in_it(store: Store, recipe: Recipe, kind: str, squares: int) -> None:
    map_ = heatmap.draw(store, datasets.create(store, LOCAL, recipe))
    assert (map_.kind, len(map_.squares)) == (kind, squares)
    assert len(map_.squares) <= heatmap.MAX_SQUARES
    assert sum(s.rows for s in map_.squares) == recipe.rows()


@pytest.mark.parametrize(
    "recipe", [_RECIPE, replace(_RECIPE, repeats=200), replace(_RECIPE, columns=_RECIPE.columns[:1], repeats=900)]
)
def test_a_square_leads_to_its_rows_and_together_to_all(store: Store, recipe: Recipe) -> None:
    dataset_id = datasets.create(store, LOCAL, recipe)
    map_ = heatmap.draw(store, dataset_id)
    found: Counter[int] = Counter()
    for place in {square.place for square in map_.squares}:
        where = map_.where(place)
        rows = dataset_rows.page(store, dataset_id, where, limit=10_000)
        assert len(rows) == dataset_rows.count(store, dataset_id, where)
        if map_.kind != "blocks":
            assert all(value in row.values.values() for row in rows for value in map_.name(place).split(" · "))
        found.update(row.id for row in rows)
    assert len(found) == recipe.rows() and set(found.values()) == {1}


def test_states_are_those_of_the_rows(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with store.session() as session:
        first, second, *_rest = session.query(Row).order_by(Row.position)
        first.state, second.state = "done", "failed"
    map_ = heatmap.draw(store, dataset_id)
    assert [square.state for square in map_.squares[:3]] == ["done", "failed", "pending"]
    assert (map_.squares[0].down, map_.squares[0].across, map_.squares[1].repeat) == ("唐 · 隐形", "轻松", 1)


def test_cells_without_a_row_are_pending_and_lead_to_no_row(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with store.session() as session:
        session.query(Row).delete()
    map_ = heatmap.draw(store, dataset_id)
    assert {square.state for square in map_.squares} == {"pending"}
    assert dataset_rows.page(store, dataset_id, map_.where(0)) == []


def test_two_columns_of_a_large_grid_can_be_chosen(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, replace(_RECIPE, repeats=1_000))
    with store.session() as session:
        session.query(Row).filter(Row.position < 500).update({"state": "done"})
    by_default = heatmap.draw(store, dataset_id)
    assert (by_default.pair, by_default.choices, len(by_default.squares)) == ((2, 0), (0, 1, 2), 6)
    assert [(s.name, s.done, s.share) for s in by_default.squares if s.done] == [("唐 · 轻松", 500, 0.25)]
    chosen = heatmap.draw(store, dataset_id, (0, 1))
    assert [s.name for s in chosen.squares] == [
        "隐形 · 唐",
        "隐形 · 宋",
        "隐形 · 元",
        "飞行 · 唐",
        "飞行 · 宋",
        "飞行 · 元",
    ]
    assert heatmap.draw(store, dataset_id, (1, 1)).pair == (1, 0)  # an invalid pair is corrected


def test_rows_from_a_file_make_a_map_of_the_cells_that_occur(store: Store) -> None:
    frame = pd.DataFrame({"hero": ["唐", "唐", "宋"], "mood": ["艰难", "艰难", "轻松"], "story": ["a", "b", ""]})
    dataset_id = datasets.from_frame(store, LOCAL, "loaded", frame, ["hero", "mood"], "story")
    map_ = heatmap.draw(store, dataset_id)
    assert [(s.place, s.repeat, s.state) for s in map_.squares] == [(0, 0, "done"), (0, 1, "done"), (1, 0, "excluded")]
    assert len(map_.where(0).ids or ()) == 2


def test_an_empty_data_set_has_a_map_and_a_missing_one_has_none(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with store.session() as session:
        session.query(Row).delete()
        session.execute(update(Dataset).values(recipe=None))
    assert heatmap.draw(store, dataset_id).squares == ()
    with pytest.raises(NotFound):
        heatmap.draw(store, "gone")


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "positions"),
    [
        (RowFilter(), [0, 1, 2, 3]),
        (RowFilter(states=("done", "failed")), [0, 1]),
        (RowFilter(start=1, end=3), [1, 2]),
        (RowFilter(edited=True), [0]),
        (RowFilter(words="DRAGON"), [0]),
        (RowFilter(words="100%"), [1]),
        (RowFilter(words="宋"), [2, 3]),  # in the prompt
        (RowFilter(states=("pending",), words="宋"), [2, 3]),
        (RowFilter(ids=()), []),
    ],
)
def test_rows_are_found_by_what_they_are(store: Store, where: RowFilter, positions: list[int]) -> None:
    recipe = replace(_RECIPE, columns=(Column("hero", ("唐", "宋")),), template="{hero}")
    dataset_id = datasets.create(store, LOCAL, recipe)
    with store.session() as session:
        first, second, *_rest = session.query(Row).order_by(Row.position)
        first.state, first.text = "done", "a dragon"
        second.state, second.text = "failed", "100% 100x"
    dataset_rows.edit(store, LOCAL, first.id, "The dragon sleeps.")
    found = dataset_rows.page(store, dataset_id, where)
    assert [row.position for row in found] == positions
    assert dataset_rows.count(store, dataset_id, where) == len(positions)


def test_rows_come_a_page_at_a_time(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    assert [r.position for r in dataset_rows.page(store, dataset_id, RowFilter(), limit=2, offset=3)] == [3, 4]


# --- chart ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [_RECIPE, replace(_RECIPE, repeats=100), replace(_RECIPE, repeats=1_000)])
def test_the_chart_holds_every_square_and_a_selection_by_place(store: Store, recipe: Recipe) -> None:
    map_ = heatmap.draw(store, datasets.create(store, LOCAL, recipe))
    spec = dataset.heat_map(map_, _WORDS)
    assert [row["place"] for row in spec["data"]["values"]] == [square.place for square in map_.squares]
    (selection,) = spec["params"]
    assert (selection["name"], selection["select"]["fields"]) == (dataset.HEAT_MAP_SELECTION, ["place"])
    assert "config" not in spec


def test_values_are_in_grid_order_whenever_their_squares_were_added(store: Store) -> None:
    """A chart appends new values when rows are added, unless a field defines their order."""
    map_ = heatmap.draw(store, datasets.create(store, LOCAL, _RECIPE))
    spec = dataset.heat_map(map_, _WORDS)
    sorts = [layer["encoding"][side]["sort"] for layer in spec["layer"] for side in ("x", "y")]
    assert sorts == [{"field": "place", "op": "min"}] * 4
    first = {row["down"]: row["place"] for row in reversed(spec["data"]["values"])}
    assert sorted(first, key=lambda down: first[down]) == list(dict.fromkeys(square.down for square in map_.squares))


def test_states_have_words_signs_and_one_colour_each(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    with store.session() as session:
        for row, state in zip(session.query(Row).order_by(Row.position), dataset.STATES, strict=False):
            row.state = state
    spec = dataset.heat_map(heatmap.draw(store, dataset_id), _WORDS)
    signs = [(row["state"], row["sign"]) for row in spec["data"]["values"][:5]]
    assert signs == [("fertig", ""), ("sent", ""), ("failed", "×"), ("excluded", "–"), ("pending", "")]
    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["fertig", "sent", "failed", "excluded", "pending"] and len(set(scale["range"])) == 5


def test_a_long_name_is_cut_in_the_chart(store: Store) -> None:
    frame = pd.DataFrame({"message": ["x" * 500], "intent": ["y"]})
    map_ = heatmap.draw(store, datasets.from_frame(store, LOCAL, "loaded", frame, ["message"], "intent"))
    assert len(dataset.heat_map(map_, _WORDS)["data"]["values"][0]["name"]) == 60


@pytest.mark.parametrize(("heroes", "px"), [(1, 56), (3, 53), (10, 16), (40, 16)])
def test_a_map_of_few_lines_has_large_squares(store: Store, heroes: int, px: int) -> None:
    """Each hero has two lines, one per power; a map with many lines keeps a readable row height."""
    map_ = heatmap.draw(store, datasets.create(store, LOCAL, _many(heroes)))
    assert dataset.heat_map(map_, _WORDS)["height"] == {"step": px}
