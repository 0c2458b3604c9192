"""External text: no cell is a formula, and texts that look the same are equal."""

from __future__ import annotations

import csv
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export, grid_store
from core.datasets.recipe import Column, Recipe, parse_values, unique_values
from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import BadRecipe
from core.evaluation import run_export
from core.pricing import spend_history
from core.sanitize import canonical, safe_cell, safe_csv
from core.stories import exports

FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1", "＋1", "－1", "＠x",
    " =1+1", "\n=1+1", "\r\n=1+1", "\n\n  =HYPERLINK(1)", "\u00a0=1", "\u3000@x", "\ufeff=1", "\u200b=1", "\x0b+1",
    "\u2060-1", " \u200d=1", "\x00=1", "\x1f=1",
]  # fmt: skip
HARMLESS = ["", "a=1", "1-1", "\n\n从前", " a", "'=1", "(=1)", "#N/A", "€5", "0", "\n", "…", '"=1"']


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_that_a_spreadsheet_would_run_gets_a_quote_in_front_once(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(safe_cell(text)) == safe_cell(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_a_harmless_cell_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step,training_loss\n1,-1.0\n2,+0.5e-3\n", "step,training_loss\n1,-1.0\n2,+0.5e-3\n"),
        ("step,=1+1\n1,2\n", "step,'=1+1\n1,2\n"),
        ("\ufeff=a,b\n1,2\n", "'=a,b\n1,2\n"),
        ("step;note\n1; =cmd()\n", "step;note\n1;' =cmd()\n"),
        ("step\tnote\n1\t@x\n", "step\tnote\n1\t'@x\n"),
        ('a,b\n1,"x\n=1"\n', 'a,b\n1,"x\n=1"\n'),
        ('a,b\n1,"\n=1"\n', 'a,b\n1,"\'\n=1"\n'),
        ("a,b\r\n-2-3,.5\r\n", "a,b\n'-2-3,.5\n"),
        ("a\r=1\r", "a\n'=1\n"),
        ("", ""),
        ("=" + "x" * 200_000, "'=" + "x" * 200_000 + "\n"),
    ],
)
def test_a_csv_file_from_outside_becomes_safe_and_its_numbers_stay(text: str, expected: str) -> None:
    assert safe_csv(text) == expected
    assert safe_csv(expected) == expected


@given(st.lists(st.lists(st.text(max_size=8), min_size=2, max_size=3), min_size=1, max_size=4))
def test_no_cell_of_a_safe_file_begins_a_formula(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    for row in csv.reader(io.StringIO(safe_csv(out.getvalue()), newline="")):
        for one in row:
            assert safe_cell(one) == one or one.replace(".", "").strip("+-").isdigit()


def test_every_csv_of_the_studio_is_safe(store: Store) -> None:
    evil = "\n =HYPERLINK(1)"
    with store.session() as session:
        session.add(
            TrainingJob(
                id="j1", name="j", provider="engine", base_model="m", file_format="completion", dataset_id="d",
                hyperparameters={}, estimated_usd=None, created_by="local", status="succeeded",
                results_csv="step,training_loss,note\n1,-1.0,\" =HYPERLINK(1)\"\n",
            )
        )  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(run_export.run_zip(store, "j1"))) as file:
        assert file.read("results.csv").decode() == "step,training_loss,note\n1,-1.0,' =HYPERLINK(1)\n"
    assert export.csv_line(["a", evil]) == 'a,"\'\n =HYPERLINK(1)"\n'
    assert exports._cell(evil) == spend_history._cell(evil) == f"'{evil}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("é", "e\u0301"),
        ("한", "\u1112\u1161\u11ab"),
        ("唐", "\u200b唐"),
        ("唐", "\ufeff唐"),
        ("唐", "唐 \u00a0"),
        ("唐", "唐\u200d"),
        ("two words", "two\u00a0 words"),
        ("two words", "two\u3000words"),
        ("soft", "so\u00adft"),
        ("left", "\u200eleft\u200f"),
        ("joined", "joi\u2060ned"),
        ("blank", "bla\u3164nk\u2800"),
        ("ab", "a\u200cb"),
        ("a b", "a \u200b b"),
    ],
)
def test_values_that_look_alike_are_one_value(one: str, other: str) -> None:
    assert canonical(one) == canonical(other) == canonical(canonical(other))
    assert parse_values(f"{one}\n{other}\n{one}") == (canonical(one),)
    assert unique_values([other, one], known=[one]) == (one,)
    assert unique_values([one], known=[other]) == (other,)  # rows were written with that spelling
    recipe = Recipe("r", (Column("c", (one, "x")),), "{c}")
    with pytest.raises(BadRecipe, match="no new value"):
        grid_store.with_values(recipe, "c", [other])
    with pytest.raises(BadRecipe, match="has 2 values that look like"):
        Recipe("r", (Column("c", (one, other)),), "{c}").check()


@pytest.mark.parametrize("text", ["👨\u200d👩\u200d👧", "می\u200cخواهم", "क्\u200dष", "a🏳️b", "Straße", "ﬁ", "①"])
def test_what_shapes_a_word_stays(text: str) -> None:
    assert canonical(text) == text


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", " \u00a0", "\u200d", "\u2060\n"])
def test_a_value_of_nothing_visible_is_empty(text: str) -> None:
    assert canonical(text) == "" and parse_values(f"a\n{text}\nb") == ("a", "b")
    with pytest.raises(BadRecipe, match="empty value"):
        Recipe("r", (Column("c", ("a", text)),), "{c}").check()


def test_a_grid_of_values_that_look_alike_has_each_once(store: Store) -> None:
    values = parse_values("café\ncafe\u0301\n\ufeffcafé \nthé")
    dataset_id = datasets.create(store, LOCAL, Recipe("r", (Column("c", values),), "{c}"))
    assert [row.values["c"] for row in dataset_rows.page(store, dataset_id)] == ["café", "thé"]
