"""A growing grid keeps its rows; recipes are saved, versioned, copied and restored."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from core.actor import LOCAL
from core.datasets import datasets, grid, grid_store, presets, recipes
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import BadRecipe, NotFound, StorageFull

RECIPE = Recipe("colours", (Column("colour", ("red", "blue")), Column("thing", ("hat", "cat"))), "{colour} {thing}")


def write(store: Store, dataset_id: str, **where: str) -> int:
    """Mark the rows with these values as written. Returns their number."""
    with store.session() as session:
        rows = session.scalars(select(Row).where(Row.dataset_id == dataset_id)).all()
        chosen = [r for r in rows if all(r.column_values[k] == v for k, v in where.items())]
        for row in chosen:
            row.state, row.text, row.cost_usd = "done", f"bought {row.key}", Decimal("0.01")
        return len(chosen)


def fill_all(store: Store, dataset_id: str, recipe: Recipe = RECIPE) -> int:
    """Like a run: create a row for every missing cell."""
    added = 0
    while True:
        with store.session() as session:
            new = grid_store.fill(session, dataset_id, recipe, 7)
        if not new:
            return added
        added += new


def rows_of(store: Store, dataset_id: str) -> list[Row]:
    with store.reading() as session:
        return list(session.scalars(select(Row).where(Row.dataset_id == dataset_id).order_by(Row.position)))


def assert_grid(store: Store, dataset_id: str, recipe: Recipe) -> None:
    """Every cell is one row with its position and key; all other rows come after the grid."""
    found = rows_of(store, dataset_id)
    inside, outside = found[: recipe.rows()], found[recipe.rows() :]
    assert [(r.position, r.key, r.repeat, r.prompt) for r in inside] == [
        (c.position, grid.key(recipe, c.values, c.repeat), c.repeat, grid.render(recipe.template, c.values))
        for c in grid.cells(recipe)
    ]
    assert all(r.position >= recipe.rows() for r in outside)


def test_two_more_repeats_add_only_what_is_missing(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, RECIPE)
    assert write(store, dataset_id, colour="red") == 2
    grown = grid_store.more_repeats(RECIPE, 2)
    assert grid_store.grow(store, LOCAL, dataset_id, grown) == grid_store.Growth(new_rows=8, kept_rows=4)
    fill_all(store, dataset_id)  # with the outdated recipe of a run
    assert_grid(store, dataset_id, grown)
    summary = datasets.summary(store, dataset_id)
    assert (summary.total, summary.done, summary.pending) == (12, 2, 10)
    assert [r.text for r in rows_of(store, dataset_id) if r.state == "done"] == [
        f"bought {grid.key(RECIPE, {'colour': 'red', 'thing': thing}, 0)}" for thing in ("hat", "cat")
    ]


def test_a_new_value_adds_its_cells_and_the_name_stays(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, RECIPE)
    grown = grid_store.with_values(RECIPE, "colour", ["green", " green ", "red"])
    assert grown.columns[0].values == ("red", "blue", "green")
    growth = grid_store.grow(store, LOCAL, dataset_id, replace(grown, name="another"))
    assert growth == grid_store.Growth(new_rows=2, kept_rows=4)
    assert_grid(store, dataset_id, grown)
    assert datasets.recipe(store, dataset_id) == grown


def test_growing_twice_changes_nothing(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, RECIPE)
    grown = grid_store.more_repeats(RECIPE, 1)
    grid_store.grow(store, LOCAL, dataset_id, grown)
    before = [(r.id, r.key, r.position, r.updated_at) for r in rows_of(store, dataset_id)]
    assert grid_store.grow(store, LOCAL, dataset_id, grown) == grid_store.Growth(new_rows=0, kept_rows=8)
    assert [(r.id, r.key, r.position, r.updated_at) for r in rows_of(store, dataset_id)] == before


def test_rows_of_a_removed_value_move_behind_the_grid(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, RECIPE)
    write(store, dataset_id, colour="red", thing="hat")
    smaller = replace(RECIPE, columns=(Column("colour", ("blue", "green")), RECIPE.columns[1]))
    assert grid_store.grow(store, LOCAL, dataset_id, smaller) == grid_store.Growth(new_rows=2, kept_rows=3)
    assert_grid(store, dataset_id, smaller)
    beside = rows_of(store, dataset_id)[-1]
    assert (beside.state, beside.column_values) == ("done", {"colour": "red", "thing": "hat"})
    summary = datasets.summary(store, dataset_id)
    assert (summary.total, summary.done, summary.pending) == (5, 1, 4)
    # when the value is added back, its row is in the grid again, and paid for only once
    grid_store.grow(store, LOCAL, dataset_id, RECIPE)
    fill_all(store, dataset_id)
    assert_grid(store, dataset_id, RECIPE)
    assert [r.state for r in rows_of(store, dataset_id)] == ["done", "pending", "pending", "pending"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"template": "a {colour} {thing}"}, "template differs"),
        ({"model": "m", "seed": 3}, "model, seed differs"),
        ({"endpoint": "chat"}, "endpoint differs"),
        ({"columns": RECIPE.columns[:1], "template": "{colour}"}, "columns can't change"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_what_would_write_other_texts_is_another_data_set(store: Store, change: dict[str, object], words: str) -> None:
    dataset_id = datasets.create(store, LOCAL, RECIPE)
    with pytest.raises(BadRecipe, match=words) as caught:
        grid_store.grow(store, LOCAL, dataset_id, replace(RECIPE, **change))  # type: ignore[arg-type]  # table of changes
    assert caught.value.next_step
    assert datasets.recipe(store, dataset_id) == RECIPE


def test_what_has_no_recipe_cannot_grow(store: Store) -> None:
    loaded = datasets.load_sample(store, LOCAL, presets.get().sample or "", 3)
    with pytest.raises(BadRecipe, match="loaded, not generated"):
        grid_store.grow(store, LOCAL, loaded, RECIPE)
    with pytest.raises(NotFound):
        grid_store.grow(store, LOCAL, "gone", RECIPE)


@pytest.mark.parametrize(("column", "values"), [("size", ["big"]), ("colour", ["red"]), ("colour", [" "])])
def test_only_new_values_of_a_column_that_is_there_can_be_added(column: str, values: list[str]) -> None:
    with pytest.raises(BadRecipe):
        grid_store.with_values(RECIPE, column, values)


def test_an_interrupted_growth_is_finished_by_the_next_caller(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_store, "CHUNK", 3)
    recipe = grid_store.more_repeats(RECIPE, 4)  # 20 rows
    dataset_id = datasets.create(store, LOCAL, recipe)
    fill_all(store, dataset_id)
    write(store, dataset_id, thing="cat")
    grown = recipe
    for by, new in (("fill", "boat"), ("grow", "coat")):
        grown = grid_store.with_values(grown, "thing", [new])
        steps = [None, None, StorageFull("The disk is full.")]
        real = grid_store.update_positions

        def breaks(*args: object, steps: list[StorageFull | None] = steps, real: object = real) -> int:
            if (trouble := steps.pop(0) if steps else None) is not None:
                raise trouble
            return int(real(*args))  # type: ignore[operator]  # the function that it stands for

        monkeypatch.setattr(grid_store, "update_positions", breaks)
        with pytest.raises(StorageFull):
            grid_store.grow(store, LOCAL, dataset_id, grown)
        monkeypatch.setattr(grid_store, "update_positions", real)
        with store.reading() as session:
            assert (session.scalar(select(Dataset.fill_cursor)) or 0) < 0
        if by == "grow":
            grid_store.grow(store, LOCAL, dataset_id, grown)
        fill_all(store, dataset_id)
        assert_grid(store, dataset_id, grown)
        assert datasets.summary(store, dataset_id).done == 10


def test_a_large_existing_part_is_skipped_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Column("a", tuple(str(n) for n in range(4_000)))
    recipe = Recipe("many", (numbers,), "{a}")
    dataset_id = datasets.create(store, LOCAL, recipe)
    grown = grid_store.with_values(recipe, "a", ["more"])
    keys = []
    monkeypatch.setattr(grid, "key", lambda *args, real=grid.key: keys.append(args) or real(*args))
    assert grid_store.grow(store, LOCAL, dataset_id, grown) == grid_store.Growth(new_rows=1, kept_rows=4_000)
    assert len(keys) == 1
    assert_grid(store, dataset_id, grown)


def test_a_grid_grows_to_a_million_cells_immediately(store: Store) -> None:
    hundred = tuple(str(n) for n in range(100))
    recipe = Recipe("million", tuple(Column(n, hundred) for n in "abc"), "{a} {b} {c}")
    dataset_id = datasets.create(store, LOCAL, recipe)
    growth = grid_store.grow(store, LOCAL, dataset_id, grid_store.more_repeats(recipe, 1))
    assert growth == grid_store.Growth(new_rows=1_000_000, kept_rows=5_000)
    summary = datasets.summary(store, dataset_id)
    assert (summary.total, summary.pending) == (2_000_000, 2_000_000)
    with store.reading() as session:
        places = list(session.scalars(select(Row.position).order_by(Row.position).limit(5_000)))
    assert places == list(range(5_000))


_VALUES = st.lists(st.sampled_from("abcde"), min_size=1, unique=True).map(tuple)
_GRIDS = st.lists(st.tuples(_VALUES, _VALUES, st.integers(1, 3), st.booleans()), min_size=2, max_size=4)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_GRIDS)
def test_no_written_row_is_lost_however_a_grid_changes(
    store: Store, steps: list[tuple[tuple[str, ...], tuple[str, ...], int, bool]]
) -> None:
    recipes = [
        Recipe("r", (Column("x", xs), Column("y", ys)), "{x} {y}", repeats=repeats) for xs, ys, repeats, _ in steps
    ]
    dataset_id = datasets.create(store, LOCAL, recipes[0])
    bought: set[str] = set()
    for recipe, (*_, whole) in zip(recipes, steps, strict=True):
        grid_store.grow(store, LOCAL, dataset_id, recipe)
        with store.session() as session:
            query = select(Row.id).where(Row.dataset_id == dataset_id, Row.state == "pending").order_by(Row.id)
            some = list(session.scalars(query if whole else query.limit(3)))
            session.execute(update(Row).where(Row.id.in_(some)).values(state="done", text="bought"))
            bought |= set(session.scalars(select(Row.key).where(Row.id.in_(some))))
        found = rows_of(store, dataset_id)
        assert {r.key for r in found if r.state == "done"} == bought
        assert len({r.position for r in found}) == len(found)
        assert_grid(store, dataset_id, recipe)


# --- saved recipes --------------------------------------------------------------------------------------------------


def names(store: Store) -> list[tuple[str, int]]:
    return [(saved.name, saved.version) for saved in recipes.list_saved(store)]


def test_a_saved_recipe_loads_unchanged(store: Store) -> None:
    recipe = replace(RECIPE, name="  my\tcolours ", system="s", seed=3, endpoint="completion", temperature=1)
    saved = recipes.save(store, LOCAL, recipe)
    assert recipes.load(store, saved) == replace(recipe, name="my colours")
    (one,) = recipes.list_saved(store)
    assert (one.id, one.version, one.name, one.rows, one.copied_from) == (saved, 1, "my colours", 4, None)


def test_a_recipe_that_cannot_be_run_yet_can_be_saved(store: Store) -> None:
    draft = Recipe("draft", (Column("", ()),), "", provider="", model="")
    assert recipes.load(store, recipes.save(store, LOCAL, draft)) == draft


def test_saving_the_same_again_is_the_same_and_a_change_is_a_version(store: Store) -> None:
    first = recipes.save(store, LOCAL, RECIPE)
    (one,) = recipes.list_saved(store)
    assert recipes.save(store, LOCAL, RECIPE) == recipes.save(store, LOCAL, RECIPE, one.family) == first
    changed = grid_store.more_repeats(RECIPE, 1)
    second = recipes.save(store, LOCAL, changed, one.family)
    assert recipes.save(store, LOCAL, changed, one.family) == second != first
    third = recipes.save(store, LOCAL, RECIPE, one.family)  # going back is a change too
    assert [(v.id, v.version) for v in recipes.versions(store, one.family)] == [(third, 3), (second, 2), (first, 1)]
    assert recipes.load(store, first) == RECIPE and recipes.load(store, second) == changed
    assert names(store) == [("colours", 3)]


def test_another_name_is_no_version(store: Store) -> None:
    saved = recipes.save(store, LOCAL, RECIPE)
    (one,) = recipes.list_saved(store)
    recipes.rename(store, LOCAL, one.family, "shades")
    assert recipes.load(store, saved).name == "shades"
    assert recipes.save(store, LOCAL, replace(RECIPE, name="tints"), one.family) == saved
    assert names(store) == [("tints", 1)]


def test_a_copy_is_independent(store: Store) -> None:
    saved = recipes.save(store, LOCAL, RECIPE)
    copied = recipes.copy(store, LOCAL, saved, "another")
    family = recipes.list_saved(store)[0].family
    recipes.save(store, LOCAL, replace(grid_store.more_repeats(RECIPE, 1), name="another"), family)
    assert names(store) == [("another", 2), ("colours", 1)]
    assert [v.copied_from for v in recipes.versions(store, family)] == [saved, saved]
    assert recipes.load(store, copied) == replace(RECIPE, name="another")


def test_deleting_can_be_undone(store: Store) -> None:
    saved = recipes.save(store, LOCAL, RECIPE)
    (one,) = recipes.list_saved(store)
    recipes.delete(store, LOCAL, one.family)
    assert recipes.list_saved(store) == [] == recipes.versions(store, one.family)
    for gone in (
        lambda: recipes.load(store, saved),
        lambda: recipes.save(store, LOCAL, RECIPE, one.family),
        lambda: recipes.rename(store, LOCAL, one.family, "x"),
        lambda: recipes.copy(store, LOCAL, saved, "x"),
        lambda: recipes.delete(store, LOCAL, one.family),
        lambda: recipes.undelete(store, LOCAL, "never"),
    ):
        with pytest.raises(NotFound):
            gone()
    recipes.undelete(store, LOCAL, one.family)
    recipes.undelete(store, LOCAL, one.family)
    assert recipes.list_saved(store) == [one]


def test_a_recipe_without_a_name_is_not_saved(store: Store) -> None:
    with pytest.raises(BadRecipe, match="no name"):
        recipes.save(store, LOCAL, replace(RECIPE, name=" \n"))
    assert recipes.list_saved(store) == []


def test_a_data_set_records_its_saved_recipe(store: Store) -> None:
    saved, dataset_id = recipes.save(store, LOCAL, RECIPE), datasets.create(store, LOCAL, RECIPE)
    recipes.set_source_recipe(store, LOCAL, dataset_id, saved)
    with store.reading() as session:
        assert session.scalar(select(Dataset.recipe_id)) == saved
    with pytest.raises(NotFound):
        recipes.set_source_recipe(store, LOCAL, "gone", saved)
    with pytest.raises(NotFound):
        recipes.set_source_recipe(store, LOCAL, dataset_id, "gone")
