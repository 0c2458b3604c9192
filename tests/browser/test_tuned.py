"""Real training jobs with a tiny model, in a real browser: a dozen examples on Home, before and after, and votes."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets, recipes, versions
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.evaluation import before_after
from core.evaluation.before_after import AnswerPair
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.providers import engine_endpoint
from core.settings import Settings
from core.stories import vote_pairs
from tests.support import browser_page, studio_process
from tests.support.browser_page import TRAINED_MS, choose, expect, press, press_if_there, settled, shown, visit
from tests.support.studio_process import RunningStudio
from tests.support.tiny_gemma import write_tiny_gemma
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = browser_page.MARKS

_TRAINED_S = TRAINED_MS / 1000
_BASE = "gemma-3-270m"
_PAIRS = 3  # of stories that are voted on
_ANSWERED = re.compile("complete|stopped at the token limit")


# Whether this cell of the table has the keyboard focus.
_TAKES_KEYS = """([column, row]) =>
  document.activeElement?.closest("[data-testid=stDataFrame]") &&
  document.querySelector(`#glide-cell-${column}-${row}`)?.ariaSelected === "true"
"""


@dataclass(frozen=True)
class Running:
    """A studio, and its ledger as seen by another process of the same home."""

    studio: RunningStudio
    settings: Settings
    store: Store


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A studio with its own engine, which has a tiny random model under the name of the real one."""
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    folder = tmp_path_factory.mktemp("tuned")
    write_tiny_gemma(folder / "tiny.gguf", context=4096)
    models, home = f"{_BASE}={folder / 'tiny.gguf'}", folder / "home"
    with studio_process.running(home, FABULA_ENGINE_MODELS=models) as studio:
        settings = Settings.from_env({"FABULA_HOME": str(home)})
        store = Store.open(settings)
        yield Running(studio, settings, store)
        store.close()


def _no_alert(page: Page) -> None:
    """Check that the drawn page has no alerts; a failure shows their text."""
    settled(page)
    expect(page.get_by_role("alert")).to_have_text([])


def _form(page: Page) -> Locator:
    """The card with an open, empty form; after a job the card shows the newest job instead."""
    press_if_there(page, "home_examples_new")
    shown(page, "home_examples_train")
    settled(page)
    return page.locator(".st-key-home_examples")


def _trained(running: Running, name: str, rows: int) -> str:
    """A job on some rows, a fifth of them for validation, run to its end by the studio's own worker."""
    frame = pd.DataFrame([(f"{name} {n}", f"Number {n} came.") for n in range(rows)], columns=["topic", "text"])
    dataset_id = datasets.from_frame(running.store, LOCAL, name, frame, ["topic"], "text", "upload")
    version = versions.freeze(running.store, LOCAL, dataset_id, validation_share=0.2)
    form = JobForm(dataset_id, name, "engine", _BASE, suffix=name, n_epochs=1, batch_size=4, version_id=version)
    job_id = jobs.submit(running.store, LOCAL, form)
    until(lambda: job_views.get(running.store, job_id).finished, "the job's end", _TRAINED_S)
    assert job_views.get(running.store, job_id).status == "succeeded"
    return job_id


@pytest.mark.slow
def test_pasted_examples_become_a_model_that_answers_beside_its_base(browser: Browser, running: Running) -> None:
    page = visit(browser, running.studio.url, locale="en-US")
    expect(page.get_by_text("A 270M model learns format and labels, not facts.")).to_have_count(1)
    page.get_by_text("Paste or upload examples").click()
    field = page.get_by_role("textbox", name="Chat log, table or JSON lines")
    field.fill("\n".join(f"Customer: pasted {n}\nAgent: label {n % 2}" for n in range(6)))
    press(page, "home_examples_add")
    page.get_by_text("6 examples").wait_for()
    press(page, "home_examples_train")
    page.get_by_text("Training on your examples").wait_for()
    bar = page.locator('.st-key-home_examples [data-testid="stProgress"]')
    bar.wait_for()
    page.get_by_text("Your model is ready").wait_for(timeout=TRAINED_MS)
    settled(page)

    prompt = page.get_by_role("textbox", name=re.compile("A new prompt"))
    prompt.fill("a prompt of my own")
    prompt.press("Enter")
    for side, name in (("base", "Base model, untrained"), ("tuned", "Your model")):
        pane = page.locator(f".st-key-home_examples_{side}")
        pane.get_by_text(_ANSWERED).first.wait_for(timeout=TRAINED_MS)
        expect(pane).to_contain_text(name)
    expect(page.locator('[data-testid="stMetric"]', has_text="Last story")).to_contain_text("–")
    _no_alert(page)

    page.reload()
    settled(page)
    shown(page, "home_examples_tuned")
    expect(page.get_by_text("a prompt of my own")).to_have_count(1)
    press(page, "home_examples_open")
    expect(page.locator("h1")).to_have_text("Training")
    page.get_by_text("a prompt of my own").first.wait_for()
    _no_alert(page)


