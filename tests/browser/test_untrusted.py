"""Untrusted text (stories, names, events, errors) remains text, on every page and dialog in a browser.

Each field that can contain such text is filled with URLs, Markdown, HTML and LaTeX. Then every page is opened: no link,
image or formatting may result, and the browser may only send requests to the studio.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.actor import LOCAL
from core.datasets import datasets, recipes, versions
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import (
    BeforeAfter,
    BeforeAfterAnswer,
    Checkpoint,
    Dataset,
    Evaluation,
    EvaluationAnswer,
    Row,
    Run,
    Story,
    Tour,
    TrainingEvent,
    TrainingJob,
    utcnow,
)
from core.file_storage import FolderStorage
from core.pricing import budget, custom_prices
from core.settings import Settings
from core.stories import prompt_suggestions
from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import expect, found_now, press, settled, shown, unfold, visit
from tests.support.fakes import RESULTS
from tests.support.fault_server import FaultServer
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browser_page.MARKS

_SHORT = (
    "https://evil.example/a www.evil.example me@evil.example [link](//evil.example) ![i](//evil.example/i.png) "
    "**fatword**"
)
_NASTY = f"""{_SHORT} <i>htmlword</i><img src="https://evil.example/h.png"> ~~goneword~~ $x^{{texword}}$ :red[redword]
<https://evil.example/auto> http://evil.example:8/p?q=1#f HTTPS://EVIL.EXAMPLE ftp://evil.example mailto:me@evil.example
# headword
* listword
> quoteword
| a | b |
|---|---|
| cellword | c |

[ref]

[ref]: https://evil.example/ref"""

_TRACES = """() => {
  const words = ['fatword', 'htmlword', 'goneword', 'texword', 'redword', 'headword', 'listword', 'quoteword',
    'cellword'];
  const bad = [];
  for (const e of document.querySelectorAll('a[href], img, iframe, video, audio, source, object, embed, .katex')) {
    const to = (e.getAttribute('href') || e.getAttribute('src') || e.getAttribute('data') || '').toLowerCase();
    if (e.matches('.katex') || to.includes('evil') || to.startsWith('mailto:')) bad.push(e.outerHTML.slice(0, 160));
  }
  for (const e of document.querySelectorAll('[data-testid=stApp] *')) {
    if (!e.childElementCount && words.includes(e.textContent.trim())) bad.push(e.outerHTML.slice(0, 160));
  }
  return bad;
}"""


_SHOWN = "document.body.innerText.toLowerCase().includes('evil.example')"

# The text for screen readers and for copying: no Markdown escapes, and no invisible characters inside words.
_SPOILT = r"""() => {
  const bad = [];
  for (const e of document.querySelectorAll('[aria-label], [title], [alt], [placeholder]')) {
    for (const name of ['aria-label', 'title', 'alt', 'placeholder']) {
      if ((e.getAttribute(name) || '').includes('\\')) bad.push(name + ': ' + e.getAttribute(name).slice(0, 160));
    }
  }
  for (const e of document.querySelectorAll('button, summary, label, [role=option], [role=radio], [role=tab]')) {
    if (e.textContent.includes('\\')) bad.push('text: ' + e.textContent.slice(0, 160));
  }
  return [...bad, ...(document.body.innerText.match(/[\x21-\x7e][\u200b-\u200d\u2060\ufeff]\S*/g) || [])];
}"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FaultServer]:
    """The engine: its model has an untrusted name, and it rejects every request with an untrusted message."""
    with FaultServer(fault_server.error(400, _NASTY)) as server:
        server.models = [
            {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "test"} for name in ("writer", _SHORT)
        ]
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("untrusted") / "home"


@pytest.fixture(scope="module")
def studio(home: Path, endpoint: FaultServer) -> Iterator[RunningStudio]:
    with studio_process.running(home, FABULA_ENGINE_URL=endpoint.url.removesuffix("/v1")) as studio:
        yield studio


@pytest.fixture(scope="module")
def ids(home: Path, studio: RunningStudio) -> Iterator[dict[str, str]]:
    """Ids of the data set and the two jobs added to the studio's ledger."""
    store = Store(Settings.from_env({"FABULA_HOME": str(home)}).database_url)
    try:
        dataset = _dataset(store)
        jobs = [_job(store, dataset, status) for status in ("succeeded", "failed")]
        _stories(store)
        _tour(store, dataset, jobs)
        prompt_suggestions.save_presenter_prompts(FolderStorage(home), LOCAL, [_SHORT, _NASTY.partition("\n")[0]])
        custom_prices.set_price(store, LOCAL, provider="openai", model=_SHORT, kind="output", amount="1", note=_SHORT)
        budget.set_budget(store, LOCAL, "person", Decimal(5), _SHORT[:100])
        yield {"dataset": dataset, "good": jobs[0], "failed": jobs[1]}
    finally:
        store.close()


