"""The training page in a real browser: from a file in the dialog to one job, its growing curve, and the model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.settings import Settings
from tests.support import browser_page, job_server, studio_process
from tests.support.browser_page import charts_drawn, expect, expect_none, picture, press, settled, shown, visit
from tests.support.job_server import JobServer
from tests.support.studio_process import ROOT, RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = browser_page.MARKS

_CURIE = ROOT.parent / "shared" / "fixtures" / "curie_results.csv"
_STORIES = "topic,text\n" + "".join(f"sea {n},A wave came {n} times.\n" for n in range(12))
_HEADER = "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"


def _curve(steps: int) -> bytes:
    lines = (f"{n},{n * 60},{n},{2 / n + 0.3:.4f},0.0,{1 - 0.5 / n:.4f}\n" for n in range(1, steps + 1))
    return (_HEADER + "".join(lines)).encode()


class Trainer(JobServer):
    """A fake engine that trains until the test ends the job."""

    def __init__(self) -> None:
        super().__init__()
        self._server.RequestHandlerClass = type("Handler", (_TrainerHandler,), {"owner": self})
        self.faults["results"] = _curve(8)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Continue the job."""
        job = super().create(body)
        job |= {"status": "running", "fine_tuned_model": None, "finished_at": None, "trained_tokens": None}
        return job

    def finish(self, steps: int) -> None:
        """Finish the job: the complete curve, and the model."""
        self.faults["results"] = _curve(steps)
        done = {"fine_tuned_model": job_server._MODEL, "finished_at": 1767323046, "trained_tokens": steps * 60}
        self.jobs[-1] |= {"status": "succeeded", **done}


class _TrainerHandler(job_server._JobHandler):
    """The engine's other endpoints that a studio calls."""

    def do_GET(self) -> None:
        if self.path == "/health":
            models = ["writer", job_server._MODEL]
            self._say({"status": "ok", "version": "1", "models": models, "queue": 0, "training": None})
        elif self.path == "/v1/models":
            model = {"object": "model", "created": 1_700_000_000, "owned_by": "fabula"}
            self._say({"object": "list", "data": [{"id": name, **model} for name in ("writer", job_server._MODEL)]})
        else:
            super().do_GET()

    def do_POST(self) -> None:
        if not self.path.startswith("/fabula/"):
            super().do_POST()
            return
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._say({"tokens": len(str(said.get("text")).split())})


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    with Trainer() as server:
        yield server


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, trainer: Trainer) -> Iterator[RunningStudio]:
    home = tmp_path_factory.mktemp("training") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=trainer.url) as studio:
        yield studio


def _metric(page: Page, label: str) -> Locator:
    return page.locator('[data-testid="stMetric"]', has_text=label).first


_UNDER_WAY = re.compile("Loading the model|Training · ")


def _says(page: Page, words: str | re.Pattern[str]) -> None:
    """Wait until the verdict contains this text; the list contains it too."""
    page.locator("strong", has_text=words).first.wait_for()


def _until_charts(page: Page) -> None:
    """Wait until only the charts of loss and accuracy are drawn."""
    expect(page.locator('[data-testid="stVegaLiteChart"]')).to_have_count(2)
    charts_drawn(page)


