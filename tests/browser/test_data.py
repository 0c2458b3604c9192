"""Creating a data set in a real browser: values from a file, a run at its budget, failed rows, copies, mixes, files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.generation import run_progress, runs
from core.pricing import custom_prices
from core.settings import Settings
from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import box_of, choose, expect, press, settled, shown, visit
from tests.support.fault_server import Answer, FaultServer
from tests.support.studio_process import RunningStudio
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_LINE_PX = 35  # height of the table including its header

pytestmark = browser_page.MARKS


def _story(prompt: str) -> Answer:
    """A different text for each prompt: nine tokens derived from the prompt."""
    said = prompt.removeprefix("写")
    return fault_server.text("\n\n", *(f"{said}之{number}，" for number in "一二三四五六七"), "完。")


@pytest.fixture(scope="module")
def writer() -> Iterator[FaultServer]:
    """The engine, which is free, and an endpoint whose model has a price, on the same server."""
    with FaultServer(_story) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "home"


@pytest.fixture(scope="module")
def studio(home: Path, writer: FaultServer) -> Iterator[RunningStudio]:
    """One studio for all tests in this file; each test uses its own data sets."""
    environ = {
        "FABULA_ENGINE_URL": writer.url.removesuffix("/v1"),
        "OPENAI_BASE_URL": writer.url,
        "OPENAI_API_KEY": fault_server.KEY,
    }
    with studio_process.running(home, **environ) as studio:
        yield studio


@pytest.fixture(scope="module")
def store(home: Path, studio: RunningStudio) -> Iterator[Store]:
    """The studio's ledger, opened by the test."""
    store = Store(Settings.from_env({"FABULA_HOME": str(home)}).database_url)
    for use in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider="compatible", model="writer", kind=use, amount="100")
    yield store
    store.close()


def _grid(name: str, **settings: Any) -> Recipe:
    """Twelve rows, one request for each."""
    columns = (Column("hero", ("唐", "宋", "元")), Column("power", ("隐形", "飞行", "读心术", "喷火")))
    return Recipe(name, columns, f"写{{hero}}，{{power}}，{name}", repeats=1, model="writer", seed=1, **settings)


def _written(store: Store, recipe: Recipe, budget_usd: Decimal | None = None) -> str:
    """A data set with a finished run, written by the studio's worker."""
    dataset_id = datasets.create(store, LOCAL, recipe)
    _over(store, runs.enqueue(store, LOCAL, dataset_id, budget_usd=budget_usd))
    return dataset_id


def _over(store: Store, run_id: str) -> None:
    until(lambda: run_progress.get(store, run_id).state not in run_progress.ACTIVE, "the run's end")


def _open(browser: Browser, studio: RunningStudio, part: str, dataset_id: str = "") -> Page:
    """The page in a window that is large enough: an open list closes when the page scrolls."""
    return visit(browser, f"{studio.url}/dataset?part={part}&set={dataset_id}", height=2600, locale="en-US")


def test_a_run_that_stopped_at_its_limit_goes_on_when_it_is_raised(
    browser: Browser, studio: RunningStudio, store: Store
) -> None:
    """A row costs $0.0019 and is reserved at $0.0110: a budget of two cents stops the run halfway."""
    dataset_id = _written(store, _grid("capped", provider="compatible", max_tokens=100), Decimal("0.02"))
    stopped = run_progress.latest(store, dataset_id)
    assert stopped is not None and stopped.state == "stopped" and 0 < stopped.done < 12

    page = _open(browser, studio, "rows", dataset_id)
    page.get_by_text("The rest of the $0.02 budget may not cover the next row").wait_for()
    page.get_by_role("button", name="Raise the budget").click()
    amount = page.get_by_label("Spending limit (US dollars)")
    expect(amount).to_have_value("0.50")  # the next suggested amount, which covers all twelve rows
    settled(page)
    page.get_by_role("button", name="Resume", exact=True).click()
    page.get_by_text("12 of 12").wait_for()
    page.get_by_text("of at most $0.50").wait_for()
    expect(amount).to_have_count(0)  # the popover is closed again
    now = run_progress.latest(store, dataset_id)
    assert now is not None and now.run_id == stopped.run_id and now.requests == 12  # nothing was paid for twice


