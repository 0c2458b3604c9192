"""A failed run, job and story in a real browser: one click on the remedy performs the next step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.settings import Settings
from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import expect, press, settled, shown, visit
from tests.support.fault_server import Answer, FaultServer
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NEEDED = 150  # tokens of a long story
_RECIPE = Recipe(
    "heroes",
    (Column("hero", ("唐", "宋", "元", "明", "清")), Column("mood", ("轻松", "艰难"))),
    "写{hero}朝英雄，{mood}的故事",
    model="writer",
    max_tokens=100,
)

pytestmark = browser_page.MARKS


def _writes(body: Any) -> Answer:
    """Stories with the mood “hard times” are longer, and are cut off at a low token limit; one prompt is refused."""
    prompt = fault_server.prompt_of(body)
    if "清朝英雄，轻松" in prompt:
        return fault_server.error(400, "no stories about the Qing")
    cut = "艰难" in prompt and body["max_tokens"] < _NEEDED
    return fault_server.text(f"从前，{prompt[1:]}。", finish_reason="length" if cut else "stop")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        running.judge = _writes
        running.models.append({**running.models[0], "id": "second"})
        yield running


@pytest.fixture
def studio(tmp_path: Path, server: FaultServer) -> Iterator[RunningStudio]:
    """A studio with the fake engine."""
    environ = {"FABULA_ENGINE_URL": server.url.removesuffix("/v1")}
    with studio_process.running(tmp_path / "home", **environ) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, studio: RunningStudio) -> Iterator[Store]:
    """The studio's ledger, opened by the test."""
    ledger = Store(Settings.from_env({"FABULA_HOME": str(tmp_path / "home")}).database_url)
    yield ledger
    ledger.close()


def _picture(page: Page, name: str) -> None:
    """Saved if screenshots are requested."""
    if folder := os.environ.get("PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_a_run_that_is_cut_off_is_completed_by_one_click(
    browser: Browser, studio: RunningStudio, store: Store, server: FaultServer
) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    address = f"{studio.url}/dataset?part=rows&set={dataset_id}"
    page = visit(browser, address, locale="en-US")
    page.get_by_role("button", name="Write 10 rows").click()
    page.get_by_text("5 rows failed").wait_for()
    page.get_by_text("no stories about the Qing").wait_for()
    page.get_by_role("button", name="Raise the limit to 256 tokens and retry").wait_for()
    settled(page)
    _picture(page, "remedies-en")
    for width, scheme in ((1440, "dark"), (390, "light")):
        other = visit(browser, address, locale="zh-CN", width=width, color_scheme=scheme)
        shown(other, "dataset_fix_token_limit_raise_limit")
        settled(other)
        _picture(other, f"remedies-zh-{width}-{scheme}")
        other.context.close()

    press(page, "dataset_fix_token_limit_raise_limit")
    page.get_by_text("9 of 10").wait_for()
    page.get_by_text("Finished").wait_for()
    settled(page)
    expect(page.get_by_text("Cut off at the token limit")).to_have_count(0)
    assert datasets.summary(store, dataset_id).done == 9
    asked = [prompt for prompt in server.prompts() if "艰难" in prompt]
    assert len(asked) == 2 * len(set(asked)) == 10  # each of them twice; nothing else was requested again
    assert len(server.prompts()) == 15

    press(page, "dataset_fix_bad_request_recipe")
    page.get_by_role("radio", name="Design", exact=True, checked=True).wait_for()
    expect(page.locator(".st-key-dataset_template textarea")).to_have_value(_RECIPE.template)


def test_a_job_that_ran_out_of_memory_is_tried_with_a_smaller_batch(
    browser: Browser, studio: RunningStudio, store: Store
) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    with store.session() as session:
        session.add(TrainingJob(
            id="failed", dataset_id=dataset_id, name="heroes", provider="engine", base_model="writer", status="failed",
            hyperparameters={"batch_size": 8, "n_epochs": 2}, file_format="completion", separator=" ->", stop=".",
            remote_id="ftjob-failed", n_examples=27, created_by="local", finished_at=utcnow(),
            error="The trainer ended 3 times: memory ran out: use a smaller batch_size or shorter examples.",
        ))  # fmt: skip
    page = visit(browser, f"{studio.url}/training", locale="en-US")
    page.get_by_text("Out of memory").wait_for()
    press(page, "training_fix_smaller_batch")
    page.get_by_role("dialog").get_by_text("The format of all 27 examples is valid").wait_for()
    press(page, "training_next")
    expect(page.locator(".st-key-training_batch input")).to_have_value("4")
    expect(page.locator(".st-key-training_epochs input")).to_have_value("2")


def test_a_story_that_is_cut_off_is_completed_by_one_click(
    browser: Browser, studio: RunningStudio, server: FaultServer
) -> None:
    server.judge = None
    server.when("", fault_server.text("从前", finish_reason="length"), fault_server.text("从前，有一位英雄。"))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    page.get_by_text("stopped at the token limit").wait_for()
    press(page, "story_fix_0_limit")
    page.get_by_text("complete").wait_for()
    expect(page.locator(".st-key-story_words_0")).to_have_text("从前，有一位英雄。")
    expect(page.locator("[class*=st-key-story_fix_]")).to_have_count(0)
    first, second = (request.body for request in server.requests if request.path.endswith("/completions"))
    assert first["max_tokens"] < second["max_tokens"]
    assert fault_server.prompt_of(first) == fault_server.prompt_of(second)
