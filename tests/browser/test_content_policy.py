"""The content policy of the server: Streamlit's pages work under it, and content of other servers does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page
from tests.support.browser_page import expect_none, visit
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = browser_page.MARKS

_RECORD = """
window.refused = [];
document.addEventListener("securitypolicyviolation",
                          event => window.refused.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.mark.parametrize("path", ["", "dataset", "training", "cost", "story", "story?stage=1", "settings"])
def test_a_page_needs_nothing_that_the_policy_refuses(browser: Browser, studio: RunningStudio, path: str) -> None:
    page = visit(browser, f"{studio.url}/{path}", script=_RECORD)
    expect_none(page, "() => window.refused")


@pytest.mark.parametrize(
    ("act", "directive"),
    [
        ("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))", "img-src"),
        ("fetch('http://127.0.0.1:9/x').catch(() => 0)", "connect-src"),
        (
            "document.body.append(Object.assign(document.createElement('script'), {src: 'http://127.0.0.1:9/x.js'}))",
            "script-src-elem",
        ),
        (
            "document.body.append(Object.assign(document.createElement('iframe'), {src: 'http://127.0.0.1:9/'}))",
            "frame-src",
        ),
    ],
)
def test_content_of_another_server_is_refused(
    browser: Browser, studio: RunningStudio, act: str, directive: str
) -> None:
    page = visit(browser, studio.url, script=_RECORD)
    page.evaluate(f"() => {{ {act}; }}")
    page.wait_for_function("part => window.refused.some(one => one.startsWith(part))", arg=directive)
