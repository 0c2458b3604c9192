"""Data sets in the database: create, list, export; a grid of a million cells costs only what is used of it."""

from __future__ import annotations

import csv
import io
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import func, select

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export, grid, grid_store, presets
from core.datasets.dataset_rows import RowFilter
from core.datasets.importers import table_reader
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row, utcnow
from core.errors import BadFile, BadRecipe, NotFound

RECIPE = Recipe("colours", (Column("colour", ("red", "blue")), Column("thing", ("hat", "cat"))), "{colour} {thing}")
FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"


def frame(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=object)


def test_a_recipe_becomes_pending_rows_with_their_prompts(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, replace(RECIPE, repeats=2))
    found = dataset_rows.page(store, dataset_id)
    assert [(r.position, r.repeat, r.prompt, r.state) for r in found[:3]] == [
        (0, 0, "red hat", "pending"),
        (1, 1, "red hat", "pending"),
        (2, 0, "red cat", "pending"),
    ]
    assert found[0].values == {"colour": "red", "thing": "hat"}
    one = datasets.summary(store, dataset_id)
    assert (one.name, one.source, one.columns) == ("colours", "recipe", ("colour", "thing"))
    assert (one.total, one.done, one.failed, one.pending, one.excluded) == (8, 0, 0, 8, 0)
    assert datasets.recipe(store, dataset_id) == replace(RECIPE, repeats=2)


def test_a_bad_recipe_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(BadRecipe):
        datasets.create(store, LOCAL, replace(RECIPE, template="{shape}"))
    assert datasets.list_datasets(store) == []


