"""The page language decides the initial content, in a real browser: grid, samples, story, presenter prompts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page
from tests.support.browser_page import expect, press, settled, visit
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = browser_page.MARKS


@pytest.mark.parametrize(
    ("locale", "template", "bring", "sample", "column", "title"),
    [
        ("en-US", "^Write a short story", "Bring your own", "Load 400 rows", "Hero", "[A-Za-z]"),
        ("zh-CN", "朝时期的英雄人物", "自带数据", "载入 486 行", "朝代", "[\u4e00-\u9fff]"),
    ],
)
def test_the_language_decides_what_each_page_starts_with(
    browser: Browser,
    studio: RunningStudio,
    locale: str,
    template: str,
    bring: str,
    sample: str,
    column: str,
    title: str,
) -> None:
    page = visit(browser, f"{studio.url}/dataset", locale=locale)
    expect(page.locator(".st-key-dataset_template textarea")).to_have_value(re.compile(template))
    page.get_by_role("radio", name=bring, exact=True).click()
    expect(page.locator("[class*=st-key-dataset_sample_]").first).to_contain_text(sample)
    page.goto(f"{studio.url}/story")
    settled(page)
    expect(page.locator("[class*=st-key-story_column_]").first).to_contain_text(column)
    press(page, "story_present")
    expect(page.locator(".st-key-presenter_prompt h1")).to_have_text(re.compile(title))