def test_a_column_takes_its_values_from_a_file(browser: Browser, studio: RunningStudio, tmp_path: Path) -> None:
    file = tmp_path / "values.csv"
    file.write_bytes("hero,weapon,note\n秦,剑,一\n五代,刀,二\n秦,弓,三\n".encode("gbk"))
    page = _open(browser, studio, "design")
    page.get_by_role("button", name="From a file").click()
    page.locator(".st-key-dataset_values_file input[type=file]").set_input_files(file)
    shown(page, "dataset_file_columns")
    for name in ("hero (2 values)", "weapon (3 values)"):
        choose(page, "dataset_file_columns", name)
    press(page, "dataset_use_file")
    page.get_by_text("300 cells").wait_for()  # 2 heroes × 10 gifts × 5 moods × 3 weapons
    expect(page.get_by_role("button", name="五代", exact=True)).to_be_visible()
    expect(page.get_by_text("The template does not use weapon")).to_be_visible()
    settled(page)
    expect(page.get_by_role("button", name="a baker", exact=True)).to_have_count(0)


def test_a_list_of_prompts_is_read_priced_and_answered(
    browser: Browser, studio: RunningStudio, store: Store, writer: FaultServer, tmp_path: Path
) -> None:
    """A training file with faults: its prompts are answered again, with the system text of the old model."""
    system = {"role": "system", "content": "Sort the ticket: card, refund or delivery."}
    tickets = ("My card was swallowed by the machine", "我要退款", "Where is my parcel?", "Where is my parcel?")
    told = [[system, {"role": "user", "content": one}, {"role": "assistant", "content": "?"}] for one in tickets]
    lines = [json.dumps({"messages": one}, ensure_ascii=False) for one in (*told, [system])]
    file = tmp_path / "tickets.jsonl"
    file.write_text("\n".join(["{broken", *lines]), encoding="utf-8")
    page = _open(browser, studio, "design")
    page.get_by_role("radio", name="List of prompts").click()
    page.get_by_text("Choose a file with prompts or conversations.").wait_for()
    page.locator(".st-key-dataset_prompts_file input[type=file]").set_input_files(file)
    page.get_by_text("3 prompts · 1 duplicate, asked once · 4 answers dropped").wait_for()
    page.get_by_text("2 rows can't be asked and are left out.").wait_for()
    choose(page, "dataset_prompts_model", "writer")
    settled(page)
    if "SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / "prompt-list.png", animations="disabled", full_page=True)
    press(page, "dataset_prompts_generate")
    page.get_by_text("3 of 3").wait_for()
    asked = [r.body["messages"] for r in writer.requests if r.body and "Sort the ticket" in json.dumps(r.body)]
    assert sorted(one[1]["content"] for one in asked) == sorted(set(tickets))
    assert all(one[0] == system and len(one) == 2 for one in asked)


def test_near_duplicates_are_left_out_with_a_click_and_taken_in_again(
    browser: Browser, studio: RunningStudio, store: Store, writer: FaultServer
) -> None:
    alike = "从前有一位英雄，他来到了现代的城市，遇见了怪兽，与奥特曼一起战斗，最后终于打败了怪兽，大家都很高兴"
    writer.when("元，隐形，alike", fault_server.text(f"{alike}。"))
    writer.when("元，飞行，alike", fault_server.text(f"{alike}呢！"))
    dataset_id = _written(store, _grid("alike"))
    page = _open(browser, studio, "quality", dataset_id)
    page.get_by_role("heading", name=re.compile("1 near-duplicate")).wait_for()
    settled(page)
    page.get_by_role("button", name="Leave out this 1 row").click()
    page.get_by_text("No duplicates.").wait_for()
    left_out = [row.values["power"] for row in dataset_rows.page(store, dataset_id) if row.state == "excluded"]
    assert left_out == ["飞行"]  # the first of the two copies is kept
    settled(page)
    page.get_by_role("button", name="Undo: 1 row left out").click()
    page.get_by_role("heading", name=re.compile("1 near-duplicate")).wait_for()
    assert datasets.summary(store, dataset_id).excluded == 0


