"""Runs pages as a visitor sees them, including the frame, without a browser (Streamlit's AppTest)."""

from __future__ import annotations

from functools import cache as once
from pathlib import Path
from typing import Any

from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from core.db.store import Store
from pages.ui import cache
from tests.support.ledger_rows import TUNED_MODEL
from tests.support.waiting import WAIT_LIMIT_S, until

FRAME = Path(__file__).parents[2] / "pages" / "frame.py"

# Every AppTest searches all installed packages for components, which takes longer than its page; they do not change.
manifest_scanner.scan_component_manifests = once(manifest_scanner.scan_component_manifests)


def visit(page: str, locale: str = "en-US", **state: object) -> AppTest:
    """Open a page as a visitor. `state`: initial widget values."""
    return opened(visitor(locale), page, **state)


def visitor(locale: str = "en-US") -> AppTest:
    """Create a tab whose visitor has not opened a page yet."""
    at = AppTest.from_file(str(FRAME), default_timeout=WAIT_LIMIT_S)
    at.context = {"locale": locale, "timezone": "Asia/Shanghai"}
    return at


def opened(at: AppTest, page: str, **state: object) -> AppTest:
    """Open a page in a visitor's tab and return the tab. `state`: initial widget values."""
    cache.refresh()
    for key, value in state.items():
        at.session_state[key] = value
    if page != "home":  # which a new tab shows anyway; the file of every other page has the name of its address
        at.switch_page(str(FRAME.with_name(f"{page}.py")))
    at.run()
    assert not at.exception
    return at


def article_grid(**state: object) -> AppTest:
    """Open the data-set page with the article's grid in Chinese, then switch the language to English."""
    at = visit("dataset", "zh-CN", **state)
    at.session_state["lang"] = "en"
    at.run()
    assert not at.exception
    return at


def again(at: AppTest) -> AppTest:
    """Rerun the page after something has changed elsewhere."""
    cache.refresh()
    return at.run()


def click(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click().run()
    assert not at.exception
    return at


def field(at: AppTest, key: str) -> Any:
    """Find the widget with this key, of any kind. Streamlit's type for it covers any element of the tree."""
    return at.get_by_key(key)


def words(at: AppTest) -> str:
    """All texts on the page, except widget labels."""
    texts = (at.title, at.subheader, at.markdown, at.caption, at.text, at.code)
    shown = [str(element.value) for kind in (*texts, at.error, at.warning, at.info, at.success) for element in kind]
    return "\n".join([*shown, *(str(bar.text) for bar in at.progress)]).replace("\\", "")


def trouble(at: AppTest) -> str:
    """The texts of the error cards."""
    return "\n".join(card.value for card in at.error).replace("\\", "")


def labels(at: AppTest) -> list[str]:
    return [button.label for button in at.button]


def next_step(at: AppTest) -> AppTest:
    """Go to the next step once the first step's background check allows it."""
    until(lambda: not at.button(key="training_next").disabled or not at.run(), "the check")
    return click(at, "training_next")


def visit_presenter(locale: str = "en-US", **query: str) -> AppTest:
    at = visit("story", locale)
    for name, value in {"stage": "1", **query}.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def chosen_prompt(at: AppTest) -> str:
    """The title of the selected prompt."""
    return next(m.value for m in at.markdown if m.value.startswith("# ")).removeprefix("# ")


def story_texts(at: AppTest) -> list[str]:
    return [text.value for text in at.text]


def visit_comparison(store: Store, *, blind: bool = False, others: int = 1) -> AppTest:
    names = [f"engine/{TUNED_MODEL}", "engine/third"][:others]
    return visit(
        "story", story_compare=True, story_blind=blind, story_others=names, story_mode="free", story_prompt="讲",
    )  # fmt: skip