def _dataset(store: Store) -> str:
    recipe = Recipe(
        _SHORT, (Column(_SHORT[:60], (_SHORT, "b")), Column("power", ("fly", _SHORT))), _SHORT + " {power}",
        system=_SHORT, repeats=2, model="writer",
    )  # fmt: skip
    recipes.save(store, LOCAL, recipe)
    dataset = datasets.create(store, LOCAL, recipe)
    states = [("done", None), ("failed", _NASTY), ("excluded", _NASTY), ("done", None)]
    with store.session() as session:
        session.add(Run(
            id="r", dataset_id=dataset, state="failed", reason=_NASTY, note=_NASTY, provider="engine", model=_SHORT,
            created_by="local", started_at=utcnow(), finished_at=utcnow(),
        ))  # fmt: skip
        for place in range(8):
            state, reason = states[place % 4]
            session.add(Row(
                dataset_id=dataset, key=f"k{place}", position=place, repeat=place % 2, prompt=_NASTY, state=state,
                column_values={recipe.columns[0].name: _SHORT, "power": "fly"}, reason=reason, text=f"{place} {_NASTY}",
                finish_reason="stop", run_id="r", previous_state="done",
            ))  # fmt: skip
    versions.freeze(store, LOCAL, dataset, validation_share=0.25, note=_NASTY)
    return dataset


def _job(store: Store, dataset: str, status: str) -> str:
    job = f"job-{status}"
    with store.session() as session:
        session.add(TrainingJob(
            id=job, dataset_id=dataset, name=_SHORT, provider="engine", base_model=_SHORT, suffix=_SHORT[:64],
            hyperparameters={"n_epochs": 1}, file_format="completion", separator=" ->", stop=".", status=status,
            remote_id=f"ftjob-{status}", results_csv=RESULTS, n_examples=9, fine_tuned_model=_SHORT, error=_NASTY,
            next_step=_NASTY, created_by="local", finished_at=utcnow(),
        ))  # fmt: skip
        session.flush()
        session.add(TrainingEvent(
            job_id=job, remote_id="e", created_at=utcnow(), level="info", type="message", message=_NASTY,
        ))  # fmt: skip
        session.add(Checkpoint(job_id=job, remote_id="c", step=2, model=_SHORT, metrics={}, created_at=utcnow()))
        session.add(Evaluation(
            id=f"ev-{status}", job_id=job, dataset_id=dataset, provider="engine", model=_SHORT, kind="label",
            settings={}, state="failed", reason=_NASTY, total=1, created_by="local", finished_at=utcnow(),
        ))  # fmt: skip
        session.flush()
        session.add(EvaluationAnswer(
            evaluation_id=f"ev-{status}", row_key="k", prompt=_NASTY, expected=_NASTY, text=_NASTY, reason=_NASTY,
            correct=False,
        ))  # fmt: skip
    return job


def _stories(store: Store) -> None:
    with store.session() as session:
        for number in range(2):
            session.add(Story(
                id=f"s{number}", actor="local", provider="engine", model=_SHORT,
                requested_model="writer", prompt=_NASTY,
                parameters={}, text=_NASTY, finish_reason="stop" if number else None, error=None if number else _NASTY,
                tags=[_SHORT[:40]], column_values={_SHORT[:60]: _SHORT}, liked=True,
            ))  # fmt: skip


def _tour(store: Store, dataset: str, jobs: list[str]) -> None:
    """Record a finished tour and a finished training from examples with these jobs, and their comparisons."""
    with store.session() as session:
        session.get_one(Dataset, dataset).source = "examples"
        session.add(Tour(
            id="t", state="done", step="story", dataset_id=dataset, job_id=jobs[0], created_by="local", reason=_NASTY,
            finished_at=utcnow(), language="en",
        ))  # fmt: skip
        session.add(BeforeAfter(
            id="c", job_id=jobs[0], state="failed", source="held_out", reason=_NASTY, created_by="local",
            finished_at=utcnow(),
        ))  # fmt: skip
        session.flush()
        for place, side in enumerate(("base", "tuned", "base", "tuned")):
            session.add(BeforeAfterAnswer(
                before_after_id="c", position=place // 2, side=side, prompt=f"{place // 2} {_NASTY}", expected=_NASTY,
                state="done" if place < 2 else "failed", reason=None if place < 2 else _NASTY,
                story_id=f"s{place}" if place < 2 else None,
            ))  # fmt: skip