def test_a_million_cells_are_usable_at_once_and_in_bounded_memory(store: Store) -> None:
    hundred = tuple(str(n) for n in range(100))
    recipe = Recipe("million", tuple(Column(n, hundred) for n in "abc"), "{a} {b} {c}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    dataset_id = datasets.create(store, LOCAL, recipe)
    one = datasets.summary(store, dataset_id)
    assert (one.total, one.pending) == (1_000_000, 1_000_000)
    assert datasets.list_datasets(store) == [one]
    assert len(dataset_rows.page(store, dataset_id, limit=50, offset=4_000)) == 50
    assert time.thread_time() - began < 10  # seconds of CPU time on the slowest machine; about half of it is typical
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000 if sys.platform == "linux" else True  # KiB; all cells at once would be ten times that
    with store.session() as session:
        assert session.scalar(select(func.count()).select_from(Row)) == 5_000
        assert grid_store.fill(session, dataset_id, recipe, 10) == 10
        assert session.scalar(select(func.max(Row.position))) == 5_009


def test_a_column_of_a_hundred_thousand_values_is_listed_quickly(store: Store) -> None:
    recipe = Recipe("long", (Column("a", tuple(f"value {n}" for n in range(100_000))),), "{a}")
    datasets.create(store, LOCAL, recipe)
    began = time.thread_time()  # CPU time, not wall-clock time: the machine may be busy
    assert datasets.list_datasets(store)[0].total == 100_000
    assert time.thread_time() - began < 1


def test_filling_the_grid_ends_with_its_last_cell(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, RECIPE)
    with store.session() as session:
        assert grid_store.fill(session, dataset_id, RECIPE) == 0


def test_a_table_becomes_finished_rows(store: Store) -> None:
    table = frame(a=["x", "x", "y"], text=["\n\none", "two", None], b=[1, 1, float("nan")])
    dataset_id = datasets.from_frame(store, LOCAL, " mine ", table, ["a", "b"], "text", "upload")
    one = datasets.summary(store, dataset_id)
    assert (one.name, one.source, one.columns) == ("mine", "upload", ("a", "b"))
    assert (one.total, one.done, one.excluded, one.pending) == (3, 2, 1, 0)
    found = dataset_rows.page(store, dataset_id)
    assert [(r.values["a"], r.repeat, r.text, r.state, r.reason) for r in found] == [
        ("x", 0, "\n\none", "done", None),
        ("x", 1, "two", "done", None),
        ("y", 0, "", "excluded", "The completion is empty."),
    ]
    assert datasets.recipe(store, dataset_id) is None


@pytest.mark.parametrize(
    ("prompts", "completion", "words"),
    [
        (["a", "z"], "text", "There is no column 'z'"),
        (["a"], "z", "There is no column 'z'"),
        ([], "text", "at least one prompt column"),
        (["text"], "text", "at least one prompt column"),
    ],
)
def test_columns_that_do_not_fit_are_told(store: Store, prompts: list[str], completion: str, words: str) -> None:
    with pytest.raises(BadFile, match=words) as caught:
        datasets.from_frame(store, LOCAL, "x", frame(a=["1"], text=["2"]), prompts, completion, "upload")
    assert caught.value.next_step
    assert datasets.list_datasets(store) == []


def test_a_split_column_and_others_stay_with_their_rows(store: Store) -> None:
    table = frame(a=["x", "y", "z"], text=["1", "2", "3"], part=["Test", "", "dev"], lang=["en", "zh", None])
    dataset_id = datasets.from_frame(
        store, LOCAL, "x", table, ["a"], "text", split_column="part", other_columns=["lang", "a", "part"]
    )
    assert datasets.summary(store, dataset_id).columns == ("a",)
    assert [r.values for r in dataset_rows.page(store, dataset_id)][:2] == [
        {"a": "x", "lang": "en"},
        {"a": "y", "lang": "zh"},
    ]
    assert export.examples(store, dataset_id) == [("y", "2")]  # neither held out nor for validation
    assert export.to_csv(store, dataset_id) == (
        ",a,lang,story,split\n0,x,en,1,held_out\n1,y,zh,2,\n2,z,,3,validation\n"
    )


def test_a_word_that_is_no_part_is_told(store: Store) -> None:
    with pytest.raises(BadFile, match="'maybe', which is not train") as caught:
        datasets.from_frame(store, LOCAL, "x", frame(a=["x"], text=["1"], s=["maybe"]), ["a"], "text", split_column="s")
    assert caught.value.next_step and datasets.list_datasets(store) == []


def test_a_fingerprint_changes_with_the_rows_and_only_then(store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 5)
    before = datasets.fingerprint(store, dataset_id)
    assert datasets.fingerprint(store, dataset_id) == before
    with store.session() as session:
        row = session.query(Row).filter_by(position=0).one()
        row.text, row.updated_at = "another", utcnow()
    assert datasets.fingerprint(store, dataset_id) != before


def test_an_empty_table_is_told(store: Store) -> None:
    with pytest.raises(BadFile, match="no rows"):
        datasets.from_frame(store, LOCAL, "x", frame(a=[], text=[]), ["a"], "text", "upload")


def test_text_that_no_database_takes_is_made_storable(store: Store) -> None:
    dataset_id = datasets.from_frame(store, LOCAL, "x\0y", frame(a=["\ud800"], text=["a\0b"]), ["a"], "text")
    assert export.examples(store, dataset_id) == [("?", "ab")]
    assert datasets.summary(store, dataset_id).name == "xy"


@pytest.mark.parametrize(
    ("name", "limit", "count"), [("ultraman_stories", None, 486), ("ultraman_stories_more", 400, 135)]
)
def test_samples_are_loaded(store: Store, name: str, limit: int | None, count: int) -> None:
    one = datasets.summary(store, datasets.load_sample(store, LOCAL, name, limit))
    assert (one.source, one.total, one.done) == ("sample", count, count)
    assert one.columns == ("dynasty", "super_power", "story_type")


def test_a_few_samples_are_spread_over_the_whole_grid(store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories", 48)
    found = dataset_rows.page(store, dataset_id, limit=100)
    assert len(found) == 48
    for column in presets.get().recipe.columns:
        assert {r.values[column.name] for r in found} == set(column.values)


def test_a_seed_chooses_which_samples_are_taken(store: Store) -> None:
    def texts(seed: int) -> list[str]:
        dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 12, seed=seed)
        return [text for _prompt, text in export.examples(store, dataset_id)]

    assert texts(7) == texts(7) != texts(8)
    assert len(set(texts(7))) == 12
    all_of_them = datasets.load_sample(store, LOCAL, "ultraman_stories_more")
    all_texts = [text for _prompt, text in export.examples(store, all_of_them)]
    assert [all_texts.index(text) for text in texts(7)] == sorted(all_texts.index(text) for text in texts(7))


def test_the_intents_are_loaded_with_their_held_out_rows(store: Store) -> None:
    if not (presets.DATA / "samples" / "support_intents.csv").is_file():
        pytest.skip("the sample is not written yet")
    dataset_id = datasets.load_sample(store, LOCAL, "support_intents")
    one = datasets.summary(store, dataset_id)
    assert (one.total, one.done, one.columns) == (160, 160, ("message",))
    learned = export.examples(store, dataset_id)
    assert len(learned) == 120 and len({intent for _, intent in learned}) == 8
    assert {r.values["language"] for r in dataset_rows.page(store, dataset_id, limit=200)} == {"en", "zh"}


@pytest.mark.parametrize("name", ["nothing", "../presets", "/etc/passwd", ""])
def test_a_sample_that_is_not_there_is_not_found(store: Store, name: str) -> None:
    with pytest.raises(NotFound):
        datasets.load_sample(store, LOCAL, name)


def test_a_data_set_that_is_not_there_is_not_found(store: Store) -> None:
    for look in (datasets.summary, datasets.recipe, export.examples, export.to_csv):
        with pytest.raises(NotFound) as caught:
            look(store, "gone")
        assert caught.value.next_step
    assert dataset_rows.page(store, "gone") == []


def test_examples_join_the_columns_by_commas_and_take_finished_rows_only(store: Store) -> None:
    table = frame(a=["唐", "宋"], b=["隐形", "飞行"], text=["\n\n故事", ""])
    dataset_id = datasets.from_frame(store, LOCAL, "x", table, ["a", "b"], "text")
    assert export.examples(store, dataset_id) == [("唐,隐形", "\n\n故事")]


def test_csv_has_the_articles_format_and_reads_back(store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories", 5)
    text = export.to_csv(store, dataset_id)
    first = dataset_rows.page(store, dataset_id, limit=1)[0]
    assert text.startswith(f",dynasty,super_power,story_type,story\n0,{','.join(first.values.values())},")
    second = table_reader.read_table(text.encode(), "again.csv").frame
    assert [tuple(row) for row in second.itertuples(index=False, name=None)] == [
        (*r.values.values(), r.text) for r in dataset_rows.page(store, dataset_id)
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1", "＋1", "－1", "＠x"])
def test_no_cell_of_a_csv_is_a_formula(store: Store, cell: str) -> None:
    dataset_id = datasets.from_frame(store, LOCAL, "x", frame(**{cell: [cell], "text": [cell]}), [cell], "text")
    for row in csv.reader(io.StringIO(export.to_csv(store, dataset_id), newline="")):
        assert not any(value[:1] in "=+-@\t\r＝＋－＠" for value in row if value)


def test_a_column_called_story_does_not_make_two_of_them(store: Store) -> None:
    dataset_id = datasets.from_frame(store, LOCAL, "x", frame(story=["a"], summary=["b"]), ["story"], "summary")
    assert export.to_csv(store, dataset_id) == ",story,completion\n0,a,b\n"


def test_rows_by_state_by_page_and_newest_first(store: Store) -> None:
    table = frame(a=[str(n) for n in range(9)], text=[str(n) if n % 2 else "" for n in range(9)])
    dataset_id = datasets.from_frame(store, LOCAL, "x", table, ["a"], "text")
    assert [r.position for r in dataset_rows.page(store, dataset_id, RowFilter(states=("done",)))] == [1, 3, 5, 7]
    assert [r.position for r in dataset_rows.page(store, dataset_id, limit=2, offset=3)] == [3, 4]
    assert [r.position for r in dataset_rows.page(store, dataset_id, newest=True, limit=2)] == [8, 7]
    assert [r.position for r in dataset_rows.page(store, dataset_id, RowFilter(states=()))] == []


def test_data_sets_are_listed_newest_first_each_with_its_own_rows(store: Store) -> None:
    first = datasets.create(store, LOCAL, RECIPE)
    second = datasets.from_frame(store, LOCAL, "x", frame(a=["1"], text=["2"]), ["a"], "text")
    assert [(s.id, s.total, s.done) for s in datasets.list_datasets(store)] == [(second, 1, 1), (first, 4, 0)]


def test_the_same_file_can_be_loaded_twice(store: Store) -> None:
    for _ in range(2):
        datasets.load_sample(store, LOCAL, "ultraman_stories_more")
    assert len(datasets.list_datasets(store)) == 2


def test_the_articles_own_464_stories_become_a_data_set(store: Store) -> None:
    path = FIXTURES / "ultraman_stories.csv"
    if not path.is_file():
        pytest.skip("the article's stories are not on this machine (../shared/fixtures)")
    table = table_reader.read_table(path.read_bytes(), path.name).frame
    dataset_id = datasets.from_frame(store, LOCAL, "article", table, list(table.columns[:-1]), "story", "upload")
    assert datasets.summary(store, dataset_id).done == 464
    assert export.examples(store, dataset_id)[0][0] == "唐,隐形,轻松"
    assert len({r.prompt for r in dataset_rows.page(store, dataset_id, limit=500)}) == 155


def test_keys_of_loaded_rows_tell_repeats_apart() -> None:
    assert grid.loaded_key({"a": "1"}, 0) != grid.loaded_key({"a": "1"}, 1) != grid.loaded_key({"b": "1"}, 1)


def test_every_data_set_has_a_name_of_its_own(store: Store) -> None:
    long = "x" * 250
    names = ["heroes", " heroes ", "heroes", "", "50%", "500", "50%", long, long]
    for name in names:
        datasets.create(store, LOCAL, replace(RECIPE, name=name))
    found = [one.name for one in reversed(datasets.list_datasets(store))]
    expected = ["heroes", "heroes (2)", "heroes (3)", "data set", "50%", "500", "50% (2)", "x" * 190]
    assert found == [*expected, f"{'x' * 190} (2)"]
