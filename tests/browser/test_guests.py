"""An audience in a real browser: a phone opens the code's address and votes, and the tally moves on the big screen."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
import segno
from PIL import Image

from tests.support import browser_page, studio_process
from tests.support.browser_page import BUSY_MS, expect, expect_none, press, settled, shown, visit
from tests.support.story_server import StreamingServer
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browser_page.MARKS

_BORDER = 4  # modules around a QR code that must be light (ISO/IEC 18004)
_STAGE = "/story?stage=1&models=engine/writer,engine/second"
_LONG = tuple(f"从前有一位英雄，第{n}次。" for n in range(60))
# What a thumb cannot use on a phone: content wider than the screen, and buttons lower than 44 px (WCAG 2.5.5).
_UNUSABLE = """() => [
  ...[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1),
  ...[...document.querySelectorAll('button')].filter(e => e.getBoundingClientRect().height < 44),
].map(e => e.outerHTML.slice(0, 160)).concat(document.scrollingElement.scrollWidth > innerWidth ? ["wide"] : [])"""


@pytest.fixture(scope="module")
def port() -> str:
    """A free port for the pages of guests."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def origin(port: str) -> str:
    """Where phones reach the studio."""
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory, streaming_server: StreamingServer, origin: str, port: str
) -> Iterator[RunningStudio]:
    """A studio that serves guests on a port of their own."""
    home = tmp_path_factory.mktemp("guests") / "home"
    engine = streaming_server.url.removesuffix("/v1")
    environ = {"FABULA_ENGINE_URL": engine, "FABULA_GUEST_PORT": port, "FABULA_GUEST_URL": origin}
    with studio_process.running(home, **environ) as running:
        yield running


def _presenter(browser: Browser, studio: RunningStudio, scheme: Literal["light", "dark"] = "light") -> tuple[Page, str]:
    """Presenter mode with an audience; returns its page and the path of the guests."""
    page = visit(browser, f"{studio.url}{_STAGE}", width=1280, height=800, color_scheme=scheme)
    page.locator("html.fabula-presenter").wait_for(state="attached")
    press(page, "presenter_audience_menu")
    page.locator(".st-key-presenter_audience label").click()
    expect(page).to_have_url(re.compile("audience="))
    settled(page)
    page.keyboard.press("Escape")
    page.get_by_text("Let the audience vote").wait_for(state="hidden")
    return page, f"/guest/{parse_qs(urlsplit(page.url).query)['audience'][0]}"


def _phone(browser: Browser, url: str, locale: str, scheme: Literal["light", "dark"] = "light") -> Page:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, locale=locale, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.set_default_timeout(BUSY_MS)
    page.goto(url)
    return page


@pytest.mark.parametrize(
    ("locale", "scheme", "words"),
    [
        ("en-US", "light", ("has not shown", "Which story is best?", "B is best", "Thank you", "The vote has ended.")),
        ("zh-CN", "dark", ("还没有展示", "哪个故事最好？", "B 最好", "谢谢", "投票已结束。")),
    ],
)
def test_a_phone_votes_and_the_presenters_screen_follows(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, origin: str, locale: str,
    scheme: Literal["light", "dark"], words: tuple[str, ...],
) -> None:  # fmt: skip
    """One phone at the address of the code, the other at the studio's own address, as in a team."""
    waiting, question, best, thanks, ended = words
    streaming_server.begin(_LONG)
    page, path = _presenter(browser, studio)
    phone = _phone(browser, (origin if locale == "en-US" else studio.url) + path, locale, scheme)
    expect(phone.locator("h1")).to_contain_text(waiting)
    press(page, "presenter_write")
    shown(page, "presenter_reveal")
    expect(phone.locator("h1")).to_have_text(question)  # by itself
    expect_none(phone, _UNUSABLE)
    expect(phone.get_by_text("writer")).to_have_count(0)
    phone.get_by_role("button", name=best).tap()
    expect(phone.locator("h1")).to_contain_text(thanks)
    expect(page.locator(".st-key-presenter_votes")).to_contain_text("B · 100")  # by itself
    page.reload()
    shown(page, "presenter_reveal")  # a reload keeps link, stories and votes
    expect(page.locator(".st-key-presenter_votes")).to_contain_text("B · 100")
    press(page, "presenter_reveal")
    expect(phone.locator("h1")).to_have_text(ended)  # by itself
    expect(phone.get_by_text("writer")).to_have_count(1)
    expect_none(phone, _UNUSABLE)
    press(page, "presenter_audience_menu")
    page.locator(".st-key-presenter_audience label").click()
    expect(page).not_to_have_url(re.compile("audience="))
    expect(phone.locator("h1")).to_contain_text("not valid any more" if locale == "en-US" else "已失效")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_code_on_the_screen_can_be_read(
    browser: Browser, studio: RunningStudio, origin: str, scheme: Literal["light", "dark"]
) -> None:
    """Every module as it is on the screen, and the light border around them, also on a dark page."""
    page, path = _presenter(browser, studio, scheme)
    code = page.locator(".st-key-presenter_scan img")
    page.wait_for_function(
        "() => { const code = document.querySelector('.st-key-presenter_scan img'); return code?.naturalWidth > 0; }"
    )
    picture = Image.open(io.BytesIO(code.screenshot())).convert("1", dither=Image.Dither.NONE)
    modules = [[bool(module) for module in row] for row in segno.make(origin + path, micro=False).matrix]
    size = len(modules) + 2 * _BORDER
    assert picture.width / size > 4, "a module is at least four pixels wide"
    seen = [
        [
            picture.getpixel((int((x + 0.5) * picture.width / size), int((y + 0.5) * picture.height / size))) == 0
            for x in range(size)
        ]
        for y in range(size)
    ]
    light, side = [False] * size, [False] * _BORDER
    assert seen == [light] * _BORDER + [[*side, *row, *side] for row in modules] + [light] * _BORDER
