"""A base model from a folder, in a real browser and real processes: added, fine-tuned, streamed, removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.finetuning import job_views
from core.finetuning.job_views import JobView
from core.settings import Settings
from tests.support import browser_page, studio_process
from tests.support.browser_page import TRAINED_MS, choose, expect, press, settled, shown, unfold, visit
from tests.support.studio_process import RunningStudio
from tests.support.tiny_folders import FAMILIES
from tests.support.tiny_gemma import write_tiny_gemma
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browser_page.MARKS

_CONTEXT = 4096  # tokens; room for a whole story
_ENDED = re.compile("complete|stopped at the token limit")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    return tmp_path_factory.mktemp("bases") / "home"


@pytest.fixture(scope="module")
def studio(home: Path) -> Iterator[RunningStudio]:
    """A studio with its own engine, which has a tiny model instead of the packaged one."""
    packaged = write_tiny_gemma(home.parent / "packaged.gguf", context=_CONTEXT)
    with studio_process.running(home, FABULA_ENGINE_MODELS=f"gemma-3-270m={packaged}") as running:
        yield running


def _folder(family: str, path: Path) -> Path:
    tiny = FAMILIES[family]
    return replace(tiny, sizes={**tiny.sizes, "max_position_embeddings": _CONTEXT}).write(path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_a_base_from_a_folder_is_trained_and_streams_a_story(
    browser: Browser, studio: RunningStudio, home: Path, tmp_path: Path, family: str
) -> None:
    name = f"tiny-{family}"
    store = Store.open(Settings.from_env({"FABULA_HOME": str(home)}))
    frame = pd.DataFrame([(f"sea {n}", f"A wave came {n} times.") for n in range(12)], columns=["topic", "text"])
    datasets.from_frame(store, LOCAL, f"waves for {family}", frame, ["topic"], "text", "upload")

    page = visit(browser, f"{studio.url}/settings?lang=en")
    _add(page, _folder(family, tmp_path / name))
    expect(page.locator(f".st-key-settings_base_menu_{name}")).to_be_visible(timeout=TRAINED_MS)  # ready, or failed
    expect(page.get_by_text("memory to train")).to_be_visible()
    settled(page)

    page.goto(f"{studio.url}/training?lang=en")
    _train(page, f"waves for {family}", name)
    job = until(lambda: _finished_job(store, name), f"the end of the job on {name}", TRAINED_MS / 1000)
    assert (job.status, job.hyperparameters) == ("succeeded", {"n_epochs": 2, "lora_rank": 4})
    page.locator("strong", has_text=job.fine_tuned_model or "-").first.wait_for()  # until then, an earlier job's
    settled(page)  # the end of a job reruns the whole page

    press(page, "training_try")
    expect(page.locator("h1")).to_have_text("Story")
    _write(page)

    page.goto(f"{studio.url}/settings?lang=en")
    settled(page)
    page.locator(f".st-key-settings_base_menu_{name}").get_by_role("button").first.click()
    page.get_by_text("1 fine-tuned model needs it").wait_for()
    press(page, f"settings_base_remove_{name}")
    page.get_by_text("Only the packaged model is here").wait_for()
    assert (tmp_path / name / "config.json").exists()
    store.close()


def _finished_job(store: Store, base: str) -> JobView | None:
    return next((one for one in job_views.list_jobs(store) if one.base_model == base and one.finished), None)


def _add(page: Page, folder: Path) -> None:
    unfold(page)
    page.locator(".st-key-settings_base_source").get_by_text("Folder", exact=True).click()
    shown(page, "settings_base_origin_folder")
    settled(page)
    path = page.locator(".st-key-settings_base_origin_folder input")
    path.fill(str(folder))
    path.press("Tab")
    press(page, "settings_base_submit")


def _train(page: Page, dataset: str, base: str) -> None:
    """A job on all rows with an adapter of rank 4, from the dialog."""
    press(page, "training_new")
    shown(page, "training_base")
    choose(page, "training_dataset", dataset)
    choose(page, "training_base", base)
    page.get_by_text("The format of all 12 examples is valid").wait_for()
    press(page, "training_next")
    page.get_by_text("Estimate", exact=True).wait_for()
    _number(page, "Epochs: automatic", "training_epochs", 2)
    unfold(page)
    _number(page, "LoRA rank: automatic (16)", "training_rank", 4)
    press(page, "training_next")
    page.get_by_text("LoRA rank: 4 (default: 16)").wait_for()
    page.get_by_role("dialog").locator("strong").get_by_text(base, exact=True).wait_for()
    press(page, "training_submit")
    expect(page.get_by_role("dialog")).to_have_count(0)


def _number(page: Page, automatic: str, key: str, value: int) -> None:
    settled(page)
    page.get_by_text(automatic, exact=True).click()
    shown(page, key)
    settled(page)
    field = page.locator(f".st-key-{key} input")
    field.fill(str(value))
    field.press("Tab")
    settled(page)


def _write(page: Page) -> None:
    """A story for a free prompt, until its end."""
    settled(page)
    page.locator(".st-key-story_mode").get_by_text("Free prompt").click()
    shown(page, "story_prompt")
    settled(page)
    prompt = page.locator(".st-key-story_prompt textarea")
    prompt.fill("sea 99 ->")
    prompt.blur()
    press(page, "story_button")
    words = page.locator(".st-key-story_words_0")
    expect(words.get_by_test_id("stText")).to_have_text(re.compile(r"\S"))
    page.get_by_text(_ENDED).first.wait_for(timeout=TRAINED_MS)
    expect(page.get_by_role("alert")).to_have_count(0)