class Visit:
    """A visitor whose browser's requests are recorded."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.asked: list[str] = []
        self.page: Page = visit(browser, url, height=3000, requests=self.asked, locale="en-US")

    def check(self, url: str, *, shows: bool = True) -> None:
        """The text must only appear as plain characters; with `shows`, it must appear."""
        if shows:
            self.page.wait_for_function(_SHOWN)
        settled(self.page)
        assert found_now(self.page, _TRACES) == []
        assert found_now(self.page, _SPOILT) == []
        assert not [one for one in self.asked if not one.startswith((url, "ws://localhost", "data:", "blob:"))]


_VIEWS = [
    "",
    "dataset",
    "dataset?part=rows&set={dataset}",
    "dataset?part=quality&set={dataset}",
    "dataset?part=use&set={dataset}",
    "training",
    "training?jobs={good}",
    "training?jobs={failed}",
    "training?jobs={good},{failed}",
    "cost",
]


@pytest.mark.parametrize("view", _VIEWS)
def test_untrusted_text_stays_text_on_every_page(
    browser: Browser, studio: RunningStudio, ids: dict[str, str], view: str
) -> None:
    visitor = Visit(browser, f"{studio.url}/{view.format(**ids)}")
    unfold(visitor.page)
    visitor.check(studio.url, shows=view not in ("dataset", "cost", "dataset?part=quality&set={dataset}"))


@pytest.mark.parametrize("tab", ["Events", "Settings", "Evaluation", "Family tree"])
def test_untrusted_text_stays_text_in_every_tab_of_a_job(
    browser: Browser, studio: RunningStudio, ids: dict[str, str], tab: str
) -> None:
    visitor = Visit(browser, f"{studio.url}/training?jobs={ids['good']}")
    visitor.page.get_by_role("radio", name=tab).click()
    visitor.check(studio.url)


def test_untrusted_text_stays_text_when_a_job_is_made(
    browser: Browser, studio: RunningStudio, ids: dict[str, str]
) -> None:
    visitor = Visit(browser, f"{studio.url}/training")
    press(visitor.page, "training_new")
    visitor.page.get_by_role("dialog").wait_for()
    visitor.check(studio.url)


@pytest.mark.parametrize(("part", "opens"), [("Prices", "cost_own"), ("My workload", None), ("Spent", "cost_budgets")])
def test_untrusted_text_stays_text_in_every_part_of_the_costs(
    browser: Browser, studio: RunningStudio, ids: dict[str, str], part: str, opens: str | None
) -> None:
    visitor = Visit(browser, f"{studio.url}/cost")
    visitor.page.get_by_role("radio", name=part).click()
    if opens is not None:
        visitor.page.locator(f".st-key-{opens} summary").click()
    visitor.check(studio.url, shows=part != "My workload")


def test_untrusted_text_stays_text_in_stories_and_their_errors(
    browser: Browser, studio: RunningStudio, ids: dict[str, str]
) -> None:
    visitor = Visit(browser, f"{studio.url}/story")
    page = visitor.page
    press(page, "story_button")  # the endpoint rejects the request with its own message
    visitor.check(studio.url)
    page.get_by_role("radio", name="Earlier stories").click()
    shown(page, "story_search")
    visitor.check(studio.url)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_role("dialog").wait_for()
    visitor.check(studio.url)


def test_untrusted_text_stays_text_in_a_preview_that_fails(
    browser: Browser, studio: RunningStudio, ids: dict[str, str]
) -> None:
    visitor = Visit(browser, f"{studio.url}/dataset")
    press(visitor.page, "dataset_preview")
    visitor.page.locator("[data-testid=stAlert]", has_text="evil.example").first.wait_for()
    shown(visitor.page, "dataset_preview")
    visitor.check(studio.url)


def test_untrusted_text_stays_text_in_presenter_mode(
    browser: Browser, studio: RunningStudio, ids: dict[str, str]
) -> None:
    visitor = Visit(browser, f"{studio.url}/story?stage=1")
    visitor.check(studio.url)
    press(visitor.page, "presenter_write")  # the endpoint rejects the request with its own message
    visitor.page.locator("[data-testid=stAlert]").first.wait_for()
    visitor.check(studio.url)
    press(visitor.page, "presenter_settings")
    visitor.check(studio.url)


def test_untrusted_text_stays_text_in_a_sample_of_a_model(
    browser: Browser, studio: RunningStudio, ids: dict[str, str]
) -> None:
    visitor = Visit(browser, f"{studio.url}/story")
    press(visitor.page, "story_model_sample")
    visitor.page.locator(".st-key-story_model_sample_text [data-testid=stAlert]").wait_for()
    visitor.check(studio.url)


def test_untrusted_text_stays_text_in_a_file_that_is_uploaded(
    browser: Browser, studio: RunningStudio, ids: dict[str, str]
) -> None:
    visitor = Visit(browser, f"{studio.url}/dataset?part=bring")
    quoted = _NASTY.replace('"', '""')
    data = f'"{_SHORT}","{_SHORT}",completion\n"{quoted}",b,"{quoted}"\n"{quoted}",b\n'
    upload = visitor.page.locator('[data-testid="stFileUploader"] input')
    upload.set_input_files({"name": f"{_SHORT[:25].replace('/', '')}.csv", "mimeType": "", "buffer": data.encode()})
    shown(visitor.page, "dataset_keep")
    unfold(visitor.page)
    visitor.check(studio.url)


def test_a_tables_own_toolbar_exports_nothing(browser: Browser, studio: RunningStudio, ids: dict[str, str]) -> None:
    """Its CSV would contain unescaped formulas; the pages' own downloads escape them."""
    visitor = Visit(browser, f"{studio.url}/cost")
    table = visitor.page.locator('[data-testid="stDataFrame"]').first
    table.hover()
    toolbar = visitor.page.locator('[data-testid="stElementToolbar"]')
    toolbar.get_by_role("button").first.wait_for()
    expect(toolbar.locator('button[aria-label*="csv" i]')).to_have_count(0)
