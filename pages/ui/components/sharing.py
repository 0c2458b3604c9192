"""The sharing control of a data set, job, recipe or story, and the filter for your own things. Team mode only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

import streamlit as st

from core import ownership
from core.ownership import SHARINGS, HasOwner, Thing, may
from core.people import people
from pages.ui import cache, state
from pages.ui.components import cards, views
from pages.ui.i18n import _, mark, plain
from pages.ui.sign_in import current_actor, is_team

T = TypeVar("T", bound=HasOwner)
_SHARINGS = {
    "private": mark("Private"),
    "team_read": mark("Team can read"),
    "team_edit": mark("Team can edit"),
}
_ICONS = {"private": ":material/lock:", "team_read": ":material/group:", "team_edit": ":material/group_add:"}


def owner_filter(key: str) -> str:
    """Render a list's filter. Returns `mine` or `all`; in local mode it renders nothing and returns `all`."""
    if not is_team():
        return "all"
    return views.switch(key, _("Owner"), {"all": _("All"), "mine": _("Mine")})


def filter_by_owner(key: str, found: Sequence[T]) -> Sequence[T]:
    """Render the filter, and return the matching part of a list. If nothing is the visitor's, a note says so and the
    whole list is returned."""
    if owner_filter(key) == "all":
        return found
    mine = [one for one in found if one.owner_id == current_actor().id]
    if not mine:
        st.caption(_("None of these is yours."))
    return mine or found


def row() -> AbstractContextManager[object]:
    """A row for a widget and the sharing button; in local mode, which has no button, no container."""
    return st.container(horizontal=True, vertical_alignment="bottom") if is_team() else nullcontext()


def button(thing: Thing, owned: HasOwner, *, type: Literal["secondary", "tertiary"] = "secondary") -> None:
    """Render a button that opens the sharing control; nothing in local mode."""
    if not is_team():
        return
    key = f"sharing_{thing.kind}_{thing.id}"
    shown = st.popover(_("Sharing"), icon=_ICONS[owned.sharing], key=key, on_change="rerun", type=type)
    if shown.open:
        with shown:
            choice(thing, owned)


def choice(thing: Thing, owned: HasOwner) -> None:
    """Render owner and sharing, which the owner and admins can change; nothing in local mode."""
    if not is_team():
        return
    actor, members = current_actor(), people.members(cache.store())
    if not may(actor, "own", owned):
        name = plain(_name(owned.owner_id, members))
        st.caption(_("Owner: {name} · {sharing}").format(name=name, sharing=_(_SHARINGS[owned.sharing])))
        return
    key = f"sharing_choice_{thing.kind}_{thing.id}"
    state.set_value(key, owned.sharing)
    st.selectbox(
        _("Sharing"), SHARINGS, format_func=lambda one: _(_SHARINGS[one]), key=key, on_change=_share,
        args=(thing, key), help=_("Viewers can't edit. Admins can always read and edit."),
    )  # fmt: skip
    if thing.kind == "job" and owned.sharing == "private":
        _readers(thing, owned, members)
    owner_key = f"sharing_owner_{thing.kind}_{thing.id}"
    state.set_value(owner_key, owned.owner_id)
    st.selectbox(
        _("Owner"), list({owned.owner_id: "", **members}), format_func=lambda one: _name(one, members), key=owner_key,
        on_change=_hand_over, args=(thing, owner_key),
        help=_("The new owner decides who may use it. You may lose access."),
    )  # fmt: skip


def _readers(job: Thing, owned: HasOwner, members: Mapping[str, str]) -> None:
    """Render the list of people who may use a private job's models."""
    key = f"sharing_readers_{job.id}"
    state.set_value(key, [one for one in getattr(owned, "readers", ()) if one in members])
    st.multiselect(
        _("People who may use its models"), [one for one in members if one != owned.owner_id],
        format_func=lambda one: _name(one, members), key=key, placeholder=_("Only the owner and admins"),
        on_change=_set_readers, args=(job.id, key), help=_("They can also see this job."),
    )  # fmt: skip


def _name(person_id: str, members: Mapping[str, str]) -> str:
    """A person's name. The user of local mode and people who are disabled have none."""
    return members.get(person_id) or _("not in the team")


def _share(thing: Thing, key: str) -> None:
    cards.act(ownership.share, thing, state.get(key))


def _set_readers(job_id: str, key: str) -> None:
    cards.act(ownership.set_readers, job_id, list(state.get(key) or ()))


def _hand_over(thing: Thing, key: str) -> None:
    cards.act(ownership.hand_over, thing, str(state.get(key)))