def test_a_grid_is_written_by_the_engine_as_a_batch(browser: Browser, running: Running) -> None:
    columns = (Column("hero", ("唐", "宋")), Column("power", ("飞行", "隐形")))
    recipes.save(running.store, LOCAL, Recipe("batched", columns, "写{hero}朝英雄，{power}", model=_BASE, max_tokens=8))
    (saved,) = recipes.list_saved(running.store)
    page = visit(browser, f"{running.studio.url}/dataset", locale="en-US")
    press(page, "dataset_recipes")
    shown(page, f"dataset_open_{saved.family}")
    press(page, f"dataset_open_{saved.family}")
    page.get_by_text("Generate 4 rows").wait_for()
    page.keyboard.press("Escape")  # closes the list of recipes
    settled(page)
    page.locator(".st-key-dataset_mode").get_by_text("In the background, as a batch").click()
    press(page, "dataset_generate")
    page.get_by_text("Written as a batch").wait_for()
    page.get_by_text(re.compile("[0-4] rows? collected")).wait_for()
    (summary,) = [one for one in datasets.list_datasets(running.store) if one.name == "batched"]
    assert (summary.done + summary.failed, summary.total) == (4, 4)  # a text at the token limit counts as failed


def test_rows_are_typed_into_the_table(browser: Browser, running: Running) -> None:
    page = visit(browser, running.studio.url, locale="en-US")
    grid = _form(page).locator('[data-testid="stDataFrame"]')
    grid.click(position={"x": 300, "y": 52})  # the first prompt, below the header
    editor = page.locator(".gdg-input")
    for row in range(3):
        for column, text, key in ((2, f"typed {row}", "Tab"), (3, f"label {row}", "Enter")):
            cell = grid.locator(f"#glide-cell-{column}-{row}")
            page.wait_for_function(_TAKES_KEYS, arg=[column, row])
            page.keyboard.press("Enter")
            editor.fill(text)
            page.keyboard.press(key)
            expect(editor).to_have_count(0)
            expect(cell).to_have_text(text)
        page.wait_for_function(_TAKES_KEYS, arg=[3, row + 1])
        page.keyboard.press("ArrowLeft")
    page.get_by_text("Too few examples: 3 of at least 5.").wait_for()


@pytest.mark.slow
def test_training_is_stopped_from_the_card(browser: Browser, running: Running) -> None:
    page = visit(browser, running.studio.url, locale="zh-CN", color_scheme="dark")
    _form(page)
    press(page, "home_examples_extract-json")
    page.get_by_text("12 条示例").wait_for()
    press(page, "home_examples_train")
    page.get_by_text("正在用你的示例训练").wait_for()
    press(page, "home_examples_stop")
    page.get_by_text("训练已停止").wait_for(timeout=TRAINED_MS)
    _no_alert(page)
    press(page, "home_examples_again")
    page.get_by_text("12 条示例").wait_for()


@pytest.mark.slow
def test_a_job_that_ends_gets_three_pairs_on_its_page_and_in_its_export(
    browser: Browser, running: Running, tmp_path: Path
) -> None:
    job_id = _trained(running, "waves", 40)
    page = visit(browser, f"{running.studio.url}/training?jobs={job_id}", locale="en-US")
    page.get_by_text("These rows were not used for training.").wait_for(timeout=TRAINED_MS)
    until(
        lambda: (view := before_after.get(running.store, job_id)) and not view.active,
        "both models' answers",
        _TRAINED_S,
    )
    view = before_after.get(running.store, job_id)
    assert view is not None and (view.state, view.source, len(view.pairs)) == ("done", "held_out", 3)
    expect(page.get_by_text("Writing · ")).to_have_count(0)
    expect(page.get_by_text("Original text of the row (not used for training)")).to_have_count(3)
    body = page.locator("body")
    job = job_views.get(running.store, job_id)
    learned = {prompt for prompt, _text in versions.examples(running.store, job.version_id or "", "train")}
    for pair in view.pairs:
        expect(body).to_contain_text(pair.prompt, use_inner_text=True)
        assert pair.prompt not in learned
        assert (pair.base.model, pair.tuned.model) == (_BASE, job.fine_tuned_model)

    settled(page)
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        press(page, "training_zip")
    with zipfile.ZipFile(download.value.path()) as file:
        exported = json.loads(file.read("before_after.json"))
    assert [one["prompt"] for one in exported] == [pair.prompt for pair in view.pairs]
    assert [one["expected"] for one in exported] == [pair.expected for pair in view.pairs]
    assert [one["tuned"]["text"] for one in exported] == [pair.tuned.text for pair in view.pairs]
    assert {one[side]["state"] for one in exported for side in ("base", "tuned")} == {"done"}
    _no_alert(page)


