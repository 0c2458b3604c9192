"""Helpers for pages in a real browser: opening, interacting, and waiting.

A page is rerendered repeatedly: after each click, when a job progresses, when a story grows. A value read at one moment
may belong to the previous or to a partial render. Tests therefore wait for the expected condition (`expect`, whose
timeout is set here for the whole suite, or `page.wait_for_function`); `tests/house/test_browser_rules.py` rejects
everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.studio_process import CHROMIUM
from tests.support.waiting import WAIT_LIMIT_S, until

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

BUSY_MS = 1000 * WAIT_LIMIT_S
TRAINED_MS = 600_000  # a tiny model trains in seconds, but torch must be loaded first, possibly on a busy machine

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Debian's chromium is not installed"),
]

expect = sync_api.expect
expect.set_options(timeout=BUSY_MS)

_CHOICES = 20  # attempts: a page that was just opened is rerendered a few times, which closes an open list

# The page's pending requests to the studio, read from both directions of Streamlit's WebSocket. The page's own state is
# not enough: it is "notRunning" between a click and the start of the script. The numbers are those of BackMsg,
# ClientState, ForwardMsg, ForwardMsgMetadata and RunIdentity in streamlit.proto.
_TRAFFIC = """
(() => {
  const EVERYTHING = "", NEXT_RUN = "next";
  const studio = window.studioTraffic = {
    asked: new Map([[EVERYTHING, false]]),  // fragment's id, or the whole page -> whether the run for it has begun
    timer: false,  // a fragment is redrawn because of its timer, which no test waits for
    frames: 0,
  };
  const text = bytes => new TextDecoder().decode(bytes);
  const fields = bytes => {  // of a protobuf message
    const found = [];
    let at = 0;
    const varint = () => {
      let value = 0, scale = 1, byte;
      do { byte = bytes[at++]; value += (byte & 127) * scale; scale *= 128; } while (byte & 128);
      return value;
    };
    while (at < bytes.length) {
      const tag = varint(), kind = tag % 8, number = Math.floor(tag / 8);
      if (kind === 0) found.push([number, varint()]);
      else if (kind === 2) { const size = varint(); found.push([number, bytes.subarray(at, at += size)]); }
      else at += kind === 1 ? 8 : 4;
    }
    return found;
  };
  const one = (message, number) => (message.find(([each]) => each === number) ?? [])[1];
  const sent = message => {
    const rerun = one(message, 11);
    if (rerun === undefined) return;
    const client = fields(rerun), fragment = one(client, 5);
    if (one(client, 6)) return;  // a timer of the page, not something that a test has done
    studio.asked.set(fragment?.length ? text(fragment) : EVERYTHING, false);
    studio.frames = 0;
  };
  const received = message => {
    const begins = one(message, 4) !== undefined, status = one(message, 6);
    if (!begins && status === undefined) return;
    const run = one(fields(one(message, 2) ?? new Uint8Array()), 6) ?? new Uint8Array();
    const fragments = fields(run).filter(([number]) => number === 2).map(([, id]) => text(id));
    const covered = key => !fragments.length || fragments.includes(key);
    if (begins) {
      studio.timer = fragments.length > 0 && !fragments.some(id => studio.asked.has(id));
      for (const key of studio.asked.keys()) if (covered(key)) studio.asked.set(key, true);
    } else {
      for (const [key, begun] of [...studio.asked]) if (begun && covered(key)) studio.asked.delete(key);
      // Ended early: another run follows, which redraws the same part. Streamlit also reports this of a fragment that
      // was drawn to its end if the next fragment begins before the report is sent, as on a busy machine.
      if (status === 2) studio.asked.set(NEXT_RUN, false);
      else {
        studio.timer = false;
        studio.asked.delete(NEXT_RUN);
      }
    }
    studio.frames = 0;
  };
  window.WebSocket = class extends WebSocket {
    constructor(...address) {
      super(...address);
      this.addEventListener("message", event => received(fields(new Uint8Array(event.data))));
    }
    send(data) {
      sent(fields(new Uint8Array(data)));
      super.send(data);
    }
  };
})();
"""

_SETTLED = """() => {
  const is = selector => document.querySelector(selector) !== null, studio = window.studioTraffic;
  const drawn = !studio.asked.size && is('h1') && is('[data-test-connection-state="CONNECTED"]')
    && !is('[data-testid="stSkeleton"]') && (studio.timer || !is('[data-stale="true"]'));
  studio.frames = drawn ? studio.frames + 1 : 0;
  return studio.frames > 2;  // what has arrived is drawn in the next frame
}"""

_BOX = """element => new Promise(tell => {
  let last = "", same = 0;
  const look = () => {
    const {x, y, width, height} = element.getBoundingClientRect(), now = [x, y, width, height].join();
    if (!element.isConnected) { tell(null); return; }
    same = now === last && width > 0 ? same + 1 : 0;
    last = now;
    if (same > 2) tell({x, y, width, height}); else requestAnimationFrame(look);
  };
  look();
})"""


def visit(
    browser: Browser, url: str, *, width: int = 1440, height: int = 1100, script: str = "",
    requests: list[str] | None = None, **context: Any,
) -> Page:  # fmt: skip
    """Open a page as a new visitor and wait until it is rendered; the `browser` fixture closes it.

    Args:
        script: runs before the page's scripts.
        requests: list to which the URL of each browser request is added.
        context: further options of the browser context: locale, color_scheme and the like.
    """
    page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    page.set_default_timeout(BUSY_MS)
    page.add_init_script(_TRAFFIC)
    page.add_init_script(script)
    if requests is not None:
        page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    settled(page)
    return page


def settled(page: Page) -> None:
    """Wait until the page has no pending requests to the studio, even right after a click, before the script runs.

    This does not wait for fragments with a timer, which may rerender at any time, so tests must still `expect` what
    they assert. Do not use it while a story is being written, because the script runs until its end.
    """
    page.locator("h1").first.wait_for()
    page.wait_for_function(_SETTLED)


def shown(page: Page, key: str) -> None:
    """Wait until the newest rendering of the page contains this element.

    Streamlit keeps the previous elements, greyed out, until the new rendering is complete. An element that has moved
    exists twice in the meantime, and Playwright refuses to wait for a locator that matches two elements.
    """
    page.locator(f'.st-key-{key}:not([data-stale="true"]):visible').first.wait_for()


def press(page: Page, key: str, *, running: bool = False) -> None:
    """Click a button once the page is rendered, because a click on an element that is being replaced is lost.

    `running`: whether the page's script is running, as it is for Stop.
    """
    if not running:
        settled(page)
    page.locator(f".st-key-{key} button").click()


def press_if_there(page: Page, key: str) -> None:
    """Once the page is rendered, click a button if the page has it."""
    settled(page)
    if page.locator(f".st-key-{key}").count():
        press(page, key)


def choose(page: Page, key: str, option: str) -> None:
    """Choose an option in a select or multiselect.

    A rerender closes an open list, so the list is reopened until the choice is made.
    """
    field = page.locator(f".st-key-{key}")
    box = field.get_by_role("combobox")
    for _attempt in range(_CHOICES):
        settled(page)
        box.fill(option)
        box.press("Enter")
        settled(page)
        box.blur()  # the list of a multiselect stays open, and Escape would also close a popover
        if _is_chosen(field, option):
            return
    raise AssertionError(f"{option} was not chosen: {field.inner_text()!r}, {box.input_value()!r}")


def _is_chosen(field: Locator, option: str) -> bool:
    """Whether a field that has lost the focus has this value. Until then, its input may hold what was only typed."""
    if field.get_by_test_id("stMultiSelect").count():
        return bool(field.get_by_text(option, exact=True).count())
    return bool(field.get_by_role("combobox").input_value() == option)


def repeat(page: Page, act: Callable[[], object], until_there: Locator) -> None:
    """Repeat an action until it has an effect, for charts, which ignore clicks until they are ready and do not report
    when they are.
    """

    def done() -> bool:
        act()
        settled(page)
        return bool(until_there.is_visible())

    until(done, f"{until_there} is there")


def box_of(element: Locator) -> dict[str, float]:
    """Return the position of an element on the screen in pixels, once it has not moved for some frames."""
    found: dict[str, float] = until(lambda: element.evaluate(_BOX), f"the place of {element}")
    return found


def expect_none(page: Page, script: str, arg: Any = None) -> None:
    """Wait until a script that lists violations returns none; fail with the list."""
    try:
        page.wait_for_function(f"arg => ({script})(arg).length === 0", arg=arg)
    except sync_api.TimeoutError as exc:
        raise AssertionError(page.evaluate(script, arg)) from exc


def until_longer(page: Page, selector: str, characters: int) -> None:
    """Wait until the text of an element has grown by this many characters."""
    page.wait_for_function(
        """([selector, more]) => {
          const text = document.querySelector(selector)?.innerText ?? "";
          window.shorter = Math.min(window.shorter ?? Infinity, text.length || Infinity);
          if (text.length < window.shorter + more) return false;
          delete window.shorter;
          return true;
        }""",
        arg=[selector, characters],
    )


def found_now(page: Page, script: str) -> list[Any]:
    """Return the violations that a script lists right now, for things that must not appear even briefly."""
    found: list[Any] = page.evaluate(script)
    return found


def unfold(page: Page) -> None:
    """Open every expander of the page."""
    closed = page.locator("details:not([open]) > summary:visible")

    def unfolded() -> bool:
        settled(page)
        if not closed.count():
            return True
        closed.first.click()
        return False

    until(unfolded, "every expander is open")


def charts_drawn(page: Page) -> None:
    """Wait until every chart on the page is rendered."""
    expect_none(
        page,
        """() => [...document.querySelectorAll('[data-testid="stVegaLiteChart"]')]
          .filter(chart => !chart.querySelector('canvas, svg')).map(chart => chart.outerHTML.slice(0, 160))""",
    )


def picture(page: Page, path: Path) -> None:
    """Take a screenshot of the complete page, without a hovered button."""
    page.mouse.move(0, 0)
    page.get_by_text("counting tokens").wait_for(state="detached")
    settled(page)
    charts_drawn(page)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path, animations="disabled")
    page.context.close()
