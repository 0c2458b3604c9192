"""The designer as a visitor sees it: columns from lists and files, undo, saved recipes, limits and batches."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets, presets, recipes
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Dataset, Run
from core.generation import runs
from core.generation.previewing import RunEstimate
from core.providers import client
from pages.ui.dataset import run_settings
from tests.support import fault_server
from tests.support.app_pages import article_grid, click, field, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

RECIPE = Recipe(
    "colours", (Column("colour", ("red", "blue")), Column("thing", ("hat", "cat"))), "{colour} {thing}", model="writer"
)


def opened(at: AppTest, popover: str) -> AppTest:
    """Rerun with an open popover, whose content is only drawn while it is open."""
    at.session_state[popover] = True
    return at.run()


def generate_label(at: AppTest) -> str:
    return str(at.button(key="dataset_generate").label)


def test_a_pasted_list_becomes_the_values_of_a_column(server: FaultServer) -> None:
    at = opened(article_grid(), "dataset_list_0")
    assert str(at.text_area(key="dataset_pasted_0").value).splitlines()[:2] == ["唐", "宋"]
    assert at.button(key="dataset_use_0").disabled  # unchanged
    at.text_area(key="dataset_pasted_0").set_value("秦\n唐\n Hello, you \n秦\n").run()
    assert at.button(key="dataset_use_0").label == "Use 3 values"
    click(at, "dataset_use_0")
    assert generate_label(at) == "Generate 162 rows"  # 3 × 6 × 3 × 3
    assert at.session_state["dataset_values_0"] == ["秦", "唐", "Hello, you"]
    assert not at.exception


def test_a_chip_that_is_off_stays_off_when_the_list_is_edited(server: FaultServer) -> None:
    at = article_grid()
    at.session_state["dataset_values_2"] = ["轻松", "艰难"]
    at = opened(at, "dataset_list_2")
    at.text_area(key="dataset_pasted_2").set_value("轻松\n努力\n艰难\n勇敢").run()
    click(at, "dataset_use_2")
    assert at.session_state["dataset_values_2"] == ["轻松", "艰难", "勇敢"]


def test_the_type_of_a_column_is_chosen_with_its_values_and_kept(server: FaultServer, store: Store) -> None:
    at = opened(article_grid(), "dataset_list_1")
    kind = next(one for one in at.segmented_control if one.key == "dataset_type_1")
    assert kind.value == "auto"
    kind.set_value("word").run()
    at = opened(at, "dataset_list_1")
    assert next(one for one in at.segmented_control if one.key == "dataset_type_1").value == "word"
    click(at, "dataset_remove_1")
    click(at, "dataset_undo_remove")
    click(at, "dataset_generate")
    (created,) = datasets.list_datasets(store)
    recipe = datasets.recipe(store, created.id)
    assert recipe is not None and [column.type for column in recipe.columns] == ["auto", "word", "auto"]


def test_a_list_too_long_for_chips_is_counted_and_used_whole(server: FaultServer) -> None:
    at = opened(article_grid(), "dataset_list_0")
    at.text_area(key="dataset_pasted_0").set_value("\n".join(f"v{n}" for n in range(1_000))).run()
    click(at, "dataset_use_0")
    assert "**1,000 values**: v0, v1" in words(at)
    assert generate_label(at) == "Generate 54,000 rows"
    at.text_input(key="dataset_add_0").input("one more").run()
    assert generate_label(at) == "Generate 54,054 rows"


def test_columns_of_a_file_become_columns_of_the_grid(server: FaultServer) -> None:
    at = opened(article_grid(), "dataset_column_file")
    file = "colour,dynasty,empty\nred,秦,\nblue,唐,\nred,秦,\n".encode("gbk")
    at.file_uploader(key="dataset_values_file").upload("colours.csv", file).run()
    at.multiselect(key="dataset_file_columns").set_value(["colour", "dynasty"]).run()
    click(at, "dataset_use_file")
    names = {box.key: box.value for box in at.text_input if box.key and box.key.startswith("dataset_name_")}
    assert names == {
        "dataset_name_0": "dynasty",
        "dataset_name_1": "super_power",
        "dataset_name_2": "story_type",
        "dataset_name_3": "colour",
    }
    assert at.session_state["dataset_values_0"] == ["秦", "唐"]  # the column with that name got them
    assert generate_label(at) == "Generate 216 rows"  # 2 × 6 × 3 × 2 × 3
    assert "The template does not use colour" in " ".join(warning.value for warning in at.warning)


def test_a_file_that_cannot_be_read_is_told_in_its_place(server: FaultServer) -> None:
    at = opened(article_grid(), "dataset_column_file")
    at.file_uploader(key="dataset_values_file").upload("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00").run()
    assert "This file can't be used yet" in trouble(at)
    assert generate_label(at) == "Generate 486 rows"


def test_lines_of_a_file_that_cannot_be_used_are_named_beside_its_columns(server: FaultServer) -> None:
    at = opened(visit("dataset"), "dataset_column_file")
    at.file_uploader(key="dataset_values_file").upload("a.csv", b"colour,size\nred,1\nblue\n").run()
    assert "Line 3 has 1 cell, but the header has 2." in words(at)


def test_a_removed_column_comes_back_where_it_was_with_its_chips(server: FaultServer) -> None:
    at = article_grid()
    at.session_state["dataset_values_1"] = ["飞行", "喷火"]
    at.text_input(key="dataset_name_1").input("power").run()
    click(at, "dataset_remove_1")
    assert "Removed: power, 6 values" in words(at)
    click(at, "dataset_undo_remove")
    boxes = [box.value for box in at.text_input if box.key and box.key.startswith("dataset_name_")]
    assert boxes == ["dynasty", "power", "story_type"]
    assert at.session_state["dataset_values_1"] == ["飞行", "喷火"]
    assert "Removed" not in words(at)


def test_the_rendered_prompt_follows_the_template_as_it_is_typed(server: FaultServer) -> None:
    at = article_grid()
    at.session_state["dataset_values_0"] = ["唐"]
    at.text_area(key="dataset_template").set_value("A {{hero}} of {dynasty}").run()
    assert at.text[0].value == "A {hero} of 唐"


@pytest.mark.parametrize("preset", presets.load(), ids=lambda preset: preset.id)
def test_every_preset_is_ready_to_run(server: FaultServer, preset: presets.Preset) -> None:
    at = visit("dataset", dataset_more=True)
    field(at, "dataset_preset").set_value(preset.id).run()
    rows = preset.recipe.rows()
    assert generate_label(at) == f"Generate {rows} rows"
    assert not at.error and not at.button(key="dataset_generate").disabled
    assert at.text_area(key="dataset_system").value == preset.recipe.system


def test_another_start_does_not_lose_what_was_typed(server: FaultServer) -> None:
    at = visit("dataset")
    field(at, "dataset_preset").set_value("english_stories").run()
    assert not any(button.key == "dataset_back" for button in at.button)  # nothing was changed
    at.text_area(key="dataset_template").set_value("My own words about {hero}").run()
    field(at, "dataset_preset").set_value("blank").run()
    assert at.text_area(key="dataset_template").value == ""
    click(at, "dataset_back")
    assert at.text_area(key="dataset_template").value == "My own words about {hero}"
    assert generate_label(at) == "Generate 400 rows"
    assert not any(button.key == "dataset_back" for button in at.button)


@pytest.mark.parametrize("before", presets.load(), ids=lambda preset: preset.id)
def test_an_empty_grid_starts_with_the_defaults_of_a_recipe(server: FaultServer, before: presets.Preset) -> None:
    at = visit("dataset")
    field(at, "dataset_preset").set_value(before.id).run()
    field(at, "dataset_preset").set_value("blank").run()
    shown = at.session_state["studio"].recipe_drawn
    assert [column.values for column in shown.columns] == [()]
    empty = Recipe(name="", columns=shown.columns, template="")
    assert shown == replace(empty, provider=shown.provider, model=shown.model)


@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("dataset_temperature", 0.0, 0.5),
        ("dataset_top_p", 0.3, 1.0),
        ("dataset_max_tokens", 16, 2048),
        ("dataset_seed", 7, None),
        ("dataset_repeats", 5, 1),
        ("dataset_endpoint", "chat", "auto"),
        ("dataset_system", "You are terse.", ""),
    ],
)
def test_an_empty_grid_keeps_no_setting_of_the_form_before(
    server: FaultServer, key: str, value: object, default: object
) -> None:
    at = visit("dataset", dataset_more=True)
    field(at, key).set_value(value).run()
    field(at, "dataset_preset").set_value("blank").run()
    assert at.session_state[key] == default


def test_a_template_without_columns_is_kept_to_go_back_to(server: FaultServer) -> None:
    at = visit("dataset")
    field(at, "dataset_preset").set_value("blank").run()
    at.text_area(key="dataset_template").set_value("Write a haiku.").run()
    field(at, "dataset_preset").set_value("english_stories").run()
    click(at, "dataset_back")
    assert at.text_area(key="dataset_template").value == "Write a haiku."


@pytest.mark.parametrize(
    ("answer", "text", "says"),
    [
        (fault_server.text("Once upon", finish_reason="length"), "Once upon", "The text was cut off at 2,048 tokens."),
        (fault_server.text("I saw", finish_reason="content_filter"), "I saw", "content filter blocked the text"),
        (fault_server.text("Half", finish_reason="weird"), "Half", "The text is not finished"),
        (fault_server.text("   "), "", "The answer was empty."),
        (fault_server.refusal("No."), "", "The model refused to write this."),
        (fault_server.text("A whole story."), "A whole story.", None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_preview_says_why_a_text_is_not_a_finished_one(
    server: FaultServer, answer: fault_server.Answer, text: str, says: str | None
) -> None:
    server.default = answer
    at = click(article_grid(), "dataset_preview")
    until(lambda: at.session_state["studio"].preview.gathering.done, "the preview")
    at.run()
    assert sum(one.value == text for one in at.text) == (3 if text else 0)
    warned = [one.value for one in at.caption if ":material/warning:" in one.value]
    assert len(warned) == (3 if says else 0)
    assert says is None or all(says in one for one in warned)


def test_a_recipe_is_saved_changed_and_found_again(server: FaultServer, store: Store) -> None:
    at = click(article_grid(), "dataset_save_recipe")
    assert at.button(key="dataset_save_recipe").label == "Saved as version 1"
    assert at.button(key="dataset_save_recipe").disabled
    at.session_state["dataset_values_0"] = ["唐"]
    at.run()
    assert at.button(key="dataset_save_recipe").label == "Save as version 2"
    click(at, "dataset_save_recipe")
    (one,) = recipes.list_saved(store)
    assert (one.version, one.name, one.rows) == (2, "ultraman_stories", 54)
    at = opened(at, "dataset_recipes")
    field(at, f"dataset_version_{one.family}").select_index(1).run()
    assert generate_label(at) == "Generate 486 rows"
    assert at.button(key="dataset_save_recipe").label == "Save as version 3"  # going back is a change too
    click(opened(at, "dataset_recipes"), f"dataset_open_{one.family}")
    assert generate_label(at) == "Generate 54 rows"
    assert at.session_state["studio"].grid.version == one.id
    assert not at.exception


def test_a_saved_recipe_is_opened_in_another_visit(server: FaultServer, store: Store) -> None:
    recipes.save(store, LOCAL, replace(RECIPE, endpoint="completion", seed=7))
    (one,) = recipes.list_saved(store)
    at = click(opened(visit("dataset"), "dataset_recipes"), f"dataset_open_{one.family}")
    assert generate_label(at) == "Generate 4 rows"
    assert at.session_state["dataset_endpoint"] == "completion"
    assert at.button(key="dataset_save_recipe").disabled
    click(at, "dataset_generate")
    with store.reading() as session:
        assert session.scalar(select(Dataset.recipe_id)) == one.id
    (dataset,) = datasets.list_datasets(store)
    assert datasets.recipe(store, dataset.id) == replace(RECIPE, endpoint="completion", seed=7)


def test_a_recipe_is_copied_renamed_deleted_and_brought_back(server: FaultServer, store: Store) -> None:
    recipes.save(store, LOCAL, RECIPE)
    (one,) = recipes.list_saved(store)
    at = click(opened(visit("dataset"), "dataset_recipes"), f"dataset_copy_{one.family}")
    copied = recipes.list_saved(store)[0]
    assert copied.name == "Copy of colours" and copied.copied_from == one.id
    at = opened(at, "dataset_recipes")
    at.text_input(key=f"dataset_rename_{copied.family}").input("shades").run()
    assert recipes.list_saved(store)[0].name == "shades"
    assert at.session_state["dataset_name"] == "shades"
    at = click(opened(at, "dataset_recipes"), f"dataset_delete_{one.family}")
    assert [saved.name for saved in recipes.list_saved(store)] == ["shades"]
    assert "Deleted: colours" in words(at)
    click(at, "dataset_undelete")
    assert len(recipes.list_saved(store)) == 2 and "Deleted" not in words(at)


def test_a_recipe_of_python_with_other_kinds_of_numbers_can_be_opened(server: FaultServer, store: Store) -> None:
    recipes.save(store, LOCAL, replace(RECIPE, temperature=1, top_p=1, max_tokens=50_000, repeats=0))
    (one,) = recipes.list_saved(store)
    at = click(opened(visit("dataset"), "dataset_recipes"), f"dataset_open_{one.family}")
    assert not at.exception and generate_label(at) == "Generate 4 rows"


def test_a_recipe_that_was_deleted_elsewhere_is_saved_as_a_new_one(server: FaultServer, store: Store) -> None:
    at = click(visit("dataset"), "dataset_save_recipe")
    (one,) = recipes.list_saved(store)
    recipes.delete(store, LOCAL, one.family)
    at.run()
    assert not at.error
    click(at, "dataset_save_recipe")
    assert [saved.version for saved in recipes.list_saved(store)] == [1]


def test_a_recipe_without_a_name_is_not_saved_and_the_page_says_so(server: FaultServer, store: Store) -> None:
    at = visit("dataset", dataset_more=True)
    at.text_input(key="dataset_name").input(" ").run()
    click(at, "dataset_save_recipe")
    assert "The recipe has no name" in trouble(at)
    assert recipes.list_saved(store) == []


def test_what_is_free_asks_for_no_limit(server: FaultServer) -> None:
    at = article_grid()
    assert not any(box.key == "dataset_budget" for box in at.text_input)
    assert "162 to 486 requests" in words(at)  # three repeats of a cell can share one


@pytest.fixture
def paid(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """The same server as a second endpoint that costs a dollar live and half of that in a batch."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setattr(client, "supports_batch", lambda provider: provider.kind != "engine")

    def estimate(recipe: Recipe, *, batch: bool = False) -> RunEstimate:
        cost = Decimal("0.5") if batch else Decimal(1)
        return RunEstimate(tokens=1_000, usd=cost, seconds=None, local=recipe.provider == "engine")

    monkeypatch.setattr(run_settings, "estimate", estimate)
    return server


