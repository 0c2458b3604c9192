"""Labels of the causes in `core.failures`, and remedies that lead to another page."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core import failures
from core.datasets.dataset_rows import RowView
from core.failures import CAUSES, Cause, Remedy
from pages.ui import state
from pages.ui.components import budget_notes
from pages.ui.i18n import _, language, localized, mark

WORDS: Mapping[Cause, str] = {
    "token_limit": mark("Cut off at the token limit"),
    "content_filter": mark("Blocked by the content filter"),
    "refused": mark("The model refused to write it"),
    "empty_answer": mark("The answer was empty"),
    "interrupted": mark("The answer was interrupted"),
    "rate_limit": mark("Rate limit reached"),
    "no_credit": mark("No credit left at the provider"),
    "bad_key": mark("The provider refused the key"),
    "setup": mark("The connection is not set up correctly"),
    "provider_removed": mark("The provider was removed"),
    "provider_changed": mark("The provider now uses another account"),
    "unreachable": mark("The provider is not responding"),
    "server_error": mark("Server error at the provider"),
    "unreadable": mark("The answer cannot be read"),
    "model_not_found": mark("Model not found"),
    "too_long": mark("Too long for the model"),
    "bad_request": mark("The provider could not process this request"),
    "budget": mark("The budget of the run is used up"),
    "shared_budget": mark("This would exceed a budget"),
    "unknown_price": mark("The price of the model is unknown"),
    "engine_missing": mark("The engine is not installed"),
    "storage": mark("Fabula cannot save: the disk is full or read-only, or the database is lost or unavailable"),
    "out_of_memory": mark("Out of memory"),
    "bad_file": mark("The training file was rejected"),
    "diverged": mark("The training diverged"),
    "job_gone": mark("The provider no longer has it"),
    "not_allowed": mark("This person's role does not allow it"),
    "other": mark("Failed for another reason"),
}
assert tuple(WORDS) == CAUSES

_PAGES: Mapping[Remedy, tuple[str, str, str, tuple[str, str] | None]] = {
    "open_settings": (mark("Open settings"), ":material/settings:", "settings", None),
    "install_engine": (mark("Install the engine"), ":material/memory:", "settings", None),
    "open_prices": (mark("Set its price"), ":material/sell:", "cost", ("cost_part", "prices")),
    "open_budgets": (mark("Open budgets"), ":material/savings:", "cost", ("cost_part", "spent")),
}
"""Remedy → its button: label, icon, page, and what is open there."""


def sentence(reason: str, cause: Cause) -> str:
    """A stored reason in the visitor's language; if it has no translation, its cause, with the stored text quoted."""
    shown = localized(reason)
    if shown != reason or language() == "en":
        return shown
    return stored(reason) if cause == "other" else f"{_(WORDS[cause])} · {stored(reason)}"


def row_reason(row: RowView) -> str:
    """Why a row failed or is left out; "" for other rows."""
    if not row.reason or row.state not in ("failed", "excluded"):
        return ""
    if row.state == "excluded":
        return localized(row.reason)
    return sentence(row.reason, failures.of_row(row.reason, row.finish_reason).cause)


def quoted(said: str) -> str:
    """The provider's message."""
    return _("The provider said: “{words}”").format(words=localized(said))


def stored(reason: str) -> str:
    """A stored reason that may be the provider's text, or from an earlier version of Fabula."""
    return _("Reason: “{words}”").format(words=localized(reason))


def page_button(remedy: Remedy, key: str) -> bool:
    """Render the button of a remedy that is the same on every page; False if the remedy depends on the page."""
    if remedy == "ask_budget":
        budget_notes.ask_button(f"{key}_{remedy}")
        return True
    if remedy not in _PAGES:
        return False
    label, icon, page, part = _PAGES[remedy]
    if st.button(_(label), icon=icon, key=f"{key}_{remedy}"):
        if part is not None:
            state.set_value(*part)
        st.switch_page(f"{page}.py")
    return True
