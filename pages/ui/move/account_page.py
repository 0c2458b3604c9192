"""One account: days left, progress, the table of its tuned models, and the next step."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st

from core.db.store import Store
from core.errors import FabulaError
from core.migrate import account_views, accounts, tunes, zip_file
from core.migrate.account_views import AccountView
from core.migrate.tunes import Tune
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.i18n import _, as_markdown, code, duration, mark, n_, number, plain
from pages.ui.move import connect_card, next_step, tune_table
from pages.ui.sign_in import current_actor

_ACCOUNT, _ADDING = "move_account", "move_adding"
_MB = 1_000_000
_MAX_ZIP_BYTES = 200 * _MB  # a download button keeps the file in memory
_DOING = {
    "listing": mark("Listing jobs, files and models…"),
    "archiving": mark("Archiving…"),
    "stopping": mark("Stopping…"),
}
_ZIP_COMMAND = "python -m core.migrate zip openai.zip"


def show() -> None:
    """Render the page."""
    if not current_actor().has("admin"):
        st.info(_("Only admins can move an account. Ask one of them to open this page."), icon=":material/lock:")
        return
    known = account_views.list_accounts(cache.store())
    if not known or state.get(_ADDING):
        connect_card.show()
        if not known:
            st.caption(
                _(
                    "OpenAI takes no new fine-tuning jobs from 2027-01-06. Models tuned from gpt-4o, gpt-4.1 and their "
                    "mini versions stop on 2027-01-14."
                )
            )
            return
    ids = [one.id for one in known]
    chosen = next((one for one in known if one.id == state.get(_ACCOUNT)), known[0])
    if len(known) > 1:
        names = {one.id: f"{one.name} · {one.base_url} · {n}" for n, one in enumerate(known, 1)}
        state.set_default(_ACCOUNT, chosen.id)
        st.selectbox(_("Account"), ids, format_func=lambda one: names[one], key=_ACCOUNT, width=480)
    st.fragment(run_every=cache.POLL_S if chosen.active else None)(_account)(chosen.id, chosen.active)


def _account(archive_id: str, was_active: bool) -> None:
    store = cache.store()
    shown = account_views.view(store, archive_id)
    cards.draw_page_if_left()
    listed = tunes.list_tunes(store, archive_id) if shown.tunes else []
    today = datetime.now(UTC).date()
    _headline(shown, listed, today)
    _progress(shown)
    _buttons(store, shown)
    if listed:
        tune_table.show(listed, today, usage=shown.usage_note is None)
        if shown.usage_note:
            st.caption(f":material/info: {as_markdown(shown.usage_note)}")
        next_step.show(archive_id, listed, shown.provider, today)
    elif shown.listed_at is not None:
        st.info(_("This account has no fine-tuning jobs."), icon=":material/info:")
    tune_table.lost(tunes.lost_files(store, archive_id))
    if was_active != shown.active:  # the page polls only while there is work; buttons have been read by now
        st.rerun()


def _headline(shown: AccountView, listed: list[Tune], today: date) -> None:
    """The days left, and what is safe already."""
    if not listed:
        return
    ends = sorted(left for one in listed if one.model and (left := one.days_left(today)) is not None and left >= 0)
    with st.container(horizontal=True, gap="medium", key="move_figures"):
        st.metric(_("Days until the first model stops"), number(ends[0]) if ends else "–", width=220)
        st.metric(_("Tuned models"), number(sum(one.model is not None for one in listed)), width=160)
        st.metric(_("Files safe"), f"{shown.stored:,} / {shown.files:,}", width=160)
        st.metric(_("Data sets"), number(shown.datasets), width=140)
        with_model = [one for one in listed if one.model]
        switched = sum(one.state == "switched" for one in with_model)
        st.metric(_("Switched"), f"{switched:,} / {len(with_model):,}", width=140)


def _progress(shown: AccountView) -> None:
    if shown.active and not shown.key_missing:
        facts = [_(_DOING[shown.state])]
        if shown.state == "archiving":
            facts.append(_("{done} of {total} files").format(done=number(shown.files_done), total=number(shown.files)))
            facts.append(_("{done} of {total} MB").format(
                done=number(shown.stored_bytes / _MB, 1), total=number(shown.total_bytes / _MB, 1)
            ))  # fmt: skip
            left = _("about {time} left").format(time=duration(shown.eta_s))
            facts.append(_("estimating time left…") if shown.eta_s is None else left)
        else:
            facts.append(n_("{n} job", "{n} jobs", shown.tunes))
        st.progress(min(1.0, shown.share) if shown.state == "archiving" else 0.0, text=" · ".join(facts))
        if shown.note:
            st.caption(f":material/hourglass_top: {as_markdown(shown.note)}")
        return
    if shown.key_missing and (shown.active or shown.state in ("failed", "stopped")):
        st.warning(
            _("The key is not stored. What is archived is safe. Enter the key again to continue."),
            icon=":material/key_off:",
        )
    if shown.reason and not shown.active:
        cards.error_card(FabulaError(shown.reason, shown.next_step or ""))
        st.caption(_("Everything that is archived stays here. Continue when the problem is solved."))


def _buttons(store: Store, shown: AccountView) -> None:
    idle = not shown.active or shown.key_missing
    complete = shown.state == "archived"
    with st.container(horizontal=True, vertical_alignment="center"):
        if not idle:
            st.button(
                _("Stop"), icon=":material/stop:", key="move_stop", on_click=cards.act, args=(accounts.stop, shown.id),
                disabled=shown.state == "stopping",
            )  # fmt: skip
        elif shown.key_missing:
            st.button(
                _("Enter the key"), icon=":material/key:", key="move_enter_key", type="primary",
                on_click=state.set_value, args=(_ADDING, True),
            )  # fmt: skip
        else:
            st.button(
                _archive_label(shown), icon=":material/archive:", key="move_archive",
                type="secondary" if complete else "primary", on_click=cards.act,
                args=(accounts.start, shown.id, "archive"), disabled=not shown.tunes and not shown.files,
            )  # fmt: skip
            st.button(
                _("List again"), icon=":material/refresh:", key="move_refresh", on_click=cards.act,
                args=(accounts.start, shown.id, "inventory"),
            )  # fmt: skip
        if idle and shown.stored:
            _zip(store, shown)
        if idle and not state.get(_ADDING) and not shown.key_missing:
            st.button(
                _("Another account"), icon=":material/add:", type="tertiary", key="move_add",
                on_click=state.set_value, args=(_ADDING, True),
            )  # fmt: skip


def _archive_label(shown: AccountView) -> str:
    if shown.state == "archived":
        return _("Archive what is new")
    left = shown.files - shown.files_done
    if shown.files_done and left:
        return n_("Continue ({n} file left)", "Continue ({n} files left)", left)
    return _("Archive everything")


def _zip(store: Store, shown: AccountView) -> None:
    if shown.stored_bytes > _MAX_ZIP_BYTES:
        st.caption(_("To keep a copy, run {command}").format(command=code(_ZIP_COMMAND)))
        return
    actor, settings = current_actor(), cache.settings()

    def make() -> bytes:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "account.zip"
            zip_file.write(store, actor, settings, shown.id, path)
            return path.read_bytes()

    st.download_button(
        _("Download ZIP"), data=make, file_name=f"{plain(shown.name).lower()}-archive.zip", mime="application/zip",
        icon=":material/download:", key="move_zip", on_click="ignore",
    )  # fmt: skip