def test_data_sets_are_mixed_with_their_shares_split_and_taken_away(
    browser: Browser, studio: RunningStudio, store: Store
) -> None:
    first, other = _written(store, _grid("first")), _written(store, _grid("other"))
    page = _open(browser, studio, "use", first)
    page.get_by_text("Mix with other data sets").click()
    page.wait_for_function("!document.getAnimations().some(a => a.playState === 'running')")  # it has expanded
    choose(page, "dataset_mix_others", "other")
    share = page.get_by_label("Share of other", exact=True)
    share.fill("0.5")
    share.press("Enter")
    page.get_by_text("other: 6 rows · 33.3 %").wait_for()
    press(page, "dataset_mix")
    page.get_by_text("18 rows to train on").wait_for()
    third = "known => new URLSearchParams(location.search).getAll('set').find(id => id && !known.includes(id))"
    mixed = page.wait_for_function(third, arg=[first, other]).json_value()  # the mix is open now
    assert datasets.summary(store, mixed).done == 18

    settled(page)
    page.get_by_role("button", name="Split and save as a version").click()
    press(page, "dataset_freeze")
    page.get_by_text("16 rows to train on").wait_for()
    lines = {part: _taken(page, part).decode().splitlines() for part in ("train", "validation")}
    assert [len(lines[part]) for part in ("train", "validation")] == [16, 2]
    assert {key for line in lines["train"] for key in json.loads(line)} == {"prompt", "completion"}
    assert json.loads(_taken(page, "train", "chat").splitlines()[0])["messages"][0]["role"] == "user"
    assert _taken(page, "", "parquet")[:4] == b"PAR1"
    assert _taken(page, "", "csv").decode("utf-8-sig").startswith(",hero,power,story\n")


def _taken(page: Page, part: str, kind: str = "completion") -> bytes:
    """The file downloaded by a button under "Export"."""
    with page.expect_download() as download:
        press(page, f"dataset_file_{kind}_{part}" if part else f"dataset_file_{kind}")
    return Path(download.value.path()).read_bytes()


def test_only_what_failed_is_written_again_and_a_new_value_only_adds_its_rows(
    browser: Browser, studio: RunningStudio, store: Store, writer: FaultServer
) -> None:
    cut = fault_server.text("从前", finish_reason="length")
    writer.when("宋，飞行，failing", cut, _story("写宋，飞行，failing"))
    dataset_id = _written(store, _grid("failing"))
    page = _open(browser, studio, "rows", dataset_id)
    page.get_by_role("button", name="Retry 1 failed").click()
    page.get_by_text("12 of 12").wait_for()
    assert sum("failing" in prompt for prompt in writer.prompts()) == 13

    settled(page)
    page.get_by_role("button", name="Write more").click()
    values = page.get_by_label("New values")
    values.fill("秦")
    values.press("Control+Enter")
    write = page.get_by_role("button", name="Write 4 more")
    write.wait_for()
    settled(page)
    write.click()
    page.get_by_text("16 of 16").wait_for()
    expect(values).to_have_count(0)  # the rows appear in its place
    assert sum("failing" in prompt for prompt in writer.prompts()) == 17


def test_a_text_is_changed_in_its_place_and_the_table_stays_under_the_pointer(
    browser: Browser, studio: RunningStudio, store: Store
) -> None:
    dataset_id = _written(store, _grid("edited"))
    page = _open(browser, studio, "rows", dataset_id)
    page.get_by_text("12 of 12").wait_for()
    x, y = _corner(page)
    page.mouse.dblclick(x + 600, y + 1.5 * _LINE_PX)
    page.locator("#portal textarea").fill("我自己写的故事。")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Undo: Text changed").wait_for()
    for line in (2, 3):  # leave them out one after the other, at their previous positions
        settled(page)
        page.mouse.click(x + 20, y + (line + 0.5) * _LINE_PX)  # next to the checkbox: its key toggles it
        page.keyboard.press("Space")
        until(lambda out=line - 1: datasets.summary(store, dataset_id).excluded == out, "left out")  # type: ignore[misc]
        page.get_by_role("radio", name=f"Left out {line - 1}").wait_for()
    settled(page)
    assert _corner(page) == (x, y)
    found = dataset_rows.page(store, dataset_id)
    assert (found[0].text or "").strip() == "我自己写的故事。"
    assert [row.position for row in found if row.state == "excluded"] == [1, 2]
    page.get_by_role("button", name="Undo: 1 row left out").click()
    until(lambda: datasets.summary(store, dataset_id).excluded == 1, "the last one is back")


def _corner(page: Page) -> tuple[float, float]:
    """The top of the row table, once it is visible and drawn."""
    table = page.locator('[data-testid="stDataFrame"]')
    table.scroll_into_view_if_needed()
    table.locator("canvas").first.wait_for()
    box = box_of(table)
    return box["x"], box["y"]
