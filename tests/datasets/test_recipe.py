"""Recipes and grids: validation with clear errors, and cells computed on demand."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.datasets import grid, presets
from core.datasets.recipe import COLUMN_TYPES, Column, ColumnType, Recipe, parse_values, template_fields
from core.errors import BadRecipe, NotFound

COLOURS = Column("colour", ("red", "blue"))
THINGS = Column("thing", ("hat", "cat", "boat"))
RECIPE = Recipe("things", (COLOURS, THINGS), "A {colour} {thing}.", repeats=2)


def test_the_articles_grid_is_486_stories_with_its_own_words_and_sampling_that_suits_the_writer() -> None:
    recipe = presets.get().recipe
    recipe.check()
    assert recipe.rows() == 486 and recipe.repeats == 3
    assert (recipe.temperature, recipe.top_p, recipe.max_tokens) == (0.5, 0.8, 2048)
    assert (recipe.provider, recipe.model) == ("engine", "storyteller")
    first = grid.cell(recipe, 0)
    assert grid.render(recipe.template, first.values) == (
        "请你用中文写一段300字的故事，情节跌宕起伏，讲述一位唐朝时期的英雄人物，穿越到现代，"
        "拥有了隐形这样的超能力，通过轻松的战斗，帮助奥特曼一起打败了怪兽的故事。"
    )


def test_the_second_grid_is_135_stories() -> None:
    second = presets.get("ultraman_more")
    second.recipe.check()
    assert second.recipe.rows() == 135


def test_an_english_grid_and_a_task_that_writes_no_stories_come_along() -> None:
    assert presets.get("english_stories").recipe.rows() == 400
    intents = presets.get("support_intents").recipe
    assert (intents.temperature, intents.max_tokens, intents.template) == (0.0, 16, "{message}")


def test_presets_can_be_run_and_have_values_outside_their_grid() -> None:
    assert sum(preset.sample is not None for preset in presets.load()) == 4
    for preset in presets.load():
        preset.recipe.check()
        assert not preset.recipe.warnings() and preset.outside
        assert preset.sample is None or (presets.DATA / "samples" / f"{preset.sample}.csv").is_file()
        assert set(preset.names) == {"en", "zh_CN"} and preset.name == preset.names["en"]
        for values in preset.outside:
            named = dict(zip([c.name for c in preset.recipe.columns], values, strict=True))
            assert any(named[c.name] not in c.values for c in preset.recipe.columns)


def test_an_unknown_preset_is_not_found() -> None:
    with pytest.raises(NotFound):
        presets.get("nothing")


BAD = [
    ({"columns": ()}, "The grid is empty: it has no column"),
    ({"columns": (Column("colour", ()), THINGS)}, "The grid is empty: colour has no values"),
    ({"template": "A {colour} {shape}."}, "The template names {shape}, but there is no column 'shape'"),
    ({"template": "A {colour.upper} {thing}"}, "names {colour.upper}"),
    ({"template": "A {colour!r} {thing}"}, "names {colour!r}"),
    ({"template": "A {colour:>9} {thing}"}, "names {colour:>9}"),
    ({"template": "A {} {thing}"}, "empty braces"),
    ({"template": "A {colour"}, "braces of the template do not match"),
    ({"template": "A colour}"}, "braces of the template do not match"),
    ({"template": " \n"}, "The template is empty"),
    ({"template": "x" * 100_001}, "longer than 100,000"),
    ({"columns": (COLOURS, replace(THINGS, name="colour"))}, "Two columns are called colour"),
    ({"columns": (Column(" ", ("a",)), COLOURS, THINGS)}, "A column has no name."),
    ({"columns": (Column("a}b", ("a",)), COLOURS, THINGS)}, "A column cannot be called 'a}b'"),
    ({"columns": (Column("colour", ("red", "red")), THINGS)}, "has the value 'red' twice"),
    ({"columns": (Column("colour", ("red", "")), THINGS)}, "colour has an empty value"),
    ({"columns": (Column("colour", ("r\0ed",)), THINGS)}, "colour has an empty value"),
    ({"columns": (Column("colour", ("red",), "number"), THINGS)}, "colour has the type 'number'"),  # type: ignore[arg-type]
    ({"repeats": 0}, "repeats is 0"),
    ({"temperature": 2.1}, "temperature is 2.1"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_p": -0.1}, "top_p is -0.1"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"endpoint": "speech"}, "'speech' is not an API format"),
    ({"model": " "}, "No model is chosen"),
    ({"repeats": 10_000, "columns": (Column("colour", tuple(map(str, range(2000)))), THINGS)}, "60,000,000 rows"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_a_recipe_that_cannot_be_run_says_why_and_what_to_do(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        replace(RECIPE, **change).check()  # type: ignore[arg-type]  # table of changes
    assert words in caught.value.what
    assert caught.value.next_step


def test_a_one_value_grid_runs_and_says_that_it_is_one_row() -> None:
    recipe = Recipe("one", (Column("thing", ("hat",)),), "A {thing}.")
    recipe.check()
    assert recipe.rows() == 1
    assert any("one row" in warning for warning in recipe.warnings())


def test_a_grid_of_a_million_cells_runs_with_a_warning_and_is_never_made_at_once() -> None:
    recipe = million()
    recipe.check()
    assert recipe.rows() == 1_000_000
    assert any("1,000,000 rows" in warning for warning in recipe.warnings())
    assert dict(grid.cell(recipe, 999_999).values) == {"a": "99", "b": "99", "c": "99"}
    assert [c.position for c in islice(grid.cells(recipe, 999_998), 9)] == [999_998, 999_999]


def million() -> Recipe:
    hundred = tuple(str(n) for n in range(100))
    return Recipe("million", tuple(Column(n, hundred) for n in "abc"), "{a} {b} {c}")


def test_a_column_that_the_template_does_not_use_is_pointed_out() -> None:
    recipe = replace(RECIPE, template="A {thing}.")
    recipe.check()
    assert any("does not use colour" in warning for warning in recipe.warnings())


def test_cells_come_in_the_order_of_nested_loops_with_repeats_together() -> None:
    found = [(c.position, c.repeat, *c.values.values()) for c in grid.cells(RECIPE)]
    assert found[:5] == [
        (0, 0, "red", "hat"),
        (1, 1, "red", "hat"),
        (2, 0, "red", "cat"),
        (3, 1, "red", "cat"),
        (4, 0, "red", "boat"),
    ]
    assert len(found) == 12 == RECIPE.rows()


@pytest.mark.parametrize("position", [-1, 12])
def test_there_is_no_cell_outside_the_grid(position: int) -> None:
    with pytest.raises(IndexError):
        grid.cell(RECIPE, position)


@pytest.mark.parametrize(
    ("template", "fields"),
    [("no column", []), ("{a} {b} {a}", ["a", "b"]), ("{{a}} {b}", ["b"]), ("{super power}", ["super power"])],
)
def test_fields_of_a_template(template: str, fields: list[str]) -> None:
    assert template_fields(template) == fields


@pytest.mark.parametrize(
    ("template", "values", "prompt"),
    [
        ("{a}", {"a": "{b}", "b": "no"}, "{b}"),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ("朝代：{朝代}", {"朝代": "唐"}, "朝代：唐"),
        ("a\n{a}\n", {"a": "x"}, "a\nx\n"),
    ],
)
def test_values_are_put_in_as_they_are(template: str, values: dict[str, str], prompt: str) -> None:
    assert grid.render(template, values) == prompt


def test_rendering_a_column_that_is_not_there_is_a_bad_recipe() -> None:
    with pytest.raises(BadRecipe, match=r"names \{b\}"):
        grid.render("{b}", {"a": "x"})


def test_a_row_keeps_its_key_when_the_grid_grows_but_not_when_the_text_would_change() -> None:
    values = {"colour": "red", "thing": "hat"}
    key = grid.key(RECIPE, values, 0)
    grown = replace(RECIPE, name="x", repeats=9, columns=(replace(COLOURS, values=("green", "red")), THINGS))
    assert grid.key(grown, values, 0) == key
    assert grid.key(RECIPE, dict(reversed(values.items())), 0) == key
    others = [
        grid.key(RECIPE, values, 1),
        grid.key(RECIPE, {**values, "thing": "cat"}, 0),
        *(
            grid.key(replace(RECIPE, **change), values, 0)
            for change in (
                {"template": "{colour}{thing}"},
                {"system": "s"},
                {"provider": "openai"},
                {"model": "m"},
                {"temperature": 0.6},
                {"top_p": 0.9},
                {"max_tokens": 9},
                {"seed": 1},
                {"endpoint": "chat"},
                {"endpoint": "completion"},
            )
        ),
    ]
    assert len({key, *others}) == len(others) + 1


def test_the_key_of_a_row_never_changes() -> None:
    """Rows that were written with an earlier version of Fabula must keep their keys."""
    key = grid.key(RECIPE, {"colour": "red", "thing": "hat"}, 0)
    assert key == "ad4b07fd7607fc840f46939b6c36888c08d7c9e621e75dbbab5e9aa5a2f2b69d"


def test_a_row_is_found_by_its_values_as_it_was_made_from_its_position() -> None:
    place = grid.position_lookup(RECIPE)
    assert [place(c.values, c.repeat) for c in grid.cells(RECIPE)] == list(range(12))
    assert place({"colour": "red", "thing": "hat"}, 2) is None
    assert place({"colour": "green", "thing": "hat"}, 0) is None
    assert place({"colour": "red"}, 0) is None


def test_every_row_has_a_seed_of_its_own_when_the_recipe_has_one() -> None:
    keys = [grid.key(RECIPE, c.values, c.repeat) for c in grid.cells(RECIPE)]
    assert {grid.row_seed(RECIPE, key) for key in keys} == {None}
    seeds = [grid.row_seed(replace(RECIPE, seed=7), key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("text", "known", "values"),
    [
        ("", (), ()),
        ("red, blue,red", (), ("red", "blue")),
        ("唐，宋、元；明;清\t汉", (), ("唐", "宋", "元", "明", "清", "汉")),
        ("red\nblue, dark\r\n\n red ", (), ("red", "blue, dark")),
        ("a\tb\nc\td", (), ("a", "b", "c", "d")),
        ("Hello, you", ("Hello, you",), ("Hello, you",)),
        ("Hello, you", (), ("Hello", "you")),
    ],
)
def test_a_pasted_list_is_values(text: str, known: tuple[str, ...], values: tuple[str, ...]) -> None:
    assert parse_values(text, known) == values


names = st.text(st.characters(exclude_characters="{}\r\n\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
cell_values = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, unique=True)


columns_of_any_type = st.tuples(names, cell_values, st.sampled_from(COLUMN_TYPES))


@given(st.lists(columns_of_any_type, min_size=1, max_size=4, unique_by=lambda c: c[0]), st.integers(1, 3))
def test_a_recipe_survives_json_and_its_cells_are_all_different(
    columns: list[tuple[str, list[str], ColumnType]], repeats: int
) -> None:
    recipe = Recipe("r", tuple(Column(n, tuple(v), kind) for n, v, kind in columns), "x", repeats=repeats)
    second = Recipe.from_dict(recipe.to_dict())
    assert second == recipe and recipe.to_dict()["rows"] == recipe.rows()
    found = list(islice(grid.cells(recipe), 500))
    keys = {grid.key(recipe, c.values, c.repeat) for c in found}
    assert len(keys) == len(found) == min(500, recipe.rows())


def test_a_recipe_stored_before_columns_had_a_type_is_read_and_written_as_it_was() -> None:
    stored = RECIPE.to_dict()
    assert stored["columns"][0] == {"name": COLOURS.name, "values": list(COLOURS.values)}
    assert Recipe.from_dict(stored) == RECIPE and RECIPE.columns[0].type == "auto"


def test_the_type_of_a_column_does_not_change_its_rows() -> None:
    typed = replace(RECIPE, columns=(replace(COLOURS, type="word"), THINGS))
    cell = grid.cell(RECIPE, 0)
    assert grid.cell(typed, 0) == cell and grid.key(typed, cell.values, 0) == grid.key(RECIPE, cell.values, 0)


@pytest.mark.parametrize("data", [{}, {"columns": [{"name": "a"}], "name": "x", "template": "y"}, {"columns": 3}])
def test_a_recipe_that_is_not_whole_is_bad(data: dict[str, object]) -> None:
    with pytest.raises(BadRecipe, match="not complete"):
        Recipe.from_dict(data)


def test_nothing_of_the_article_is_in_code() -> None:
    for path in (presets.DATA.parent / "core" / "datasets").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text.lower() for word in ("ultraman", "奥特曼", "dynasty", "super_power")), path.name