def test_a_limit_is_kept_to_the_cent(store: Store, paid: FaultServer) -> None:
    at = visit("dataset")
    field(at, "dataset_model").select_index(1).run()

    assert "$1.00" in words(at)
    at.text_input(key="dataset_budget").set_value("2.5").run()
    click(at, "dataset_generate")
    with store.reading() as session:
        (run,) = session.scalars(select(Run)).all()
    assert (run.budget_usd, run.mode, run.model) == (Decimal("2.50"), "live", "writer")


def test_a_limit_with_an_unclear_comma_starts_no_run(store: Store, paid: FaultServer) -> None:
    at = visit("dataset")
    field(at, "dataset_model").select_index(1).run()
    at.text_input(key="dataset_budget").set_value("2,5").run()
    assert "is ambiguous" in words(at) and at.button(key="dataset_generate").disabled
    at.text_input(key="dataset_budget").set_value("2.5").run()
    assert not at.button(key="dataset_generate").disabled


def test_a_batch_shows_its_price_and_that_it_takes_a_day(
    store: Store, paid: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(runs, "enqueue", lambda *args, **how: seen.append(how) or "run")
    at = article_grid()
    field(at, "dataset_model").select_index(1).run()
    field(at, "dataset_mode").set_value("batch").run()
    assert "Within a day, at 50 % of the price" in field(at, "dataset_mode").options

    assert "486 requests" in words(at) and "done within a day" in words(at) and "$0.50" in words(at)
    click(at, "dataset_generate")
    assert seen == [{"budget_usd": None, "mode": "batch"}]


def test_where_no_price_is_known_no_limit_can_be_kept(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setattr(client, "supports_batch", lambda provider: False)
    at = visit("dataset")
    field(at, "dataset_model").select_index(1).run()
    assert at.text_input(key="dataset_budget").disabled
    assert "This model's price is unknown" in words(at)


def test_a_preview_says_which_parameters_the_model_does_not_take(server: FaultServer) -> None:
    refused = fault_server.error(400, "Unsupported value: 'temperature' does not support 0.5 with this model.")
    server.judge = lambda body: refused if "temperature" in body else fault_server.text("A story.")
    at = click(visit("dataset"), "dataset_preview")
    until(lambda: at.session_state["studio"].preview.gathering.done, "the preview")
    at.run()
    assert sum(one.value == "A story." for one in at.text) == 3
    assert any("writer does not accept" in one.value and "temperature" in one.value for one in at.caption)