def test_from_a_file_in_the_dialog_to_one_job_whose_curve_grows(
    browser: Browser, studio: RunningStudio, trainer: Trainer, tmp_path: Path
) -> None:
    path = tmp_path / "waves.csv"
    path.write_text(_STORIES, encoding="utf-8")
    page = visit(browser, f"{studio.url}/training", locale="en-US")
    press(page, "training_new")
    shown(page, "training_file")
    settled(page)
    page.locator('.st-key-training_file input[type="file"]').set_input_files(path)
    shown(page, "training_keep")
    press(page, "training_keep")
    page.get_by_text("The format of all 12 examples is valid").wait_for()
    press(page, "training_next")
    page.get_by_text("Estimate", exact=True).wait_for()
    settled(page)
    suffix = page.locator(".st-key-training_suffix input")
    suffix.fill("waves")
    suffix.press("Tab")
    press(page, "training_next")
    page.get_by_text("suffix: waves").wait_for()
    settled(page)
    page.locator(".st-key-training_submit button").dblclick()
    _says(page, _UNDER_WAY)
    _until_charts(page)
    expect(page.get_by_role("dialog")).to_have_count(0)

    page.reload()
    _says(page, _UNDER_WAY)
    expect(_metric(page, "Steps")).to_contain_text("8")
    expect(page).to_have_url(re.compile("jobs="))
    trainer.finish(40)  # no more interaction from here on
    _says(page, "The model is ready")
    expect(_metric(page, "Steps")).to_contain_text("40")
    expect(_metric(page, "Token accuracy, smoothed")).to_contain_text("98.7 %")
    _until_charts(page)
    settled(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert (trainer.count("POST /v1/files"), trainer.count("POST /v1/fine_tuning/jobs")) == (1, 1)


def test_a_link_to_a_job_that_is_gone_opens_in_the_dark_and_in_chinese(browser: Browser, studio: RunningStudio) -> None:
    page = visit(browser, f"{studio.url}/training?jobs=gone", locale="zh-CN", color_scheme="dark")
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.skipif(not _CURIE.is_file(), reason="the article's results file is not on this machine")
def test_the_articles_results_are_charted(browser: Browser, studio: RunningStudio) -> None:
    """From 75 % to 95 %. If SCREENSHOTS is set, the image in docs/screenshots is regenerated."""
    page = visit(browser, f"{studio.url}/training", locale="en-US")
    page.get_by_role("radio", name="Results file").click()
    shown(page, "training_results_file")
    settled(page)
    page.locator('.st-key-training_results_file input[type="file"]').set_input_files(_CURIE)
    page.get_by_text("the token accuracy from 75.0 % to 94.3 %").wait_for()
    _until_charts(page)
    expect(_metric(page, "Steps")).to_contain_text("1,857")
    expect(_metric(page, "Token accuracy, smoothed")).to_contain_text("94.3 %")
    if "SCREENSHOTS" in os.environ:
        picture(page, ROOT / "docs" / "screenshots" / "training-curie.png")


_VALIDATED = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy,"
    "validation_loss,validation_sequence_accuracy,validation_token_accuracy\n"
    "1,600,4,2.8,0.0,0.42,,,\n2,1200,8,1.7,0.0,0.6,1.9,0.0,0.55\n"
)
# Problems with the width of the list: a hidden column, or narrower than the page.
_UNUSED_WIDTH = """() => {
  const list = document.querySelector(".dvn-scroller"), picker = document.querySelector(".st-key-lang");
  if (!list || !list.scrollWidth || !picker) return ["no list"];
  const short = Math.abs(list.getBoundingClientRect().right - picker.getBoundingClientRect().right);
  return [
    ...(list.scrollWidth > list.clientWidth ? [`${list.scrollWidth} px in ${list.clientWidth}`] : []),
    ...(short >= 8 ? [`${short} px short`] : []),
  ];
}"""
_STATES = ("running", "succeeded", "failed", "queued", "cancelled", "succeeded")


@pytest.fixture(scope="module")
def job_studio(tmp_path_factory: pytest.TempPathFactory, trainer: Trainer) -> Iterator[RunningStudio]:
    """A studio whose jobs fill every column of the list: two providers, validation, and a running job."""
    home = tmp_path_factory.mktemp("jobs") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=trainer.url) as studio:
        store = Store(Settings.from_env({"FABULA_HOME": str(home)}).database_url)
        with store.session() as session:
            for number, status in enumerate(_STATES):
                session.add(_job(number, status))
        store.close()
        yield studio


def _job(number: int, status: str) -> TrainingJob:
    over = status not in ("running", "queued")
    return TrainingJob(
        id=f"job{number}", name=f"a job with quite a long name {number}", base_model="gpt-4.1-mini-2025-04-14",
        provider="openai" if number == 1 else "engine", hyperparameters={"n_epochs": 1}, file_format="completion",
        status=status, results_csv=_VALIDATED, n_examples=486, trained_tokens=1_234_567, cost_usd=Decimal("12.3456"),
        training_s=9_000.0, created_by="local", created_at=utcnow() - timedelta(hours=3 * number),
        finished_at=utcnow() if over else None,
    )  # fmt: skip


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("width", [1440, 1920])
def test_the_list_of_jobs_fits_and_uses_the_width(
    browser: Browser, job_studio: RunningStudio, locale: str, width: int
) -> None:
    page = visit(browser, f"{job_studio.url}/training", locale=locale, width=width)
    page.locator('[data-testid="stDataFrame"] canvas').first.wait_for()
    settled(page)
    expect_none(page, _UNUSED_WIDTH)
