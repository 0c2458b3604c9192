"""Browser tests wait for the conditions that they assert: nothing is read from a page during a redraw."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1] / "browser"
_FILES = sorted(path.name for path in _TESTS.glob("test_*.py"))

# Playwright calls that read immediately, without waiting, or that wait for a time instead of a condition. Use instead:
# `expect(locator).to_have_text(…)`, `.to_have_count(…)`, `.to_have_value(…)`, `.to_be_visible()` and the like,
# `page.wait_for_function`, and `expect_none`, `box_of`, `repeat`, `choose`, `press_if_there` of `browser_page.py`.
_SNAPSHOTS = {
    "all", "all_inner_texts", "all_text_contents", "bounding_box", "get_attribute", "inner_html", "inner_text",
    "input_value", "is_checked", "is_disabled", "is_editable", "is_enabled", "is_hidden", "is_visible",
    "query_selector", "query_selector_all", "sleep", "text_content", "title", "wait_for_timeout",
}  # fmt: skip
_IN_AN_ASSERTION = (".evaluate", ".evaluate_all", "page.url")
_ELEMENT = re.compile(r"[\w.]+\.locator\('\.st-key-\w+'\)$")
_MAY = {
    "test_frames.py": "it makes pictures when asked to: it takes frames until the page says that a story ended",
}


def _offences(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of calls that read without waiting."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in _SNAPSHOTS or (name == "count" and not node.args):  # a list's `count` has an argument
                yield node.lineno, name
            if ast.unparse(node).endswith(".wait_for()") and _ELEMENT.match(ast.unparse(node.func.value)):
                yield node.lineno, "wait_for: shown(page, key) does not mind an older copy of the element"
        if isinstance(node, ast.Assert):
            for part in ast.walk(node):
                if isinstance(part, ast.Attribute) and ast.unparse(part).endswith(_IN_AN_ASSERTION):
                    yield part.lineno, part.attr


@pytest.mark.parametrize("name", _FILES)
def test_a_browser_test_waits_for_what_it_claims(name: str) -> None:
    found = [f"{name}:{line}: {what}" for line, what in _offences((_TESTS / name).read_text(encoding="utf-8"))]
    assert name in _MAY or not found


def test_every_exception_is_needed() -> None:
    assert all(any(_offences((_TESTS / name).read_text(encoding="utf-8"))) for name in _MAY)


@pytest.mark.parametrize(
    "line",
    [
        "assert page.locator('h1').inner_text() == 'Story'",
        "assert page.get_by_role('alert').count() == 0",
        "text = field.input_value()",
        "for part in parts.all(): part.click()",
        "assert page.evaluate('1') == 1",
        "assert 'stage' not in page.url",
        "page.wait_for_timeout(500)",
        "time.sleep(1)",
        "page.locator('.st-key-story_again').wait_for()",
    ],
)
def test_the_rule_finds(line: str) -> None:
    assert list(_offences(line))


@pytest.mark.parametrize(
    "line",
    [
        "expect(page.locator('h1')).to_have_text('Story')",
        "assert trainer.count('POST /v1/files') == 1",
        "page.evaluate('window.broken = false')",
        "shown(page, 'story_again')",
        "page.locator('.st-key-story_words_0').get_by_text('once').wait_for()",
        "assert all(url.startswith(studio.url) for url in asked)",
    ],
)
def test_the_rule_allows(line: str) -> None:
    assert not list(_offences(line))