@pytest.mark.slow
def test_votes_on_the_story_page_become_a_model_trained_on_them(browser: Browser, running: Running) -> None:
    voted = job_views.get(running.store, _trained(running, "storms", 12)).fine_tuned_model or ""
    page = visit(browser, f"{running.studio.url}/story", locale="en-US")
    _compare_blind(page, f"storms {voted.rpartition(':')[2]} · {_BASE}")
    until(lambda: _vote(page, running.store), "the pairs", _TRAINED_S)
    page.locator(".st-key-story_part").get_by_text("Votes", exact=True).click()
    page.get_by_text(f"{_PAIRS} pairs for preference training (DPO)").wait_for()
    settled(page)
    page.get_by_role("button", name="Train on these votes").click()

    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    expect(dialog.get_by_role("radio", name="Learn from votes (DPO)", checked=True)).to_have_count(1)
    expect(dialog.get_by_text(f"{_PAIRS} pairs of answers to learn from")).to_have_count(1)
    expect(dialog.locator(".st-key-training_base").get_by_role("combobox")).to_have_value(re.compile("storms"))
    for key in ("training_next", "training_next", "training_submit"):
        shown(page, key)
        press(page, key)
    expect(dialog).to_have_count(0)
    made = until(lambda: [one for one in job_views.list_jobs(running.store) if one.method == "dpo"], "the job")
    job_id = made[0].id
    until(lambda: job_views.get(running.store, job_id).finished, "the job's end", _TRAINED_S)
    job = job_views.get(running.store, job_id)
    assert (job.status, job.base_model) == ("succeeded", voted)
    page.get_by_text("The training data contains every prompt of this data set.").wait_for(timeout=TRAINED_MS)
    settled(page)
    field = page.get_by_role("textbox", name="Your own prompt")
    field.fill("a new topic")
    field.press("Enter")
    page.get_by_text("a new topic").first.wait_for()
    until(lambda: _answers(running.store, job_id), "both models' answers", _TRAINED_S)
    (pair,) = _answers(running.store, job_id)
    assert (pair.base.model, pair.tuned.model) == (voted, job.fine_tuned_model)
    assert (pair.base.state, pair.tuned.state) == ("done", "done")
    expect(page.get_by_text("Writing · ")).to_have_count(0)
    expect(page.get_by_text("Before · storms")).to_have_count(1)
    _no_alert(page)


def _answers(store: Store, job_id: str) -> tuple[AnswerPair, ...]:
    """The prompts that both models have answered."""
    view = before_after.get(store, job_id)
    return () if view is None else tuple(pair for pair in view.pairs if pair.finished)


def _vote(page: Page, store: Store) -> bool:
    """Write both stories and vote for one; False until there are enough pairs: an empty answer gives none."""
    press(page, "story_button")
    press_if_there(page, "story_vote_0")
    settled(page)
    return len(vote_pairs.from_votes(store, LOCAL).pairs) == _PAIRS


def _compare_blind(page: Page, model: str) -> None:
    """Choose short stories by this model beside its base, with hidden names."""
    choose(page, "story_model", model)
    page.locator(".st-key-story_compare label").click()
    shown(page, "story_others")
    settled(page)
    page.locator(".st-key-story_blind label").click()
    settled(page)
    page.get_by_role("button", name="More").click()
    field = page.locator(".st-key-story_max_tokens input")
    field.fill("16")
    field.press("Enter")
    settled(page)
    page.keyboard.press("Escape")
    settled(page)


@pytest.mark.slow
def test_a_tuned_model_that_was_deleted_at_the_engine_is_told_on_its_page(browser: Browser, running: Running) -> None:
    job_id = _trained(running, "birds", 12)
    until(
        lambda: (view := before_after.get(running.store, job_id)) and not view.active,
        "both models' answers",
        _TRAINED_S,
    )
    made = job_views.get(running.store, job_id).fine_tuned_model or ""
    engine = engine_endpoint.current_endpoint(running.settings)
    openai.OpenAI(base_url=f"{engine.url}/v1", api_key=engine.token, max_retries=0).models.delete(made)
    with running.store.session() as session:  # the page trusts the engine's list two minutes after a job's end
        session.get_one(TrainingJob, job_id).finished_at = utcnow() - timedelta(hours=1)
    page = visit(browser, f"{running.studio.url}/training?jobs={job_id}", locale="en-US")
    page.get_by_text("The engine no longer has this model.").wait_for()
    settled(page)
    expect(page.get_by_role("button", name="Write a story with it")).to_have_count(0)
    field = page.get_by_role("textbox", name="Your own prompt")
    field.fill("one more")
    field.press("Enter")
    page.get_by_text("Duplicate the job to train it again.").first.wait_for(timeout=TRAINED_MS)
    settled(page)
    page.get_by_role("button", name="Duplicate job").click()
    page.get_by_role("dialog").wait_for()
