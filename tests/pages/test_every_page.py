"""Every page through the frame, as a visitor sees it: the normal case, invalid input, and missing components."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets, export, presets
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, Run, Story, TrainingEvent, TrainingJob, utcnow
from core.errors import Unavailable
from core.finetuning import job_views
from core.finetuning.job_form import JobForm
from core.generation import executor, run_progress
from core.jobs.system_status import Status
from core.pricing import spend
from core.providers import engine_endpoint
from core.settings import Settings
from core.stories import library
from pages.ui import cache
from pages.ui.components import models
from pages.ui.settings import about
from tests.support import fault_server
from tests.support.app_pages import FRAME, again, article_grid, click, field, labels, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.waiting import WAIT_LIMIT_S, until

_PAGES = ("home", "dataset", "training", "cost", "story", "move", "settings")
_TITLES = {
    "en-US": dict(zip(_PAGES, ("Fabula", "Data set", "Training", "Cost", "Story", "Move", "Settings"), strict=True)),
    "zh-CN": dict(zip(_PAGES, ("Fabula", "数据集", "训练", "成本", "故事", "迁移", "设置"), strict=True)),
}
_RESULTS = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"
    "1,625,1,0.88,0.0,0.75\n2,1258,2,0.81,0.0,0.78\nbroken\n3,1859,3,0.40,0.0,0.95\n"
)


# --- every page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", _TITLES)
@pytest.mark.parametrize("page", _PAGES)
def test_a_page_opens_on_an_empty_home_in_the_browsers_language(page: str, locale: str, server: FaultServer) -> None:
    at = visit(page, locale)
    assert at.title[0].value == _TITLES[locale][page]
    assert not at.error


@pytest.mark.parametrize("page", _PAGES)
def test_without_the_engines_packages_a_page_works_and_says_what_to_install(page: str) -> None:
    settings = Settings.from_env()
    settings.home.mkdir(parents=True)
    engine_endpoint.write(
        settings, engine_endpoint.EngineNote("missing", message="The engine needs packages.", next_step="Install them.")
    )
    at = visit(page)
    if page in ("home", "dataset", "story", "settings"):
        assert any(f"{sys.executable} -m pip install -r requirements-engine.txt" == block.value for block in at.code)


@pytest.mark.parametrize("page", ["home", "dataset", "training", "story"])
def test_a_home_that_cannot_be_written_is_told_with_a_next_step(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("FABULA_HOME", str(blocked / "home"))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{blocked / 'home' / 'fabula.db'}")
    state = {"dataset_part": "rows", "story_part": "shelf"}
    at = visit(page, **state)
    assert "the disk is full or read-only, or the database is lost or unavailable" in trouble(at)
    assert "FABULA_HOME" in trouble(at)


def test_the_language_can_be_chosen() -> None:
    at = visit("cost")
    field(at, "lang").set_value("zh_CN").run()
    assert at.title[0].value == "成本"
    assert at.query_params["lang"] == "zh_CN"


def test_a_link_carries_the_language() -> None:
    at = AppTest.from_file(str(FRAME), default_timeout=WAIT_LIMIT_S)
    at.query_params["lang"] = "zh_CN"
    at.run()
    assert "开始导览" in labels(at)


# --- home -----------------------------------------------------------------------------------------------------------


def test_home_shows_true_figures_and_one_next_step_each(store: Store, server: FaultServer) -> None:
    datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    _job(store, status="succeeded", fine_tuned_model="ft:writer:fabula:x:1")
    with store.session() as session:
        spend.record(
            session, LOCAL, "story", provider="openai", model="m", reference="r", cost_usd=Decimal("1.25"),
            prompt_tokens=1, completion_tokens=1,
        )  # fmt: skip
    at = visit("home")
    figures = {metric.label: metric.value for metric in at.metric}
    assert figures["Rows ready"] == "27"
    assert figures["Token accuracy, last step"] == "95.0 %"
    assert figures["Spent this month"] == "\\$1.25"
    assert "Engine ready" in words(at) and "Worker not running" in words(at)
    assert {"View the rows", "View the curve", "Compare prices", "Write a story"} <= set(labels(at))


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_story_without_a_word_is_no_trouble_on_the_home_page(text: str, store: Store, server: FaultServer) -> None:
    with store.session() as session:
        story = Story(
            id=new_id(), actor="local", provider="engine", model="writer", prompt="x", parameters={}, text=text
        )
        session.add(story)
    at = visit("home")
    assert {metric.label: metric.value for metric in at.metric}["Characters in the last story"] == "0"
    assert "Recent activity" not in words(at)


def test_names_and_stories_of_others_are_text_on_the_home_page(store: Store, server: FaultServer) -> None:
    nasty = "![x](http://example.com/x.png)"
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    with store.session() as session:
        session.get_one(Dataset, dataset_id).name = nasty
        session.add(
            Row(
                dataset_id=dataset_id, key="k", position=99, column_values={}, prompt="p", state="pending",
            )
        )  # fmt: skip
    at = visit("home")
    shown = [*at.caption, *at.markdown]
    assert any("example.com" in element.value for element in shown)
    assert not any(nasty in element.value for element in shown)


# --- data set -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("locale", "preset", "rows"), [("en-US", "english_stories", 400), ("zh-CN", "ultraman", 486)])
def test_the_language_of_the_page_decides_the_grid_to_start_with(
    server: FaultServer, locale: str, preset: str, rows: int
) -> None:
    at = visit("dataset", locale)
    assert str(rows) in at.button(key="dataset_generate").label
    assert at.text_area(key="dataset_template").value == presets.get(preset).recipe.template
    other = "ultraman" if preset != "ultraman" else "english_stories"
    field(at, "dataset_preset").set_value(other).run()  # the other one is one click away
    assert at.text_area(key="dataset_template").value == presets.get(other).recipe.template


def test_column_names_are_shown_in_the_language_of_the_page(server: FaultServer) -> None:
    named = [box.label for box in visit("dataset", "zh-CN").text_input if str(box.key).startswith("dataset_name_")]
    assert [label.rpartition(" · ")[2] for label in named] == ["朝代", "超能力", "类型"]
    english = {box.label for box in article_grid().text_input if str(box.key).startswith("dataset_name_")}
    assert english == {"Column"}


def test_the_articles_grid_is_whole(server: FaultServer) -> None:
    at = article_grid()
    assert at.button(key="dataset_generate").label == "Generate 486 rows"
    assert "**162 cells** × 3 repeats = **486 rows**" in words(at)
    assert at.text_area(key="dataset_template").value == presets.get().recipe.template
    assert any("朝时期的英雄人物" in text.value and "{" not in text.value for text in at.text)  # rendered


def test_the_dice_show_another_cell(server: FaultServer) -> None:
    at = visit("dataset")
    seen = {at.text[0].value}
    for _throw in range(8):
        seen.add(click(at, "dataset_dice").text[0].value)
    assert len(seen) > 1


def test_values_are_chips_that_can_be_added_and_switched_off(server: FaultServer) -> None:
    at = article_grid()
    at.text_input(key="dataset_add_2").input("勇敢，辛苦, 轻松").run()  # one of them exists already
    assert at.button(key="dataset_generate").label == "Generate 810 rows"  # 9 × 6 × 5 × 3
    at.session_state["dataset_values_0"] = ["唐"]
    at.run()
    assert at.button(key="dataset_generate").label == "Generate 90 rows"
    assert at.text_input(key="dataset_add_2").value == ""


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("写{nobody}的故事", "The template names {nobody}, but there is no column 'nobody'"),
        ("", "The template is empty"),
        ("写{的故事", "The braces of the template do not match"),
    ],
)
def test_a_template_that_cannot_be_filled_is_told_and_cannot_be_generated(
    server: FaultServer, template: str, told: str
) -> None:
    at = visit("dataset")
    at.text_area(key="dataset_template").set_value(template).run()
    assert told in words(at)
    assert at.button(key="dataset_generate").disabled


def test_what_core_says_is_told_in_the_visitors_language(server: FaultServer) -> None:
    at = visit("dataset", "zh-CN")
    at.text_area(key="dataset_template").set_value("写{nobody}的故事").run()
    (hint,) = [caption.value for caption in at.caption if "nobody" in caption.value]
    assert "template" not in hint


def test_an_empty_grid_is_told_with_a_next_step(server: FaultServer) -> None:
    at = visit("dataset")
    for column in (0, 1, 2):
        click(at, f"dataset_remove_{column}")
    assert "The grid is empty" in words(at)
    assert at.button(key="dataset_generate").disabled


def test_a_grid_of_one_value_can_be_generated(server: FaultServer, store: Store) -> None:
    at = visit("dataset")
    at.number_input(key="dataset_repeats").set_value(1).run()
    field(at, "dataset_preset").set_value("blank").run()
    column = next(box for box in at.text_input if box.key and box.key.startswith("dataset_name_"))
    number = str(column.key).rsplit("_", 1)[1]
    column.input("hero").run()
    at.text_input(key=f"dataset_add_{number}").input("孙悟空").run()
    at.text_area(key="dataset_template").set_value("写{hero}的故事").run()
    assert at.button(key="dataset_generate").label == "Generate 1 row"
    assert any("one row" in warning.value for warning in at.warning)
    click(at, "dataset_generate")
    assert datasets.list_datasets(store)[0].total == 1


def test_a_grid_of_a_million_warns_and_is_still_usable(server: FaultServer, store: Store) -> None:
    at = article_grid()
    at.number_input(key="dataset_repeats").set_value(10_000).run()
    assert at.button(key="dataset_generate").label == "Generate 1,620,000 rows"
    assert any("1,620,000 rows" in warning.value for warning in at.warning)
    click(at, "dataset_generate")
    assert datasets.list_datasets(store)[0].total == 1_620_000
    assert "0 of 1,620,000" in words(at)


def test_without_a_model_nothing_can_be_generated_and_the_page_says_why() -> None:
    at = visit("dataset")
    assert at.button(key="dataset_generate").disabled


def test_generating_shows_rows_as_they_come_and_ends_with_a_table(server: FaultServer, store: Store) -> None:
    at = _small_grid(article_grid())
    click(at, "dataset_generate")
    assert "Waiting for the worker" in words(at) and "0 of 2" in words(at)
    (run_id,) = _run_ids(store)
    executor.execute(store, server.registry("engine", "engine"), run_id)
    again(at)
    assert "Finished" in words(at) and "2 of 2" in words(at)
    assert list(at.dataframe[0].value["text"]) == ["从前，有一位英雄。"] * 2
    assert not any(button.key == "dataset_stop" for button in at.button)
    assert at.get("download_button")


def test_a_run_can_be_stopped_and_continued(server: FaultServer, store: Store) -> None:
    at = click(_small_grid(article_grid()), "dataset_generate")
    (run_id,) = _run_ids(store)
    click(at, "dataset_stop")
    assert run_progress.get(store, run_id).state == "stopped"
    again(at)
    assert at.button(key="dataset_continue").label == "Write 2 rows"  # nothing to resume: no row is written yet
    click(at, "dataset_continue")
    assert len(_run_ids(store)) == 2


def test_a_run_that_met_a_problem_says_which(server: FaultServer, store: Store) -> None:
    server.default = fault_server.unauthorized()
    click(_small_grid(article_grid()), "dataset_generate")
    executor.execute(store, server.registry("engine", "engine"), _run_ids(store)[0])
    at = article_grid(dataset_part="rows")
    assert "Stopped by an error" in words(at) and at.error
    assert fault_server.KEY not in words(at)


def test_the_preview_writes_three_stories_and_keeps_nothing(server: FaultServer, store: Store) -> None:
    at = click(visit("dataset"), "dataset_preview")
    until(lambda: at.session_state["studio"].preview.gathering.done, "the preview")
    at.run()
    assert sum(text.value == "从前，有一位英雄。" for text in at.text) == 3
    assert datasets.list_datasets(store) == []
    assert at.button(key="dataset_preview").label == "Write 3"


def test_a_preview_is_asked_for_once_however_often_and_late_its_buttons_are_pressed(
    server: FaultServer, store: Store
) -> None:
    server.when("奥特曼", fault_server.held())
    at = article_grid()
    write = at.button(key="dataset_preview")
    at = write.click().run()
    (stop,) = [button for button in at.button if button.label == "Stop"]
    held = at.session_state["studio"].preview
    assert write.click().run().session_state["studio"].preview is held
    server.release()
    until(lambda: held.gathering.done, "the preview")
    at = stop.root.run()
    assert at.button(key="dataset_preview").label == "Write 3"
    stop.click().run()
    assert len(server.prompts()) == 3


def test_a_preview_tells_the_time_of_the_run(server: FaultServer, store: Store) -> None:
    at = visit("dataset")
    assert "time: known after a preview" in words(at)
    click(at, "dataset_preview")
    until(lambda: at.session_state["studio"].preview.gathering.done, "the preview")
    again(at)
    assert "time: known after a preview" not in words(at)


def test_a_preview_that_fails_says_why(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error(404, "The model does not exist", "model_not_found")
    at = click(visit("dataset"), "dataset_preview")
    until(lambda: at.session_state["studio"].preview.gathering.done, "the preview")
    at.run()
    assert "Model not found" in trouble(at)


def test_sample_stories_load_with_one_click(store: Store) -> None:
    at = click(visit("dataset", dataset_part="bring"), "dataset_sample_ultraman_stories_more")
    assert "135 rows, all done" in words(at)
    assert at.button(key="dataset_train").label == "Train on this"


@pytest.mark.parametrize(
    ("name", "data", "encoding"),
    [
        ("a.csv", "朝代,故事\n唐,从前\n".encode("gbk"), "GB"),
        ("a.csv", "\ufeff朝代,故事\n唐,从前\n".encode(), "UTF-8"),
        ("a.csv", "朝代,故事\n唐,从前\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_an_uploaded_table_states_its_encoding_and_becomes_a_data_set(
    store: Store, name: str, data: bytes, encoding: str
) -> None:
    at = visit("dataset", dataset_part="bring")
    at.file_uploader(key="dataset_file").upload(name, data).run()
    assert encoding in words(at)
    click(at, "dataset_keep")
    (kept,) = datasets.list_datasets(store)
    assert (kept.columns, kept.done) == (("朝代",), 1)
    assert export.examples(store, kept.id) == [("唐", "从前")]


def test_a_broken_line_is_named_and_the_good_rows_are_kept(store: Store) -> None:
    lines = [json.dumps({"prompt": f"p{n}", "completion": f"c{n}"}) for n in range(4)]
    lines[2] = '{"prompt": "p2", '
    at = visit("dataset", dataset_part="bring")
    at.file_uploader(key="dataset_file").upload("a.jsonl", "\n".join(lines).encode()).run()
    assert "1 row can't be used and is left out" in at.warning[0].value
    assert any("Line 3" in text.value for text in at.text)
    click(at, "dataset_keep")
    assert datasets.list_datasets(store)[0].done == 3


def test_a_file_that_is_no_table_is_told_with_a_next_step() -> None:
    at = visit("dataset", dataset_part="bring")
    at.file_uploader(key="dataset_file").upload("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00").run()
    assert not at.exception
    assert "This file can't be used yet" in trouble(at)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_of_the_settings_is_shown() -> None:
    url = "postgresql://me:hidden@host/db?sslmode=require&password=hidden&user=me"
    found = Settings.from_env({"DATABASE_URL": url, "FABULA_ENGINE_TOKEN": "hidden"})
    assert "hidden" not in repr(found)
    shown = about._without_password(url)
    assert "hidden" not in shown and "sslmode=require" in shown
    assert about._without_password("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"


# --- cost -----------------------------------------------------------------------------------------------------------


def test_the_table_of_2023_gives_six_and_sixty() -> None:
    at = click(visit("cost"), "cost_2023")
    table = at.dataframe[0].value.set_index("model")
    assert table.loc["ft:davinci", "multiple"] == 60 and table.loc["ft:curie", "multiple"] == 6
    assert table.loc["ft:davinci", "output"] == 0.12
    assert "**60 ×**" in words(at)
    field(at, "cost_baseline").set_value(("openai-2023", "text-davinci-003")).run()
    assert at.dataframe[0].value.set_index("model").loc["ft:davinci", "multiple"] == 6
    assert set(table["checked"].astype(str)) >= {"2023-04-04"} and table["source"].str.startswith("http").any()


def test_the_unit_can_be_a_million() -> None:
    at = visit("cost", cost_lists=["openai-2023"], cost_unit=1_000_000)
    assert at.dataframe[0].value.set_index("model").loc["ft:davinci", "output"] == 120


def test_a_search_keeps_what_matches_and_the_baseline() -> None:
    at = visit("cost", cost_lists=["openai-2023"], cost_search="curie")
    assert set(at.dataframe[0].value["model"]) == {"ft:curie", "gpt-3.5-turbo"}


def test_an_unknown_price_is_unknown_not_zero() -> None:
    table = visit("cost", cost_lists=["openai-2023"]).dataframe[0].value.set_index("model")
    assert table["training"].isna()["gpt-3.5-turbo"]


# --- story ----------------------------------------------------------------------------------------------------------


def test_a_story_is_written_with_its_facts_and_kept(server: FaultServer, store: Store) -> None:
    at = click(visit("story"), "story_button")
    assert any(text.value == "从前，有一位英雄。" for text in at.text)
    assert "complete" in words(at) and "writer" in words(at)
    assert [story.text for story in library.recent(store)] == ["从前，有一位英雄。"]
    assert at.button(key="story_button").label == "Write"
    shelf = visit("story", story_part="shelf")
    assert any(text.value == "从前，有一位英雄。" for text in shelf.text)


def test_values_outside_the_grid_are_welcome(server: FaultServer, store: Store) -> None:
    at = click(visit("story"), "story_outside_0")
    assert at.selectbox(key="story_column_hero").value == "a gardener"
    click(at, "story_button")
    assert "a gardener" in server.prompts()[-1]


def test_a_chinese_story_page_asks_for_the_articles_stories(server: FaultServer, store: Store) -> None:
    at = click(visit("story", "zh-CN"), "story_outside_0")
    assert at.selectbox(key="story_column_super_power").label == "超能力"
    click(at, "story_button")
    assert "龙卷风" in server.prompts()[-1]


def test_an_engine_that_came_up_since_its_models_were_asked_for_is_no_trouble(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, forgotten = cache.models, list[bool]()
    starting = cache.OfferedModels((), {"engine": Unavailable("The engine does not answer.", "Wait.")})
    monkeypatch.setattr(cache, "models", lambda: real() if forgotten else starting)
    monkeypatch.setattr(cache, "forget_models", lambda provider: forgotten.append(True))
    at = visit("story")
    assert not at.error and any(button.key == "story_button" for button in at.button)


def test_an_engine_that_does_not_come_up_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, wait, waited = cache.status(), models._wait, []

    def later() -> None:
        waited.append(True)
        wait()

    def status() -> Status:
        return replace(seen, engine=replace(seen.engine, state="down" if waited else "starting"))

    monkeypatch.setattr(models, "_wait", later)
    monkeypatch.setattr(cache, "status", status)
    broken = cache.OfferedModels((), {"engine": Unavailable("The engine does not answer.", "Wait.")})
    monkeypatch.setattr(cache, "models", lambda: broken)
    monkeypatch.setattr(cache, "forget_models", lambda provider: None)
    at = visit("story")
    assert "The engine does not answer." in trouble(at)
    assert "models_again" in [button.key for button in at.button]


def test_a_free_prompt_goes_out_as_it_is(server: FaultServer, store: Store) -> None:
    at = visit("story", story_mode="free")
    assert at.button(key="story_button").disabled
    at.text_area(key="story_prompt").set_value("Tell me about **the sea**").run()
    click(at, "story_button")
    assert server.prompts() == ["Tell me about **the sea**"]


def test_a_story_of_a_model_that_is_gone_says_so(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error(404, "The model does not exist", "model_not_found")
    at = click(visit("story"), "story_button")
    assert "Model not found" in trouble(at)
    assert library.recent(store) == []


def test_a_story_that_is_cut_keeps_its_words(server: FaultServer, store: Store) -> None:
    server.default = fault_server.cut("从前，", "有一")
    at = click(visit("story"), "story_button")
    assert any(text.value == "从前，有一" for text in at.text)
    assert "The stream was interrupted" in trouble(at) and "interrupted; the text so far is kept" in words(at)
    assert library.recent(store)[0].text == "从前，有一"


def test_a_models_words_are_text_and_nothing_else(server: FaultServer, store: Store) -> None:
    nasty = "![x](http://example.com/x.png) <script>alert(1)</script> **bold** [a](http://example.com)"
    server.default = fault_server.text(nasty)
    at = click(visit("story"), "story_button")
    assert any(text.value == nasty for text in at.text)
    assert "example.com" not in "".join(m.value for m in at.markdown)


def test_without_a_model_the_story_page_says_what_to_do(store: Store) -> None:
    at = visit("story")
    assert not at.exception and not any(button.key == "story_button" for button in at.button)


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_tell_where_the_data_lies_without_secrets(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:s3cret@db.example.com/fabula")
    at = visit("settings")
    shown = "\n".join(table.value.to_string() for table in at.table)
    assert "db" in shown and "s3cret" not in shown
    assert str(Settings.from_env().home.name) in shown


@pytest.mark.parametrize(
    ("part", "licence"),
    [("streamlit", "Apache-2.0"), ("altair", "BSD License"), ("dbos", "MIT License"), ("openai", "Apache-2.0")],
)
def test_the_licence_of_each_part_is_named(part: str, licence: str) -> None:
    assert about._version(part).endswith(f" · {licence}")
    assert [name for name in about._PARTS if (version := about._version(name)) and " · " not in version] == []


# --- helpers --------------------------------------------------------------------------------------------------------


def _small_grid(at: AppTest) -> AppTest:
    """Two rows: one dynasty, one power, one mood, two repeats."""
    for column, value in enumerate(("唐", "隐形", "轻松")):
        at.session_state[f"dataset_values_{column}"] = [value]
    at.session_state["dataset_repeats"] = 2
    at.run()
    assert at.button(key="dataset_generate").label == "Generate 2 rows"
    return at


def _run_ids(store: Store) -> list[str]:
    with store.reading() as session:
        return [run.id for run in session.query(Run).order_by(Run.created_at.desc())]


def _job(store: Store, *, dataset_id: str | None = None, **values: object) -> str:
    """A job in the ledger, as stored by the worker."""
    form = JobForm(dataset_id or "gone", "ultraman", "engine", "writer", "x")
    with store.session() as session:
        job = TrainingJob(
            id=new_id(),
            dataset_id=dataset_id,
            name=form.name,
            provider=form.provider,
            base_model=form.base_model,
            suffix=form.suffix,
            hyperparameters={},
            file_format="completion",
            separator=" ->",
            stop=".",
            remote_id="ftjob-1",
            results_csv=_RESULTS,
            n_examples=27,
            created_by="local",
        )
        for name, value in values.items():
            setattr(job, name, value)
        if job.status in job_views.FINISHED:
            job.finished_at = utcnow()
        session.add(job)
        session.flush()
        session.add(
            TrainingEvent(
                job_id=job.id, remote_id="e1", created_at=utcnow(), level="info", type="message",
                message="Training started. Examples: 27, epochs: 3, steps: 21.",
            )
        )  # fmt: skip
        return job.id
